"""Some hundred damaged artifacts and resume states; `python -m tests.fuzz.artifact --rounds 10000` tries more."""

import importlib.util
import logging
from pathlib import Path


def test_a_damaged_artifact_or_state_loads_as_it_was_or_is_refused(caplog):
    spec = importlib.util.spec_from_file_location("fuzz_artifact", Path(__file__).with_name("artifact.py"))
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    caplog.set_level(logging.ERROR)
    ends = fuzz.main(250, seed=0)
    assert sum(ends.values()) == 250
    # both kinds of end, of both kinds of folder: else the test has nothing to say
    assert set(ends) == {f"{what} {ending}" for what in ("artifact", "state") for ending in ("loaded", "refused")}
