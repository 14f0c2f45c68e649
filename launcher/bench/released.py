"""The step of InfoPrompt's released code, written plainly from what it computes.

Each step passes over the plain text and then over the prompted one, both padded. The representation loss maps every
drawn negative back to the width of the embeddings. Two departures, without which it does not run: each example has its
own prompt, and the generator makes as many vectors as there are slots.
Source: github.com/JoshuaWu1997/infoprompt at cc56fba, of arXiv:2306.04933.

Shapes: B examples, L positions, P prompt vectors, E width of embeddings and states, C classes, Z latent width,
K negatives.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from launcher.bench.contender import Contender
from launcher.bench.ours import Wanted
from launcher.bench.plain_loop import PaddedBatch, PlainRows, padded_batch, plain_backbone, plain_update

BOTTLENECK, LATENT = 32, 32
CLAMP = -2.0
HEAD_WEIGHT, REPRESENTATION_WEIGHT, KL_WEIGHT = 0.1, 0.2, 0.1


@dataclass(frozen=True)
class Terms:
    """The parts of the loss, each the mean over the examples."""

    task: Tensor
    head: Tensor
    representation: Tensor
    kl: Tensor

    @property
    def total(self) -> Tensor:
        """What is trained."""
        information = HEAD_WEIGHT * self.head + REPRESENTATION_WEIGHT * self.representation + KL_WEIGHT * self.kl
        return self.task + information


class ReleasedInfoPrompt(nn.Module):
    """Generator, Gaussian layer, the map back from latents, the critic's projection, and class vectors."""

    def __init__(self, wanted: Wanted, num_classes: int, device: torch.device) -> None:
        super().__init__()
        self.backbone = plain_backbone(wanted, device)
        width: int = self.backbone.config.hidden_size
        self.shape_PE = (wanted.prompt_length, width)
        self.generator = nn.Sequential(
            nn.Linear(width, BOTTLENECK), nn.GELU(), nn.Linear(BOTTLENECK, wanted.prompt_length * width)
        )
        self.mean, self.log_std = nn.Linear(width, LATENT), nn.Linear(width, LATENT)
        self.out = nn.Linear(LATENT, width)
        self.project = nn.Linear(width, width)
        table_VE = self.backbone.get_input_embeddings().weight
        self.class_CE = nn.Parameter(table_VE[torch.arange(num_classes) + len(table_VE) // 2].float().clone())
        self.to(device)

    def loss(self, batch: PaddedBatch, plain: PaddedBatch) -> Terms:
        """All terms.

        Args:
            batch: rows with prompt slots and a mask token.
            plain: the same rows without slots.
        """
        embed = self.backbone.get_input_embeddings()
        with torch.no_grad():
            plain_BLE = embed(plain.ids_BL)
            states_BLE = self.backbone(inputs_embeds=plain_BLE, attention_mask=plain.mask_BL).last_hidden_state.float()
        unprompted_BE = _at(states_BLE, plain.mask_index_B)
        prompt_BPE = self.generator(states_BLE[:, 0]).unflatten(1, self.shape_PE)
        inputs_BLE = embed(batch.ids_BL).clone()
        slots = batch.slot_BL >= 0
        inputs_BLE[slots] = prompt_BPE.flatten(0, 1).to(inputs_BLE.dtype)
        states_BLE = self.backbone(inputs_embeds=inputs_BLE, attention_mask=batch.mask_BL).last_hidden_state.float()
        prompted, unprompted = self.latent(_at(states_BLE, batch.mask_index_B)), self.latent(unprompted_BE)
        drawn_BZ = draw(prompted, 1)[:, 0]
        return Terms(
            F.cross_entropy(self.out(drawn_BZ) @ self.class_CE.T, batch.label_B),
            head_loss(prompt_BPE, self.class_CE, plain_BLE.float(), plain.mask_BL),
            self.representation_loss(prompt_BPE, drawn_BZ, draw(unprompted, 4 * len(batch.ids_BL))),
            kl(*prompted) + kl(*unprompted),
        )

    def latent(self, state_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, each [B, Z]."""
        return self.mean(state_BE), self.log_std(state_BE).clamp(-2, 10)

    def representation_loss(self, prompt_BPE: Tensor, positive_BZ: Tensor, negative_BKZ: Tensor) -> Tensor:
        """InfoNCE of the prompted latent against draws of the unprompted one, by the prompt, which is detached."""
        context_BE = self.project(prompt_BPE.detach()).mean(1) / prompt_BPE.shape[2] ** 0.5
        candidates_BKE = self.out(torch.cat([positive_BZ.unsqueeze(1), negative_BKZ], 1))
        return clamped((candidates_BKE * context_BE.unsqueeze(1)).sum(2))


def head_loss(prompt_BPE: Tensor, class_CE: Tensor, tokens_BLE: Tensor, mask_BL: Tensor) -> Tensor:
    """InfoNCE of the mean prompt vector against the input's own tokens, by the mean class vector."""
    direction_E = class_CE.mean(0) / class_CE.shape[1] ** 0.5
    scores_BL = tokens_BLE @ direction_E - 100.0 * (mask_BL == 0)
    return clamped(torch.cat([(prompt_BPE.mean(1) @ direction_E).unsqueeze(1), scores_BL], 1))


def clamped(scores_BK: Tensor) -> Tensor:
    """Mean loss of the first score against the others, at most 2 for each example."""
    return -scores_BK.log_softmax(1)[:, 0].clamp(min=CLAMP).mean()


def kl(mean_BZ: Tensor, log_std_BZ: Tensor) -> Tensor:
    """KL divergence to N(0, 1), the mean over dimensions and examples."""
    return ((mean_BZ.square() + (2 * log_std_BZ).exp() - 1) / 2 - log_std_BZ).mean()


def draw(latent: tuple[Tensor, Tensor], count: int) -> Tensor:
    """Draws of each row's latent, [B, count, Z]."""
    mean_BZ, log_std_BZ = latent
    noise_BKZ = torch.randn(len(mean_BZ), count, mean_BZ.shape[1], device=mean_BZ.device)
    return mean_BZ.unsqueeze(1) + log_std_BZ.exp().unsqueeze(1) * noise_BKZ


def _at(states_BLE: Tensor, index_B: Tensor) -> Tensor:
    return states_BLE[torch.arange(len(index_B), device=index_B.device), index_B]


def contender(rows: PlainRows, plain_rows: PlainRows, pad_id: int, num_classes: int, wanted: Wanted) -> Contender:
    """The released form; `rows` hold slots and a mask token (see `ours.METHODS`), `plain_rows` no slots."""
    device = torch.device(wanted.device)
    model = ReleasedInfoPrompt(wanted, num_classes, device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    update = plain_update(lambda batch, plain: model.loss(batch, plain).total, trained, device)

    def batches(number: int) -> Iterator[tuple[PaddedBatch, PaddedBatch]]:
        for chosen in rows.of_round(number):
            yield padded_batch(rows, chosen, pad_id), padded_batch(plain_rows, chosen, pad_id)

    def positions(parts: tuple[PaddedBatch, PaddedBatch]) -> int:
        return sum(part.ids_BL.numel() for part in parts)

    return Contender("released form: InfoPrompt", "InfoPrompt", batches, update, positions)
