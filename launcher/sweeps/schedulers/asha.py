"""Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934): of those that came to a rung the best go on."""

from typing import Any

from launcher.sweeps.journal import TrialState
from launcher.sweeps.schedulers.stopping import StoppingScheduler
from launcher.sweeps.settings import Asha


class SuccessiveHalving(StoppingScheduler):
    """Each rung is `reduction_factor` times as far as the one before."""

    own: Asha

    def next_comparison(self, trial: TrialState) -> int:
        """The next rung."""
        return self.grace_steps * int(self.own.reduction_factor**trial.stage)

    def pruner(self) -> Any:
        from optuna.pruners import SuccessiveHalvingPruner

        return SuccessiveHalvingPruner(min_resource=self.grace_steps, reduction_factor=self.own.reduction_factor)


SCHEDULER = SuccessiveHalving
