"""The loop of a worker group that has several runs at a time, which share each pass. Knows nothing of Ray."""

import time
from collections.abc import Sequence
from typing import Any, Protocol

from infoprompt.config import ConfigError, RunConfig, build_config
from infoprompt.engine.pack import Ended, Pack, pack_key
from infoprompt.engine.ranks import start_ranks
from infoprompt.progress import Report, TrainingStopped
from infoprompt.train import asking_run
from launcher.pool.jobs import Answer, Job, owner_of, resume_of

ASK_SECONDS = 0.1
ASK_UPDATES = 10
"""How often a free place asks for work beside runs in progress. No clock: all ranks must ask at the same time."""


class Place(Protocol):
    """A place for a run: to the dispatcher a worker group of its own."""

    def next(self) -> Answer:
        """What to do."""

    def enlist(self) -> None:
        """Register anew."""

    def do(self, job: Job) -> None:
        """Do a run by itself."""

    def prepare(self, job: Job, config: RunConfig) -> str | None:
        """Bring what the run goes on from; why it cannot go on."""

    def report(self, job: Job) -> Report:
        """What its evaluations are told to."""

    def settle(self, job: Job, error: BaseException | None, result: dict[str, Any] | None = None) -> None:
        """Say how a run has ended; raises where only new workers can go on."""


class SideBySide:
    """Takes run after run into each place until told to leave; every rank has one.

    A run that can share no pass with those under way waits for their end, and nothing else is taken meanwhile.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._jobs: dict[int, Job] = {}
        self._left: set[int] = set()
        self._held: tuple[int, Job] | None = None
        self._pack: Pack | None = None
        self._key: str | None = None
        self._num_updates = 0

    def run(self) -> None:
        """Until every place was told to leave."""
        while len(self._left) < len(self._places) or self._jobs:
            if self._held is not None and not self._jobs:
                held, self._held = self._held, None
                self._begin(*held)
            if self._may_ask:
                self._ask()
            if self._jobs:
                self._update()
            elif self._held is None:
                time.sleep(ASK_SECONDS)

    @property
    def _may_ask(self) -> bool:
        if self._held is not None:
            return False
        if not self._jobs or self._pack is None:
            return True
        return self._pack.between_updates and self._num_updates % ASK_UPDATES == 0

    def _ask(self) -> None:
        for place in range(len(self._places)):
            if place in self._jobs or place in self._left:
                continue
            answer = self._places[place].next()
            if answer == "leave":
                self._left.add(place)
            elif answer == "re-register":
                self._places[place].enlist()
            elif isinstance(answer, Job):
                self._begin(place, answer)
                if self._held is not None:
                    return

    def _begin(self, place: int, job: Job) -> None:
        """Start a run, or hold it until it can be."""
        slot, config = self._places[place], build_config(job.config)
        try:
            ranks = start_ranks(config.engine) if self._pack is None else self._pack.ranks
            key = None if job.alone else pack_key(config, ranks.world_size)
        except ConfigError:  # it says so by itself, as any run that fails
            key = None
        if self._jobs and (key is None or key != self._key):
            self._held = place, job
            return
        if key is None:
            slot.do(job)
            return
        if not self._jobs:
            self._pack, self._key = Pack(start_ranks(config.engine)), key
        assert self._pack is not None
        problem = slot.prepare(job, config)
        if problem is not None:
            slot.settle(job, TrainingStopped(problem))
            return
        run = asking_run(
            config,
            resume=resume_of(job.tags),
            parent_run_id=job.parent_run_id,
            tags=job.tags,
            report=slot.report(job),
            owner=owner_of(job.tags),
            pack=self._pack,
            place=place,
        )
        self._jobs[place] = job
        ended = self._pack.start(place, run)
        if ended is not None:
            self._settle([ended])

    def _update(self) -> None:
        assert self._pack is not None
        self._num_updates += 1
        self._settle(self._pack.update())

    def _settle(self, ended: Sequence[Ended]) -> None:
        raised = None
        for each in ended:
            try:
                result = None if each.result is None else each.result.as_json()
                self._places[each.place].settle(self._jobs.pop(each.place), each.error, result)
            except Exception as error:  # the others, which ended by the same, still say so
                raised = error
        if raised is not None:
            raise raised
