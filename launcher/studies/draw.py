"""A study's figures, from what its final runs have kept."""

from collections.abc import Sequence
from pathlib import Path

from infoprompt.picture import save_picture, shown
from launcher.studies.figures import information_over_steps, learning_bands, scores_by_seed
from launcher.studies.jobs import Cell
from launcher.studies.results import curve_of, test_score


def draw(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Learning curves, scores by seed and information terms of each task and size, as PNG files."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.place[:2], []).append(cell)
    return [path for place, group in groups.items() for path in _draw_group(group, folder / "_".join(place))]


def _draw_group(group: Sequence[Cell], stem: Path) -> list[Path]:
    done = {cell.method: [job for job in cell.final_jobs if job.result()] for cell in group}
    jobs = [job for runs in done.values() for job in runs]
    if not jobs:
        return []
    metric = str((jobs[0].result() or {})["metric"])
    task, size, _ = group[0].place
    histories = {name: [job.history() for job in runs] for name, runs in done.items()}
    scores = {
        name: {job.seed: score for job in runs if (score := test_score(job)) is not None} for name, runs in done.items()
    }
    task, size = shown(task), shown(size)
    figures = {
        "learning_curves": lambda: learning_bands(
            {name: [curve_of(job) for job in runs] for name, runs in done.items()},
            title=f"{task}, {size}: dev over the updates",
            metric=metric,
            baseline=group[0].study.config.baseline,
        ),
        "scores_by_seed": lambda: scores_by_seed(
            scores,
            title=f"{task}, {size}",
            metric=metric,
            majority=jobs[0].predictions().get("majority", {}).get(metric),
        ),
    }
    if any(key.startswith("train/mi_") for runs in histories.values() for rows in runs for row in rows for key in row):
        figures["information"] = lambda: information_over_steps(histories, title=f"{task}, {size}: mutual information")
    paths = {stem.with_name(f"{stem.name}_{name}.png"): draw for name, draw in figures.items()}
    return [path for path, draw in paths.items() if save_picture(path.name, path, draw)]
