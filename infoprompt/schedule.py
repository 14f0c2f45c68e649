"""The learning rate as a function of progress alone."""

from infoprompt.config import OptimSettings
from infoprompt.progress import Progress


def learning_rate(optim: OptimSettings, progress: Progress) -> float:
    """Rate of the next update: a linear rise, a plateau, a linear fall; phases in percent of all updates."""
    warmup_steps = round(progress.total_steps * optim.warmup_percent / 100)
    decay_steps = round(progress.total_steps * optim.decay_percent / 100)
    rise = (progress.step + 1) / warmup_steps if warmup_steps else 1.0
    fall = (progress.total_steps - progress.step) / decay_steps if decay_steps else 1.0
    return optim.lr * min(1.0, rise, fall)
