"""Golden curves: what a dozen short runs did, so that a change meant to change no number is seen to change none."""
