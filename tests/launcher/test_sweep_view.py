import io
from types import SimpleNamespace

import pytest
from rich.console import Console
from sweep_simulator import Toy, World, toy_sweep

from launcher.sweeps.events import Event
from launcher.sweeps.journal import RunState, TrialState
from launcher.sweeps.view import MOST_ROWS, View


def sweep(folder, **settings):
    space = settings.pop("space", {"optim.lr": {"grid": [0.25, 0.5, 0.75]}})
    return toy_sweep(folder, space, name="mine", **settings)


def news(*events: Event, trials=(), groups=None, exhausted=None):
    return SimpleNamespace(
        events=list(events), changed={one.number: one for one in trials}, groups=groups or {}, exhausted=exhausted
    )


def trial(number: int, *curve: tuple[int, float], **more) -> TrialState:
    return TrialState(number, {"optim.lr": 0.25}, [RunState(0, curve=list(curve))], **more)


@pytest.fixture
def screen() -> Console:
    return Console(file=io.StringIO(), width=140, soft_wrap=True)


def test_lines_tell_what_runs_and_what_came_of_it(tmp_path, screen):
    view = View(screen, live=False)
    one = World(sweep(tmp_path, seeds=[3, 4]), Toy(steps=4), num_groups=1)
    one.listen = lambda event, trial: view.update(news(event, trials=[trial], groups=one.dispatcher.groups.shown()))
    with view:
        view.begin(one.sweep, 2, [])
        one.go()
    lines = screen.file.getvalue().splitlines()
    assert lines[0] == "mine: 3 trials x 2 seeds; 2 at a time with 1 worker each"
    score = one.trials[0].runs[0].curve[0][1]
    assert lines[1:3] == ["trial 0 seed 3 starts: optim.lr=0.25", f"trial 0 seed 3 update 2: {score:.4f}"]
    assert [line for line in lines if "finished" in line] == [
        f"trial {n} finished: {one.trials[n].score:.4f}" for n in range(3)
    ]
    assert len(lines) == 1 + 3 * 2 * 3 + 3  # start and two evaluations of each run, the end of each trial


def test_a_resumed_sweep_says_what_it_has(tmp_path, screen):
    view = View(screen, live=False)
    past = [trial(0, status="finished", score=0.5), trial(1, (2, 0.25), status="open")]
    view.begin(sweep(tmp_path, workers_per_trial=2), 1, past)
    view.update(news(Event("resumed", 1, "seed 0", 2), groups={"group-0": "trial 1 seed 0"}))
    assert screen.file.getvalue().splitlines() == [
        "mine: 3 trials, 1 of them done before; 1 at a time with 2 workers each",
        "trial 1 seed 0 goes on from update 2",
    ]


@pytest.mark.parametrize(
    ("event", "state", "line"),
    [
        (Event("ended", 0, "rank 1: boom [red]"), {"status": "failed"}, "trial 0 failed: rank 1: boom [red]"),
        (
            Event("ended", 0, "at update 4 with a mean of 0.1000"),
            {"status": "stopped"},
            "trial 0 stopped: at update 4 with a mean of 0.1000",
        ),
        (Event("compared", 0, "mean of 3", 4, 0.125), {}, "trial 0 mean of 3 update 4: 0.1250"),
        (Event("group", None, "group a was lost"), {}, "group a was lost"),
        (Event("group", 0, "group a was lost"), {}, "group a was lost"),
        (Event("opened", 0, ""), {}, None),
    ],
)
def test_every_kind_of_event_has_its_line(tmp_path, screen, event, state, line):
    view = View(screen, live=False)
    view.begin(sweep(tmp_path), 1, [])
    view.update(news(event, trials=[trial(0, **state)]))
    assert screen.file.getvalue().splitlines()[1:] == ([] if line is None else [line])


def drawn(view: View) -> str:
    screen = Console(file=io.StringIO(), width=140)
    screen.print(view.table())
    return screen.file.getvalue()


def test_the_table_has_what_runs_then_the_best_that_ended(tmp_path, screen, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    view = View(screen, live=True)
    view.begin(sweep(tmp_path, space={"optim.lr": {"grid": list(range(10))}}), 2, [trial(9, status="failed")])
    running = trial(1, (2, 0.75), (4, 0.5), status="open")
    waiting = trial(2, (2, 0.125), status="open")
    view.update(news(trials=[running, waiting], groups={"a": "trial 1 seed 0", "b": "idle"}))
    before = drawn(view)
    assert "1 of 10 trials" in before
    assert "left" not in before  # nothing has ended in this start
    assert "0.125" not in before  # not running now
    row = next(line for line in before.splitlines() if "seed 0 update 4" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == [
        "1 optim.lr=0.25",
        "seed 0 update 4",
        "0.5000",
        "0.7500",
    ]
    clock[0] += 100
    ended = [trial(3, status="finished", score=0.25), trial(4, status="finished", score=0.5)]
    view.update(news(trials=ended, groups={"a": "trial 1 seed 0"}))
    after = drawn(view)
    assert "3 of 10 trials, about 6 min left" in after  # 50 s a trial, 7 to go
    assert after.index("1 optim.lr") < after.index("4 optim.lr") < after.index("3 optim.lr")


def test_where_less_is_better_the_lowest_comes_first(tmp_path, screen):
    view = View(screen, live=True)
    view.begin(sweep(tmp_path, direction="min"), 1, [])
    view.update(news(trials=[trial(0, status="finished", score=0.9), trial(1, status="finished", score=0.1)]))
    text = drawn(view)
    assert text.index("1 optim.lr") < text.index("0 optim.lr")


def test_many_trials_make_no_more_rows_than_fit(tmp_path, screen):
    view = View(screen, live=True)
    view.begin(sweep(tmp_path, space={"optim.lr": {"grid": list(range(60))}}), 30, [])
    running = [trial(number, (2, 0.5), status="open") for number in range(30)]
    ended = [trial(number, status="finished", score=number / 100) for number in range(30, 60)]
    view.update(news(trials=[*running, *ended], groups={str(n): f"trial {n} seed 0" for n in range(30)}))
    assert view.table().row_count == MOST_ROWS + 3


def test_on_a_terminal_a_table_takes_the_place_of_the_lines_and_ends_stay(tmp_path):
    screen = Console(file=io.StringIO(), width=140, force_terminal=True, highlight=False)
    with View(screen, live=True) as view:
        view.begin(sweep(tmp_path), 1, [])
        one = trial(0, (2, 0.5), status="finished", score=0.5)
        view.update(news(Event("scored", 0, "seed 0", 2, 0.5), Event("ended", 0, "", score=0.5), trials=[one]))
        view.update(news(exhausted="budget.hours is 1"))
    text = screen.file.getvalue()
    assert "trial 0 finished: 0.5000" in text
    assert "seed 0 update 2: 0.5" not in text
    assert "1 of 3 trials" in text
    assert view.exhausted == "budget.hours is 1"


def test_off_a_terminal_a_line_now_and_then_says_how_far_the_sweep_is(tmp_path, screen, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    view = View(screen, live=False)
    view.begin(sweep(tmp_path), 1, [])
    for seconds in range(0, 90, 10):
        clock[0] = 1000.0 + seconds
        view.update(news(trials=[trial(0, status="finished", score=0.5)]))
    assert screen.file.getvalue().splitlines()[1:] == [
        "1 of 3 trials, about 60 s left",
        "1 of 3 trials, about 2 min left",
    ]
