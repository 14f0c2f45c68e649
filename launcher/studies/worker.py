"""A process that trains runs of a study, one after the other or side by side, and what watches it. No torch here."""

import logging
import multiprocessing
import multiprocessing.connection
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from infoprompt.config import RunConfig, build_config
from launcher.exits import PARENT_VARIABLE, signals_heard
from launcher.processes import END_SECONDS, end_with_parent


@dataclass(frozen=True)
class Order:
    """What a worker is told to train."""

    config: RunConfig
    parent_run_id: str | None
    tags: Mapping[str, str]


class WorkerDied(RuntimeError):
    """A worker ended in the middle of a run."""


class Worker:
    """One process with places for runs. It dies with its runs at worst: no other run notices."""

    def __init__(self, num_places: int = 1) -> None:
        self.free = set(range(num_places))
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()

    def start(self, order: Order, *, alone: bool) -> int:
        """Have it train a run: the place that this takes. `alone`: it shares no pass, and no other run is there."""
        place = min(self.free)
        self.free.remove(place)
        values = order.config.model_dump(mode="json")
        self._connection.send((place, alone, values, order.parent_run_id, dict(order.tags)))
        return place

    def finish(self) -> tuple[int, str | None]:
        """After `ready`: the place of a run that has ended, and why it failed, if it did; raises WorkerDied."""
        try:
            place, message = self._connection.recv()
            self.free.add(place)
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            hint = " The kernel does that when memory runs out." if code == -9 else ""
            raise WorkerDied(f"its process ended with code {code} in the middle of it.{hint}") from None
        return place, message

    def stop(self) -> None:
        """Tell it to end: a run in progress closes its records first."""
        if self._process.is_alive():
            self._process.terminate()

    def join(self) -> None:
        """Wait for its end; kill it if it takes too long."""
        self._process.join(END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()


def ready(workers: Iterable[Worker]) -> list[Worker]:
    """Wait until at least one of the workers has ended a run, or itself."""
    connections = {worker._connection: worker for worker in workers}
    return [connections[each] for each in multiprocessing.connection.wait(list(connections))]  # type: ignore[index]


def _serve(connection: Connection, parent: int) -> None:
    """Train what is sent until nothing more comes."""
    os.environ[PARENT_VARIABLE] = str(parent)
    end_with_parent()
    from launcher.report import configure_logging

    configure_logging(quiet=True, debug=False)
    logging.getLogger("infoprompt").setLevel(logging.ERROR)  # a warning of each of a thousand runs is noise
    try:
        with signals_heard():
            while True:
                place, alone, *order = connection.recv()
                if alone:
                    connection.send((place, _train(*order)))
                else:
                    _train_packed(connection, place, *order)
    except (EOFError, KeyboardInterrupt):
        return


def _train(values: Mapping[str, Any], parent_run_id: str | None, tags: Mapping[str, str]) -> str | None:
    from infoprompt.engine.ranks import stop_ranks
    from infoprompt.train import run

    try:
        run(build_config(values), parent_run_id=parent_run_id, tags=tags)
    except Exception as error:  # whatever it is, the other runs go on, and the table says it
        return _failure(error)
    finally:
        stop_ranks()
    return None


def _train_packed(
    connection: Connection, place: int, values: Mapping[str, Any], parent_run_id: str | None, tags: Mapping[str, str]
) -> None:
    """Train a run and those that are sent while it goes on, until none is left."""
    from infoprompt.engine.pack import Ended, Pack
    from infoprompt.engine.ranks import start_ranks, stop_ranks
    from infoprompt.train import asking_run

    def say(ended: Ended | None) -> None:
        if ended is None:
            return
        if isinstance(ended.error, KeyboardInterrupt):
            raise ended.error
        connection.send((ended.place, None if ended.error is None else _failure(ended.error)))

    config = build_config(values)
    pack = Pack(start_ranks(config.engine))

    def start(place: int, config: RunConfig, parent_run_id: str | None, tags: Mapping[str, str]) -> None:
        say(pack.start(place, asking_run(config, parent_run_id=parent_run_id, tags=tags, pack=pack, place=place)))

    try:
        start(place, config, parent_run_id, tags)
        while len(pack):
            while pack.between_updates and connection.poll():
                place, _, values, parent_run_id, tags = connection.recv()
                start(place, build_config(values), parent_run_id, tags)
            for ended in pack.update():
                say(ended)
    finally:
        stop_ranks()


def _failure(error: Exception) -> str:
    logging.getLogger(__name__).debug("A run failed.", exc_info=error)
    return f"{type(error).__name__}: {error}"
