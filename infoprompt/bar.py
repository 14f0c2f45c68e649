"""The progress bar of a run, on standard error."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from infoprompt.progress import Progress as RunProgress


class ProgressBar:
    """Shows updates done, loss, dev score, examples a second and time left; does nothing where not enabled."""

    def __init__(self, enabled: bool, name: str, progress: RunProgress) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  dev {task.fields[score]}  {task.fields[rate]} ex/s", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True, markup=False, emoji=False),
            disable=not enabled,
        )
        self._task = self._bar.add_task(
            name, total=progress.total_steps, completed=progress.step, loss="-", score="-", rate="-"
        )

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, progress: RunProgress, **fields: float) -> None:
        """Show progress, and any of `loss`, `score` and `rate`."""
        shown: dict[str, Any] = {
            name: f"{value:.0f}" if name == "rate" else f"{value:.3f}" for name, value in fields.items()
        }
        self._bar.update(self._task, completed=progress.step, **shown)
