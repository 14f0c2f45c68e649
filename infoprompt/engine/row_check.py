"""Whether a processor's matrix products give a row the same bits whatever other rows are there.

On that rests that a run in a pack comes to the bits that it comes to alone. It held on all CPUs that were tried, from
`FEWEST` rows on; a GPU's library chooses its way of summing by the number of rows.
"""

import functools

import torch
from torch.nn import functional as F

from infoprompt.model.backbone.packing import FEWEST

ROWS = (FEWEST, 24, 63, 200, 517)
WIDTHS = ((384, 1536), (768, 768))


@functools.cache
def rows_are_independent(device_type: str, dtype: torch.dtype) -> bool:
    """Whether rows of products, and their gradients, are the same among few and among many rows."""
    if device_type != "cpu":
        return False
    draw = torch.Generator().manual_seed(0)
    for width, out in WIDTHS:
        weight = torch.randn(out, width, generator=draw).to(dtype)
        rows = torch.randn(ROWS[-1], width, generator=draw).to(dtype)
        slope = torch.randn(ROWS[-1], out, generator=draw).to(dtype)
        many, many_back = F.linear(rows, weight), slope @ weight
        for count in ROWS:
            for start in (0, ROWS[-1] - count):
                part = slice(start, start + count)
                same = torch.equal(F.linear(rows[part], weight), many[part])
                if not same or not torch.equal(slope[part] @ weight, many_back[part]):
                    return False
    return True


def pack_note(device_type: str, dtype: torch.dtype) -> str | None:
    """What packed runs agree to, where it is not to the bit."""
    if rows_are_independent(device_type, dtype):
        return None
    where = "this processor's" if device_type == "cpu" else "a GPU's"
    return f"Packed runs agree with lone ones to rounding alone, not to the bit: {where} products depend on all rows."
