"""What MLflow has of a sweep: a run for the sweep, one for each trial of several seeds, and how each of them ended.

    sweep -> trial -> seed      where a trial has several seeds
    sweep -> trial              where it has one

The runs at the bottom record themselves. Whatever MLflow does, the sweep goes on; what its own runs miss is in the
sweep's folder.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from infoprompt.config import TrackingSettings
from infoprompt.nested import flat_nested
from infoprompt.tracking import (
    connect,
    describe_run,
    end_for,
    end_run,
    log_files,
    register_artifact,
    start_parent_run,
    tracking_uri,
)
from infoprompt.tracking.environment import environment_tags
from launcher.mlflow_parent import shared_parent
from launcher.sweeps.events import Event
from launcher.sweeps.journal import RunState, TrialState, load_trials
from launcher.sweeps.outcome import SweepOutcome, write_files
from launcher.sweeps.plan import Sweep
from launcher.sweeps.settings import SweepSettings
from launcher.values import show_values

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0
"""How long MLflow is left alone after it did not answer."""

NOTE_TAG = "mlflow.note.content"
"""What MLflow shows as a run's description, in Markdown."""
ORIGIN_TAGS = ("git.commit", "git.dirty", "mlflow.source.git.commit", "mlflow.source.name", "mlflow.user")
"""Of `environment_tags`, what is true of a sweep; versions and machines are those of each run's workers."""

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]
_ENDED: dict[str, EndStatus] = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}


@dataclass
class Record:
    """The sweep's own run and those of its trials."""

    settings: SweepSettings
    tracking: TrackingSettings
    parent_run_id: str | None
    status: EndStatus = "KILLED"
    trials: dict[int, TrialState] = field(default_factory=dict)
    """Those that anything was heard of, as they were last seen."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Tags that say who started it, from which commit."""
    _num_ended: int = field(init=False)
    _charted: dict[int, int] = field(init=False)
    """The last update of each trial whose mean MLflow has."""
    _silent_until: float = 0.0
    _calls: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "sweep-record"))
    _client: Any = None

    def __post_init__(self) -> None:
        self._num_ended = sum(trial.over for trial in self.trials.values())  # an earlier start has recorded them
        self._charted = {number: _reached(trial) for number, trial in self.trials.items()}

    @property
    def groups(self) -> bool:
        """Whether a trial of several seeds gets a run of its own."""
        return self.parent_run_id is not None

    def open_trial(self, trial: TrialState) -> str | None:
        """MLflow's run of a trial of several seeds; None if MLflow does not answer."""
        if self.parent_run_id is None or time.monotonic() < self._silent_until:
            return None
        tags = {**self.origin, **_tags(self.settings, trial), "mlflow.parentRunId": self.parent_run_id}
        params = {key: str(value) for key, value in trial.values.items()}
        name = f"{self.settings.sweep_name}-{trial.name}"
        run_id = start_parent_run(self.tracking, name, tags, params=params)
        if run_id is None:
            self._silent_until = time.monotonic() + PATIENCE_SECONDS
        return run_id

    def own_run(self, trial: TrialState) -> str | None:
        """MLflow's run of a trial that has one besides those of its seeds."""
        return trial.parent_run_id if trial.parent_run_id != self.parent_run_id else None

    def reopen(self, trials: Sequence[TrialState]) -> None:
        """Show those of an earlier start that go on as running."""
        for run_id in (self.own_run(trial) for trial in trials if not trial.over):
            if run_id is not None:
                self._later(partial(_set_running, run_id=run_id))

    def note(self, event: Event, trial: TrialState | None) -> None:
        """Bring an event to MLflow, in a thread of its own."""
        if trial is None or self.parent_run_id is None:
            return
        self.trials[trial.number] = trial
        parent, own = self.parent_run_id, self.own_run(trial)
        if event.kind in ("scored", "ended") and own:
            self._chart(own, trial)
        if event.kind == "ended":
            self._num_ended += 1
            finished = [each.score for each in self.trials.values() if each.score is not None]
            best = (max if self.settings.direction == "max" else min)(finished, default=None)
            metrics = {"sweep/trials_ended": float(self._num_ended)}
            if best is not None:
                metrics[f"sweep/best_{self.settings.metric_name}"] = best
            step = self._num_ended
            self._later(lambda client: describe_run(client, parent, metrics=metrics, step=step))
            if own:
                self._later(lambda client: _end_trial(client, own, trial, self.settings))

    def tested(self, runs: Sequence[RunState]) -> None:
        """Bring test scores, and the confusion matrix, to the runs that were scored after their end."""
        for result in (run.result for run in runs if run.result):
            run_id, step = result.get("run_id"), int(result["steps"])
            if run_id is None:
                continue
            metrics = {f"test/{name}": float(value) for name, value in result["test"].items()}
            self._later(partial(describe_run, run_id=run_id, metrics=metrics, step=step))
            picture = Path(result["output_dir"]) / "artifacts" / "confusion_matrix.png"
            if picture.is_file():
                log_files(self.tracking, run_id, {picture: ""})

    def finish(self, trials: Sequence[TrialState]) -> None:
        """All that could be done is done."""
        self.trials = {trial.number: trial for trial in trials}
        over = all(trial.over for trial in trials)
        done = any(trial.status == "finished" for trial in trials)
        self.status = "FAILED" if not done else "FINISHED" if over else "KILLED"

    def conclude(self, sweep: Sweep, outcome: SweepOutcome) -> None:
        """Register the best artifact, if that is wished; write what came out to the folder and to MLflow."""
        run_id = _recorded_as(outcome.best_run)
        if self.settings.register_as and run_id and self.parent_run_id is not None:
            outcome.version = register_artifact(
                self.tracking, run_id, self.settings.register_as, self.settings.register_alias
            )
        log_files(self.tracking, self.parent_run_id, write_files(sweep, outcome))
        if self.parent_run_id is not None:
            self._later(partial(_describe, parent_run_id=self.parent_run_id, outcome=outcome))
        self.close()

    def close(self) -> None:
        """Wait for what is on its way to MLflow."""
        self._calls.shutdown(wait=True)

    def _chart(self, run_id: str, trial: TrialState) -> None:
        """Bring the means over a trial's seeds to its run, at every update that all have come to since."""
        before, reached = self._charted.get(trial.number, 0), _reached(trial)
        for step in sorted({step for run in trial.runs for step, _ in run.curve if before < step <= reached}):
            self._charted[trial.number] = step
            metrics = {f"{self.settings.metric}_mean": trial.mean_at(step, self.settings.sign)}
            self._later(partial(describe_run, run_id=run_id, metrics=metrics, step=step))

    def _later(self, call: Callable[[Any], None]) -> None:
        def work() -> None:
            if time.monotonic() < self._silent_until:
                return
            try:
                self._client = self._client or connect(tracking_uri(self.tracking))
                call(self._client)
            except Exception as error:  # whatever a server may do, the sweep goes on
                self._silent_until = time.monotonic() + PATIENCE_SECONDS
                log.warning("MLflow does not take the sweep's own records now (%s).", str(error).partition("\n")[0])

        with contextlib.suppress(RuntimeError):  # after the end
            self._calls.submit(work)


@contextlib.contextmanager
def recorded(sweep: Sweep, tracking: TrackingSettings, past: Sequence[TrialState]) -> Iterator[Record]:
    """The sweep's run in MLflow, which ends as the body does; an earlier start's is gone on with."""
    settings = sweep.settings
    folder = Path(settings.output_dir)
    origin = {key: value for key, value in environment_tags(sweep.first).items() if key in ORIGIN_TAGS}
    own = {"sweep": settings.sweep_name, "sweep.kind": "sweep", "sweep.metric": settings.metric}
    parent = shared_parent(folder, tracking, settings.sweep_name, {**origin, **own}, _sweep_params(sweep))
    record = Record(settings, tracking, parent, trials={trial.number: trial for trial in past}, origin=origin)
    record.reopen(past)
    try:
        yield record
    except Exception:
        record.status = "FAILED"
        raise
    finally:
        record.close()
        _end_left_over(record)
        end_run(tracking, record.parent_run_id, record.status)


def _end_left_over(record: Record) -> None:
    """End the runs that could not do so themselves: paused, or their workers or the driver were killed."""
    folder = Path(record.settings.output_dir)
    for trial in load_trials(folder):
        status = _ENDED.get(trial.status, record.status)
        for run in trial.runs:
            place, unfinished = folder / "trials" / trial.run_name(run), run.status != "finished"
            if not end_for(place, record.tracking, status, overrule=unfinished):
                return  # nor would it take the next one, and each may take a minute
        if not trial.over:
            end_run(record.tracking, record.own_run(trial), status)


def _set_running(client: Any, run_id: str) -> None:
    client.update_run(run_id, status="RUNNING")


def _end_trial(client: Any, run_id: str, trial: TrialState, settings: SweepSettings) -> None:
    metrics: dict[str, float] = {}
    if trial.score is not None:
        metrics = {f"{settings.metric}_mean": trial.score}
    tags = {"sweep.ended": trial.status, NOTE_TAG: _trial_note(settings, trial)}
    if trial.reason:
        tags["sweep.reason"] = trial.reason
    describe_run(client, run_id, tags=tags, metrics=metrics, step=max(run.step for run in trial.runs))
    client.set_terminated(run_id, _ENDED[trial.status])


def _reached(trial: TrialState) -> int:
    """The last update that all seeds have come to; once all have ended, the one before the last, for that is final."""
    last = max(run.step for run in trial.runs)
    return min((run.step for run in trial.runs if not run.ended), default=last - 1)


def _trial_note(settings: SweepSettings, trial: TrialState) -> str:
    values = show_values(trial.current)
    if trial.score is not None:
        return f"{values}; {settings.metric} {trial.score:.4f}, the mean of {len(trial.runs)} seeds."
    return f"{values}; {trial.reason}" if trial.reason else values


def _recorded_as(run: RunState | None) -> str | None:
    """A finished run's id in MLflow."""
    run_id: str | None = (run.result or {}).get("run_id") if run else None
    return run_id


def _describe(client: Any, parent_run_id: str, outcome: SweepOutcome) -> None:
    """Say on the sweep's page, and on that of the version it registered, what came out and where it is.

    Args:
        client: MLflow's.
        parent_run_id: the sweep's run.
        outcome: what came out.
    """
    settings, best, run = outcome.settings, outcome.best, outcome.best_run
    runs = f"#/experiments/{client.get_run(parent_run_id).info.experiment_id}/runs"
    first, second = [], []
    if best is not None and run is not None:
        seeds = f", the mean of {len(best.runs)} seeds" if len(best.runs) > 1 else ""
        found = f"{show_values(best.current)}; {settings.metric} {best.score:.4f}{seeds}."
        run_id = _recorded_as(run)
        own = best.parent_run_id if len(best.runs) > 1 else run_id
        first += [f"**Best: {_link(f'trial {best.number}', own, runs)}**, {found}"]
        first += [f"{_link('Its artifact', run_id, runs, '/artifacts/artifact')} is that of seed {run.seed}."]
        if outcome.version is not None:
            name, version = settings.register_as, outcome.version
            first += [f"It is registered: [{name}, version {version}](#/models/{name}/versions/{version})."]
            text = f"{found} Seed {run.seed} of the best trial of {settings.sweep_name}."
            client.update_model_version(name, str(version), text)
    second += [outcome.sentence] if outcome.sentence else []
    second += [f"{len(outcome.ranked)} of {len(outcome.trials)} trials finished."]
    second += [f"The budget ended it: {outcome.exhausted}."] if outcome.exhausted else []
    second += [_link("All trials in pictures", parent_run_id, runs, "/artifacts/figures/parallel_coordinates.png")]
    # two short paragraphs: MLflow folds what is longer
    note = "\n\n".join(" ".join(part) for part in (first, second) if part)
    describe_run(client, parent_run_id, tags={NOTE_TAG: note})


def _link(text: str, run_id: str | None, runs: str, page: str = "") -> str:
    """Text that leads to a run's page, as far as MLflow has the run."""
    return f"[{text}]({runs}/{run_id}{page})" if run_id else text


def _tags(settings: SweepSettings, trial: TrialState) -> dict[str, str]:
    tags = {"sweep": settings.sweep_name, "sweep.trial": str(trial.number), "sweep.kind": "trial"}
    return {**tags, NOTE_TAG: _trial_note(settings, trial)}


def _sweep_params(sweep: Sweep) -> Mapping[str, str]:
    settings = sweep.settings.model_dump(mode="json", exclude={"space", "overrides"}, exclude_defaults=True)
    params = {**flat_nested(settings), "searcher": sweep.settings.search}
    for key, dimension in sweep.settings.space.items():
        params[f"space.{key}"] = json.dumps(dimension.model_dump(mode="json", exclude_defaults=True))
    return {key: str(value) for key, value in params.items()}
