"""A rank killed in the middle ends its run, which goes on to the same bits; `make proofs` tries every combination."""

import pytest

from tests.proofs.killed_ranks import prepare, problems

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the run that was never killed."""
    place = tmp_path_factory.mktemp("killed")
    prepare(place)
    return place


@pytest.mark.parametrize(
    ("launcher", "moment"), [("torchrun", "update"), ("deepspeed", "save"), ("processes", "evaluation")]
)
def test_a_rank_killed_in_an_update_a_save_or_an_evaluation_changes_no_number(folder, launcher, moment):
    assert problems(folder, launcher, moment) == []
