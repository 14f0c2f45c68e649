"""The tokens of a data set: made by several processes at once, kept on disk, and mapped by all of a node.

Those of a few rows are made by this process and remembered by it, which is what the others must equal.
"""

import functools
import gc
import hashlib
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infoprompt.bar import log as bar_log
from infoprompt.bar import track
from infoprompt.cache_folder import alone, cache_dir
from infoprompt.config import ConfigError
from infoprompt.data.encoded import EncodedTexts
from infoprompt.data.mapped_rows import MOST_IN_MEMORY, MappedRows
from infoprompt.data.ragged import Ragged
from infoprompt.data.rows import Example
from infoprompt.data.template import Template
from infoprompt.data.tokens import special_tokens
from infoprompt.kept_tensors import NewStates, read_states

log = logging.getLogger(__name__)

MOST_REMEMBERED = MOST_IN_MEMORY
"""Rows of a data set whose tokens are kept for the next run in this process: a study's runs share test rows."""
BLOCK_ROWS = 10_000
"""Rows that a process tokenizes at a time."""
MOST_PROCESSES = 8
"""Each holds some 30 MiB of its own."""
FORMAT = 2
"""Raised when the same template lays inputs out in another way, so that what was kept before is not used."""


def tokenized(template: Template, examples: Sequence[Example], name: str) -> EncodedTexts:
    """The inputs of a data set. `name`: of the examples, for people."""
    if len(examples) <= MOST_REMEMBERED:
        return _remembered(template, tuple(examples), name)
    path = _path(template, examples)
    if path is None:
        return in_parallel(template, examples, name)
    with alone(path) as writable:
        texts = _read(path)
        if texts is not None:
            return texts
        texts = in_parallel(template, examples, name)
        return (writable and _keep(path, texts) and _read(path)) or texts


def one_by_one(template: Template, examples: Sequence[Example], name: str) -> EncodedTexts:
    """The inputs, made by this process."""
    return EncodedTexts.of(text for inputs in template.inputs(examples, name) for text in inputs)


_remembered = functools.lru_cache(maxsize=10)(one_by_one)  # a run has five


def in_parallel(template: Template, examples: Sequence[Example], name: str) -> EncodedTexts:
    """The same, made by a process for each CPU, where the system can fork.

    Raises:
        ConfigError: a row cannot be tokenized.
    """
    starts = range(0, len(examples), BLOCK_ROWS)
    count = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, MOST_PROCESSES, len(starts))
    if count < 2 or multiprocessing.current_process().daemon:  # which may have no processes of its own
        return one_by_one(template, examples, name)
    parts: dict[int, EncodedTexts] = {}
    made = _made(template, examples, name, [starts[place::count] for place in range(count)])
    for start, part in track(made, len(starts), f"tokenizing {name} texts, blocks of {BLOCK_ROWS:,}"):
        parts[start] = part
    return EncodedTexts.joined([parts.pop(start) for start in starts])


def _made(
    template: Template, examples: Sequence[Example], name: str, shares: Sequence[Sequence[int]]
) -> Iterator[tuple[int, EncodedTexts]]:
    """The blocks of all shares, each with its start, as they are made."""
    context = multiprocessing.get_context("fork")  # so that no process loads the tokenizer and the rows again
    processes, open_ends = [], []
    try:
        for starts in shares:
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(target=_make_blocks, args=(template, examples, name, starts, writer), daemon=True)
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of forks beside threads
                process.start()
            writer.close()
            processes.append(process)
            open_ends.append(reader)
        while open_ends:
            ready = set(map(id, multiprocessing.connection.wait(open_ends)))
            for reader in [end for end in open_ends if id(end) in ready]:
                try:
                    sent = reader.recv()
                except EOFError:
                    text = f"A process that tokenized the {name} texts has died. Is memory short?"
                    raise RuntimeError(text) from None
                if isinstance(sent, ConfigError):
                    raise sent
                if sent is None:
                    open_ends.remove(reader)
                else:
                    yield sent
    finally:
        for process in processes:
            process.kill()
            process.join()


def _make_blocks(
    template: Template, examples: Sequence[Example], name: str, starts: Sequence[int], writer: Connection
) -> None:
    gc.freeze()  # so that no page is copied for the sake of a mark
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this one
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # whose threads are not here
    bar_log.setLevel(logging.WARNING)
    try:
        for start in starts:
            block = examples[start : start + BLOCK_ROWS]
            writer.send((start, one_by_one(template, block, name)))
        writer.send(None)
    except ConfigError as error:
        writer.send(ConfigError(str(error)))
    except BrokenPipeError:  # the parent has died
        pass


# ---- kept on disk


def _path(template: Template, examples: Sequence[Example]) -> Path | None:
    """Where they are kept; None where the rows or the tokenizer cannot be told from others for sure."""
    tokenizer = template.tokenizer
    if not isinstance(examples, MappedRows) or not examples.key or not tokenizer.is_fast:
        return None
    layout = {name: value for name, value in vars(template).items() if name in _LAYOUT}
    if template.pattern is not None:
        layout["pattern"] = asdict(template.pattern)
    special = [template.pad_id, tokenizer.mask_token_id, tokenizer.unk_token_id, sorted(special_tokens(tokenizer))]
    made_of = [FORMAT, examples.key, tokenizer.backend_tokenizer.to_str(), special, layout]
    return cache_dir() / "tokens" / f"{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()}.safetensors"


_LAYOUT = {field.name for field in fields(Template)} - {"tokenizer", "pattern"}
_RAGGED = ("input_ids", "slots", "segments", "words")
_FLAT = {"mask_index_M": 1, "truncated_M": 1, "marked_M2": 2, "slots_counted": 1}
"""Dimensions of each."""


def _keep(path: Path, texts: EncodedTexts) -> bool:
    """Whether there was room to write them."""
    arrays: dict[str, np.ndarray] = {name: np.atleast_1d(getattr(texts, name)) for name in _FLAT}
    for name in _RAGGED:
        ragged: Ragged = getattr(texts, name)
        arrays |= {f"{name}.values": ragged.values_T, f"{name}.starts": ragged.starts}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    try:
        new = NewStates(path, {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
    except OSError as error:
        log.warning("The tokens are not kept for the next run: %s cannot be written (%s).", path, error)
        return False
    for name, tensor in tensors.items():
        new.tensors[name].copy_(tensor)
    new.keep()
    return True


def _read(path: Path) -> EncodedTexts | None:
    expected: dict[str, tuple[int | None, int]] = {name: (None, dims) for name, dims in _FLAT.items()}
    expected |= {f"{name}.{side}": (None, 1) for name in _RAGGED for side in ("values", "starts")}
    tensors: dict[str, Tensor] | None = read_states(path, expected)
    if tensors is None:
        return None
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    ragged = {name: Ragged(arrays[f"{name}.values"], arrays[f"{name}.starts"]) for name in _RAGGED}
    flat = {name: arrays[name] for name in _FLAT if name != "slots_counted"}
    fields_of: dict[str, Any] = {**ragged, **flat}
    return EncodedTexts(**fields_of, slots_counted=bool(arrays["slots_counted"][0]))
