"""`infoprompt bench`: a training step beside other ways to make it, on the lengths of real texts."""
