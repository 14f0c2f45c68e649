"""Which files a source names: a path, a pattern, a folder, or a list of them."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from infoprompt.config import DATA_SUFFIXES, ConfigError, is_data_file, names_files

RowSource = str | Sequence[str]
"""A file, a pattern such as `parts/train-*.csv`, a folder, a hub split; or a list of them, read one after the other."""

_PARTS = ("train", "test", "dev", "val", "validation", "valid")


def source_name(source: RowSource) -> str:
    """What a message calls it."""
    if isinstance(source, str):
        return source
    return source[0] if len(source) == 1 else f"{source[0]} and {len(source) - 1} more"


def given_sources(source: RowSource) -> list[str]:
    """The sources of a list, or the one source."""
    return [source] if isinstance(source, str) else list(source)


def files_of(source: str) -> list[Path] | None:
    """The files that a source names, in the order of their names; None where it names no file but, maybe, a hub split.

    Raises:
        ConfigError: there is none, or it cannot be told which ones are meant.
    """
    path = Path(source).expanduser().absolute()
    if os.path.isdir(path):
        return _in_folder(path)
    if os.path.exists(path) or not is_data_file(source):
        return [path] if is_data_file(source) else None
    if not any(character in source for character in "*?"):
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    if not found:
        raise ConfigError(f"No file fits the pattern {path}. Check it; * stands for any part of one name.")
    return [file for file in found if not os.path.isdir(file)]


def present(source: str) -> bool:
    """Whether a source that names files names some that are there; a hub split may be."""
    return not names_files(source) or os.path.exists(source) or bool(glob.glob(source, recursive=True))


def _in_folder(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ConfigError(
            f"The folder {folder} cannot be read: {error.strerror}. Give the right to, or a file."
        ) from None
    given = [name for name in names if name.lower().endswith(DATA_SUFFIXES) and not name.startswith((".", "_"))]
    found = [folder / name for name in given if os.path.isfile(folder / name)]
    if not found:
        raise ConfigError(f"The folder {folder} holds no data file. Data files end in {', '.join(DATA_SUFFIXES)}.")
    parts = sorted({part for path in found if (part := _part_of(path)) is not None})
    if len(parts) > 1:
        raise ConfigError(
            f"The folder {folder} holds files of {' and '.join(parts)}, which are not to be mixed. Name the files, "
            f"such as data.train={found[0].name} or data.train='{folder}/train*'."
        )
    return found


def _part_of(path: Path) -> str | None:
    """`train` of train.csv and of train-00000-of-00002.parquet."""
    stem = path.name.lower().partition(".")[0]
    first = stem.replace("_", "-").partition("-")[0]
    return first if first in _PARTS else None


def existing_file(path: Path) -> Path:
    """The same path; raises ConfigError where there is no file to read."""
    if os.path.isfile(path):
        return path
    if os.path.islink(path):
        raise ConfigError(f"{path} is a symbolic link that leads to no file: {os.readlink(path)}. Mend the link.")
    if os.path.exists(path):
        raise ConfigError(f"{path} is no regular file, but a folder, a pipe or a device. Give a file.")
    raise ConfigError(
        f"There is no file {path}. Check the path in data.train, data.validation, data.test or data.unlabelled; a "
        "split of the hub is written owner/name:split."
    )
