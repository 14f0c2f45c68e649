"""Statistics of all pairs by the Triton kernels: the functions of `chunked`, with their arguments.

Shapes: N queries, M keys, D width, R rows of a panel, P panels, T tiles.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
from torch import Tensor

from infoprompt.kernels.implementation import interpreting
from infoprompt.kernels.pair_stats import triton_kernels
from infoprompt.kernels.pair_stats.gradients import Needs, of_inputs, panels
from infoprompt.kernels.pair_stats.pairs import Pairs
from infoprompt.kernels.pair_stats.reference import PairSoftplus, PairStats

# Of the tiles' sums, or of a panel of weights: enough rows to fill a GPU, little beside what it holds.
PANEL_BYTES = 256 << 20


def pair_stats(pairs: Pairs, exclude_positive: bool, clamp: float | None) -> PairStats:
    """Statistics of each row and column; see `reference.pair_stats_reference`."""
    pairs = _ready(pairs)
    num_rows, num_keys = len(pairs.query_ND), len(pairs.key_MD)
    positive_N, row_lse_N = _fresh(pairs, num_rows).fill_(-torch.inf), _fresh(pairs, num_rows)
    col_lse_PM = []
    for rows, panel, row_tiles, halves in _sum_panels(pairs):
        row_max, row_sum = (_fresh(pairs, halves, len(panel.query_ND)) for _ in range(2))
        col_max, col_sum = (_fresh(pairs, row_tiles, num_keys) for _ in range(2))
        _launch(
            triton_kernels.statistics,
            panel,
            (positive_N[rows], row_max, row_sum, col_max, col_sum),
            clamp_bits=0.0 if clamp is None else clamp / math.log(2),
            EXCLUDE_POSITIVE=exclude_positive,
            CLAMPED=clamp is not None,
        )
        _merge(row_max, row_sum, row_lse_N[rows])
        col_lse_PM.append(_merge(col_max, col_sum, _fresh(pairs, num_keys)))
    col_lse_M = col_lse_PM[0] if len(col_lse_PM) == 1 else torch.stack(col_lse_PM).logsumexp(0)
    return PairStats(positive_N.mul_(math.log(2)), row_lse_N, col_lse_M)


def pair_stats_backward(
    pairs: Pairs,
    stats: PairStats,
    grad_row_N: Tensor | None,
    grad_col_M: Tensor | None,
    coefficient_N: Tensor,
    needs: Needs,
) -> list[Tensor]:
    """Gradients of the inputs asked for; see `gradients.of_inputs` for the coefficient."""
    row_lse_N, col_lse_M = (lse.masked_fill(lse == -torch.inf, torch.inf) for lse in stats[1:])  # no share of nothing
    # a gradient that there is none of is not read, but has to be some tensor
    by_row_N = row_lse_N if grad_row_N is None else grad_row_N.contiguous()
    by_col_M = col_lse_M if grad_col_M is None else grad_col_M.contiguous()

    def weights(rows: slice, panel: Pairs, weight_RM: Tensor) -> None:
        _launch(
            triton_kernels.statistics_weights,
            panel,
            (row_lse_N[rows], col_lse_M, by_row_N[rows], by_col_M, weight_RM),
            weight_stride=weight_RM.stride(0),
            HAS_GRAD_ROW=grad_row_N is not None,
            HAS_GRAD_COL=grad_col_M is not None,
        )

    return _backward(pairs, weights, coefficient_N, needs)


def pair_softplus(pairs: Pairs) -> PairSoftplus:
    """Sum of softplus of each row; see `reference.pair_softplus_reference`."""
    pairs = _ready(pairs)
    positive_N, row_sum_N = (_fresh(pairs, len(pairs.query_ND)).fill_(-torch.inf) for _ in range(2))
    for rows, panel, _, halves in _sum_panels(pairs):
        sum_TR = _fresh(pairs, halves, len(panel.query_ND))
        _launch(triton_kernels.softplus, panel, (positive_N[rows], sum_TR))
        row_sum_N[rows] = sum_TR.sum(0)
    return PairSoftplus(positive_N.mul_(math.log(2)), row_sum_N)


def pair_softplus_backward(pairs: Pairs, grad_sum_N: Tensor, coefficient_N: Tensor, needs: Needs) -> list[Tensor]:
    """Gradients of the inputs asked for."""
    grad_sum_N = grad_sum_N.contiguous()

    def weights(rows: slice, panel: Pairs, weight_RM: Tensor) -> None:
        tensors = (grad_sum_N[rows], weight_RM)
        _launch(triton_kernels.softplus_weights, panel, tensors, weight_stride=weight_RM.stride(0))

    return _backward(pairs, weights, coefficient_N, needs)


def _backward(
    pairs: Pairs, write: Callable[[slice, Pairs, Tensor], None], coefficient_N: Tensor, needs: Needs
) -> list[Tensor]:
    pairs, num_keys = _ready(pairs), len(pairs.key_MD)
    # bfloat16 has float32's range; float16 would lose the small weights. The interpreter's casts to bfloat16 truncate.
    low = pairs.query_ND.dtype == torch.bfloat16 and not interpreting()
    dtype = torch.bfloat16 if low else torch.float32
    stride = triton.cdiv(num_keys, 16) * 16  # so that rows begin where wide stores may

    def weights(rows: slice) -> Tensor:
        panel = pairs.of(rows)
        weight_RM = torch.empty(len(panel.query_ND), stride, dtype=dtype, device=pairs.key_MD.device)
        write(rows, panel, weight_RM)
        return weight_RM[:, :num_keys]

    return of_inputs(pairs, weights, coefficient_N, _panel_rows(pairs, stride * dtype.itemsize), needs)


def _ready(pairs: Pairs) -> Pairs:
    """Inputs as the kernels read them: features whose rows lie whole, and biases of zero where there are none."""
    query_ND, key_MD, row_bias_N, col_bias_M = pairs.query_ND, pairs.key_MD, pairs.row_bias_N, pairs.col_bias_M
    return Pairs(
        query_ND if query_ND.stride(1) == 1 else query_ND.contiguous(),
        key_MD if key_MD.stride(1) == 1 else key_MD.contiguous(),
        pairs.scale,
        _fresh(pairs, len(pairs.query_ND)).zero_() if row_bias_N is None else row_bias_N.contiguous(),
        _fresh(pairs, len(pairs.key_MD)).zero_() if col_bias_M is None else col_bias_M.contiguous(),
        pairs.positive_N.contiguous(),
    )


def _tile(pairs: Pairs) -> tuple[int, int, int, int, int]:
    return triton_kernels.TILES[pairs.query_ND.dtype]


def _panel_rows(pairs: Pairs, row_bytes: int) -> int:
    block_rows = _tile(pairs)[0]
    return max(1, PANEL_BYTES // (row_bytes * block_rows)) * block_rows


def _sum_panels(pairs: Pairs) -> Iterator[tuple[slice, Pairs, int, int]]:
    """Rows at a time, with their number of tiles of rows and of half tiles of keys."""
    block_rows, block_keys = _tile(pairs)[:2]
    num_keys = len(pairs.key_MD)
    halves = triton.cdiv(num_keys, block_keys) * 2
    row_bytes = 8 * (halves + triton.cdiv(num_keys, block_rows))  # a maximum and a sum in float32
    for rows in panels(len(pairs.query_ND), _panel_rows(pairs, row_bytes)):
        panel = pairs.of(rows)
        yield rows, panel, triton.cdiv(len(panel.query_ND), block_rows), halves


def _launch(kernel: Any, pairs: Pairs, tensors: tuple[Tensor, ...], **values: Any) -> None:
    block_rows, block_keys, step, num_warps, num_stages = _tile(pairs)
    (num_rows, width), num_keys = pairs.query_ND.shape, len(pairs.key_MD)
    programs = triton.cdiv(num_rows, block_rows) * triton.cdiv(num_keys, block_keys)
    with torch.cuda.device_of(pairs.query_ND):
        kernel[(programs,)](
            pairs.query_ND,
            pairs.key_MD,
            pairs.scale,
            pairs.row_bias_N,
            pairs.col_bias_M,
            pairs.positive_N,
            *tensors,
            query_stride=pairs.query_ND.stride(0),
            key_stride=pairs.key_MD.stride(0),
            num_rows=num_rows,
            num_keys=num_keys,
            width=width,
            **values,
            BLOCK_N=block_rows,
            BLOCK_M=block_keys,
            BLOCK_D=step,
            WHOLE_STEPS=width % step == 0,
            DOT_UPCAST=interpreting(),  # whose products of bfloat16 are of the bit patterns
            num_warps=num_warps,
            num_stages=num_stages,
        )


def _merge(highest_TX: Tensor, total_TX: Tensor, lse_X: Tensor) -> Tensor:
    num_tiles, length = highest_TX.shape
    block = triton_kernels.MERGE_BLOCK
    with torch.cuda.device_of(lse_X):
        triton_kernels.merge[(triton.cdiv(length, block),)](
            highest_TX, total_TX, lse_X, num_tiles=num_tiles, length=length, BLOCK=block
        )
    return lse_X


def _fresh(pairs: Pairs, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=pairs.wide, device=pairs.query_ND.device)
