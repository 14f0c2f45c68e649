"""What the exit code of a command says; docs/failures.md explains each.

128 + n: told to end by signal n, nothing saved: 130 Ctrl-C, 143 SIGTERM.
"""

import os
import signal

STOPPED = 1
"""Stopped on the way."""
BAD_INPUT = 2
RESUMABLE = os.EX_TEMPFAIL
"""75: told to end, and the state is saved: go on with `--resume auto`."""
LOST = 76
"""Another rank failed or does not answer."""
INTERRUPTED = 128 + signal.SIGINT
