"""Which worker group trains which run of a study, without Ray."""

import json
from pathlib import Path

import pytest
from here_worker import HEAD, leave_result

from infoprompt.config import ConfigError, build_config
from infoprompt.folder_lock import held, inside
from launcher.pool.jobs import Job, owner_of, resume_of
from launcher.studies.dispatcher import StudyDispatcher
from launcher.studies.jobs import cells
from launcher.studies.plan import load_study


def dispatcher(study_file: Path, *changes: str, **options) -> StudyDispatcher:
    one = StudyDispatcher(cells(load_study(study_file, changes)), **options)
    for name in ("a", "b", "g.0", "g.1"):
        one.register(name, 1, ["node"])
    return one


def train(job: Job) -> None:
    config = build_config(job.config)
    leave_result(config, {"accuracy": 0.5 + config.optim.lr})


def finish(one: StudyDispatcher, job: Job) -> None:
    train(job)
    one.finished(job.token, {})


def ended(one: StudyDispatcher) -> list[tuple[str, int]]:
    return [(event.ended.phase, event.ended.seed) for event in one.events if event.ended is not None]


def test_a_cell_is_searched_then_its_chosen_setting_is_trained_with_every_seed(study_file):
    one = dispatcher(study_file, "methods={head: head.yaml}", parent_run_id="parent", forced={"engine.device": "cpu"})
    first, second = one.next("a", 1), one.next("b", 1)
    assert [job.tags["study.phase"] for job in (first, second)] == ["search", "search"]
    assert {job.config["optim"]["lr"] for job in (first, second)} == {1e-2, 3e-2}
    assert (first.parent_run_id, first.config["engine"]["device"]) == ("parent", "cpu")
    assert first.name.startswith("toy total_16 head search")
    assert one.report(first.token, 1, {"accuracy": 0.5}, last=False) == "go"
    finish(one, first)
    assert one.next("a", 1) == "wait"  # the other setting may be the better one
    assert not one.done
    finish(one, second)
    finals = [one.next("a", 1), one.next("b", 1)]
    assert [(job.seed, job.config["optim"]["lr"]) for job in finals] == [(0, 3e-2), (1, 3e-2)]
    assert [key.seed for key in one.running] == [0, 1]
    for job in finals:
        finish(one, job)
    assert one.done
    assert one.next("a", 1) == "leave"
    assert ended(one) == [("search", 0), ("search", 0), ("final", 0), ("final", 1)]


def test_places_of_a_group_take_only_what_shares_a_pass(study_file, tmp_path):
    (tmp_path / "whole.yaml").write_text(json.dumps({**HEAD, "backbone": {"frozen": False}}))
    one = dispatcher(study_file, "methods={whole: whole.yaml, head: head.yaml}", "baseline=head", "pack=2")
    whole = one.next("g.0", 1)
    assert (whole.tags["study.method"], whole.alone) == ("whole", True)
    assert one.next("g.1", 1) == "wait"  # nothing shares a pass with all weights
    finish(one, whole)
    second = one.next("g.0", 1)
    assert (second.tags["study.method"], second.alone) == ("whole", True)
    finish(one, second)
    heads = [one.next("g.0", 1), one.next("g.1", 1)]
    assert [(job.tags["study.method"], job.alone) for job in heads] == [("head", False)] * 2


def test_a_run_whose_workers_die_is_tried_once_more_and_alone(study_file):
    one = dispatcher(study_file, "methods={head: head.yaml}", "pack=2")
    jobs = [one.next("g.0", 1), one.next("g.1", 1)]
    assert not any(job.alone for job in jobs)
    for place in ("g.0", "g.1"):  # the process of both is gone, and comes again
        one.register(place, 2, ["node"])
    assert one.report(jobs[0].token, 1, {"accuracy": 0.5}, last=False) == "stop"  # of the earlier workers
    again = one.next("g.0", 2)
    assert again.alone
    assert one.next("g.1", 2) == "wait"
    one.register("g.0", 3, ["node"])
    other = one.next("g.0", 3)  # the first was lost twice: it has failed, and the search goes on without it
    assert other.config["run"]["output_dir"] != again.config["run"]["output_dir"]
    finish(one, other)
    assert ended(one) == [("search", 0), ("search", 0)]
    failure = json.loads((Path(again.config["run"]["output_dir"]) / "failure.json").read_text())["message"]
    assert failure == "Twice, its workers were killed"
    assert one.next("g.0", 3).config["optim"]["lr"] == other.config["optim"]["lr"]


def test_a_lost_node_costs_a_run_nothing(study_file):
    one = dispatcher(study_file, "methods={head: head.yaml}")
    job = one.next("a", 1)
    for generation in (2, 3, 4):
        one.lost("a", "its node is gone")
        assert one.next("a", generation) == "re-register"
        one.register("a", generation, ["node"])
        again = one.next("a", generation)
        assert (again.config, again.alone) == (job.config, True)  # `pack` is 1
    assert [event.text for event in one.events if event.text] == [
        "worker group a was lost (its node is gone); its run goes on elsewhere"
    ] * 3


@pytest.mark.parametrize("ends_group", [False, True])
def test_a_run_that_raises_has_failed_with_its_words(study_file, ends_group):
    one = dispatcher(study_file, "methods={head: head.yaml}")
    job = one.next("a", 1)
    if ends_group:
        one.raised(job.token, 1, "connection reset", connection=True, ends_group=True)
    one.raised(job.token, 0, "rank 0: ValueError: no", connection=False, ends_group=ends_group)
    if ends_group:
        one.register("a", 2, ["node"])
    assert ended(one) == [("search", 0)]
    failure = json.loads((Path(job.config["run"]["output_dir"]) / "failure.json").read_text())["message"]
    assert failure == "rank 0: ValueError: no"


def test_a_folder_that_another_run_writes_to_is_a_failure_of_that_run_alone(study_file):
    one = dispatcher(study_file, "methods={head: head.yaml}")
    job = one.next("a", 1)
    one.lost("a", "its node is gone")
    with held(inside(Path(job.config["run"]["output_dir"])), "run.output_dir", "a run"):
        other = one.next("b", 1)
    assert other.config["run"]["output_dir"] != job.config["run"]["output_dir"]
    assert ended(one) == [("search", 0)]


def test_a_lost_groups_lock_is_no_obstacle_to_the_next_start_of_the_run(study_file):
    one = dispatcher(study_file, "methods={head: head.yaml}")
    job = one.next("a", 1)
    one.lost("a", "nothing was heard of it")
    assert owner_of(job.tags) == "study out"
    with held(inside(Path(job.config["run"]["output_dir"])), "run.output_dir", "a run", owner_of(job.tags)):
        assert one.next("b", 1).config == job.config
    assert ended(one) == []


def test_a_folder_that_cannot_be_emptied_fails_its_run(study_file, monkeypatch):
    one = dispatcher(study_file, "methods={head: head.yaml}")
    with monkeypatch.context() as patched:
        patched.setattr("launcher.studies.dispatcher.make_room", raise_busy)
        assert one.next("a", 1) == "wait"
    assert ended(one) == [("search", 0), ("search", 0)]
    assert one.done  # no setting is left to choose


def raise_busy(job):
    raise OSError("Directory not empty")


def test_a_run_that_ended_before_its_workers_did_is_not_trained_again(study_file):
    one = dispatcher(study_file, "methods={head: head.yaml}")
    job = one.next("a", 1)
    train(job)
    one.register("a", 2, ["node"])
    assert ended(one) == [("search", 0)]
    assert one.next("a", 2).config["optim"]["lr"] != job.config["optim"]["lr"]


def test_a_run_of_a_study_starts_anew_and_one_of_a_sweep_goes_on(study_file):
    job = dispatcher(study_file, "methods={head: head.yaml}").next("a", 1)
    assert (resume_of(job.tags), resume_of({"sweep": "mine"})) == ("never", "auto")


def test_a_run_that_does_not_fit_a_cluster_is_told_with_the_settings_of_a_study(study_file):
    growing = load_study(study_file, ["ray.autoscaling=true", "workers=2"]).config.needs
    assert growing.groups_that_fit({}, {}) == 2
    with pytest.raises(ConfigError, match=r"ray\.autoscaling is true, but workers is not given.*Set workers"):
        load_study(study_file, ["ray.autoscaling=true"])
    needs = load_study(study_file, ["ray.workers_per_run=3", "workers=2"]).config.needs
    assert needs.groups_that_fit({"CPU": 64}, {"CPU": 8}) == 2
    with pytest.raises(ConfigError, match=r"ray\.workers_per_run is 3 and ray\.cpus_per_worker is 1, so a run needs 3"):
        needs.groups_that_fit({"CPU": 2}, {"CPU": 2})
