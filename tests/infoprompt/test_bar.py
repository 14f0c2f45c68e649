"""How far long work is: a bar on a terminal, a line now and then elsewhere, and silence where it is wanted."""

import io
import logging

import pytest
import torch
from rich.console import Console

from infoprompt import bar
from infoprompt.bar import Pace, ProgressBar, track
from infoprompt.build_setup import build_setup
from infoprompt.config import build_config
from infoprompt.engine.pack import alone
from infoprompt.progress import Progress
from infoprompt.ranks import Ranks


@pytest.fixture
def clock(monkeypatch):
    """A clock of our own: `clock[0] += 10` lets ten seconds pass."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def shown(monkeypatch):
    """Puts a console in the place of standard error."""

    def use(terminal: bool) -> io.StringIO:
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal, width=100)
        monkeypatch.setattr(bar, "_console", lambda: console)
        return stream

    return use


def work(clock, seconds: float, count: int = 6) -> list[int]:
    done = []
    for item in track(range(count), count, "scoring dev rows"):
        clock[0] += seconds
        done.append(item)
    return done


def work_that_fails(clock) -> None:
    for item in track(range(3), 3, "what fails"):
        clock[0] += 2
        if item:
            raise ValueError("in the middle")


def test_off_a_terminal_there_is_a_line_every_half_a_minute(clock, shown, caplog):
    stream = shown(terminal=False)
    with caplog.at_level(logging.INFO, "infoprompt"):
        assert work(clock, 20) == list(range(6))
    assert caplog.messages == [
        "scoring dev rows: 2 of 6, about 80 s left",
        "scoring dev rows: 4 of 6, about 40 s left",
        "scoring dev rows: 6 of 6",
    ]
    assert stream.getvalue() == ""


def test_on_a_terminal_there_is_a_bar_that_goes_again(clock, shown, caplog):
    stream = shown(terminal=True)
    with caplog.at_level(logging.INFO, "infoprompt"):
        work(clock, 2)
    assert "scoring dev rows" in stream.getvalue()
    assert not caplog.messages
    assert not bar._console()._live_stack


def test_what_takes_a_moment_shows_nothing(clock, shown, caplog):
    stream = shown(terminal=True)
    with caplog.at_level(logging.INFO, "infoprompt"):
        work(clock, 0.1)
    assert stream.getvalue() == ""
    assert not caplog.messages


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_and_other_ranks_show_nothing(clock, shown, caplog, terminal):
    stream = shown(terminal)
    with caplog.at_level(logging.WARNING, "infoprompt"):  # what both are given, see `configure_logging`
        assert work(clock, 60) == list(range(6))
    assert stream.getvalue() == ""
    assert not caplog.messages


def test_a_bar_within_that_of_a_run_ends_with_its_own_work(clock, shown, caplog):
    stream = shown(terminal=True)
    with caplog.at_level(logging.INFO, "infoprompt"), ProgressBar(True, "a run", Progress(4, 8)):
        work(clock, 2)
        assert len(bar._console()._live_stack) == 1
        with pytest.raises(ValueError, match="in the middle"):
            work_that_fails(clock)
        assert len(bar._console()._live_stack) == 1
    assert "a run" in stream.getvalue()
    assert "scoring dev rows" in stream.getvalue()
    assert not bar._console()._live_stack


def test_a_run_off_a_terminal_says_now_and_then_how_far_it_is(clock, shown, caplog):
    shown(terminal=False)
    progress = Progress(10, 100)
    with caplog.at_level(logging.INFO, "infoprompt"), ProgressBar(True, "a run", progress) as one:
        for _ in range(20):
            clock[0] += 4
            progress = progress.after(8)
            one.update(progress, loss=0.5, score=0.75)
    assert caplog.messages[0] == "a run: update 8 of 100, about 6 min left; loss 0.500, dev 0.750"
    assert len(caplog.messages) == 2


def test_the_time_left_is_that_of_the_work_done_here(clock):
    pace = Pace(100, done=50)
    assert pace.text(50, "runs") == "50 of 100 runs"
    clock[0] += 600
    assert pace.text(75) == "75 of 100, about 10 min left"
    clock[0] += 7200
    assert pace.text(76, "runs") == "76 of 100 runs, about 2.0 h left"


def test_every_long_part_of_a_run_is_tracked(toy_settings, monkeypatch, tmp_path):
    monkeypatch.setenv("INFOPROMPT_CACHE", str(tmp_path / "cache"))  # else another test may have kept the states
    told = []

    def kept(items, total, name):
        items = list(items)
        told.append((name, total == len(items)))
        return iter(items)

    for module in ("infoprompt.data.template", "infoprompt.evaluate", "infoprompt.model.unprompted"):
        monkeypatch.setattr(f"{module}.track", kept)
    setup = build_setup(build_config(toy_settings), Ranks(0, 1, 0, torch.device("cpu")))
    alone(setup.evaluate(setup.dev))
    alone(setup.evaluate(setup.test))
    assert all(whole for _, whole in told)
    assert {name for name, _ in told} >= {
        "tokenizing training texts, thousands",
        "tokenizing dev texts, thousands",
        "tokenizing test texts, thousands",
        "states of the plain texts, batches",
        "scoring dev rows, batches",
        "scoring test rows, batches",
    }
