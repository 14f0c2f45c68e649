"""No scheduler."""

from launcher.sweeps.schedulers.kind import Scheduler

SCHEDULER = Scheduler
