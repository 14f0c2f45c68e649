"""The settings of a sweep file, with their checks. Knows nothing of Ray or Optuna."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, NonNegativeFloat, PositiveFloat, Tag, field_validator, model_validator

from infoprompt.config import Settings
from infoprompt.setting_table import setting_reference
from infoprompt.settings import LIMIT, AnyInt, NonNegativeInt, PositiveInt, SettingName
from infoprompt.settings.kinds import kind_of, of_kind, sections_with_kinds
from launcher.pool.needs import Needs, Placement
from launcher.sweeps.space import Dimension

# What may change while a run goes on; anything else decides which tensors there are, or which rows.
CHANGEABLE = ("optim.", "objective.")


class SchedulerSettings(Settings):
    """Any kind of scheduler."""

    perturbs: ClassVar[bool] = False
    """Whether a trial's settings change on the way."""


class NoScheduler(SchedulerSettings):
    """Every trial goes on."""

    kind: Literal["none"] = "none"
    """`asha`: at each rung only the best of those that came so far go on (Li et al. 2020, arXiv:1810.05934).
    `median`: one below the median that those which finished had at the same step is stopped (Golovin et al. 2017).
    `pbt`: at each interval the worst take over the prompts of the best, with their settings perturbed (Jaderberg et
    al. 2017, arXiv:1711.09846). All compare the mean over a trial's seeds. `none`: every trial goes on."""


class StoppingSettings(SchedulerSettings):
    """Trials that fall behind are stopped."""

    grace_steps: PositiveInt | None = None
    """Updates before a trial may be stopped: the first rung of `asha`. The first evaluation if not given."""


class Asha(StoppingSettings):
    """Asynchronous successive halving."""

    kind: Literal["asha"] = "asha"

    reduction_factor: int = Field(default=3, ge=2, lt=LIMIT)
    """One in so many goes on, and each rung is so many times as far as the one before."""


class Median(StoppingSettings):
    """The median stopping rule."""

    kind: Literal["median"] = "median"

    startup_trials: PositiveInt = 4
    """Trials that must have finished before one is stopped."""


class Pbt(SchedulerSettings):
    """Population-based training."""

    perturbs: ClassVar[bool] = True

    kind: Literal["pbt"] = "pbt"

    interval_steps: PositiveInt
    """Updates between two exchanges, such as 32."""

    quantile: float = Field(default=0.25, gt=0, le=0.5)
    """Share of the trials that takes over, and of those taken from; at least one of each."""

    resample: float = Field(default=0.25, ge=0, le=1)
    """Probability that a setting is drawn anew; it is else multiplied by 0.8 or 1.2, or moved to a neighbouring
    choice."""


_Kinds = (
    Annotated[NoScheduler, Tag("none")]
    | Annotated[Asha, Tag("asha")]
    | Annotated[Median, Tag("median")]
    | Annotated[Pbt, Tag("pbt")]
)
Scheduler = Annotated[_Kinds, Discriminator(kind_of(_Kinds))]
"""Which trials go on, by any kind."""


class Budget(Settings):
    """What a sweep may cost; when it is used up no trial starts, and those that run keep their state."""

    hours: PositiveFloat | None = None
    """Time since this start of the sweep."""

    trials: PositiveInt | None = None
    """Trials started."""

    device_hours: PositiveFloat | None = None
    """Hours of training times workers, over all starts of the sweep."""


class SweepSettings(Settings):
    """A sweep file."""

    base: str
    """Config that every trial starts from, relative to the sweep file."""

    overrides: list[str] = Field(default=[])
    """Dotted overrides for every trial. Trials do not read the test rows: those of the best trial are scored at the
    end, once. `evaluation.test=true` here has every trial read them, `evaluation.test=false` none."""

    space: dict[SettingName, Dimension] = Field(min_length=1)
    """Dotted setting to its values; `base` may vary too, over config files, as in a sweep over recipes."""

    seeds: list[NonNegativeInt] = Field(default=[])
    """Each trial is trained with all of these and judged by the mean; if not given, once with the config's seed."""

    searcher: Literal["auto", "grid", "random", "optuna"] = "auto"
    """What is tried next. `grid`: every point; `random`: draws, each combined with every point of the grids; `optuna`:
    a tree-structured Parzen estimator learns from the trials that ended. `auto`: grid where all dimensions are grids,
    else random."""

    num_samples: PositiveInt = 1
    """`random`: draws from the dimensions that are no grids; each is combined with every point of the grids.
    `optuna`: trials in all. No point is tried twice, so there may be fewer."""

    sample_seed: AnyInt = 0
    """Seed of the draws."""

    scheduler: Scheduler = NoScheduler()
    """Which trials go on."""

    budget: Budget = Budget()
    """What the sweep may cost."""

    metric: str = "dev/score"
    """What is compared: `dev/score` is the task's main metric, `dev/<name>` another of its metrics."""

    direction: Literal["max", "min"] = "max"
    """Whether more or less of the metric is better."""

    workers_per_trial: PositiveInt = 1
    """Ranks that train one trial."""

    cpus_per_worker: PositiveFloat = 1
    """CPU cores of each."""

    gpus_per_worker: NonNegativeFloat = 0
    """GPUs of each; 0 trains on the CPU."""

    placement: Placement = "PACK"
    """How Ray lays the workers of a trial over the nodes; STRICT_ refuses another way."""

    max_concurrent: PositiveInt | None = None
    """Worker groups at a time, each with one run or a pack of them; as many as fit if not given."""

    autoscaling: bool = False
    """Whether the cluster adds nodes when asked: then `max_concurrent` worker groups are asked for, whatever nodes
    there are now."""

    pack: PositiveInt | Literal["auto"] = 1
    """Runs of a worker group that share each pass of its backbone. Each comes to what it comes to alone; where a run
    can share none, as one that trains its backbone, it is alone. `auto`: as many as fill a pass."""

    retries: NonNegativeInt = 2
    """How often a run goes on from its own state after its workers were killed. Lost nodes do not count."""

    stall_minutes: PositiveFloat = 10
    """Without progress for so long, the sweep says so and why."""

    output_dir: str = "runs/sweep"
    """Folder for everything the sweep writes; on a cluster, one that all nodes share."""

    name: str | None = None
    """Name of the parent run in MLflow; the folder's name if not given."""

    register_as: str | None = None
    """Name in MLflow's model registry under which the best artifact becomes a new version."""

    register_alias: str = "champion"
    """Alias that this version gets."""

    @field_validator("metric")
    @classmethod
    def _on_dev(cls, metric: str) -> str:
        if not metric.startswith("dev/"):
            raise ValueError(
                f"metric is {metric}, but must begin with dev/: choosing by test scores would make them worthless. "
                "Use dev/score."
            )
        return metric

    @model_validator(mode="after")
    def _fit(self) -> "SweepSettings":
        if self.seeds and "seed" in self.space:
            raise ValueError("seeds is given, and space varies seed too; keep one. With seeds, a trial is their mean.")
        if "tracking.uri" in self.space:
            raise ValueError("space varies tracking.uri, but a sweep has one record. Set it in base or overrides.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}, but each may come once. Leave out those that come again.")
        if self.autoscaling and self.max_concurrent is None:
            raise ValueError(
                "autoscaling is true, but max_concurrent is not given, and a cluster that grows takes any number. Set "
                "max_concurrent to the worker groups that it shall grow to."
            )
        free = [key for key, dimension in self.space.items() if dimension.grid is None]
        if self.searcher == "grid" and free:
            raise ValueError(
                f"searcher is grid, but space.{free[0]} is no grid. Give its values as grid, or use random."
            )
        if self.scheduler.perturbs:
            kind = self.scheduler.kind
            fixed = [key for key in self.space if not key.startswith(CHANGEABLE)]
            if fixed:
                raise ValueError(
                    f"scheduler.kind is {kind}, but space varies {fixed[0]}, which cannot change while a run goes on: "
                    "one trial takes over another's prompt. Only optim.* and objective.* may vary; use asha for the "
                    "rest."
                )
            if self.searcher == "optuna":
                raise ValueError(
                    f"scheduler.kind is {kind} and searcher optuna, but both choose the settings. Use random."
                )
        return self

    @property
    def needs(self) -> Needs:
        """What a trial needs of a cluster."""
        return Needs(
            "trial",
            self.workers_per_trial,
            self.cpus_per_worker,
            self.gpus_per_worker,
            self.placement,
            self.max_concurrent,
            self.stall_minutes,
            self.autoscaling,
        )

    @property
    def sweep_name(self) -> str:
        """Name shown to people."""
        return self.name or Path(self.output_dir).name

    @property
    def search(self) -> Literal["grid", "random", "optuna"]:
        """The searcher, with `auto` decided."""
        if self.searcher != "auto":
            return self.searcher
        return "grid" if all(dimension.grid is not None for dimension in self.space.values()) else "random"

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, -1 where less is."""
        return 1 if self.direction == "max" else -1

    @property
    def metric_name(self) -> str:
        """The metric as a run's report names it."""
        return self.metric.removeprefix("dev/")


def sweep_reference() -> str:
    """Markdown tables of every setting of a sweep file, and of a dimension of its space."""
    return f"{setting_reference(SweepSettings)}\n{setting_reference(Dimension, 'space.SETTING.')}"


def of_chosen_scheduler(values: Mapping[str, Any]) -> dict[str, Any]:
    """A sweep file as it is; of one that an earlier version saved, without what it names of all other schedulers."""
    scheduler, models = values.get("scheduler"), sections_with_kinds(SweepSettings)["scheduler"]
    if isinstance(scheduler, Mapping) and {"reduction_factor", "startup_trials", "quantile"} <= scheduler.keys():
        return {**values, "scheduler": of_kind(scheduler, models, scheduler.get("kind"))}
    return dict(values)
