"""One line that says how far a study is: a bar on a terminal, a line per run elsewhere."""

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from infoprompt.bar import Pace
from launcher.studies.jobs import Cell, Job, num_planned

if TYPE_CHECKING:
    from rich.console import Console


class StudyProgress:
    """Counts runs as they end; use it as a context."""

    def __init__(self, table: Sequence[Cell], screen: "Console", *, quiet: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        jobs = [job for cell in table for job in (*cell.search_jobs, *cell.final_jobs)]
        self._done = sum(job.result() is not None for job in jobs)
        self._total = num_planned(table)
        self._pace = Pace(self._total, self._done)
        self._screen = None if quiet or screen.is_terminal else screen
        text = TextColumn("{task.description}", markup=False)
        columns = (MofNCompleteColumn(), BarColumn(20), TimeElapsedColumn(), text)
        self._bar = Progress(*columns, console=screen, disable=quiet or not screen.is_terminal, transient=True)
        self._task = self._bar.add_task("", total=self._total, completed=self._done)
        if self._done and not quiet:
            screen.print(f"{self._done} of {self._total} runs are done already")

    def __enter__(self) -> "StudyProgress":
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def update(self, running: Sequence[Job], ended: Job | None) -> None:
        """Show what runs; `ended` has just finished or failed."""
        if ended:
            self._done += 1
            if ended.phase == "search":  # the last run of a search may find final runs of an earlier start done
                self._done += sum(job.result() is not None for job in ended.cell.final_jobs)
            if self._screen:
                outcome = "failed" if ended.result() is None else "done"
                self._screen.print(f"{self._pace.text(self._done)}  {ended.name}  {outcome}", markup=False, emoji=False)
        self._bar.update(self._task, completed=self._done, description="; ".join(job.name for job in running))
