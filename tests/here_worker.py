"""A study's worker in the process of the test, and runs that leave what a run leaves without training."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from infoprompt.config import RunConfig, dump_config
from infoprompt.train import RunResult
from launcher.studies.worker import Order, Worker, _train

HEAD = {"prompt": {"kind": "none"}, "objective": {"head_weight": 0, "representation_weight": 0}}
STATIC = {"prompt": {"kind": "static", "length": 2}, "objective": {"representation_weight": 0}}


class HereWorker(Worker):
    """Trains in this process, at once; keeps the orders that it was given."""

    orders: list[Order]
    train: Callable[[Order], str | None]

    def __init__(self, num_places: int = 1) -> None:
        self.free = set(range(num_places))
        self._connection, self._theirs = Pipe()

    def start(self, order: Order, *, alone: bool) -> int:
        self.orders.append(order)
        self._theirs.send((0, type(self).train(order)))
        return 0

    def stop(self) -> None:
        self._theirs.close()

    def join(self) -> None:
        self._connection.close()

    @classmethod
    def started(cls) -> list[str]:
        """Names of the runs that it was told to train."""
        return [order.config.run.name for order in cls.orders]


def really(order: Order) -> str | None:
    return _train(order.config.model_dump(mode="json"), order.parent_run_id, order.tags)


def use_here_worker(monkeypatch: pytest.MonkeyPatch) -> type[HereWorker]:
    """Has studies trained by a `HereWorker` that has no orders yet."""
    monkeypatch.setattr("launcher.studies.loop.Worker", HereWorker)
    monkeypatch.setattr(HereWorker, "orders", [], raising=False)
    monkeypatch.setattr(HereWorker, "train", staticmethod(really), raising=False)
    return HereWorker


def leave_result(config: RunConfig, scores: Mapping[str, float], **changes: Any) -> None:
    """What a finished run leaves in its folder; `changes` are of its `RunResult`."""
    folder = Path(config.run.output_dir)
    test = dict(scores) if config.evaluation.test else {}
    metric = next(iter(scores))
    result = RunResult(test, dict(scores), 4, 4, 2, 1.0, 10, 10, 1.0, 32, metric, "", str(folder), None)
    shutil.rmtree(folder, ignore_errors=True)  # a real run moves another one aside
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config))
    (folder / "history.json").write_text(json.dumps([{"step": 4, f"dev/{metric}": scores[metric]}]))
    (folder / "result.json").write_text(json.dumps({"state": "finished", **replace(result, **changes).as_json()}))
