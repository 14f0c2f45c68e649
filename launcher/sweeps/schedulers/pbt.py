"""Population based training (Jaderberg et al. 2017, arXiv:1711.09846): the worst take over from the best.

The paper's workers exchange whenever each is ready; here all wait for each other, so that who takes over from whom
does not depend on who was faster. An exchange can be done again: of trials that it left half on disk, the rest follow.
"""

import math
import random
from collections.abc import Sequence
from typing import Any

from launcher.sweeps.journal import RunState, RunStatus, TrialState
from launcher.sweeps.schedulers.kind import Scheduler
from launcher.sweeps.settings import Pbt
from launcher.sweeps.space import point_of


class PopulationBasedTraining(Scheduler):
    """All runs wait at each exchange, until all have left off or finished."""

    own: Pbt
    opens_all = True

    def next_comparison(self, trial: TrialState) -> int:
        """The update of its next exchange."""
        return self.own.interval_steps * (trial.stage + 1)

    def after_death(self, trial: TrialState, run: RunState) -> RunStatus:
        """As in the base, but a taker needs the state itself, at the cost of going past the exchange if it is there."""
        return "ready"

    def exchange(self, population: Sequence[TrialState]) -> list[tuple[TrialState, TrialState]] | None:
        """Bring those that are furthest behind past their exchange, if every run of theirs has come to it.

        A trial that is tried again after it failed passes the exchanges that it missed; it takes over only from a trial
        that has not gone on since.
        """
        if not population:
            return None
        stage = min(trial.stage for trial in population)
        here = [trial for trial in population if trial.stage == stage]
        step = self.next_comparison(here[0])
        if not all(_came(run, step) for trial in here for run in trial.runs):
            return None
        sign = self.sweep.sign
        scores = {trial.number: _score(trial, step, sign) for trial in population}
        ranked = {number: sign * score if math.isfinite(score) else -math.inf for number, score in scores.items()}
        order = sorted(population, key=lambda trial: ranked[trial.number])
        num = max(1, int(len(order) * self.own.quantile)) if len(order) > 1 else 0
        pairs = [
            (taker, donor)
            for taker, donor in zip(order[:num], reversed(order[-num:] if num else []), strict=True)
            if taker.stage == stage and not _has_gone_on(donor, step, stage)
        ]
        for trial in here:
            trial.scores.append((step, scores[trial.number]))
            # evaluations may be further apart than exchanges
            farthest = max(run.step for run in trial.runs) // self.own.interval_steps
            trial.stage = max(stage + 1, farthest)
        for taker, donor in pairs:
            self._take_over(taker, donor, step)
        return pairs

    def _take_over(self, taker: TrialState, donor: TrialState, step: int) -> None:
        source = random.Random(f"{self.sweep.sample_seed} {step} {taker.number}")
        taker.taken_over.append({"step": step, "from": donor.number, "values": self._explore(donor.current, source)})
        for run, other in zip(taker.runs, donor.runs, strict=True):
            run.curve, run.takes_over = list(other.curve), True
            run.status, run.result, run.ending = "paused", None, False  # also of one that had finished early

    def _explore(self, values: dict[str, Any], source: random.Random) -> dict[str, Any]:
        """Settings near those of a donor; a condition that is met anew has its settings drawn."""
        return point_of(
            self.sweep.space,
            lambda key, dimension: (
                dimension.draw(source)
                if source.random() < self.own.resample or key not in values
                else dimension.perturb(values[key], source)
            ),
        )


def _came(run: RunState, step: int) -> bool:
    return run.status == "finished" or (run.status == "paused" and run.step >= step)


def _score(trial: TrialState, step: int, sign: int) -> float:
    """What it had at this exchange, also if it has taken over another's curve in it."""
    known = dict(trial.scores)
    return known[step] if step in known else trial.mean_at(step, sign)


def _has_gone_on(donor: TrialState, step: int, stage: int) -> bool:
    return donor.stage > stage and any(
        sum(evaluated >= step for evaluated, _ in run.curve) > 1 for run in donor.runs if run.status != "finished"
    )


SCHEDULER = PopulationBasedTraining
