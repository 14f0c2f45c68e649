"""The kernel benchmark at its sizes for a GPU, and what of it the card's own rates allow."""

import sys
from collections.abc import Sequence

import torch

from infoprompt.kernels.benchmark import Measured, lines, measure
from infoprompt.kernels.ceilings import Ceilings, measure_ceilings
from infoprompt.kernels.contenders import Case, cases, floor_seconds
from tests.gpu.record import Recorder

SECONDS = 1.0
"""For the repeats of a case."""
AGREE = 1e-2
"""Plain torch rounds its scores to bfloat16, which moves a mean loss by some thousandths."""


def prove(recorder: Recorder, dry: bool) -> None:
    """The card's rates, then every case; losses that do not agree are wrong."""
    device = torch.device("cpu" if dry else "cuda")
    ceilings = None if dry else measure_ceilings(device)
    if ceilings:
        recorder.add("copy on the card", ceilings.bytes_per_second / 1e12, "TB/s", note="bytes read and written")
        recorder.add(
            "product of bfloat16 matrices", ceilings.flops / 1e12, "TFLOP/s", note="8192 x 8192 x 8192, random"
        )
    for case in cases("tiny" if dry else "gpu", device):
        with recorder.trying(case.title):
            rows = measure(case, 0 if dry else SECONDS, ["compile"] if dry else [])
            sys.stdout.writelines(f"{line}\n" for line in lines(case, rows, ceilings))
            _add(recorder, case, rows, ceilings)


def _add(recorder: Recorder, case: Case, rows: Sequence[Measured], ceilings: Ceilings | None) -> None:
    first = next((row for row in rows if row.ours), None)
    floor = floor_seconds(case, ceilings) if ceilings else None
    for row in rows:
        name = f"{case.title}: {row.contender}"
        if row.seconds is None:
            # one of ours that cannot run is a fault; others' limits are theirs
            recorder.add(name, wrong=row.ours, note=f"not run: {row.problem}")
            continue
        notes = [f"{(row.peak_bytes or 0) / 2**20:.2f} MiB"]
        if first and first.seconds and row is not first:
            notes.append(f"{row.seconds / first.seconds:.2f} x ours")
        if floor:
            notes.append(f"{row.seconds / floor:.2f} x the card's floor of {floor * 1e3:.3f} ms")
        recorder.add(name, row.seconds * 1e3, "ms", note=", ".join(notes))
    losses = [row for row in rows if row.loss is not None]
    ours = next((row.loss for row in losses if row.ours), None)
    plain = next((row.loss for row in losses if not row.ours), None)
    if ours is not None and plain is not None:
        recorder.judge(
            f"{case.title}: loss, relative difference to plain torch's", abs(ours - plain) / abs(plain), AGREE
        )
