"""Sweeps whose groups share passes: the same journal and artifacts as one run after another, also after deaths."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from infoprompt.config import RunConfig, build_config
from infoprompt.engine.pack import Pack
from infoprompt.progress import LeftOff, Report
from infoprompt.stopping import Preempted
from infoprompt.training_state import copy_state
from launcher.pool.jobs import Answer, Job, owner_of
from launcher.pool.side_by_side import SideBySide
from launcher.sweeps.dispatcher import Dispatcher
from launcher.sweeps.journal import load_trials
from launcher.sweeps.plan import Sweep, load_sweep
from launcher.sweeps.search import Search

SWEEPS: dict[str, dict[str, Any]] = {
    "grid": {"space": {"optim.lr": {"grid": [0.03, 0.1]}, "prompt.kind": {"grid": ["static", "prefix"]}}},
    "pbt": {
        "space": {"optim.lr": {"log_uniform": [0.001, 0.1]}},
        "num_samples": 4,
        "scheduler": {"kind": "pbt", "interval_steps": 3, "quantile": 0.3},
    },
    "unlike": {  # a backbone that is trained shares no pass, and one with a head of its own is another backbone
        "space": {"backbone.frozen": {"grid": [True, False]}, "head.kind": {"grid": ["linear", "label_words"]}},
        "seeds": [0],
    },
}


class Here:
    """A place that asks a dispatcher in this process."""

    def __init__(self, dispatcher: Dispatcher, name: str, generation: int) -> None:
        self.dispatcher, self.name, self.generation = dispatcher, name, generation
        self.enlist()

    def enlist(self) -> None:
        self.dispatcher.register(self.name, self.generation, ["here"])

    def next(self) -> Answer:
        return self.dispatcher.next(self.name, self.generation)

    def prepare(self, job: Job, config: RunConfig) -> str | None:
        if job.copy_from is not None:
            copy_state(config, Path(job.copy_from))
        return None

    def report(self, job: Job) -> Report:
        return lambda progress, scores: self.dispatcher.report(job.token, progress.step, scores, last=progress.done)

    def do(self, job: Job) -> None:
        from infoprompt.train import run

        config = build_config(job.config)
        try:
            self.prepare(job, config)
            result = run(config, resume="auto", tags=job.tags, report=self.report(job), owner=owner_of(job.tags))
        except LeftOff as left:
            self.settle(job, left)
        else:
            self.settle(job, None, result.as_json())

    def settle(self, job: Job, error: BaseException | None, result: dict[str, Any] | None = None) -> None:
        if error is None:
            assert result is not None
            self.dispatcher.finished(job.token, result)
        elif isinstance(error, LeftOff):
            self.dispatcher.left_off(job.token, error.decision)
        else:
            assert isinstance(error, Preempted), error
            self.dispatcher.lost(self.name, "told to end")


@pytest.fixture
def planned(tmp_path, toy_settings) -> Callable[[str, str], Sweep]:
    """A function from a folder's name and a key of SWEEPS to the plan of two seeds a trial."""
    settings = {**toy_settings, "optim": {"epochs": 1, "max_steps": 6}, "evaluation": {"every_steps": 3}}
    settings["prompt"] = {"kind": "static", "length": 2}
    settings["objective"] = {"head_weight": 0, "representation_weight": 0}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(settings))

    def plan(name: str, key: str) -> Sweep:
        values = {"base": "base.yaml", "seeds": [0, 1], "output_dir": str(tmp_path / name), **SWEEPS[key]}
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(values))
        return load_sweep(tmp_path / "sweep.yaml")

    return plan


def dispatcher_of(sweep: Sweep) -> Dispatcher:
    Path(sweep.settings.output_dir).mkdir(parents=True, exist_ok=True)
    return Dispatcher(sweep, Search(sweep))


def train(dispatcher: Dispatcher, num_places: int, generation: int = 1) -> None:
    SideBySide([Here(dispatcher, f"group-0.{place}", generation) for place in range(num_places)]).run()


def outcome(sweep: Sweep) -> dict[str, Any]:
    """Each trial's journal, without times, and each artifact's files."""
    folder = Path(sweep.settings.output_dir)
    found: dict[str, Any] = {}
    for trial in load_trials(folder):
        runs = [
            (run.seed, run.status, run.curve, run.result and (run.result["dev"], run.result["best_step"]))
            for run in trial.runs
        ]
        found[f"trial {trial.number}"] = (trial.values, trial.status, trial.score, trial.scores, trial.taken_over, runs)
    for path in sorted(folder.rglob("artifact/*.safetensors")):
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return json.loads(json.dumps(found))


@pytest.mark.parametrize("key", SWEEPS)
def test_a_packed_sweep_has_the_journal_and_artifacts_of_one_run_after_another(planned, key):
    one, packed = planned("one", key), planned("packed", key)
    train(dispatcher_of(one), 1)
    train(dispatcher_of(packed), 3)
    expected = outcome(one)
    assert any(name.endswith("prompt.safetensors") for name in expected)
    assert all(value[1] == "finished" for name, value in expected.items() if name.startswith("trial "))
    assert outcome(packed) == expected


def test_a_killed_pack_gives_back_all_its_runs_and_each_goes_on(planned, monkeypatch):
    one, killed = planned("one", "grid"), planned("killed", "grid")
    train(dispatcher_of(one), 1)
    dispatcher, update, counts = dispatcher_of(killed), Pack.update, []

    class Killed(BaseException):
        pass

    def dies(self):
        counts.append(len(self))
        if len(counts) == 5:
            raise Killed
        return update(self)

    monkeypatch.setattr(Pack, "update", dies)
    with pytest.raises(Killed):
        train(dispatcher, 3)
    assert counts[-1] == 3
    monkeypatch.setattr(Pack, "update", update)
    dispatcher.lost("group-0.2", "nothing was heard of it")  # as of a node that does not come back
    train(dispatcher, 2, generation=2)
    assert outcome(killed) == outcome(one)
    assert sum(run.deaths for trial in load_trials(Path(killed.settings.output_dir)) for run in trial.runs) == 2
