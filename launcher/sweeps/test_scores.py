"""The test rows of a sweep: read once, at its end, by the best trial. Knows nothing of Ray."""

import logging
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from infoprompt.config import RunConfig
from launcher.sweeps.journal import RunState, TrialState, save_trial
from launcher.sweeps.outcome import outcome_of
from launcher.sweeps.plan import Sweep

log = logging.getLogger(__name__)

Score = Callable[[RunConfig], dict[str, Any]]
"""Scores the artifact of a finished run: see `infoprompt.test_predictions.score_later`."""


def score_best(sweep: Sweep, trials: Sequence[TrialState], score: Score, say: Callable[[str], None]) -> list[RunState]:
    """Score the best trial's artifacts, one for each seed, on the test rows, and keep it in the trial's journal.

    As long as trials keep their state, as after a used-up budget, another one may become the best, so nothing is read.
    What an earlier start has scored is not scored again. A failure is a warning: the sweep is done all the same.

    Args:
        sweep: the plan.
        trials: as they ended; results of the best one get their `test` and `classes`.
        score: does it for a run.
        say: tells people what takes time.
    Returns:
        The runs that were scored now.
    """
    best = outcome_of(sweep, trials, None).best
    if best is None or not sweep.config(best.current).evaluation.test:
        return []
    left = [run for run in best.runs if run.result is not None and not run.result.get("test")]
    if not left:
        return []
    if not all(trial.over for trial in trials):
        say("test rows are not read yet: trials keep their state, and the best one is scored when all have ended")
        return []
    scored = []
    configs = [sweep.config(best.current, seed=run.seed, name=best.run_name(run)) for run in left]
    seeds = ", ".join(str(run.seed) for run in left)
    say(f"scoring trial {best.number} seed{'s' * (len(left) > 1)} {seeds} on the test rows")
    pool = ThreadPoolExecutor(len(left))  # each waits for a worker
    try:
        for run, config, scoring in zip(left, configs, [pool.submit(score, config) for config in configs], strict=True):
            try:
                found = scoring.result()
            except Exception as error:  # whatever a worker may raise: what was trained is there
                log.warning("%s", _could_not(best, run, config, error))
                continue
            if not found:
                break  # the task has no test rows
            assert run.result is not None
            run.result.update(found)
            save_trial(Path(sweep.settings.output_dir), best)
            scored.append(run)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C need not wait for them
    return scored


def _could_not(best: TrialState, run: RunState, config: RunConfig, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (lines[-1] if lines else type(error).__name__).rstrip(".")
    artifact = shlex.quote(str(Path(config.run.output_dir) / "artifact"))
    return (
        f"The test rows could not be scored for trial {best.number} seed {run.seed} ({reason}). Its artifact stays as "
        f"it is. Score it by: infoprompt evaluate {artifact}, or start the sweep again with --resume."
    )
