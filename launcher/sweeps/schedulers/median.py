"""The median stopping rule (Golovin et al. 2017): whoever is below the median of those that finished is stopped."""

from typing import Any

from launcher.sweeps.journal import TrialState
from launcher.sweeps.schedulers.stopping import StoppingScheduler
from launcher.sweeps.settings import Median


class MedianStopping(StoppingScheduler):
    """Trials are compared every `grace_steps`."""

    own: Median

    def next_comparison(self, trial: TrialState) -> int:
        """The next multiple of `grace_steps`."""
        return self.grace_steps * (trial.stage + 1)

    def pruner(self) -> Any:
        from optuna.pruners import MedianPruner

        return MedianPruner(n_startup_trials=self.own.startup_trials)


SCHEDULER = MedianStopping
