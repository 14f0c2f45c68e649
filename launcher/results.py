"""The results of runs that differ by their seed, side by side: mean and standard deviation of each kind of run."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infoprompt.config import ConfigError, RunConfig, read_yaml
from infoprompt.nested import get_nested
from launcher.values import markdown_line

Results = dict[str, list[dict[str, Any]]]
"""Results by the kind of run, in the order of the seeds."""


def collect(folders: Sequence[Path]) -> Results:
    """The results below some folders, the runs of one name (or of one `compare` entry) together.

    Raises:
        ConfigError: there is no finished run, or the runs are scored by different metrics.
    """
    files = sorted({file for folder in folders for file in folder.rglob("result.json")})
    results: Results = {}
    for file in files:
        result = json.loads(file.read_text(encoding="utf-8"))
        if result.get("state") == "finished":
            results.setdefault(_kind(file), []).append(result)
    if not results:
        raise ConfigError(f"There is no finished run below {', '.join(map(str, folders))}. Give output folders.")
    metrics = {str(result["metric"]) for runs in results.values() for result in runs}
    if len(metrics) > 1:
        raise ConfigError(f"The runs are scored by {' and '.join(sorted(metrics))}. Give folders of one task.")
    return results


def markdown(results: Results) -> str:
    """A table in Markdown: a row per kind of run, means over its runs and sample standard deviations."""
    metric = next(iter(results.values()))[0]["metric"]
    header = ["run", "runs", f"test {metric}", f"dev {metric}", "steps to 95 %", "seconds", "trained parameters"]
    lines = [markdown_line(header), markdown_line(["---", *["---:"] * (len(header) - 1)])]
    for kind, runs in results.items():
        values = [
            _spread([run["test"][metric] for run in runs if run["test"]]),
            _spread([run["dev"][metric] for run in runs if run["dev"]]),
            _spread([run["steps_to_95"] for run in runs], digits=0),
            f"{statistics.fmean(run['seconds'] for run in runs):.0f}",
            f"{runs[0]['trained_parameters']:,}",
        ]
        lines.append(markdown_line([kind, str(len(runs)), *values]))
    return "\n".join(lines) + "\n"


def _kind(file: Path) -> str:
    folder = file.parent
    if folder.parent.name == "compare":
        return folder.name
    config = read_yaml(folder / "config.yaml", RunConfig)
    return str(get_nested(config, "run.name") or "main")


def _spread(values: Sequence[float], digits: int = 4) -> str:
    if not values:
        return "-"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"
