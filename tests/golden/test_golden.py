"""Golden curves hold: a change meant to change no number changes none."""

import copy

import pytest

from golden.__main__ import TESTS, against, committed, measured_by
from golden.compare import differences
from golden.runs import DRAWS_BY_SHAPE, RUNS

HERE = [run.name for run in RUNS if run.command == "here"]
STARTED = ["two_ranks_zero_3", "study"]  # the other commands take minutes: `python -m tests.golden` has them


@pytest.fixture(scope="module")
def here():
    """What the runs of one process do, trained in one process together."""
    return measured_by(TESTS.parent, HERE)


@pytest.mark.parametrize("name", HERE)
def test_a_run_does_what_it_did(here, name):
    assert not against(here[name], committed(name))


def test_what_a_step_saves_changes_it_by_rounding_alone():
    names = [name for name in HERE if name not in DRAWS_BY_SHAPE]
    found = measured_by(TESTS.parent, names, savings=True)
    assert not [text for name in names for text in against(found[name], committed(name), exact=False)]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.timeout(600)
def test_ranks_and_a_study_do_what_they_did():
    found = measured_by(TESTS.parent, STARTED)
    assert not [f"{name}: {text}" for name in STARTED for text in against(found[name], committed(name))]


def test_what_differs_is_named_and_rounding_is_forgiven_elsewhere():
    expected = committed("static_linear")["run"]
    found = copy.deepcopy(expected)
    assert not list(differences(found, expected, exact=True))
    found["history"][3]["train/loss"] *= 1 + 1e-7
    found["artifact"]["prompt/prompt.vectors_PE"]["sha256"] = "other"
    assert len(list(differences(found, expected, exact=True))) == 2
    assert not list(differences(found, expected, exact=False))
    found["history"][3]["train/loss"] *= 1.01
    del found["history"][5]["train/grad_norm"]
    places = " ".join(differences(found, expected, exact=False))
    assert "history[3]/train/loss" in places
    assert "history[5]/train/grad_norm is only in what was expected" in places
