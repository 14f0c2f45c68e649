"""Negatives from every rank: the one file among the kernels that knows of ranks.

The rule that makes gradients right: with l_r the loss of rank r, a feature gets the sum over all ranks s of dl_s / dx,
and a parameter that every rank holds, such as the scale, its share of that sum, without a reduction besides the
trainer's own. `gathered_mean` weighs the l_r so that the trainer's mean or sum over the ranks is the gradient of the
mean over all rows. Every function here is collective: all ranks call it in one order, forward and backward, with the
same inputs requiring gradients.

Shapes: N queries and M keys of this rank, D width, A keys or rows of all ranks.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from infoprompt.kernels.pair_stats.gradients import Needs
from infoprompt.kernels.pair_stats.op import pair_stats_backward_op, pair_stats_op
from infoprompt.kernels.pair_stats.pairs import Pairs, check_positives, checked_pairs
from infoprompt.kernels.pair_stats.reference import PairStats

# torch 2.13 renamed them, and warns of the old names
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

Exchange = Literal["gradients", "statistics"]
GradReduction = Literal["mean", "sum"]


def gathered_pair_stats(
    query_ND: Tensor,
    key_MD: Tensor,
    *,
    row_bias_N: Tensor | None = None,
    col_bias_M: Tensor | None = None,
    scale: Tensor | float = 1.0,
    positive_N: Tensor | None = None,
    exclude_positive: bool = False,
    impl: str = "auto",
    exchange: Exchange = "gradients",
    group: dist.ProcessGroup | None = None,
    sizes: Sequence[Sequence[int]] | None = None,
) -> PairStats:
    """`pair_stats` of the queries and keys of all ranks together: the rows and columns of this rank.

    The keys are gathered. Backward, either their gradients are summed over the ranks, in the dtype of sums; or only
    statistics and queries are exchanged, and each rank makes the scores of its own keys again: a quarter more
    arithmetic for no gradients on the wire, which pays where links are slow or a rank has few rows. Ranks may have
    different N and M, also none. Runs eagerly, not under torch.compile.

    Args:
        query_ND, key_MD, row_bias_N, col_bias_M, scale, exclude_positive: as in `pair_stats`, of this rank.
        impl: as in `pair_stats`; `reference` is taken as `chunked`.
        positive_N: column among this rank's own keys, -1 for none; row i's is key i if not given.
        exchange: what crosses the ranks backward.
        group: its ranks take part; all if not given. Without a process group this is `pair_stats`.
        sizes: N and M of each rank; asked of the ranks if not given, for which the device is waited for.
    Raises:
        ValueError: as `pair_stats`, or `exchange` is unknown.
    """
    if exchange not in ("gradients", "statistics"):
        raise ValueError(f"exchange is {exchange!r}, but must be 'gradients' or 'statistics'.")
    pairs = checked_pairs(query_ND, key_MD, scale, row_bias_N, col_bias_M, positive_N)
    check_positives(pairs)  # beyond this rank's keys lie those of others
    if not dist.is_initialized():
        return PairStats(*pair_stats_op(*pairs, exclude_positive, None, impl))
    if sizes is None:
        sizes = _numbers_of_ranks([len(query_ND), len(key_MD)], query_ND.device, group)
    return PairStats(*_PairStatsOfRanks.apply(*pairs, exclude_positive, impl, exchange, group, sizes))


def gathered_mean(
    loss_N: Tensor, *, grad_reduction: GradReduction = "mean", group: dist.ProcessGroup | None = None
) -> Tensor:
    """This rank's share of the mean of a loss over the rows of all ranks, however many rows each has.

    Args:
        loss_N: loss of each of this rank's rows.
        grad_reduction: what the trainer does with the gradients of the ranks: their mean (DistributedDataParallel, this
            project's engines) or their sum. The shares' mean or sum, in turn, is the mean over all rows.
        group: as above.
    Raises:
        ValueError: `grad_reduction` is unknown.
    """
    if grad_reduction not in ("mean", "sum"):
        raise ValueError(f"grad_reduction is {grad_reduction!r}, but must be 'mean' or 'sum'.")
    if not dist.is_initialized():
        return loss_N.mean()
    num_rows = torch.full((), len(loss_N), dtype=torch.float64 if loss_N.dtype == torch.float64 else torch.float32)
    num_rows = num_rows.to(loss_N.device)
    dist.all_reduce(num_rows, group=group)
    share = loss_N.sum() / num_rows
    return share * dist.get_world_size(group) if grad_reduction == "mean" else share


def gather_rows(rows_ND: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """The rows of all ranks in rank order, [A, D], on every rank; a row's gradient is summed over the ranks.

    The sum is in float32 or wider. For what is contrasted otherwise than by `gathered_pair_stats`.
    """
    return _GatherRows.apply(rows_ND, group) if dist.is_initialized() else rows_ND


class _PairStatsOfRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        pairs, (exclude_positive, impl, _, group, sizes) = Pairs(*inputs[:6]), inputs[6:]
        num_keys = [keys for _, keys in sizes]
        own, bias_M = _own(num_keys, group), pairs.col_bias_M
        pairs = pairs._replace(
            key_MD=_gathered(pairs.key_MD, num_keys, group),
            col_bias_M=None if bias_M is None else _gathered(bias_M, num_keys, group),
            positive_N=torch.where(pairs.positive_N < 0, -1, pairs.positive_N + own.start),
        )
        positive_score_N, row_lse_N, part_A = pair_stats_op(*pairs, exclude_positive, None, impl)
        col_lse_A = _log_sum_exp_over_ranks(part_A, group)
        ctx.save_for_backward(*pairs, positive_score_N, row_lse_N, col_lse_A)
        ctx.options = inputs[6:]
        return positive_score_N, row_lse_N, col_lse_A[own].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        exclude_positive, impl, exchange, group, sizes = ctx.options
        pairs, stats = Pairs(*ctx.saved_tensors[:6]), PairStats(*ctx.saved_tensors[6:])
        num_keys = [keys for _, keys in sizes]
        own = _own(num_keys, group)
        needs = Needs(*ctx.needs_input_grad[:5])

        def gradients(pairs: Pairs, stats: PairStats, grads: Sequence[Tensor], needs: Needs) -> dict[str, Tensor]:
            found = pair_stats_backward_op(*pairs, *stats, *grads, exclude_positive, list(needs), impl)
            return dict(zip((name for name, needed in needs._asdict().items() if needed), found, strict=True))

        grads_of_rows = (*grads[:2], _gathered(grads[2], num_keys, group))
        if exchange == "gradients":
            found = gradients(pairs, stats, grads_of_rows, needs)
            for name in [name for name in ("key", "col_bias") if name in found]:
                found[name] = _summed_own(found[name], num_keys, group)
        else:
            found = gradients(pairs, stats, grads_of_rows, needs._replace(key=False, col_bias=False))
            turned = _own_columns(pairs, stats, grads, own, [rows for rows, _ in sizes], group)
            found |= gradients(*turned, Needs(False, needs.key, False, False, needs.col_bias))
        dtypes = {"query": pairs.query_ND.dtype, "key": pairs.key_MD.dtype}
        return (
            *(found[name].to(dtypes.get(name, pairs.wide)) if name in found else None for name in Needs._fields),
            *(None for _ in range(6)),
        )


def _own_columns(
    pairs: Pairs,
    stats: PairStats,
    grads: Sequence[Tensor],
    own: slice,
    num_rows: Sequence[int],
    group: dist.ProcessGroup | None,
) -> tuple[Pairs, PairStats, tuple[Tensor, Tensor, Tensor]]:
    """This rank's keys against the queries of all ranks: inputs, statistics and their gradients.

    The positives of these keys are rows of this rank.
    """
    own_rows, row_bias_N = _own(num_rows, group), pairs.row_bias_N
    vectors = [stats.row_lse_N, grads[1], *([] if row_bias_N is None else [row_bias_N])]
    row_lse_A, grad_row_A, *row_bias_A = _gathered(torch.stack(vectors, 1), num_rows, group).T.contiguous()
    query_AD = _gathered(pairs.query_ND, num_rows, group)

    def among_all(value_N: Tensor, elsewhere: float) -> Tensor:
        value_A = value_N.new_full((sum(num_rows),), elsewhere)
        value_A[own_rows] = value_N
        return value_A

    columns = Pairs(
        query_AD,
        pairs.key_MD[own],
        pairs.scale,
        row_bias_A[0] if row_bias_A else None,
        None if pairs.col_bias_M is None else pairs.col_bias_M[own],
        among_all(torch.where(pairs.positive_N < 0, -1, pairs.positive_N - own.start), -1),
    )
    positive_score_A = among_all(stats.positive_N, -torch.inf)
    of_columns = PairStats(positive_score_A, row_lse_A, stats.col_lse_M[own])
    return columns, of_columns, (among_all(grads[0], 0.0), grad_row_A, grads[2])


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        counts = [count for (count,) in _numbers_of_ranks([len(rows_ND)], rows_ND.device, group)]
        ctx.group, ctx.counts, ctx.dtype = group, counts, rows_ND.dtype
        return _gathered(rows_ND, counts, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_AD: Tensor) -> tuple[Tensor, None]:
        wide = torch.promote_types(ctx.dtype, torch.float32)
        return _summed_own(grad_AD.to(wide), ctx.counts, ctx.group).to(ctx.dtype), None


def _numbers_of_ranks(numbers: list[int], device: torch.device, group: dist.ProcessGroup | None) -> list[list[int]]:
    mine = torch.tensor(numbers, device=device)
    return _gathered(mine.unsqueeze(0), [1] * dist.get_world_size(group), group).tolist()


def _own(counts: Sequence[int], group: dist.ProcessGroup | None) -> slice:
    """This rank's part of the rows of all."""
    rank = dist.get_rank(group)
    return slice(sum(counts[:rank]), sum(counts[: rank + 1]))


def _gathered(rows: Tensor, counts: Sequence[int], group: dist.ProcessGroup | None) -> Tensor:
    """The rows of all ranks, without gradient."""
    most = max(counts)
    of_all = rows.new_empty(most * len(counts), *rows.shape[1:])
    _all_gather(of_all, _padded([rows], most), group=group)
    if min(counts) == most:
        return of_all
    return torch.cat([part[:count] for part, count in zip(of_all.split(most), counts, strict=True)])


def _summed_own(rows_of_all: Tensor, counts: Sequence[int], group: dist.ProcessGroup | None) -> Tensor:
    """The sum over the ranks of what each has for this rank's rows."""
    most = max(counts)
    own = rows_of_all.new_empty(most, *rows_of_all.shape[1:])
    _reduce_scatter(own, _padded(rows_of_all.split(counts), most), group=group)
    return own[: counts[dist.get_rank(group)]]


def _padded(parts: Sequence[Tensor], most: int) -> Tensor:
    """Parts of one length: the collectives know no other."""
    return torch.cat([x for part in parts for x in (part, part.new_zeros(most - len(part), *part.shape[1:]))])


def _log_sum_exp_over_ranks(lse_A: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    highest_A = lse_A.clone()
    dist.all_reduce(highest_A, dist.ReduceOp.MAX, group=group)
    offset_A = highest_A.masked_fill(highest_A == -torch.inf, 0)  # -inf - -inf is no number
    total_A = (lse_A - offset_A).exp()
    dist.all_reduce(total_A, group=group)
    return offset_A + total_A.log()
