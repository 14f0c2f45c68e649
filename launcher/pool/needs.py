"""What the runs of a sweep or a study need of a cluster, and how many fit on it. Knows nothing of Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from infoprompt.config import ConfigError

Placement = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


@dataclass(frozen=True)
class Needs:
    """What a worker group needs."""

    unit: Literal["trial", "run"]
    """What it trains, for messages."""
    workers: int
    cpus: float
    gpus: float
    """CPU cores and GPUs of each worker."""
    placement: Placement
    most_groups: int | None
    """At most so many at a time; None: as many as fit."""
    stall_minutes: float
    autoscaling: bool = False
    """Whether the cluster adds nodes for groups that do not fit yet; needs `most_groups`."""
    prefix: str = ""
    """Of the settings' names, for messages."""

    @property
    def resources(self) -> dict[str, float]:
        """Those of one worker, as Ray counts them."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}

    def groups_that_fit(self, total: Mapping[str, float], largest_node: Mapping[str, float]) -> int:
        """How many worker groups fit on a cluster.

        Args:
            total: the cluster's `CPU` and `GPU`.
            largest_node: the most `CPU` and `GPU` that one node has.
        Raises:
            ConfigError: not even one fits; Ray itself would wait for ever.
        """
        if self.autoscaling and self.most_groups:  # what waits for room has the cluster grow
            return self.most_groups
        fitting = []
        num_workers, a_run = f"{self.prefix}workers_per_{self.unit}", f"a {self.unit}"
        for resource, each in self.resources.items():
            setting = f"{self.prefix}{resource.lower()}s_per_worker"
            group, has, on_one = each * self.workers, total.get(resource, 0), largest_node.get(resource, 0)
            if group > has:
                raise ConfigError(
                    f"{num_workers} is {self.workers} and {setting} is {each:g}, so {a_run} needs {group:g} "
                    f"{resource}s, but the cluster has {has:g}. Lower one of them, or add nodes first. If it "
                    f"adds nodes by itself, set {self.prefix}autoscaling=true."
                )
            if each > on_one:
                raise ConfigError(
                    f"{setting} is {each:g}, but the largest node has {on_one:g} {resource}s, and a worker is not "
                    "split. Lower it, or add a larger node."
                )
            if self.placement == "STRICT_PACK" and group > on_one:
                raise ConfigError(
                    f"{self.prefix}placement is STRICT_PACK and {a_run} needs {group:g} {resource}s on one node, but "
                    f"the largest has {on_one:g}. Use PACK, lower {num_workers}, or add a larger node."
                )
            fitting.append(int(has // group))
        fits = min(fitting)
        return min(fits, self.most_groups) if self.most_groups else fits
