"""Sweeps without processes: groups that train a toy in any order, with a clock, a disk and deaths of our choosing."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from launcher.pool.jobs import Job
from launcher.sweeps.dispatcher import Dispatcher
from launcher.sweeps.events import Event
from launcher.sweeps.journal import TrialState, load_trials
from launcher.sweeps.plan import Sweep
from launcher.sweeps.search import Search
from launcher.sweeps.settings import SweepSettings
from launcher.sweeps.space import expand

Values = dict[str, Any]


class ToySweep(Sweep):
    """A sweep whose configs are the values themselves."""

    def config(self, values: Values, *, seed: int | None = None, name: str = "") -> Any:
        """What a job carries."""
        return SimpleNamespace(model_dump=lambda mode: {"values": dict(values), "seed": seed, "name": name})


def toy_sweep(folder: Path, space: Values, *, every_steps: int = 2, **settings: Any) -> ToySweep:
    """A sweep of the toy; its runs evaluate every `every_steps`."""
    given = {"base": "x", "space": space, "output_dir": str(folder), "retries": 1000, **settings}
    checked = SweepSettings.model_validate(given)
    points = None
    if checked.search != "optuna":
        points = tuple(expand(checked.space, checked.num_samples, checked.sample_seed))
    first = SimpleNamespace(seed=0, evaluation=SimpleNamespace(every_steps=every_steps))
    return ToySweep(checked, folder, first, points)  # type: ignore[arg-type]


def luck(*key: Any) -> float:
    """Noise between -1 and 1 that depends on its key alone."""
    return random.Random(repr(key)).uniform(-1, 1)


def saturating(level: float, values: Values, seed: int, step: int) -> float:
    """Each update comes nearer to what the settings can reach, the same for every seed but for some noise."""
    reach = sum(value for value in values.values() if isinstance(value, int | float))
    return level + 0.2 * (reach - level) + 0.01 * luck(seed, step, sorted(values))


@dataclass(frozen=True)
class Toy:
    """What is trained: a level that each update moves; the score is the level."""

    update: Callable[[float, Values, int, int], float] = saturating
    steps: int = 8
    every: int = 2
    score: Callable[[float, int], float] = lambda level, step: level
    ends_early: Callable[[Values, int], int | None] = lambda values, seed: None
    """An update after which the run has lost patience."""
    broken: Callable[[Values, int, int], str | None] = lambda values, seed, step: None
    """What a rank raises at an update."""
    names: tuple[str, ...] = ("accuracy", "score")

    def alone(self, values: Values, seed: int) -> float:
        """The result of a run that nobody disturbs."""
        level, best = 0.0, -math.inf
        end = self.ends_early(values, seed) or self.steps
        for step in range(1, end + 1):
            level = self.update(level, values, seed, step)
            if step % self.every == 0 or step == self.steps:
                best = max(best, self.score(level, step))
        return best


@dataclass(frozen=True)
class State:
    """A run's state on the disk."""

    step: int = 0
    level: float = 0.0
    best: float = -math.inf


@dataclass
class World:
    """A dispatcher, its groups and the disk."""

    sweep: ToySweep
    toy: Toy = Toy()
    seed: int = 0
    num_groups: int = 3
    group_runs: bool = False
    disk: dict[str, dict[int, State]] = field(default_factory=dict)
    updates: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    """How often each update of each run was made: trial, seed, step."""
    opened: Counter[int] = field(default_factory=Counter)
    clock: float = 0.0
    max_ticks: int = 200_000
    lose: bool = False
    """Whether groups that were lost may go on without being heard, beside those that took over their runs."""
    parent_run_id: str | None = "sweep"
    open_run: Callable[[TrialState], str | None] = lambda trial: f"run-{trial.number}"
    """MLflow, asked for the run of a trial of several seeds."""
    listen: Callable[[Event, TrialState | None], None] = lambda event, trial: None
    """Whoever else is told of every event."""

    def __post_init__(self) -> None:
        """Start, or go on with what the journal has."""
        self.random = random.Random(self.seed)
        self.generations = itertools.count(1)
        self.begin()

    def begin(self) -> None:
        """A new driver."""
        past = load_trials(Path(self.sweep.settings.output_dir))
        search = Search(self.sweep)
        search.restore(past)
        self.dispatcher = Dispatcher(
            self.sweep,
            search,
            past,
            parent_run_id=self.parent_run_id,
            group_runs=self.group_runs,
            now=lambda: self.clock,
        )
        self.seen = 0
        self.ticks = 0
        self.groups: dict[str, Generator[None, None, None]] = {}
        self.at: dict[str, Job] = {}
        for index in range(self.num_groups):
            self.start(f"group-{index}")

    def start(self, name: str) -> None:
        """New workers of a group; those before, if any, are dead."""
        self.at.pop(name, None)
        self.groups[name] = self._name(name)

    def die(self, name: str, *raised: tuple[int, str, bool]) -> None:
        """The workers of a group are killed and started again; `raised`: what ranks could still say."""
        for rank, text, connection in raised:
            self.dispatcher.raised(self.at[name].token, rank, text, connection=connection, ends_group=True)
        self.start(name)

    def go(self, chaos: Callable[["World"], None] | None = None, ticks: float = math.inf) -> "World":
        """Let groups do things in random order until all have left, or for so many ticks."""
        end = self.ticks + ticks
        while self.groups and self.ticks < end:
            self.tick()
            if chaos is not None:
                chaos(self)
        self.hear()
        return self

    def hear(self) -> None:
        """The driver looks at what happened."""
        for event in self.dispatcher.events[self.seen :]:
            self.seen += 1
            trial = None if event.trial is None else self.dispatcher.trials[event.trial]
            if event.kind == "opened" and trial is not None:
                self.opened[trial.number] += 1
                self.dispatcher.opened(trial.number, self.open_run(trial))
            self.listen(event, trial)

    def tick(self) -> None:
        """One group does one thing."""
        self.ticks += 1
        assert self.ticks < self.max_ticks, f"nobody comes to an end: {self.dispatcher.groups.shown()}"
        self.clock += 1.0
        self.hear()
        name = self.random.choice(list(self.groups))
        try:
            next(self.groups[name])
        except StopIteration:
            del self.groups[name]

    @property
    def trials(self) -> list[TrialState]:
        """By number."""
        return [trial for _, trial in sorted(self.dispatcher.trials.items())]

    @property
    def num_updates(self) -> int:
        """Updates made by all runs, those that were lost included."""
        return sum(self.updates.values())

    def outcome(self) -> list[Any]:
        """All that a disturbance must not change."""
        assert self.dispatcher.done
        return [
            (
                trial.number,
                trial.values,
                trial.status,
                trial.score,
                trial.scores,
                trial.taken_over,
                [(run.seed, run.status, run.curve, run.result and run.result["dev"]) for run in trial.runs],
            )
            for trial in self.trials
        ]

    # ---- a group

    def _name(self, name: str) -> Generator[None, None, None]:
        generation = next(self.generations)
        self.dispatcher.register(name, generation, [f"node-of-{name}"])
        yield
        while (answer := self.dispatcher.next(name, generation)) != "leave":
            if isinstance(answer, Job):
                twice = [one for one in self.at.values() if (one.number, one.seed) == (answer.number, answer.seed)]
                assert not twice or self.lose, "two groups train the same run"
                assert self.dispatcher.trials[answer.number].status == "open"
                self.at[name] = answer
                yield from self._train(answer, lambda: self.at.get(name) is answer)
                self.at.pop(name, None)
            yield

    def _train(self, job: Job, heard: Callable[[], bool]) -> Generator[None, None, None]:
        told, toy, config = self.dispatcher, self.toy, job.config
        values, seed, name = config["values"], job.seed, config["name"]
        if job.copy_from is not None:
            source = "/".join(Path(job.copy_from).parts[-2:])
            self.disk[name] = {max(self.disk[source]): self.disk[source][max(self.disk[source])]}
            yield
        states = self.disk.get(name, {})
        state = states[max(states)] if states else State()
        end = toy.ends_early(values, seed) or toy.steps
        while state.step < end:
            step = state.step + 1
            if text := toy.broken(values, seed, step):
                told.raised(job.token, 0, text, connection=False, ends_group=False)
                return
            state = State(step, toy.update(state.level, values, seed, step), state.best)
            self.updates[job.number, seed, step] += 1
            yield
            if step % toy.every and step < toy.steps:
                continue
            score = toy.score(state.level, step)
            state = State(step, state.level, max(state.best, score) if not math.isnan(score) else score)
            decision = told.report(job.token, step, dict.fromkeys(toy.names, score), last=step == toy.steps)
            yield  # killed here, its newest state is the one before
            if heard():
                self.disk.setdefault(name, {})[step] = state
            yield  # killed here, the dispatcher does not know that it has left off
            if decision != "go":
                told.left_off(job.token, decision)
                return
        scores = dict.fromkeys((one for one in toy.names if one != "score"), state.best)
        told.finished(job.token, {"dev": scores, "metric": toy.names[0], "steps": state.step, "seconds": 0.0})
