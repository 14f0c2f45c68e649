"""Overrides as people type them behind a command."""

from collections.abc import Sequence
from pathlib import Path

from infoprompt.config import ConfigError
from infoprompt.credentials import shown_uri


def split_overrides(arguments: Sequence[str]) -> list[str]:
    """`section.key=value` strings of the words that no option took.

    `optim.lr=3e-3`, `--optim.lr=3e-3` and `--optim.lr 3e-3` mean the same.
    Raises:
        ConfigError: a word is none of these.
    """
    overrides = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        key = word.lstrip("-")
        if "=" in key:
            overrides.append(key)
        elif word.startswith("--") and "." in key and words:
            overrides.append(f"{key}={words.pop(0)}")
        else:
            raise ConfigError(
                f"{shown_uri(word)!r} is neither an option of this command (see --help) nor an override of the form "
                "section.key=value, such as optim.lr=3e-3."
            )
    return overrides


def config_of(first: Path | None, words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The config, if the first word names one and is no override, and the words that are overrides."""
    if first is None or ("=" in str(first) and not first.exists()):
        return None, [*([str(first)] if first is not None else []), *words]
    return first, [*words]
