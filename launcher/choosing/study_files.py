"""The study of a comparison as files in its output folder, which `infoprompt study` could read as well."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from infoprompt.config import RunConfig, compose_config, dump_config
from infoprompt.data.places import RowSource
from launcher.choosing.candidates import Candidate
from launcher.choosing.methods import METHODS, Method
from launcher.choosing.rows import Facts
from launcher.choosing.schedule import SMALL_ENOUGH_FOR_ALL, schedule, validation_share
from launcher.studies.plan import POINTS, Setting, Study, load_study

MOST_ROWS = 4000
"""Rows that a comparison trains on at most; of larger files a sample, with as many rows held out."""


def base_settings(data: Mapping[str, RowSource], backbone: str, facts: Facts) -> dict[str, Any]:
    """Nested settings that all runs share: one rule for held-out rows, and the last state of each run."""
    share = {} if facts.num_held_out else {"validation_share": validation_share(facts.num_rows)}
    pooling = {"head": {"pooling": "entities"}} if facts.kind == "relation" else {}
    return {
        "backbone": {"name": backbone},
        "data": {**data, **share},
        "evaluation": {"state": "last", "every_steps": 10**6},
        "tracking": {"enabled": False},
        **pooling,
    }


def size_of(facts: Facts) -> dict[str, int]:
    """The study's size: all rows, or of a large file a sample."""
    return {"total": MOST_ROWS} if facts.num_rows > 2 * MOST_ROWS and not facts.num_held_out else {}


def method_settings(method: Method, num_train: int, unlabelled: RowSource | None) -> dict[str, Any]:
    """Nested settings of a method for so many rows, without a grid."""
    settings = method.settings
    for section, values in schedule(method, num_train).items():
        settings[section] = {**settings.get(section, {}), **values}
    if "unlabelled" in settings.get("data", {}):
        settings["data"]["unlabelled"] = unlabelled
    return settings


def write_study(
    folder: Path,
    base: Mapping[str, Any],
    candidates: Sequence[Candidate],
    facts: Facts,
    overrides: Sequence[str],
    *,
    num_train: int,
    unlabelled: RowSource | None,
    workers: int,
) -> Study:
    """Write base, recipes and study file, and read them as a study, which checks every run's settings."""
    _write(folder / "base.yaml", base)
    for one in candidates:
        settings = method_settings(one.method, num_train, unlabelled)
        if one.method.grid:
            tries = one.method.tries(one.tries, facts.num_classes)
            (key,) = one.method.grid
            settings["search"] = {key: tries if key == POINTS else [point[key] for point in tries]}
        _write(folder / "recipes" / f"{one.name}.yaml", settings)
    task = re.sub(r"[^\w.+-]", "_", facts.name).lstrip(".+-") or "rows"
    _write(
        folder / "study.yaml",
        {
            "base": "base.yaml",
            "overrides": list(overrides),
            "methods": {one.name: f"recipes/{one.name}.yaml" for one in candidates},
            "tasks": {task: ["evaluation.state=last"]},
            "sizes": [size_of(facts)],
            "seeds": list(range(candidates[0].seeds)),
            "search": {"budget": 100},
            "baseline": candidates[0].name,
            "output_dir": str(folder),
            "workers": workers,
            "track_search": False,
        },
    )
    return load_study(folder / "study.yaml")


def write_chosen(folder: Path, study: Study, method: str, setting: Setting, num_rows: int) -> tuple[Path, RunConfig]:
    """The config that trains the chosen method on all rows and saves it."""
    entry = study.methods[method]
    overrides = [*next(iter(study.config.tasks.values())).overrides, *study.config.overrides]
    decided = {
        **setting,
        "run.output_dir": str(folder / "chosen"),
        "run.final_on_all": num_rows <= SMALL_ENOUGH_FOR_ALL,
    }
    shown = {"evaluation": {"every_steps": None}, "tracking": {"enabled": True}, "checkpoint": {"enabled": True}}
    layers = [*entry.layers, shown]
    if study.config.sizes[0].total is not None:  # the comparison's runs had a sample
        layers.append(schedule(METHODS[method], round(num_rows * (1 - validation_share(num_rows)))))
    config = compose_config(layers, overrides, decided).model_copy(update={"search": {}})
    path = folder / "chosen.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    return path, config


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), encoding="utf-8")
