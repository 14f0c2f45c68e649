"""All words but the target, in blocks of logits: torch alone, on any device.

    max_i = max_{v != y} l_v,   sum_i = sum_{v != y} exp(l_v - max_i),
    weighted_i = sum_{v != y} exp(l_v - max_i) l'_v w_v

The words come tile by tile. Where a tile raises the maximum, what was summed before shrinks by exp(old - new), so each
tile of the matrix is read once for both products.

Shapes: N rows, V vocabulary, D hidden width, R rows of a panel, T tile of words.
"""

import torch
from torch import Tensor

from infoprompt.kernels.frozen_linear_cross_entropy.rows import Others

# On a CPU: few passes, for its threads wait for each other after each, and on a busy machine that takes long; smaller
# blocks, which caches hold, were no faster. On a GPU: few, large launches.
CPU_ROWS, CPU_LOGIT_BYTES, CPU_TILE_BYTES = 1024, 64 << 20, 32 << 20
GPU_ROWS, GPU_LOGIT_BYTES = 2048, 256 << 20
LEAST_WORDS = 64


def others_in_tiles(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None,
    softcap: float | None,
    with_grad: bool,
) -> Others:
    """The sums above.

    Args:
        hidden_ND, weight_VD, bias_V: as for the op.
        target_N: a target out of range leaves no word out.
        softcap: None for none.
        with_grad: whether `weighted_ND` is wanted.
    """
    num_rows, num_words = len(hidden_ND), len(weight_VD)
    panel, tile = _block(num_rows, weight_VD)
    wide = wide_dtype(weight_VD.dtype)
    zeros = hidden_ND.new_zeros
    rows = Others(
        hidden_ND.new_full((num_rows,), torch.finfo(wide).min, dtype=wide),
        zeros(num_rows, dtype=wide),
        zeros(hidden_ND.shape, dtype=wide) if with_grad else None,
    )
    # a CPU's memory is mapped anew, page by page, at every allocation of that size
    room = None if weight_VD.is_cuda else hidden_ND.new_empty(panel * min(tile, num_words), dtype=wide)
    for top in range(0, num_rows, panel):
        at = slice(top, top + panel)
        weighted_RD = None if rows.weighted_ND is None else rows.weighted_ND[at]
        here = Others(rows.max_N[at], rows.sum_N[at], weighted_RD)
        hidden_RD, target_R = _operand(hidden_ND[at]), target_N[at]
        for first in range(0, num_words, tile):
            words = slice(first, first + tile)
            bias_T = None if bias_V is None else bias_V[words]
            _add_tile(here, hidden_RD, _operand(weight_VD[words]), bias_T, target_R - first, softcap, room)
    return rows


def _add_tile(
    rows: Others,
    hidden_RD: Tensor,
    weight_TD: Tensor,
    bias_T: Tensor | None,
    target_R: Tensor,
    softcap: float | None,
    room: Tensor | None,
) -> None:
    logits_RT = wide_product(hidden_RD, weight_TD.T, room)
    if bias_T is not None:
        logits_RT.add_(bias_T)
    slope_RT = None
    if softcap is not None:
        tanh_RT = logits_RT.div_(softcap).tanh_()
        slope_RT = (1 - tanh_RT.square()) if rows.weighted_ND is not None else None
        logits_RT = tanh_RT.mul_(softcap)
    _leave_out(logits_RT, target_R)
    raised_R = torch.maximum(rows.max_N, logits_RT.amax(1))
    shrink_R = (rows.max_N - raised_R).exp_()
    rows.max_N.copy_(raised_R)
    exp_RT = logits_RT.sub_(raised_R.unsqueeze(1)).exp_()
    rows.sum_N.mul_(shrink_R).add_(exp_RT.sum(1))
    if rows.weighted_ND is not None:
        exp_RT = exp_RT if slope_RT is None else exp_RT.mul_(slope_RT)
        rows.weighted_ND.mul_(shrink_R.unsqueeze(1)).add_(wide_product(exp_RT, weight_TD))


def _leave_out(logits_RT: Tensor, target_R: Tensor) -> None:
    inside_R1 = ((target_R >= 0) & (target_R < logits_RT.shape[1])).unsqueeze(1)
    index_R1 = target_R.clamp(0, logits_RT.shape[1] - 1).unsqueeze(1)
    logits_RT.scatter_(1, index_R1, logits_RT.gather(1, index_R1).masked_fill(inside_R1, -torch.inf))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of sums and statistics: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def wide_product(left: Tensor, right: Tensor, room: Tensor | None = None) -> Tensor:
    """left @ right, summed and returned in float32 or wider; `left` takes the dtype of `right`.

    Args:
        left, right: matrices.
        room: where the product goes, if given: a vector of numbers enough, float32 or wider.
    """
    if right.is_cuda and right.dtype.itemsize < 4:
        return torch.mm(left.to(right.dtype), right, out_dtype=torch.float32)
    wide, shape = wide_dtype(right.dtype), (len(left), right.shape[1])
    out = None if room is None else room[: shape[0] * shape[1]].view(shape)
    return torch.mm(left.to(wide), right.to(wide), out=out)


def _operand(matrix: Tensor) -> Tensor:
    # a CPU gives a product of bfloat16 in bfloat16, and logits rounded so are right to two digits
    return matrix if matrix.is_cuda else matrix.to(wide_dtype(matrix.dtype))


def _block(num_rows: int, weight_VD: Tensor) -> tuple[int, int]:
    """Rows of a panel and words of a tile."""
    if weight_VD.is_cuda:
        panel = max(min(num_rows, GPU_ROWS), 1)
        return panel, max(GPU_LOGIT_BYTES // (4 * panel), LEAST_WORDS)
    panel = max(min(num_rows, CPU_ROWS), 1)
    words = min(CPU_LOGIT_BYTES // (4 * panel), CPU_TILE_BYTES // (4 * weight_VD.shape[1]))
    return panel, max(words, LEAST_WORDS)
