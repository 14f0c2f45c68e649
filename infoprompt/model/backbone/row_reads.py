"""Reads rows of a matrix; of one in parts (ZeRO-3) rows alone are sent, and it is never whole.

Shapes: S words whose rows are read, T tokens of one rank, E embedding width.
"""

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from infoprompt.model.backbone.in_parts import sending_device


def own_parameter(module: nn.Module, name: str) -> nn.Parameter:
    """A parameter of a module, as it is.

    While a pass runs, DeepSpeed makes a parameter whole that is read as the module's attribute.
    """
    return dict(module.named_parameters(recurse=False))[name]


def read_by_row(parameter: nn.Parameter) -> bool:
    """Whether its rows must be asked of other ranks; what is trained is made whole instead, for its gradient."""
    part: Any = parameter
    return hasattr(part, "ds_id") and not part.requires_grad and not getattr(part, "ds_persist", False)


def made_whole(model: nn.Module, unused: nn.Module | None = None) -> list[nn.Parameter]:
    """What a pass makes whole of a model in parts: all but tables of words, whose rows are read.

    Args:
        model: with frozen tables.
        unused: a module that the pass does not call.
    """
    called = [module for module in model.modules() if module is not unused and not isinstance(module, nn.Embedding)]
    own = (parameter for module in called for parameter in module.parameters(recurse=False))
    return list(dict.fromkeys(own))


@torch.no_grad()
def rows_of(parameter: nn.Parameter, ids_S: Tensor) -> Tensor:
    """Rows of a matrix, [S, E], in its dtype. Of one in parts, all ranks must ask for the same."""
    part: Any = parameter
    if not hasattr(part, "ds_id"):
        return part.detach()[ids_S.to(part.device)]
    kept, width = part.ds_tensor, part.ds_shape[1]
    ids_S = ids_S.to(kept.device)
    start = kept.numel() * part.ds_zero_partition_rank
    stop = min(start + kept.numel(), part.ds_numel)
    rows_SE = torch.zeros(len(ids_S), width, dtype=kept.dtype, device=kept.device)
    first, last = -(-start // width), stop // width
    if first < last:
        inside_S = (ids_S >= first) & (ids_S < last)
        whole = kept[first * width - start : last * width - start].view(-1, width)
        rows_SE[inside_S] = whole[ids_S[inside_S] - first]
    for row in {first - 1, last}:  # these may be cut
        begin, end = max(row * width, start), min((row + 1) * width, stop)
        if begin < end and not first <= row < last:
            rows_SE[ids_S == row, begin - row * width : end - row * width] = kept[begin - start : end - start]
    rows_SE = rows_SE.to(sending_device(part))
    dist.all_reduce(rows_SE.view(torch.uint8))  # exact: of each byte the other ranks have a zero
    return rows_SE


def embedded(embedding: nn.Module, ids: Tensor) -> Tensor:
    """What an embedding of which each rank keeps a part makes of its ids, [..., E]; all ranks must come here.

    Args:
        embedding: its weight is frozen.
        ids: any shape, another on each rank.
    """
    table: Any = own_parameter(embedding, "weight")
    ids_T, places = ids.unique(return_inverse=True)
    wanted_S = _of_all_ranks(ids_T)
    rows_SE = rows_of(table, wanted_S)[torch.searchsorted(wanted_S, ids_T)]
    # Families scale in `forward`, each in its own way. Calling it so passes by the hook that makes the table whole.
    small: Any = copy.copy(embedding)
    small._parameters = {"weight": nn.Parameter(rows_SE.to(ids.device), requires_grad=False)}
    small.padding_idx = None
    embeddings: Tensor = small.forward(places)
    return embeddings


def _of_all_ranks(ids_T: Tensor) -> Tensor:
    """The distinct ids that any rank asks for, [S], in order."""
    counts = [torch.zeros(1, dtype=torch.long, device=ids_T.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(ids_T)], device=ids_T.device))
    longest = int(torch.cat(counts).max())
    filled_T = torch.cat([ids_T, ids_T[:1].expand(longest - len(ids_T))])
    asked = [torch.empty_like(filled_T) for _ in counts]
    dist.all_gather(asked, filled_T)
    return torch.cat(asked).unique()
