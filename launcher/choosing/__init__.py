"""`infoprompt compare`, and what `infoprompt train` takes where no config is named."""
