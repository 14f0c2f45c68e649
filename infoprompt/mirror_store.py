"""Files of an object store or another file system, by fsspec, as a mirror asks for them."""

import json
import os
from contextlib import suppress
from pathlib import Path

from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from infoprompt.checkpoint import MANIFEST
from infoprompt.config import ConfigError

MIRROR_NAME = "mirror.json"
"""Whose copy it is, at both places: the run, and the start of it that copies."""


class Store:
    """Files below an address, by names relative to it; any call may raise."""

    def __init__(self, address: str, folder: Path) -> None:
        protocol = address.partition("://")[0]
        # a store makes folders by itself; only on a disk must they be made
        options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
        try:
            self._fs, root = url_to_fs(address.rstrip("/"), **options)
        except ImportError as error:
            package = known_implementations.get(protocol, {}).get("class", "fsspec.").partition(".")[0]
            way = f"pip install {package}" if package != "fsspec" else str(error)
            raise ConfigError(
                f"run.mirror is {address}, but the package for {protocol}:// is not installed. Install it: {way}. Or "
                "leave run.mirror out."
            ) from None
        except ValueError as error:
            raise ConfigError(
                f"run.mirror is {address}, but {error}. Use an address that fsspec knows, such as s3://bucket/runs."
            ) from None
        self._root = root.rstrip("/")
        if options and Path(os.path.realpath(self._root)).is_relative_to(os.path.realpath(folder)):
            raise ConfigError(
                f"run.mirror is {address}, which lies in run.output_dir, {folder}. Give a place outside of it."
            )

    def files(self, below: str = "") -> set[str]:
        """Names of all files, those of comparisons left out."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(self._path(below) if below else self._root)
        except FileNotFoundError:
            return set()
        names = {str(path).removeprefix(self._root).lstrip("/") for path in found}
        return {name for name in names if not name.startswith("compare/")}

    def mark(self) -> dict[str, str]:
        """What `MIRROR_NAME` says; empty where there is none."""
        content = self.read(MIRROR_NAME)
        values = {} if content is None else json.loads(content)
        return {key: str(value) for key, value in values.items()}

    def read(self, name: str) -> bytes | None:
        """Content of a file; None if there is none."""
        self._fs.invalidate_cache()
        try:
            return bytes(self._fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def get(self, name: str, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        self._fs.get_file(self._path(name), str(to))

    def put(self, path: Path, name: str) -> None:
        self._fs.put_file(str(path), self._path(name))

    def write(self, content: bytes, name: str) -> None:
        self._fs.pipe_file(self._path(name), content)

    def remove(self, name: str) -> None:
        self._fs.rm_file(self._path(name))

    def remove_folder(self, folder: str, names: set[str]) -> None:
        """Remove a folder's files, its manifest first."""
        inside = {name for name in names if name.startswith(f"{folder}/")}
        for name in sorted(inside, key=lambda name: (name != f"{folder}/{MANIFEST}", name)):
            self.remove(name)
        with suppress(OSError):  # a store has no folders
            self._fs.rmdir(self._path(folder))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
