"""PEFT's prompt tuning and prefix tuning, with a linear head on the mean state of the real tokens.

Shapes: B examples, L positions, D hidden width, C classes.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import peft
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from launcher.bench.contender import Contender
from launcher.bench.ours import Wanted
from launcher.bench.plain_loop import PaddedBatch, PlainRows, padded_batch, plain_backbone, plain_update

CONFIGS: dict[str, Any] = {"prompt tuning": peft.PromptTuningConfig, "prefix tuning": peft.PrefixTuningConfig}


class PeftClassifier(nn.Module):
    """PEFT's model of a backbone, and a linear head."""

    def __init__(self, method: str, wanted: Wanted, num_classes: int, device: torch.device) -> None:
        super().__init__()
        config = CONFIGS[method](task_type="FEATURE_EXTRACTION", num_virtual_tokens=wanted.prompt_length)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an earlier name
            self.model = peft.get_peft_model(plain_backbone(wanted, device), config).to(device)
        width: int = self.model.get_base_model().config.hidden_size
        self.head = nn.Linear(width, num_classes).to(device)

    def loss(self, batch: PaddedBatch) -> Tensor:
        """Cross-entropy, the mean over the examples."""
        states_BLD = self.model(input_ids=batch.ids_BL, attention_mask=batch.mask_BL).last_hidden_state
        # with prompt tuning there is a state at each vector, too
        states_BLD = states_BLD[:, -batch.ids_BL.shape[1] :].float()
        real_BL1 = batch.mask_BL.unsqueeze(2)
        pooled_BD = (states_BLD * real_BL1).sum(1) / real_BL1.sum(1)
        return F.cross_entropy(self.head(pooled_BD), batch.label_B)

    def trained(self) -> list[nn.Parameter]:
        """Prompt and head."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def contender(method: str, rows: PlainRows, pad_id: int, num_classes: int, wanted: Wanted) -> Contender:
    """PEFT's, with rows in random order or grouped."""
    device = torch.device(wanted.device)
    classifier = PeftClassifier(method, wanted, num_classes, device)
    in_front = wanted.prompt_length if method == "prompt tuning" else 0

    def batches(number: int) -> Iterator[tuple[PaddedBatch]]:
        for chosen in rows.of_round(number):
            yield (padded_batch(rows, chosen, pad_id),)

    def positions(parts: tuple[PaddedBatch]) -> int:
        ids_BL = parts[0].ids_BL
        return ids_BL.numel() + len(ids_BL) * in_front

    name = "PEFT, grouped by length" if rows.grouped else "PEFT"
    update = plain_update(classifier.loss, classifier.trained(), device)
    return Contender(f"{name}: {method}", method, batches, update, positions)
