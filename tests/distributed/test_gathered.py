"""Gradients under negatives from four ranks, compared with those of the loss of the whole batch in one process.

A trainer averages the gradients of the parameters over the ranks, as DistributedDataParallel does. A rank that keeps
the gradients of others' rows to itself points elsewhere. Shapes: N rows of a rank, A rows of all ranks, D width.
"""

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from infoprompt.kernels.gathered import gather_rows
from infoprompt.kernels.pair_stats.op import pair_stats

pytestmark = pytest.mark.distributed

RANKS, ROWS, WIDTH = 4, 6, 5


def info_nce(query_ND, key_AD, first_positive):
    """Mean over the rows, without bias."""
    bias_N = query_ND.new_zeros(len(query_ND))
    stats = pair_stats(query_ND, key_AD, bias_N, first_positive)
    return F.softplus(stats.row_lse_N - stats.positive_N).mean()


def gathered_without_grad(rows_ND):
    parts = [torch.empty_like(rows_ND) for _ in range(RANKS)]
    dist.all_gather(parts, rows_ND.detach())
    parts[dist.get_rank()] = rows_ND
    return torch.cat(parts)


def measure():
    """Cosine and ratio to the true gradient of two towers, of the gathered keys and of those that keep theirs."""
    dist.init_process_group("gloo")
    generator = torch.Generator().manual_seed(0)
    towers = [x.requires_grad_() for x in torch.randn(2, 7, WIDTH, generator=generator, dtype=torch.float64)]
    x_AD, y_AD = torch.randn(2, RANKS * ROWS, 7, generator=generator, dtype=torch.float64) / 2
    truth = torch.autograd.grad(info_nce(x_AD @ towers[0], y_AD @ towers[1], 0), towers)
    first = dist.get_rank() * ROWS
    own = slice(first, first + ROWS)
    found = {}
    for gather in (gather_rows, gathered_without_grad):
        loss = info_nce(x_AD[own] @ towers[0], gather(y_AD[own] @ towers[1]), first)
        gradients = torch.autograd.grad(loss, towers)
        for gradient in gradients:
            dist.all_reduce(gradient)
        ours, true = (torch.cat([x.flatten() for x in some]) for some in (gradients, truth))
        ratio = (ours / RANKS) @ true / true.square().sum()
        found[gather.__name__] = F.cosine_similarity(ours, true, dim=0).item(), ratio.item()
    dist.destroy_process_group()
    return found


def test_gathered_rows_have_the_gradients_of_the_whole_batch(run_distributed):
    for found in run_distributed(__file__, "measure", world_size=RANKS, seconds=120):
        assert found["gather_rows"] == pytest.approx((1, 1), abs=1e-10)
        assert found["gathered_without_grad"][0] < 0.98
