"""`infoprompt plan`: what a run takes, told before any weight is loaded."""
