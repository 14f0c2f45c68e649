"""Mutated data files through the reader: it gives rows or a ConfigError, never anything else.

python -m tests.fuzz.data --rounds 10000 [--seed 0]
"""

import argparse
import bz2
import gzip
import json
import lzma
import random
import tempfile
import time
from pathlib import Path

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.splits import load_splits

SECONDS = 10.0  # for one small file; a reader that hangs takes for ever
LABELS = ("good", "bad", "1", "1.0", 1, 1.0, True, None, "good ", 0.5, [], float("nan"))
TEXTS = (
    "a fine film",
    "",
    " ",
    "a\tb",
    "a\nb",
    'a "quoted" one',
    "caf\u00e9",
    "\u2028",
    "\ud83d",
    "\x00",
    None,
    5,
    ["x"],
)
KINDS = (".csv", ".tsv", ".json", ".jsonl", ".csv.gz", ".jsonl.gz", ".jsonl.bz2", ".csv.xz", ".jsonl.zst", ".CSV")
TOKENS = (b'"', b",", b";", b"\t", b"\n", b"\r", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"{", b"[", b"}", b"]")
TOKENS += (
    b"\\ud83d",
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"[" * 2000,
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"text",
    b"label",
    b"null",
)


def rows(random_: random.Random) -> list[dict]:
    """A few rows of one kind of task, some of them faulty."""
    extras = random_.choice(
        (
            *[{}] * 8,
            {"text_b": "another"},
            {"head": {"start": 0, "end": 1}, "tail": {"start": 2, "end": 3}},
            {"span": {"start": 0, "end": random_.choice((1, 99, None, "1"))}},
            {"choices": random_.choice((["a", "b"], [], "ab", None))},
            {"value": random_.choice((1, "2.5", "x", float("inf"), 10**400, None))},
            {"candidate": {"question": "q", "text": "a", "answers": random_.choice((["a"], None, []))}},
            {"tokens": ["a", "film"], "tags": random_.choice((["O", "B-x"], ["O"], "O O"))},
        )
    )
    faulty = random_.random() < 0.3
    made = []
    for number in range(random_.randint(0, 24)):
        text = random_.choice(TEXTS) if faulty and random_.random() < 0.3 else f"{number} film"
        label = random_.choice(LABELS) if faulty and random_.random() < 0.3 else ("good", "bad")[number % 2]
        made.append({"text": text, "label": label, **extras})
    return made


def content(random_: random.Random, kind: str) -> bytes:
    """A file of that kind."""
    made = rows(random_)
    if kind.lower().startswith((".csv", ".tsv")):
        mark = random_.choice(",;|") if kind.lower().startswith(".csv") else "\t"
        lines = [mark.join(made[0]) if made else "text,label"]
        lines += [mark.join(str(value) for value in row.values()) for row in made]
        text = random_.choice(("\n", "\r\n", "\r")).join(lines)
    elif kind.startswith(".jsonl") or random_.random() < 0.3:
        text = "\n".join(json.dumps(row) for row in made)
    else:
        text = json.dumps(made)
    encoding = random_.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "utf-32"))
    return text.encode(encoding, "replace")


def mutated(random_: random.Random, data: bytes) -> bytes:
    """The same bytes, with some cut, flipped, doubled or put in."""
    changed = bytearray(data)
    for _ in range(random_.choice((0, 0, 1, 1, 2, 5))):
        place = random_.randint(0, len(changed))
        change = random_.randrange(4)
        if change == 0:
            changed[place:place] = random_.choice(TOKENS)
        elif change == 1:
            del changed[place : place + random_.randint(1, 20)]
        elif change == 2 and place < len(changed):
            changed[place] = random_.randrange(256)
        else:
            changed[place:place] = changed[:place][-random_.randint(1, 30) :]
    return bytes(changed)


def packed(kind: str, data: bytes) -> bytes:
    """The bytes as a file of that kind holds them."""
    if kind.endswith(".zst"):
        import pyarrow

        return pyarrow.compress(data, "zstd", asbytes=True)
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(Path(kind).suffix)
    return pack(data) if pack else data


def one_round(seed: int, folder: Path) -> str:
    """Read a mutated file; `rows`, or `refused`. Raises what the reader should not."""
    random_ = random.Random(seed)
    kind = random_.choice(KINDS)
    data = packed(kind, mutated(random_, content(random_, kind)))
    path = folder / f"train{kind}"
    path.write_bytes(mutated(random_, data) if random_.random() < 0.1 else data)
    settings = {
        "train": str(path),
        "bad_rows": random_.choice(("refuse", "skip", "skip")),
        "task": random_.choice((*[None] * 12, "regression", "wic", "multirc", "copa", "ace_relations", "wnut17_spans")),
        "encoding": random_.choice((*[None] * 8, "latin-1", "utf-16")),
    }
    start = time.monotonic()
    try:
        load_splits(DataSettings(**settings), 0)
        return "rows"
    except ConfigError as error:
        return "refused" if str(error).strip() else "refused without a word"
    except Exception as error:
        raise AssertionError(f"seed {seed} ({kind}): {type(error).__name__}: {error}") from error
    finally:
        path.unlink()
        if time.monotonic() - start > SECONDS:
            raise AssertionError(f"seed {seed} took too long")


def main(rounds: int, seed: int = 0) -> dict[str, int]:
    """How many files were read and how many refused; raises AssertionError for the first that ended otherwise."""
    outcomes = {"rows": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            outcomes[one_round(seed * 1_000_003 + number, Path(folder))] += 1
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    print(main(**vars(parser.parse_args())))
