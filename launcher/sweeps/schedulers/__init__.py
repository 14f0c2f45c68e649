"""Every scheduler of sweeps by its kind: that of its file in this folder, which ends in `SCHEDULER = TheClass`."""
