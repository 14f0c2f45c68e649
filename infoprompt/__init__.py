"""Information-theoretic soft prompt tuning."""

__version__ = "0.1.0"
