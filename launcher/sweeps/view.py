"""What people see while a sweep runs: a live table on a terminal, lines anywhere else."""

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from infoprompt.bar import Pace
from launcher.sweeps.events import Event, News
from launcher.sweeps.journal import TrialState
from launcher.sweeps.plan import Sweep
from launcher.values import show_values

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_ROWS = 12


class View:
    """Shows a sweep. A context: within, the live table is drawn."""

    def __init__(self, screen: "Console", *, live: bool) -> None:
        """`live`: draw a table in place of lines for every evaluation."""
        self._screen, self._wants_live = screen, live
        self._live: object | None = None
        self._trials: dict[int, TrialState] = {}
        self._groups: dict[str, str] = {}
        self._sweep: Sweep | None = None
        self._num_before = 0
        self._pace = Pace(0)
        self.exhausted: str | None = None
        """Which part of the budget ended the sweep."""

    def say(self, line: str) -> None:
        """Show a line."""
        self._screen.print(line, markup=False, emoji=False)

    def begin(self, sweep: Sweep, num_groups: int, past: Sequence[TrialState]) -> None:
        """Say what is about to run."""
        settings = sweep.settings
        self._sweep = sweep
        self._trials = {trial.number: trial for trial in past}
        self._num_before = sum(trial.over for trial in past)
        self._pace = Pace(sweep.num_trials, self._num_before)
        seeds = f" x {len(sweep.seeds)} seeds" if len(sweep.seeds) > 1 else ""
        before = f", {self._num_before} of them done before" if past else ""
        self.say(
            f"{settings.sweep_name}: {sweep.num_trials} trials{seeds}{before}; {num_groups} at a time with "
            f"{settings.workers_per_trial} worker{'s' * (settings.workers_per_trial > 1)} each"
        )

    def update(self, news: News) -> None:
        """Show what happened."""
        self._trials |= {number: trial for number, trial in news.changed.items() if number is not None}
        self._groups, self.exhausted = news.groups, news.exhausted
        for event in news.events:
            line = self._line(event)
            if line and (self._live is None or event.kind in ("ended", "group")):
                self.say(line)
        if self._live is None and self._pace.due():
            self.say(self._pace.text(sum(trial.over for trial in self._trials.values()), "trials"))
        if self._live is not None:
            self._live.update(self.table())  # type: ignore[attr-defined]

    def table(self) -> "Table":
        """The trials that run, then the best that ended; title with count and time left."""
        from launcher.literal_table import LiteralTable

        assert self._sweep is not None
        settings = self._sweep.settings
        sign = settings.sign
        ended = [trial for trial in self._trials.values() if trial.over]
        table = LiteralTable(title=self._pace.text(len(ended), "trials"))
        for heading in ("trial", "stage", settings.metric, "best"):
            table.add_column(heading, justify="left" if heading == "trial" else "right")
        busy = set(self._groups.values())
        unfinished = [trial for trial in self._trials.values() if not trial.over]
        for trial in sorted(unfinished, key=lambda trial: trial.number):
            running = [run for run in trial.runs if f"trial {trial.number} seed {run.seed}" in busy]
            if running and table.row_count < MOST_ROWS:
                stage = ", ".join(f"seed {run.seed} update {run.step}" for run in running)
                latest = [run.curve[-1][1] for run in trial.runs if run.curve]
                best = [run.best(sign) for run in trial.runs if run.curve]
                table.add_row(f"{trial.number} {show_values(trial.current)}", stage, _mean(latest), _mean(best))
        scored = [trial for trial in ended if trial.score is not None]
        scored.sort(key=lambda trial: -sign * (trial.score or 0.0))
        for trial in scored[: max(3, MOST_ROWS - table.row_count)]:
            table.add_row(f"{trial.number} {show_values(trial.current)}", "finished", "", f"{trial.score:.4f}")
        return table

    def _line(self, event: Event) -> str | None:
        trial = None if event.trial is None else self._trials.get(event.trial)
        if trial is None:
            return event.text
        score = "" if event.score is None else f"{event.score:.4f}"
        if event.kind == "started":
            return f"trial {trial.number} {event.text} starts: {show_values(trial.current)}"
        if event.kind == "resumed":
            return f"trial {trial.number} {event.text} goes on from update {event.step}"
        if event.kind in ("scored", "compared"):
            return f"trial {trial.number} {event.text} update {event.step}: {score}"
        if event.kind == "ended":
            return f"trial {trial.number} {trial.status}{': ' if score or event.text else ''}{score or event.text}"
        return event.text or None

    def __enter__(self) -> "View":
        if self._wants_live:
            from rich.live import Live

            self._live = Live(console=self._screen, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, traceback)  # type: ignore[attr-defined]
            self._live = None


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.4f}" if values else ""
