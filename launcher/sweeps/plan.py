"""A sweep's file, the configs of its trials, and what they need. Knows nothing of Ray."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from infoprompt.config import (
    ConfigError,
    RunConfig,
    apply_override,
    compose_config,
    parse_override,
    read_settings,
    read_yaml,
)
from infoprompt.setting_errors import explain
from infoprompt.settings.kinds import without_left_kinds
from infoprompt.yaml_files import root
from launcher.pack_size import pack_size
from launcher.sweeps.schedulers.kind import Scheduler, build_scheduler
from launcher.sweeps.settings import SweepSettings, of_chosen_scheduler
from launcher.sweeps.space import check_conditions, corners, expand
from launcher.values import show_values


@dataclass(frozen=True)
class Sweep:
    """A checked sweep."""

    settings: SweepSettings
    folder: Path
    """Of the sweep file: what `base` is relative to."""
    first: RunConfig
    """Config of the first point: what all trials share can be read from it."""
    points: tuple[dict[str, Any], ...] | None
    """Every trial's values; None where the searcher chooses them on the way."""
    bases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The nested settings of each config file that `base` names, read once: no trial sees a later change of them."""

    tracking_uri: str | None = None
    """Address with credentials that only the driver's environment has: a run is told it, and no file."""

    @property
    def num_trials(self) -> int:
        """Trials of the whole sweep, if no budget ends it."""
        return self.settings.num_samples if self.points is None else len(self.points)

    @property
    def seeds(self) -> list[int]:
        """Seeds of a trial whose values do not say one."""
        return self.settings.seeds or [self.first.seed]

    @cached_property
    def pack(self) -> int:
        """Runs of a worker group that share each pass."""
        return pack_size(self.settings.pack, self.first, self.settings.needs)

    @property
    def scheduler(self) -> Scheduler:
        """Decides which trials go on."""
        return build_scheduler(self.settings, self.first)

    def seeds_of(self, values: Mapping[str, Any]) -> list[int]:
        """Seeds that a trial is trained with."""
        return [values["seed"]] if "seed" in values else self.seeds

    def tests_every_trial(self, values: Mapping[str, Any]) -> bool:
        """Whether the sweep itself asks that trials read the test rows; what its base says is for single runs."""
        keys = {*values, *(override.partition("=")[0] for override in self.settings.overrides)}
        return bool(keys & {"evaluation", "evaluation.test"}) and self.config(values).evaluation.test

    def config(self, values: Mapping[str, Any], *, seed: int | None = None, name: str = "") -> RunConfig:
        """The checked config of a trial's run.

        Args:
            values: the trial's values.
            seed: of the run; the values' or the config's if not given.
            name: folder below the sweep's `trials/`, and with dashes the run's name.
        Raises:
            ConfigError: the values do not fit each other or the base.
        """
        rest = {key: value for key, value in values.items() if key != "base"}
        if seed is not None:
            rest["seed"] = seed
        if name:
            rest["run.output_dir"] = str(Path(self.settings.output_dir) / "trials" / name)
            rest["run.name"] = f"{self.settings.sweep_name}-{name.replace('/', '-')}"
            if not self.tests_every_trial(values):
                rest["evaluation.test"] = False
        if not self.settings.gpus_per_worker:
            rest["engine.device"] = "cpu"  # whatever the node has
        if self.tracking_uri is not None:
            rest["tracking.uri"] = self.tracking_uri
        name_of_base = values.get("base", self.settings.base)
        base = self.bases.get(name_of_base)
        if base is None:
            base = read_settings(self.folder / name_of_base)
        config = compose_config([base], self.settings.overrides, {**rest, "run.compare_with": {}})
        return config.mirrored_below(f"trials/{name}") if name else config


def load_sweep(path: Path, overrides: Sequence[str] = (), home: Path | None = None) -> Sweep:
    """Read a sweep file and check it whole: every planned trial, or every value and both ends of every range.

    Args:
        path: the file.
        overrides: `num_samples=2`, `scheduler.kind=asha` change the sweep; anything that is no setting of a sweep
            changes every trial.
        home: what a relative `output_dir` is relative to; the current folder if not given.
    Raises:
        ConfigError: the file, an override or any trial's settings do not fit.
    """
    values = of_chosen_scheduler(read_yaml(path, SweepSettings, "sweep"))
    changes = [override for override in overrides if root(override) in SweepSettings.model_fields]
    values = without_left_kinds(values, [parse_override(change, SweepSettings) for change in changes], SweepSettings)
    for change in changes:
        apply_override(values, change, SweepSettings)
    given = values.get("overrides") or []
    if isinstance(given, list):
        values["overrides"] = [*given, *(override for override in overrides if override not in changes)]
    try:
        settings = SweepSettings.model_validate(values)
    except ValidationError as error:
        lines = explain(error, SweepSettings, "configs/sweeps/quickstart.yaml")
        raise ConfigError("\n".join(f"{path}: {line}" for line in lines)) from None
    output_dir = (home or Path.cwd()) / Path(settings.output_dir).expanduser()
    return plan_sweep(settings.model_copy(update={"output_dir": str(output_dir)}), path.parent)


def plan_sweep(settings: SweepSettings, folder: Path) -> Sweep:
    """The sweep of checked settings, with every trial's config checked; raises ConfigError."""
    check_conditions(settings.space)
    planned = settings.search != "optuna"
    points = expand(settings.space, settings.num_samples, settings.sample_seed) if planned else corners(settings.space)
    bases = _bases(settings, folder)
    # only `config` is asked of it, and that reads neither of these two
    unchecked = Sweep(settings, folder.absolute(), None, None, bases)  # type: ignore[arg-type]
    ends = corners(settings.space) if settings.scheduler.perturbs else []
    configs = []
    for number, values in enumerate([*points, *ends]):
        try:
            configs.append(unchecked.config(values))
        except ConfigError as error:
            name = f"Trial {number}" if planned and number < len(points) else "A corner of the space"
            raise ConfigError(f"{name} ({show_values(values)}): {error}") from None
    build_scheduler(settings, configs[0])  # refuses what does not fit these settings
    return Sweep(settings, folder.absolute(), configs[0], tuple(points) if planned else None, bases)


def _bases(settings: SweepSettings, folder: Path) -> dict[str, Mapping[str, Any]]:
    """What `base` and the space name; one that cannot be read is left to the trial that asks for it."""
    varied = settings.space.get("base")
    names = [name for name in (varied.extremes if varied else []) if isinstance(name, str)]
    bases: dict[str, Mapping[str, Any]] = {}
    for name in (settings.base, *names):
        with contextlib.suppress(ConfigError):
            bases[name] = read_settings(folder / name)
    return bases
