"""A file's bytes as text: decompressed by their first bytes, decoded as UTF-8, UTF-16 or what `data.encoding` says.

A byte that is not UTF-8 is kept as a lone surrogate (`surrogateescape`), so that reading goes on and the row that holds
it can be named. Nothing is guessed to be Latin-1.
"""

import bz2
import gzip
import io
import lzma
import re
from pathlib import Path
from typing import IO, Any, Literal

from infoprompt.config import ConfigError
from infoprompt.data.problems import RowError, shown

_HEAD_BYTES = 65536
_MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
_OTHERS = {
    b"PK\x03\x04": "a spreadsheet (.xlsx) or a zip archive",
    b"\xd0\xcf\x11\xe0": "a spreadsheet (.xls)",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF",
}
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

_LOST_BYTE = re.compile("[\udc80-\udcff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def open_file(path: Path, encoding: str | None, ends: Literal["any", "lf"]) -> IO[str]:
    """Open a file for reading, whether or not it is compressed.

    Args:
        path: its suffix must not belie its bytes: what ends in .gz must be compressed so.
        encoding: as for `text_stream`.
        ends: as for `text_stream`.
    Raises:
        ConfigError: the file is not what its suffix says.
    """
    with path.open("rb") as raw:
        head = raw.read(8)
    if kind := next((kind for magic, kind in _OTHERS.items() if head.startswith(magic)), None):
        raise ConfigError(f"{path} is {kind}, whatever its name says. Save it as CSV or JSON lines, or rename it.")
    found = next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), None)
    suffix = path.suffix.lower()
    if suffix in _MAGIC.values() and found != suffix and head:
        raise ConfigError(
            f"{path} is not compressed as its name says: it begins with the bytes {head[:4].hex(' ')}. Rename it after "
            "what it is, or copy it again."
        )
    return text_stream(_decompressed(path, found), encoding, ends)


def _decompressed(path: Path, suffix: str | None) -> Any:
    if suffix == ".zst":
        import pyarrow  # type: ignore[import-untyped]  # a dependency of `datasets`; Python itself knows zstd from 3.14 on

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    return _OPENERS[suffix](path, "rb") if suffix else path.open("rb")


def text_stream(binary: Any, encoding: str | None, ends: Literal["any", "lf"]) -> IO[str]:
    """Text of a binary stream that can be peeked at, line ends as they are.

    Args:
        binary: a file, or a stream of `gzip`, `bz2` or `lzma`.
        encoding: as Python names it; found from a byte order mark and the pattern of zero bytes if not given.
        ends: where lines end: at \\n alone (`lf`), or also at \\r (`any`), as the `csv` module wants them.
    """
    if not hasattr(binary, "peek"):
        binary = io.BufferedReader(binary)
    head: bytes = binary.peek(_HEAD_BYTES)[:_HEAD_BYTES]
    encoding = encoding or guessed_encoding(head)
    old_mac = b"\r" in head and b"\n" not in head
    newline = "" if ends == "any" or old_mac else "\n"
    return io.TextIOWrapper(binary, encoding, errors="surrogateescape", newline=newline)


def guessed_encoding(head: bytes) -> str:
    """UTF-32 or UTF-16 by their mark, UTF-16 by its zero bytes, else UTF-8 with or without a mark."""
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    even, odd = head[0:4096:2].count(0), head[1:4096:2].count(0)
    half = min(len(head), 4096) // 2
    # Every other byte of Latin letters in UTF-16 is zero; text in UTF-8 has none.
    if half >= 2 and odd > 0.4 * half and even < 0.05 * half:
        return "utf-16-le"
    if half >= 2 and even > 0.4 * half and odd < 0.05 * half:
        return "utf-16-be"
    return "utf-8-sig"


def lost_bytes(text: str, where: str, encoding: str | None = None) -> RowError | None:
    """What is wrong with a text that holds bytes which could not be decoded; None where it holds none.

    Args:
        text: as `open_file` gives it.
        where: what the error calls the row.
        encoding: what it was decoded by, if not as UTF-8.
    """
    if text.isascii() or not (lost := _LOST_BYTE.search(text)):
        return None
    byte = ord(lost.group()) - 0xDC00
    if encoding:
        return RowError(
            where,
            f"bytes that are not {encoding}",
            f"{where} is not {encoding}: it holds the byte 0x{byte:02x}. Correct data.encoding, or the row.",
        )
    around = text[max(0, lost.start() - 20) : lost.end() + 20].encode("utf-8", "surrogateescape")
    read = shown(around.decode("cp1252", "replace").strip())
    return RowError(
        where,
        "bytes that are not UTF-8",
        f"{where} is not UTF-8: it holds the byte 0x{byte:02x} (in cp1252 it reads {read}). If the file is in another "
        "encoding, name it: data.encoding=cp1252 (Windows) or data.encoding=latin-1; --encoding for predict and "
        "evaluate.",
    )


def lone_surrogate(text: str) -> str | None:
    """The first half of a character that no encoding can write, as `\\ud83d`; None where there is none."""
    if text.isascii() or not (found := _SURROGATE.search(text)):
        return None
    return f"\\u{ord(found.group()):04x}"
