"""Records of a run: into its folder at once, into MLflow when MLflow answers.

    log() -> metrics.jsonl -> a thread of our own -> MLflow

The training loop only ever writes a line to a file. A tracking server that is down costs a warning. What it missed is
delivered when it is back, by the same thread or later by `deliver` (`infoprompt sync FOLDER`), each (metric, step)
once.
"""

import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from infoprompt.config import ConfigError, RunConfig, dump_config, flatten
from infoprompt.tracking.client import (
    Status,
    load_mlflow,
    reason,
    shown_uri,
    tracking_uri,
)
from infoprompt.tracking.delivery import Delivery
from infoprompt.tracking.environment import environment_tags
from infoprompt.tracking.spool import (
    ARTIFACTS_NAME,
    LEDGER_NAME,
    SPOOL_NAME,
    Ledger,
    Record,
    Spool,
    read_history,
    set_aside,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


logger = logging.getLogger(__name__)

OPEN_SECONDS = 15.0  # how long a run waits for its id before it starts without
CLOSE_SECONDS = 30.0  # how long a run waits for its last records to arrive
DELIVERY_PERIOD_SECONDS = 1.0  # batches the records of quick steps; a call over HTTP takes some 0.1 s
DELIVERY_SHARE = 0.1
"""Of a process's time, which the deliveries of all its runs take together at most, but for the last one of each."""
SWITCH_SECONDS = 0.0005
"""Between turns of Python's threads. A run gives its turn up in every operation of torch. At Python's 5 ms it would
wait so long each time while another thread delivers."""
MAX_PAUSE_SECONDS = 60.0  # between two attempts at a server that does not answer
CONFIG_NAME = "config.yaml"
NOT_GIVEN = "None"
"""A setting without a value, as text."""
NO_TAGS: Mapping[str, str] = MappingProxyType({})


class Tracker:
    """Records one run. Made on every rank; does nothing but on the first."""

    def __init__(self, folder: Path, spool: Spool | None, ledger: Ledger | None, uri: str) -> None:
        """Use `open`."""
        self._folder = folder
        self._spool = spool
        self._ledger = ledger
        self._logged: dict[str, set[int]] = {}
        self._delivery: _DeliveryThread | None = None
        if spool is not None:
            for record in spool.read()[0]:
                self._new(record.metrics, record.step)
        if spool is not None and ledger is not None:
            self._delivery = _DeliveryThread(Delivery(uri, ledger, spool, reopen=True), shown_uri(uri), folder)

    @classmethod
    def open(
        cls,
        config: RunConfig,
        *,
        first: bool,
        run_id: str | None = None,
        parent_run_id: str | None = None,
        tags: Mapping[str, str] = NO_TAGS,
        last_logged_step: int = -1,
        started_again: bool = False,
    ) -> "Tracker":
        """Start, or go on with, the records of a run.

        Args:
            config: the run's settings; logged as params and as `config.yaml`.
            first: whether this is the first rank.
            run_id: MLflow's id of the run to go on with; found in the folder too if `last_logged_step` is given.
            parent_run_id: MLflow's id of the run this one is part of.
            tags: further tags.
            last_logged_step: the resume state's step; records past it that MLflow does not have are dropped, since
                they are logged again. -1 starts anew, unless `run_id` is given.
            started_again: a run of the same settings that did not finish in the folder goes on, though it has left no
                resume state: else MLflow would show two, of which one runs for ever.
        Raises:
            ConfigError: the folder cannot be written.
        """
        folder = Path(config.run.output_dir)
        if not first:
            return cls(folder, None, None, "")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            same = started_again and _kept_config(folder) == dump_config(config)
            resumed = run_id is not None or last_logged_step >= 0
            previous = _previous_ledger(folder, run_id, resumed=resumed, unfinished=same)
            spool = Spool(folder / SPOOL_NAME)
            delivered = min(previous.delivered, spool.size) if previous else 0
            spool.rewind(delivered, last_logged_step)
        except OSError as error:
            raise ConfigError(
                f"run.output_dir is {folder}, where the run's records cannot be written: {error}. Make room, or give "
                "another folder."
            ) from None
        if not config.tracking.enabled:
            return cls(folder, spool, None, "")
        uri = tracking_uri(config.tracking)
        load_mlflow()
        ledger = Ledger(folder / LEDGER_NAME, shown_uri(uri), config.tracking.experiment, config.run_name, run_id)
        # hundreds of settings without a value would hide those that have one
        ledger.params = {key: value for key, value in flatten(config).items() if value != NOT_GIVEN}
        ledger.tags = {**environment_tags(config), **tags}
        if parent_run_id:
            ledger.tags["mlflow.parentRunId"] = parent_run_id
        if previous:
            ledger.run_id, ledger.run_key = run_id or previous.run_id, previous.run_key
            ledger.experiment_id, ledger.model_id = previous.experiment_id, previous.model_id
            ledger.delivered = delivered
            ledger.artifacts, ledger.artifacts_sent = previous.artifacts, previous.artifacts_sent
        ledger.update()
        tracker = cls(folder, spool, ledger, uri)
        tracker.log_text(CONFIG_NAME, dump_config(config))
        tracker._start()
        return tracker

    @property
    def run_id(self) -> str | None:
        """MLflow's id; None until the run was made there, and on other ranks than the first."""
        return self._ledger.run_id if self._ledger else None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics of an update. A (metric, step) that is already recorded, as after a resume, is left out."""
        if self._spool is None:
            return
        new = self._new({key: float(value) for key, value in metrics.items()}, step)
        if new:
            self._spool.append(Record(step, time.time(), new))

    def log_text(self, name: str, text: str) -> None:
        """Keep a text as `artifacts/<name>` in the run's folder, and as an artifact in MLflow."""
        if self._spool is None:
            return
        self._keep(name, lambda path: path.write_text(text, encoding="utf-8"))

    def log_figure(self, name: str, draw: Callable[[], "Figure"]) -> None:
        """Keep a figure as PNG, `artifacts/<name>` in the run's folder, and as an artifact in MLflow.

        One that cannot be drawn is a warning.
        """
        if self._spool is None:
            return
        from infoprompt.picture import save_picture

        name = name if name.endswith(".png") else f"{name}.png"
        path = self._folder / ARTIFACTS_NAME / name
        if save_picture(name, path, draw):
            self._add_artifact(path, os.path.dirname(name))

    def log_artifacts(self, folder: Path, to: str) -> None:
        """Bring a folder's files to MLflow, below the artifact folder `to`; they are read when they are sent."""
        if self._spool is not None:
            self._add_artifact(folder, to)

    def history(self) -> list[dict[str, float]]:
        """All records so far as rows `{"step": 10, "train/loss": 0.7}`; none on other ranks than the first."""
        return read_history(self._folder) if self._spool is not None else []

    def close(self, status: Status | None = "FINISHED", wait_seconds: float = CLOSE_SECONDS) -> None:
        """Set the final status and wait, at most so long, until MLflow has everything; else warn.

        None leaves the run as it is, to go on later.
        """
        if self._spool is not None and self._spool.waiting:
            logger.warning("%s lacks the last %d records.", self._spool.path, len(self._spool.waiting))
        if self._delivery is None or self._ledger is None:
            return
        if status is not None:
            self._ledger.update(status=status)
        self._delivery.finish(wait_seconds)
        self._delivery = None

    def _start(self) -> None:
        if self._delivery:
            self._delivery.start()
            self._delivery.tried.wait(OPEN_SECONDS)

    def _new(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        new = {key: value for key, value in metrics.items() if step not in self._logged.get(key, ())}
        for key in new:
            self._logged.setdefault(key, set()).add(step)
        return new

    def _keep(self, name: str, write: Callable[[Path], object]) -> None:
        """Keep a file below the run's artifacts, and deliver it; a disk that does not take it costs a warning."""
        path = self._folder / ARTIFACTS_NAME / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
        except OSError as error:
            logger.warning("%s cannot be written (%s); the run goes on without it.", path, error)
            return
        self._add_artifact(path, os.path.dirname(name))

    def _add_artifact(self, path: Path, to: str) -> None:
        if self._ledger is not None:
            self._ledger.add_artifact(path, to)


class _DeliveryThread(threading.Thread):
    """Delivers once a second, or more seldom; a daemon, so that no server can keep a process from ending."""

    def __init__(self, delivery: Delivery, shown: str, folder: Path) -> None:
        super().__init__(name="mlflow-delivery", daemon=True)
        self.tried = threading.Event()
        self._finishing = threading.Event()
        self._delivery = delivery
        self._shown = shown
        self._folder = folder
        self._failures = 0

    def run(self) -> None:
        """Deliver until told to finish, then once more."""
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
        pause = 0.0
        last = False
        while not last:
            last = self._finishing.wait(pause)
            pause = self._attempt()
            self.tried.set()

    def finish(self, seconds: float) -> None:
        """Wait for the last attempt; say what did not arrive, and how to deliver it."""
        self._finishing.set()
        self.join(seconds)
        if not self._delivery.complete:
            logger.warning(
                "MLflow at %s does not have all records of this run yet. Deliver them with: infoprompt sync %s",
                self._shown,
                shlex.quote(str(self._folder)),
            )

    def _attempt(self) -> float:
        """Seconds until the next one."""
        start = time.thread_time()
        try:
            self._delivery.everything()
        except Exception as error:  # whatever a server may do, the run goes on
            self._failures += 1
            if self._failures == 1:
                logger.warning(
                    "MLflow at %s does not take the records (%s). Training goes on; they are kept in %s and delivered "
                    "when it answers again, or later with: infoprompt sync %s",
                    self._shown,
                    reason(error),
                    self._folder / SPOOL_NAME,
                    shlex.quote(str(self._folder)),
                )
            return min(MAX_PAUSE_SECONDS, DELIVERY_PERIOD_SECONDS * 2**self._failures)
        if self._failures:
            logger.info("MLflow at %s has all records again.", self._shown)
        self._failures = 0
        running = sum(isinstance(thread, _DeliveryThread) for thread in threading.enumerate())
        seldom = (time.thread_time() - start) * running / DELIVERY_SHARE
        return min(MAX_PAUSE_SECONDS, max(DELIVERY_PERIOD_SECONDS, seldom))


def _kept_config(folder: Path) -> str | None:
    """The settings of what was recorded in the folder before."""
    try:
        return (folder / ARTIFACTS_NAME / CONFIG_NAME).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _previous_ledger(folder: Path, run_id: str | None, *, resumed: bool, unfinished: bool) -> Ledger | None:
    """The ledger of the run to go on with; whatever else lies in the folder is moved out of the way.

    Args:
        folder: the run's.
        run_id: MLflow's id of it, where it is known.
        resumed: whether the run goes on.
        unfinished: whether it does if it had not finished.
    """
    path = folder / LEDGER_NAME
    try:
        ledger = Ledger.load(path) if path.exists() else None
    except ValueError as error:
        logger.warning("%s Its run goes on, and MLflow is sent all of it again.", error)
        ledger = None
    other_run = ledger is not None and run_id is not None and ledger.run_id not in (None, run_id)
    resumed = resumed or (unfinished and ledger is not None and ledger.status != "FINISHED")
    if other_run or not resumed:
        if ledger and ledger.status is None:
            ledger.update(status="KILLED")  # it never closed; said to MLflow when it is delivered
        set_aside(folder)
        return None
    return ledger
