"""`training_state` under the name of the first release, for code that was written for it."""

import sys

import infoprompt.training_state

sys.modules[__name__] = infoprompt.training_state
