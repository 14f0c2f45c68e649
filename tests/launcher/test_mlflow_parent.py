"""The parent run that all starts of a sweep or a study share."""

import json

import pytest

from infoprompt.config import TrackingSettings
from infoprompt.tracking import connect, end_run
from launcher.mlflow_parent import PARENT_NAME, shared_parent

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(scope="module")
def tracking(tmp_path_factory) -> TrackingSettings:
    """One database for all tests here."""
    return TrackingSettings(uri=f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")


@pytest.mark.parametrize("kept", ["as it was written", "by a sweep of before", "by a study of before"])
def test_a_later_start_goes_on_with_the_run_of_an_earlier_one(kept, tmp_path, tracking):
    first = shared_parent(tmp_path, tracking, "mine", {"sweep": "mine"}, {"seeds": "2"})
    end_run(tracking, first, "KILLED")
    if kept == "by a sweep of before":
        (tmp_path / PARENT_NAME).write_text(json.dumps({"run_id": first}))
    if kept == "by a study of before":
        (tmp_path / PARENT_NAME).write_text(json.dumps({"uri": tracking.uri, "run_id": first}))
    assert shared_parent(tmp_path, tracking, "mine", {"sweep": "mine"}) == first
    run = connect(tracking.uri).get_run(first)
    assert (run.info.status, run.info.run_name, run.data.tags["sweep"]) == ("RUNNING", "mine", "mine")
    assert run.data.params == {"seeds": "2"}


@pytest.mark.parametrize("content", ["{", "[]", '{"run_id": null}', '{"run_id": "gone"}', "elsewhere"])
def test_what_cannot_be_gone_on_with_is_made_anew(content, tmp_path, tracking):
    elsewhere = json.dumps({"uri": "http://other:5000", "run_id": "1"})
    (tmp_path / PARENT_NAME).write_text(elsewhere if content == "elsewhere" else content)
    made = shared_parent(tmp_path, tracking, "mine", {})
    assert connect(tracking.uri).get_run(made).info.run_name == "mine"
    assert json.loads((tmp_path / PARENT_NAME).read_text()) == {"uri": tracking.uri, "run_id": made}


def test_nothing_is_made_where_tracking_is_off(tmp_path):
    assert shared_parent(tmp_path, TrackingSettings(enabled=False), "mine", {}) is None
    assert not (tmp_path / PARENT_NAME).exists()
