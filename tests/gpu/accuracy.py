"""The three ops against float64: forward and backward, three dtypes, the shapes of the suite's own tests.

Each case is run three times: its error is judged as the suite judges it, the second run must give the same bits, and
the third must not wait for the device.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numerics import CAPS, FLOOR, assert_no_worse, relative_error
from torch import Tensor

from tests.gpu.record import Recorder
from tests.infoprompt.kernels import test_frozen_linear_cross_entropy_impls as frozen
from tests.infoprompt.kernels import test_pair_stats_impls as pairs
from tests.infoprompt.kernels import test_row_info_nce_impls as rows

FROZEN = {"plain": frozen.PLAIN, "biased": frozen.BIASED, "capped": frozen.CAPPED}


class Question(NamedTuple):
    """One call of an op, forward and backward."""

    name: str
    of: Callable[[str, bool], Sequence[Tensor]]
    """(implementation, whether in float64) -> results and gradients."""
    dtypes: Sequence[torch.dtype]
    """By which each is judged."""


class Cell(NamedTuple):
    """What one process answers."""

    folder: str
    op: str
    kinds: Sequence[str]
    dtype: torch.dtype
    dry: bool


def prove(recorder: Recorder, dry: bool) -> None:
    """All ops in all dtypes; on a GPU side by side, since kernels take longer to compile than to run."""
    # in the interpreter bfloat16 is cast by cutting off
    dtypes = [torch.float32, torch.float16] if dry else [torch.bfloat16, torch.float32, torch.float16]
    kinds = [("pair_stats", [""])]  # what takes longest comes first
    kinds += [("frozen_linear_cross_entropy", list(FROZEN)[i::2]) for i in range(2)]
    kinds += [("row_info_nce", rows.NAMES[i::2]) for i in range(2)]
    folder = str(recorder.folder)
    cells = [Cell(folder, op, some, dtype, dry) for dtype, (op, some) in itertools.product(dtypes, kinds)]
    if dry:
        for cell in cells:
            answer_all(cell)
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for cell, code in zip(cells, pool.map(_in_a_process, cells), strict=True):
            if code:
                name = f"{cell.op}, {_name(cell.dtype)}, {', '.join(cell.kinds)}"
                recorder.add(name, wrong=True, note=f"its process ended with {code}")


def _in_a_process(cell: Cell) -> int | None:
    """Of its own, so that a kernel that breaks the GPU's context breaks no other's."""
    process = get_context("spawn").Process(target=answer_all, args=(cell,))
    process.start()
    process.join()
    return process.exitcode


def answer_all(cell: Cell) -> None:
    """Every question of a cell; one that fails leaves the others."""
    recorder = Recorder(Path(cell.folder), "accuracy")
    for question in QUESTIONS[cell.op](cell.kinds, cell.dtype, "cpu" if cell.dry else "cuda", cell.dry):
        for impl in ("triton", "chunked"):
            group = f"{cell.op}, {impl}, {_name(cell.dtype)}"
            with recorder.trying(f"{group}, {question.name}"):
                _answer(recorder, group, question, impl, on_gpu=not cell.dry)


def _answer(recorder: Recorder, group: str, question: Question, impl: str, *, on_gpu: bool) -> None:
    ours, plain, truth = question.of(impl, False), question.of("reference", False), question.of("reference", True)
    for index, (mine, theirs, true, dtype) in enumerate(zip(ours, plain, truth, question.dtypes, strict=True)):
        error, plain_error = (relative_error(value, true)[0] for value in (mine, theirs))
        try:
            assert_no_worse(mine, theirs, true, dtype)
            why = ""
        except AssertionError as broken:
            why = f"{broken}; "
        name = f"{question.name}, result {index}"
        recorder.add(
            f"{group}, {name}" if why else name,
            error,
            limit=min(1.5 * plain_error + FLOOR, CAPS[dtype]),
            wrong=bool(why),
            note=f"{why}plain torch {plain_error:.1e}",
            group=f"{group}: error",
        )
    again = question.of(impl, False)
    differing = sum(not torch.equal(first, second) for first, second in zip(ours, again, strict=True))
    name = f"{group}, {question.name}" if differing else question.name
    recorder.judge(f"{name}: results whose bits differ", differing, 0, group=f"{group}: bits that differ, run to run")
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            with recorder.trying(f"{group}, {question.name}: waits for the device"):
                question.of(impl, False)
                recorder.judge(f"{question.name}: waits", 0, 0, group=f"{group}: waits for the device")
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _row_info_nce(kinds: Sequence[str], dtype: torch.dtype, device: str, dry: bool) -> Iterator[Question]:
    # a block of 512, one below and above; long, many and single rows
    shapes = [(3, 40)] if dry else [(64, 1024), (6, 1030), (3, 511), (2, 513), (33, 8), (1, 1)]
    for name, shape in itertools.product(kinds, shapes):
        if shape == (1, 1) and any(word in name for word in ("kept", "counted")):
            continue  # its only row would be empty
        case = rows.make(name, *shape, device=device).to(dtype)
        wide = case.to(torch.float64)

        def results(impl: str, truth: bool, case: Any = case, wide: Any = wide) -> Sequence[Tensor]:
            return (wide if truth else case).results(impl)

        yield Question(f"{name} {shape}", results, [dtype] * (1 + len(case.trained)))


def _pair_stats(kinds: Sequence[str], dtype: torch.dtype, device: str, dry: bool) -> Iterator[Question]:
    # many tiles, a full one, ragged ones, the smallest; each alignment is compiled anew, in seconds
    shapes = [(33, 40, 16)] if dry else [(1000, 1500, 256), (64, 64, 32), (63, 65, 40), (130, 257, 70), (1, 2, 3)]
    for shape in shapes:
        *leaves, first_positive = pairs.case(*shape, dtype, device)
        wide = [x.double() for x in leaves]

        def results(impl: str, truth: bool, leaves: Any = leaves, wide: Any = wide, first: int = first_positive) -> Any:
            return pairs.results([*(wide if truth else leaves), first], impl)

        yield Question(f"{shape}", results, [torch.float32] * 2 + [x.dtype for x in leaves])


def _frozen_linear_cross_entropy(
    kinds: Sequence[str], dtype: torch.dtype, device: str, dry: bool
) -> Iterator[Question]:
    # few rows and many, whole tiles and ragged ones, a real vocabulary, wide states, the smallest
    shapes = [(3, 70, 40), (20, 63, 40)] if dry else [(16, 50265, 64), (600, 3000, 64), (17, 65, 64), (3, 130, 70)]
    shapes += [] if dry else [(40, 63, 40), (6, 2100, 16), (2, 37, 1030), (1, 1, 3)]
    for kind, shape in itertools.product(kinds, shapes):
        inputs = frozen.case(*shape, dtype, device)
        wide = [x.double() if x.is_floating_point() else x for x in inputs]

        def results(impl: str, truth: bool, kind: str = kind, inputs: Any = inputs, wide: Any = wide) -> Any:
            return frozen.results(wide if truth else inputs, impl, **FROZEN[kind])

        yield Question(f"{kind} {shape}", results, [dtype] * 2)


QUESTIONS = {
    "row_info_nce": _row_info_nce,
    "pair_stats": _pair_stats,
    "frozen_linear_cross_entropy": _frozen_linear_cross_entropy,
}
