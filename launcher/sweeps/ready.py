"""The runs that wait for a worker group, in the order in which they get one."""

from collections import deque
from collections.abc import Mapping

from launcher.sweeps.journal import RunState, TrialState


class ReadyRuns:
    """The queue. What was begun ends before something new begins."""

    def __init__(self, trials: Mapping[int, TrialState]) -> None:
        """An empty queue for runs of these trials."""
        self._trials = trials
        self._queue: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        """Runs that wait."""
        return len(self._queue)

    def add(self, trial: TrialState, run: RunState) -> None:
        """A run that comes after all others."""
        run.status = "ready"
        if (trial.number, run.seed) not in self._queue:
            self._queue.append((trial.number, run.seed))

    def add_begun(self, trial: TrialState, run: RunState) -> None:
        """A run that comes before all others."""
        run.status = "ready"
        self._queue.appendleft((trial.number, run.seed))

    def drop(self, trial: TrialState) -> None:
        """No run of a trial is to go on."""
        self._queue = deque(pair for pair in self._queue if pair[0] != trial.number)

    def take(self) -> tuple[TrialState, RunState] | None:
        """The next run, which waits no more; None if there is none."""
        for number, seed in self._queue:
            if not self._is_donor(number, seed):
                self._queue.remove((number, seed))
                return self._trials[number], self._trials[number].run(seed)
        return None

    def _is_donor(self, number: int, seed: int) -> bool:
        """Whether a run has to stay as it is until another one has taken over its state."""
        return any(
            run.takes_over
            for trial in self._trials.values()
            if not trial.over and trial.taken_over and trial.taken_over[-1]["from"] == number
            for run in trial.runs
            if run.seed == seed
        )
