"""What the benchmark times: each op's work, done by ours and by everyone else who does it.

Every contender of a case starts from the same leaves, runs forward and backward, and returns the mean loss. Shapes:
B rows, K negatives, Z latent width, D hidden width, L positions, N rows, M keys, V vocabulary.
"""

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from infoprompt.kernels.ceilings import Ceilings
from infoprompt.kernels.frozen_linear_cross_entropy.op import frozen_linear_cross_entropy
from infoprompt.kernels.implementation import Impl
from infoprompt.kernels.pair_stats.op import pair_stats
from infoprompt.kernels.row_info_nce.op import (
    embedded_row_info_nce,
    exact_gaussian_row_info_nce,
    gaussian_row_info_nce,
)

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Contender:
    """One way to do a case's work."""

    name: str
    loss: Callable[[], Tensor]
    """The mean loss, ready for backward."""
    ours: bool = False
    needs_bytes: int = 0
    """Least memory it takes, where that is known to be much."""
    random: bool = False
    """Whether its loss depends on draws, so that it says nothing beside the others'."""


@dataclass(frozen=True)
class Missing:
    """A contender that cannot run here."""

    name: str
    reason: str


@dataclass(frozen=True)
class Case:
    """An op at one size."""

    op: str
    sizes: dict[str, int]
    leaves: list[Tensor]
    """What gets a gradient."""
    contenders: list[Contender | Missing]

    @property
    def title(self) -> str:
        """Op and sizes, for people."""
        return f"{self.op} ({', '.join(f'{name} {size}' for name, size in self.sizes.items())})"


def representation_case(device: torch.device, batch: int, negatives: int, width: int, latent: int = 32) -> Case:
    """InfoPrompt's representation loss: one prompted latent against K draws of the unprompted one."""
    torch.manual_seed(0)
    mean_BZ, unprompted_BZ, log_std_BZ = (0.1 * torch.randn(batch, latent, device=device) for _ in range(3))
    out_DZ = torch.randn(width, latent, device=device) / latent**0.5
    context_BD = torch.randn(batch, width, device=device)
    leaves = [leaf.requires_grad_() for leaf in (mean_BZ, unprompted_BZ, log_std_BZ, out_DZ, context_BD)]

    def collapsed() -> tuple[Tensor, Tensor, Tensor]:
        direction_BZ = context_BD @ out_DZ / width**0.5
        std_B = (log_std_BZ.exp() * direction_BZ).norm(dim=1)
        return (mean_BZ * direction_BZ).sum(1), (unprompted_BZ * direction_BZ).sum(1), std_B

    def released() -> Tensor:
        draws_BKZ = torch.randn(batch, negatives, latent, device=device)
        latents_BKZ = unprompted_BZ[:, None] + log_std_BZ.exp()[:, None] * draws_BKZ
        candidates_BKD = torch.cat([mean_BZ[:, None], latents_BKZ], 1) @ out_DZ.T
        scores_BK = (candidates_BKD * context_BD[:, None]).sum(2) / width**0.5
        return -scores_BK.log_softmax(1)[:, 0].mean()

    def drawn(impl: Impl) -> Tensor:
        noise_BK = torch.randn(batch, negatives, device=device)
        return gaussian_row_info_nce(*collapsed(), noise_BK, impl=impl).mean()

    held = 3 * FLOAT_BYTES * batch * negatives * width
    return Case(
        "representation loss",
        {"B": batch, "K": negatives, "d": width},
        leaves,
        [
            Contender("ours, drawn", lambda: drawn("auto"), True, random=True),
            Contender("ours, exact", lambda: exact_gaussian_row_info_nce(*collapsed(), negatives).mean(), True),
            Contender("plain torch on scalars", lambda: drawn("reference"), random=True),
            Contender("released form", released, needs_bytes=held, random=True),
            Contender("released form, torch.compile", compiled(released), needs_bytes=held, random=True),
        ],
    )


def head_case(device: torch.device, batch: int, length: int, width: int) -> Case:
    """InfoPrompt's head loss: the mean prompt vector against the input's own tokens."""
    torch.manual_seed(0)
    embeddings_BLD = torch.randn(batch, length, width, device=device) / width**0.5
    keep_BL = torch.arange(length, device=device) < torch.randint(length // 2, length + 1, (batch, 1), device=device)
    prompt_BD = (torch.randn(batch, width, device=device) / width**0.5).requires_grad_()
    direction_D = torch.randn(width, device=device).requires_grad_()

    def released() -> Tensor:
        candidates_BLD = torch.cat([prompt_BD[:, None], embeddings_BLD], 1)
        scores_BL = (candidates_BLD * direction_D).sum(2)
        hidden_BL = F.pad(~keep_BL, (1, 0))
        return -scores_BL.masked_fill(hidden_BL, -100.0).log_softmax(1)[:, 0].mean()

    def ours() -> Tensor:
        return embedded_row_info_nce(prompt_BD @ direction_D, embeddings_BLD, keep_BL, direction_D).mean()

    return Case(
        "head loss",
        {"B": batch, "L": length, "d": width},
        [prompt_BD, direction_D],
        [
            Contender("ours", ours, True),
            Contender("released form", released),
            Contender("released form, torch.compile", compiled(released)),
        ],
    )


def pair_case(device: torch.device, dtype: torch.dtype, rows: int, width: int) -> Case:
    """InfoNCE of all pairs of a batch, each row against all keys; unit vectors at temperature 0.07."""
    torch.manual_seed(0)
    query_ND, key_ND = (
        F.normalize(torch.randn(rows, width, device=device), dim=1).to(dtype).requires_grad_() for _ in range(2)
    )
    scale = 1 / 0.07
    target_N, bias_N = torch.arange(rows, device=device), torch.zeros(rows, device=device)

    def plain() -> Tensor:
        return F.cross_entropy((scale * query_ND @ key_ND.T).float(), target_N)

    def ours() -> Tensor:
        stats = pair_stats(scale * query_ND, key_ND, bias_N)
        return F.softplus(stats.row_lse_N - stats.positive_N).mean()

    def inf_cl() -> Contender | Missing:
        package = _on_gpu("Inf-CL", "inf_cl", device)
        if isinstance(package, Missing):
            return package
        return Contender("Inf-CL", lambda: package.cal_flash_loss(query_ND, key_ND, scale=scale).mean())

    held = 2 * FLOAT_BYTES * rows * rows
    return Case(
        "pairs",
        {"N": rows, "M": rows, "d": width},
        [query_ND, key_ND],
        [
            Contender("ours", ours, True),
            Contender("plain torch", plain, needs_bytes=held),
            Contender("torch.compile", compiled(plain), needs_bytes=held),
            inf_cl(),
        ],
    )


def frozen_head_case(device: torch.device, dtype: torch.dtype, rows: int, vocabulary: int, width: int) -> Case:
    """Cross-entropy of a frozen language-model head; the gradient goes to the hidden states alone."""
    torch.manual_seed(0)
    hidden_ND = torch.randn(rows, width, device=device).to(dtype).requires_grad_()
    weight_VD = (torch.randn(vocabulary, width, device=device) * 2 / width**0.5).to(dtype)
    target_N = torch.randint(vocabulary, (rows,), device=device)

    def plain() -> Tensor:
        return F.cross_entropy(F.linear(hidden_ND, weight_VD).float(), target_N)

    def others() -> Iterator[Contender | Missing]:
        if hasattr(torch.nn, "LinearCrossEntropyOptions"):
            chunked = torch.nn.LinearCrossEntropyOptions()
            yield Contender(
                "F.linear_cross_entropy, chunked",
                lambda: F.linear_cross_entropy(hidden_ND, weight_VD, target_N, options=chunked),
            )
        else:
            yield Missing("F.linear_cross_entropy, chunked", f"not in torch {torch.__version__}")
        liger = _on_gpu("Liger-Kernel", "liger_kernel.transformers", device)
        if not isinstance(liger, Missing):
            loss = liger.LigerFusedLinearCrossEntropyLoss()
            yield Contender("Liger-Kernel", lambda: loss(weight_VD, hidden_ND, target_N))
        else:
            yield liger
        quack = _on_gpu("QuACK", "quack.linear_cross_entropy", device)
        if not isinstance(quack, Missing):
            yield Contender("QuACK", lambda: quack.chunked_linear_cross_entropy(hidden_ND, weight_VD, target_N))
        else:
            yield quack
        cce = _on_gpu("CCE", "cut_cross_entropy", device)
        if not isinstance(cce, Missing):
            yield Contender("CCE", lambda: cce.linear_cross_entropy(hidden_ND, weight_VD, target_N, impl="cce"))
        else:
            yield cce

    held = 2 * FLOAT_BYTES * rows * vocabulary
    return Case(
        "frozen head",
        {"N": rows, "V": vocabulary, "d": width},
        [hidden_ND],
        [
            Contender("ours", lambda: frozen_linear_cross_entropy(hidden_ND, weight_VD, target_N).mean(), True),
            Contender("plain torch", plain, needs_bytes=held),
            Contender("torch.compile", compiled(plain), needs_bytes=held),
            *others(),
        ],
    )


def step_case(device: torch.device, batch: int = 8, length: int = 128, negatives: int = 32) -> Case:
    """Both information losses beside a forward and backward of RoBERTa-large's body, with random weights."""
    from transformers import RobertaConfig, RobertaModel

    torch.manual_seed(0)
    config = RobertaConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, vocab_size=50265
    )
    with torch.device(device):
        body = RobertaModel(config, add_pooling_layer=False).to(torch.bfloat16).eval().requires_grad_(False)
        inputs_BLD = torch.randn(batch, length, 1024, dtype=torch.bfloat16, requires_grad=True)
    head = head_case(device, batch, length, 1024)
    representation = representation_case(device, batch, negatives, 1024)
    ours = [next(one for one in case.contenders if isinstance(one, Contender)) for case in (head, representation)]
    return Case(
        "information losses in a step",
        {"B": batch, "L": length, "K": negatives},
        [inputs_BLD, *head.leaves, *representation.leaves],
        [
            Contender("both losses", lambda: ours[0].loss() + ours[1].loss(), True, random=True),
            Contender(
                "RoBERTa-large, random weights",
                lambda: body(inputs_embeds=inputs_BLD).last_hidden_state.float().square().mean(),
                random=True,
            ),
        ],
    )


def cases(size: str, device: torch.device) -> Iterator[Case]:
    """The cases of a size, built one by one.

    Args:
        size: `tiny` for tests, `cpu` or `gpu`.
        device: where they run.
    """
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    for batch, negatives in {"tiny": [(4, 8)]}.get(size, [(8, 32), (256, 1024), (1024, 4096)]):
        yield representation_case(device, batch, negatives, 64 if size == "tiny" else 1024)
    for batch in {"tiny": [4]}.get(size, [8, 256, 1024]):
        yield head_case(device, batch, *((16, 32) if size == "tiny" else (128, 1024)))
    pairs = {"tiny": [(16, 8)], "cpu": [(1024, 256), (8192, 256)], "gpu": [(8192, 256), (32768, 1024)]}
    for rows, width in pairs[size]:
        yield pair_case(device, dtype, rows, width)
    heads = {
        "tiny": [(8, 100, 16)],
        "cpu": [(64, 50265, 1024), (1024, 32768, 512)],
        "gpu": [(16, 50265, 1024), (64, 50265, 1024), (1024, 32768, 512), (8192, 131072, 4096)],
    }
    for rows, vocabulary, width in heads[size]:
        yield frozen_head_case(device, dtype, rows, vocabulary, width)
    if size == "gpu":
        yield step_case(device)


def floor_seconds(case: Case, ceilings: Ceilings) -> float | None:
    """Least time of a pair, frozen-head or head-loss case on a GPU, from products and bytes; None for the others.

    Pairs take four products of the size N M d (the scores twice) in bfloat16, a frozen head two; it reads its weights
    once. A head loss reads the vectors of its tokens once, in float32.
    """
    if case.op == "pairs":
        return 4 * 2 * math.prod(case.sizes.values()) / ceilings.flops
    if case.op == "frozen head":
        weights = 2 * case.sizes["V"] * case.sizes["d"]
        return max(2 * 2 * math.prod(case.sizes.values()) / ceilings.flops, weights / ceilings.bytes_per_second)
    if case.op == "head loss":
        return FLOAT_BYTES * math.prod(case.sizes.values()) / ceilings.bytes_per_second
    return None


def compiled(loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same, by torch.compile, which is loaded and compiles at the first call."""
    made: list[Callable[[], Tensor]] = []

    def run() -> Tensor:
        if not made:
            made.append(torch.compile(loss))
        return made[0]()

    return run


def _on_gpu(name: str, module: str, device: torch.device):  # type: ignore[no-untyped-def]
    """A package whose kernels run on a GPU alone, or why it cannot run."""
    if device.type != "cuda":
        return Missing(name, "runs on a GPU only")
    try:
        return importlib.import_module(module)
    except Exception as error:  # a package may fail in any way on a driver that it does not know
        return Missing(name, f"{type(error).__name__}: {error}".splitlines()[0])
