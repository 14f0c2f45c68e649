"""Negatives from every rank: the one file among the kernels that knows of ranks.

The rule that makes gradients right: with l_r the loss of rank r, a feature gets the sum over all ranks s of dl_s / dx.
The trainer's mean over the ranks is then the gradient of the mean over all rows.

Shapes: N rows of a rank, D hidden width, A rows of all ranks.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

# torch 2.13 renamed them, and warns of the old names
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def gather_rows(rows_ND: Tensor) -> Tensor:
    """The rows of all ranks in rank order, [A, D], on every rank; a row's gradient is summed over the ranks.

    Collective, forward and backward: every rank brings as many rows, and its gradient. Runs eagerly, not under
    torch.compile.
    """
    gathered_AD: Tensor = _GatherRows.apply(rows_ND)
    return gathered_AD


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor) -> Tensor:
        gathered_AD = rows_ND.new_empty(dist.get_world_size() * len(rows_ND), rows_ND.shape[1])
        _all_gather(gathered_AD, rows_ND.contiguous())
        return gathered_AD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_AD: Tensor) -> Tensor:
        own_ND = grad_AD.new_empty(len(grad_AD) // dist.get_world_size(), grad_AD.shape[1])
        _reduce_scatter(own_ND, grad_AD.contiguous())
        return own_ND
