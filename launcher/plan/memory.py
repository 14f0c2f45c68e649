"""Bytes on one rank, part by part: who keeps a whole copy of what, and who a share of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from infoprompt.config import RunConfig
from infoprompt.engine.deepspeed_config import PERSISTENCE_NUMEL, PREFETCH_NUMEL, REDUCE_BUCKET_NUMEL
from infoprompt.model.backbone.quantized import BYTES_PER_WEIGHT
from infoprompt.model.backbone.row_reads import made_whole
from infoprompt.model.member import Member
from launcher.plan.passes import Passes

FLOAT32 = 4


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank."""

    base: int
    """The process before it has a model: Python, its libraries and rows; on a GPU the context."""
    weights: int
    """Of the backbone."""
    gathered: int
    """Weights of other ranks while they are used (ZeRO stage 3); of quantised ones a matrix that is unpacked."""
    trained: int
    gradients: int
    moments: int
    """AdamW's, and under ZeRO its own copy of the parameters."""
    best_state: int
    """On a CPU, the copy of what scored best."""
    states: int
    """States of the plain texts, of all rows."""
    activations: int
    """Kept for backward."""
    working: int
    """What passes take beside them; on a CPU also the holes in the heap."""
    kernels: int
    """Compiled kernels of a CPU."""
    loading: int
    """What loading takes beside the weights, before the first pass."""

    @property
    def member(self) -> int:
        """What one run takes beside those that it shares a backbone with."""
        own = self.trained + self.gradients + self.moments + self.best_state + self.states
        return own + self.activations + self.working

    @property
    def peak(self) -> int:
        """The most at any time."""
        before = self.base + self.weights + self.loading
        return max(before, self.base + self.weights + self.gathered + self.kernels + self.member)

    def fitting(self, memory_bytes: int) -> int:
        """Runs that fit beside each other over one backbone."""
        return max(0, (memory_bytes - self.base - self.weights - self.gathered - self.kernels) // self.member)


def rank_memory(
    config: RunConfig, member: Member, passes: Passes, *, ranks: int, base: int, kept_state_bytes: int, on_cpu: bool
) -> Memory:
    """The bytes of each part.

    Args:
        config: every setting.
        member: without values.
        passes: what its passes take.
        ranks: of the run.
        base: bytes of the process before it has a model.
        kept_state_bytes: of the states of plain texts, which lie in the computer's own memory.
        on_cpu: whether tensors lie there too.
    """
    stage = config.engine.zero_stage if config.engine.kind == "deepspeed" else 0
    trained = [parameter for parameter in member.parameters() if parameter.requires_grad]
    in_parts = [parameter for parameter in member.backbone.parameters() if stage == 3]
    numel = _numel(trained)
    whole = _numel(trained) - (_numel(in_parts) if not config.backbone.frozen else 0)
    shared = numel - whole
    share = ranks if stage else 1
    heap_or_live = passes.heap_bytes if on_cpu else max(passes.step_bytes, passes.inference_bytes)
    gradients = FLOAT32 * numel if stage < 2 else FLOAT32 * numel // ranks + _bucket(numel)
    gathered = max(map(_nbytes, _packed(config, member)), default=0)
    if stage == 3:
        gathered = _gathered(config, member, ranks)
    return Memory(
        base=base,
        weights=weight_bytes(config, member, ranks if stage == 3 else 1),
        gathered=gathered,
        trained=FLOAT32 * (whole + shared // ranks),
        gradients=gradients,
        moments=FLOAT32 * (2 + bool(stage)) * numel // share,
        best_state=FLOAT32 * numel if on_cpu else 0,
        states=kept_state_bytes if on_cpu else 0,
        activations=passes.kept_bytes,
        working=max(heap_or_live - passes.kept_bytes - FLOAT32 * numel, 0),
        kernels=passes.kernel_bytes if on_cpu else 0,
        loading=FLOAT32 * _table_numel(member) if on_cpu else 0,
    )


def _numel(parameters: Sequence[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _bucket(numel: int) -> int:
    return FLOAT32 * min(numel, REDUCE_BUCKET_NUMEL)


def weight_bytes(config: RunConfig, member: Member, parts: int) -> int:
    """Of the frozen backbone: whole in one part; of several, a share of each weight but the small ones."""
    frozen = [parameter for parameter in member.backbone.parameters() if not parameter.requires_grad]
    whole = sum(weight.nbytes // (parts if weight.numel() > PERSISTENCE_NUMEL else 1) for weight in frozen)
    packed = _packed(config, member)
    size = BYTES_PER_WEIGHT.get(config.backbone.quantization, 0)
    return whole - sum(map(_nbytes, packed)) + int(size * _numel(packed))


def _packed(config: RunConfig, member: Member) -> list[Tensor]:
    """Matrices of the linear layers that are quantised: all but the output of a language-model head."""
    if config.backbone.quantization == "none":
        return []
    model: Any = member.backbone.model
    output = model.get_output_embeddings()
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer is not output]
    return [layer.weight for layer in layers]


def _nbytes(tensor: Tensor) -> int:
    return tensor.nbytes


def weights_made_whole(config: RunConfig, member: Member) -> list[nn.Parameter]:
    """What is fetched from other ranks to be whole, at ZeRO stage 3."""
    model: Any = member.backbone.model
    if not config.backbone.frozen:
        return list(model.parameters())
    return made_whole(model, None if config.head.kind == "text" else model.get_output_embeddings())


def _gathered(config: RunConfig, member: Member, ranks: int) -> int:
    """The largest tensor in use, and what is fetched ahead of the next."""
    parameters = weights_made_whole(config, member)
    most = max(map(torch.numel, parameters)) + PREFETCH_NUMEL
    return min(most, _numel(parameters) * (ranks - 1) // ranks) * parameters[0].element_size()


def _table_numel(member: Member) -> int:
    """Numbers of the embedding table, of which a float32 copy starts prompts and heads."""
    return member.backbone.num_embeddings * member.backbone.embedding_size
