"""A process that trains one run of a study after the other, and what watches it. Imports no torch here."""

import logging
import multiprocessing
import multiprocessing.connection
import os
from collections.abc import Mapping
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
    """One process. It dies with its run at worst: no other run notices."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()

    def start(self, order: Order) -> None:
        """Have it train a run."""
        values = order.config.model_dump(mode="json")
        self._connection.send((values, order.parent_run_id, dict(order.tags)))

    def finish(self) -> str | None:
        """After `ready`: None if the run finished, else why it failed; raises WorkerDied."""
        try:
            message: str | None = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            hint = " The kernel does that when memory runs out." if code == -9 else ""
            raise WorkerDied(f"its process ended with code {code} in the middle of it.{hint}") from None
        return message

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


def ready(workers: Mapping[Worker, Any]) -> list[Worker]:
    """Wait until at least one of the workers has ended its run, or itself."""
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
                connection.send(_train(*connection.recv()))
    except (EOFError, KeyboardInterrupt):
        return


def _train(values: Mapping[str, Any], parent_run_id: str | None, tags: Mapping[str, str]) -> str | None:
    from infoprompt.engine.ranks import stop_ranks
    from infoprompt.train import run

    try:
        run(build_config(values), parent_run_id=parent_run_id, tags=tags)
    except Exception as error:  # whatever it is, the other runs go on, and the table says it
        logging.getLogger(__name__).debug("A run failed.", exc_info=True)
        return f"{type(error).__name__}: {error}"
    finally:
        stop_ranks()
    return None
