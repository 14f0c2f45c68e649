"""The commands of `infoprompt`, but for those that train or show one config, which are in `cli`."""
