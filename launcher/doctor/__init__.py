"""`infoprompt doctor`: what works on this machine, and the way out where something does not."""
