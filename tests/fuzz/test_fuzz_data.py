from fuzz.data import main


def test_a_mutated_file_gives_rows_or_a_message():
    outcomes = main(rounds=400, seed=1)
    assert min(outcomes.values()) > 60  # both sides are reached
