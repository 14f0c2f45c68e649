"""A run's model without its weights: tensors that have a shape, a number format and a device, and no values."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig
from transformers.initialization import no_init_weights

from infoprompt.config import BackboneSettings, ConfigError, RunConfig
from infoprompt.data.task import Task
from infoprompt.embedded import backbone_source
from infoprompt.model.backbone.backbone import Backbone
from infoprompt.model.backbone.load import WITH_HEAD, attention_form, check_config
from infoprompt.model.backbone.lora import with_lora
from infoprompt.model.build import backbone_needs, build_member
from infoprompt.model.heads.kind import head_kind
from infoprompt.model.member import Member
from infoprompt.model.prompts.start import Vocabulary

log = logging.getLogger(__name__)

SHAPES = Path(__file__).parent / "shapes"
"""`config.json` of the models of configs/backbones, by hub name: only what tells their shape."""


def read_model_config(config: RunConfig) -> PretrainedConfig:
    """The `config.json` of the backbone; of the large models its published shape where no copy is on this machine.

    Raises:
        ConfigError: there is neither, or its family cannot do the run.
    """
    settings = config.backbone
    published = _published(settings.name)
    try:
        found = AutoConfig.from_pretrained(
            backbone_source(settings.name),
            revision=settings.revision,
            trust_remote_code=False,
            local_files_only=published.is_file(),
        )
    except (OSError, ValueError) as error:
        if published.is_file():
            log.warning("%s: its config.json is not on this machine; its published shape is taken.", settings.name)
            return AutoConfig.for_model(**json.loads(published.read_text(encoding="utf-8")))
        raise ConfigError(
            f"backbone.name is {settings.name!r}, whose config.json cannot be read: {str(error).splitlines()[0]:.200} "
            "Give a folder that has one, a hub name that can be reached, or minilm."
        ) from error
    check_config(settings.name, found, backbone_needs(config))
    return found


def _published(name: str) -> Path:
    """Where the shape of a large model is. Asking an unreachable hub for it would take half a minute."""
    return SHAPES / f"{name.replace('/', '--')}.json"


def weightless_backbone(config: RunConfig, found: PretrainedConfig, *, on_cpu: bool) -> Backbone:
    """The backbone of a run as `load_backbone` gives it, but without values; its passes tell shapes alone.

    Args:
        config: every setting.
        found: of `read_model_config`.
        on_cpu: whether the run is; on a GPU padding stays.
    """
    settings, lm_head = config.backbone, head_kind(config.head.kind).lm_head
    family = check_config(settings.name, found, frozenset())
    auto = WITH_HEAD[family.kind] if lm_head else AutoModel
    with FakeTensorMode(allow_non_fake_inputs=True), no_init_weights():
        model: Any = auto.from_config(
            found,
            dtype=settings.dtype,
            attn_implementation=attention_form(settings, found, family, "cpu" if on_cpu else "cuda"),
            **({"add_pooling_layer": False} if family.pooler and not lm_head else {}),
        )
        if lm_head:
            model.tie_weights()  # which making the values would have done
        elif family.kind == "encoder-decoder":
            model = model.get_encoder()
    backbone = Backbone(
        model,
        _tokenizer(settings),
        settings.name,
        frozen=settings.frozen,
        lm_head=lm_head,
        gradient_checkpointing=settings.gradient_checkpointing,
        unpadded=settings.unpadded and on_cpu,
        skip_unread=settings.skip_unread,
    )
    return with_lora(backbone, settings)


def weightless_member(config: RunConfig, backbone: Backbone, task: Task) -> Member:
    """What the run trains, with as many parameters as it has; starting values are not those of a run.

    Tables and prompts of other folders are not read: their shapes are those of the settings.
    """
    left_out = {name: None for name in ("table", "start_from") if getattr(config.prompt, name, None) is not None}
    config = config.model_copy(update={"prompt": config.prompt.model_copy(update=left_out)})
    member = build_member(config, backbone, task, _Shapes(backbone, backbone.tokenizer, task.label_texts))
    if member.label_information is not None and member.label_information.target_C is None:
        member.label_information.estimate_target(torch.ones(task.num_classes) / task.num_classes)
    if member.start_anchor is not None:
        member.start_anchor.start(member.head.class_vectors(), num_rows=1)
    return member


def parameters(module: nn.Module | None, *, trained: bool | None = None) -> int:
    """Parameters of a module, each once; all, or those that are trained or are not."""
    found = () if module is None else module.parameters()
    return sum(item.numel() for item in found if trained is None or item.requires_grad == trained)


@dataclass(frozen=True)
class _Shapes(Vocabulary):
    """Word embeddings without values, so nothing can be computed of them that a number in Python needs."""

    @property
    def scale(self) -> float:
        return 1.0


def _tokenizer(settings: BackboneSettings) -> Any:
    try:
        found = AutoTokenizer.from_pretrained(
            backbone_source(settings.name),
            revision=settings.revision,
            trust_remote_code=False,
            local_files_only=_published(settings.name).is_file(),
        )
    except Exception:  # whatever tokenizers make of files that are absent or damaged
        return Words()
    if found.pad_token is None:
        found.pad_token = found.eos_token
    return found


@dataclass
class Words:
    """Stands in for a tokenizer that cannot be read: a token for each word."""

    pad_token_id: int = 0
    eos_token_id: int = 0
    mask_token_id: int = 0
    _ids: dict[str, int] = field(default_factory=dict)

    def __call__(self, texts: str | Sequence[str], add_special_tokens: bool = True) -> dict[str, Any]:
        """Token ids of a text, or of each of several."""
        ids = [[self._id(word) for word in text.split()] for text in ([texts] if isinstance(texts, str) else texts)]
        return {"input_ids": ids[0] if isinstance(texts, str) else ids}

    def get_vocab(self) -> dict[str, int]:
        """As many words as a prompt can start from."""
        return {f"▁word{'abcdefghij'[number % 10] * (number // 10 + 1)}": number for number in range(1000)}

    def _id(self, word: str) -> int:
        return self._ids.setdefault(word, len(self._ids) % 1000)
