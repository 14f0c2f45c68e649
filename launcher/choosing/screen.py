"""A comparison's plan and its state on the screen."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from infoprompt.bar import duration
from launcher.choosing.candidates import Plan
from launcher.choosing.cells import HeldOutCell
from launcher.literal_table import LiteralTable
from launcher.studies.jobs import Job

if TYPE_CHECKING:
    from rich.console import Console


def plan_table(plan: Plan, minutes: float) -> LiteralTable:
    """The plan: a row for each method, in the order in which they are trained."""
    title = f"planned: about {duration(plan.seconds)} of the {minutes:g} min given; {plan.num_seeds} seeds" + (
        f", {duration(plan.test_seconds)} of it for the test rows at the end" if plan.test_seconds else ""
    )
    table = LiteralTable(title=title, title_justify="left")
    table.add_column("method", overflow="fold")
    for heading in ("settings tried", "runs", "updates a run", "a run", "in all"):
        table.add_column(heading, justify="right")
    for one in plan.candidates:
        counts = (str(one.tries), str(one.runs), str(one.updates))
        table.add_row(one.name, *counts, duration(one.run_seconds), duration(one.seconds))
    return table


def left_out_lines(left_out: Mapping[str, str]) -> list[str]:
    """A line for each reason, with the methods that it leaves out."""
    of_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        of_reason.setdefault(reason, []).append(name)
    return [f"left out, since {reason}: {', '.join(names)}" for reason, names in of_reason.items()]


class LiveTable:
    """How far each method is: a table on a terminal, a line per run elsewhere; use it as a context."""

    def __init__(self, cells: Sequence[HeldOutCell], plan: Plan, screen: "Console", *, quiet: bool) -> None:
        from rich.live import Live

        self._cells, self._screen, self._quiet = cells, screen, quiet
        self._planned = {one.name: one for one in plan.candidates}
        self._running: Sequence[Job] = ()
        shown = screen.is_terminal and not quiet
        self._live = Live(self._table(), console=screen, transient=True, refresh_per_second=2) if shown else None

    def __enter__(self) -> "LiveTable":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def update(self, running: Sequence[Job], ended: Job | None) -> None:
        """Show what runs; `ended` has just finished or failed."""
        self._running = running
        if self._live:
            self._live.update(self._table())
        elif ended and not self._quiet:
            result = ended.result()
            outcome = "failed" if result is None else f"{result['dev'].get(result['metric'], float('nan')):.4f}"
            self._screen.print(f"{ended.cell.method}  {ended.folder.name}  {outcome}", markup=False, emoji=False)

    def _table(self) -> LiteralTable:
        table = LiteralTable(title="held-out rows", title_justify="left")
        table.add_column("method", overflow="fold")
        for heading in ("runs", "mean so far", "a run, planned", ""):
            table.add_column(heading, justify="right")
        busy = {job.cell.method for job in self._running}
        for cell in self._cells:
            planned = self._planned[cell.method]
            ended = sum(job.ended for job in cell.jobs)
            scores = list(cell.scores().values())
            state = "trains" if cell.method in busy else "done" if ended >= planned.runs else "waits"
            table.add_row(
                cell.method,
                f"{ended} of {planned.runs}",
                f"{sum(scores) / len(scores):.4f}" if scores else "-",
                duration(planned.run_seconds),
                state,
            )
        return table


def result_table(lines: Sequence[Sequence[str]], metric: str, *, tested: bool) -> LiteralTable:
    """The outcome: methods, scores on held-out rows, and those on test rows where there are any."""
    table = LiteralTable(title=metric, title_justify="left")
    table.add_column("method", overflow="fold")
    headings = ("setting", "held-out rows", "± over seeds", "seeds", "a run", *(["test rows"] if tested else []))
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "setting" else "right", overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table
