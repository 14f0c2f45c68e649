from tests.fuzz.config import main


def test_spoilt_files_and_overrides_give_a_config_or_a_config_error():
    counts = main(rounds=250, seed=1)
    assert sum(counts.values()) == 250
    for kind in ("run", "sweep", "study"):  # else what is spoilt would never get far
        assert counts[f"{kind} taken"] >= 5
        assert counts[f"{kind} refused"] >= 5
