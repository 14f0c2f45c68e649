"""The model families that prompts can be placed in, and what differs between them.

Shapes: B examples, D hidden width, V vocabulary.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from infoprompt.config import ConfigError
from infoprompt.model.backbone.last_layer import LastLayer, NormFirst, NormLast

LanguageHead = tuple[Callable[[Tensor], Tensor], Any, Tensor | None]
"""What is done to a state before it meets the vocabulary, the module with the matrix [V, D'], and the bias [V]."""

NEEDS = {
    "prefix": ("prompt.kind", "a prompt of keys and values"),
    "layers": ("prompt.kind", "a prompt that enters between the layers"),
    "label_words": ("head.kind", "the scores of label words"),
    "label_texts": ("head.kind", "the probability of label texts"),
    "choice_texts": ("head.kind", "the probability of choices"),
}
"""What a run may ask of a family beside input vectors: the setting that asks for it, and it in words."""

ONE_TOKEN_AT_A_TIME = "an encoder predicts single masked tokens, not texts; head.kind=label_words can use it"
NO_NEXT_TOKEN = "an encoder predicts single masked tokens, not texts; head.kind=linear can use it"
IN_THE_ENCODER = "a choice stands in its encoder, which predicts no words; head.kind=linear can use it"
AFTER_THE_DECODER = "the model predicts words after its decoder only; head.kind=text can use it"


@dataclass(frozen=True)
class Family:
    """What differs between families of models; the key in `FAMILIES` is the `model_type` of `config.json`."""

    kind: Literal["encoder", "decoder", "encoder-decoder"]
    layers: str
    """Where its list of layers is, from the body of the model."""
    head: Callable[[nn.Module], LanguageHead] | None
    """Its language-model head for single words; None where words are not scored alone."""
    summary: Literal["first", "last", "mean"] = "first"
    """Which real token's state stands for a text."""
    positions: Literal["given", "learned_by_index", "bias_by_index", "distances"] = "given"
    """How the model learns of positions: as an argument; from a table that it reads by index; from a bias, or from
    embedded distances, that it computes of indices. All but the first are told ours by `hooks`."""
    after_padding: bool = False
    """Whether position ids count from padding id + 1, as RoBERTa's do."""
    segments: bool = False
    """Whether it reads token types."""
    pooler: bool = False
    """Whether the body brings a pooler unless told not to."""
    window: Literal["none", "all", "some"] = "none"
    """Layers in which attention may be limited to a window."""
    last_layer: LastLayer | None = None
    """How its last layer is made only where it is read; None where it cannot be."""
    cannot: Mapping[str, str] = field(default_factory=dict)
    """What prompts of it are refused, and why."""
    note: str = ""
    """What one should know of its positions."""

    @property
    def packs(self) -> bool:
        """Whether it can be passed without padding."""
        return self.positions == "given"


def _bert_head(model: Any) -> LanguageHead:
    head = model.cls.predictions
    return head.transform, head.decoder, head.decoder.bias


def _roberta_head(model: Any) -> LanguageHead:
    head = model.lm_head
    return lambda state: head.layer_norm(F.gelu(head.dense(state))), head.decoder, head.decoder.bias


def _electra_head(model: Any) -> LanguageHead:
    output = model.generator_lm_head
    return model.generator_predictions, output, output.bias


def _albert_head(model: Any) -> LanguageHead:
    head = model.predictions
    return lambda state: head.LayerNorm(head.activation(head.dense(state))), head.decoder, head.decoder.bias


def _deberta_head(model: Any) -> LanguageHead:
    if model.legacy:
        return _bert_head(model)
    head = model.lm_predictions.lm_head
    table = model.deberta.embeddings.word_embeddings
    return lambda state: head.LayerNorm(head.transform_act_fn(head.dense(state))), table, head.bias


def _modernbert_head(model: Any) -> LanguageHead:
    return model.head, model.decoder, model.decoder.bias


def _decoder_head(model: Any) -> LanguageHead:
    return lambda state: state, model.lm_head, model.lm_head.bias


_NORM_FIRST, _NORM_LAST = NormFirst("input_layernorm", "self_attn"), NormLast("attention.output")


def _encoder(layers: str, head: Callable[[nn.Module], LanguageHead], **differences: Any) -> Family:
    cannot = {"label_texts": ONE_TOKEN_AT_A_TIME, "choice_texts": NO_NEXT_TOKEN, **differences.pop("cannot", {})}
    return Family("encoder", layers, head, cannot=cannot, **differences)


def _decoder(layers: str = "layers", last_layer: LastLayer | None = _NORM_FIRST, **differences: Any) -> Family:
    return Family("decoder", layers, _decoder_head, summary="last", last_layer=last_layer, **differences)


def _encoder_decoder(layers: str, **differences: Any) -> Family:
    cannot = {"label_words": AFTER_THE_DECODER, "choice_texts": IN_THE_ENCODER}
    return Family("encoder-decoder", layers, None, "mean", cannot=cannot, **differences)


_ROTARY = "A slot is rotated like its left neighbour."
_ROBERTA = _encoder(
    "encoder.layer", _roberta_head, after_padding=True, segments=True, pooler=True, last_layer=_NORM_LAST
)

FAMILIES: dict[str, Family] = {
    "bert": _encoder("encoder.layer", _bert_head, segments=True, pooler=True, last_layer=_NORM_LAST),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": _encoder("encoder.layer", _electra_head, segments=True, last_layer=_NORM_LAST),
    "albert": _encoder(
        "encoder.albert_layer_groups",
        _albert_head,
        segments=True,
        pooler=True,
        last_layer=NormLast("attention.LayerNorm"),
    ),
    "deberta-v2": _encoder(
        "encoder.layer",
        _deberta_head,
        segments=True,
        positions="distances",
        note="A slot is at distance 0 from its left neighbour. A convolution over the tokens (`conv_kernel_size`, in "
        "the largest models of version 2) mixes neighbours, slots among them; with one, layer prompts are refused.",
    ),
    "modernbert": _encoder(
        "layers", _modernbert_head, window="some", last_layer=NormFirst("attn_norm", "attn"), note=_ROTARY
    ),
    "gpt2": _decoder("h", None),  # the model brings its outcome to the shape of its input
    "llama": _decoder(note=_ROTARY),
    "qwen2": _decoder(window="some", note=_ROTARY),
    "qwen3": _decoder(window="some", note=_ROTARY),
    "mistral": _decoder(window="all", note=_ROTARY),
    "gemma": _decoder(note=_ROTARY),
    "gemma2": _decoder(window="some", note=_ROTARY),
    "gemma3_text": _decoder(window="some", note=_ROTARY),
    "t5": _encoder_decoder(
        "block",
        positions="bias_by_index",
        note="A slot is at distance 0 from its left neighbour. The prompt is the encoder's.",
    ),
    "bart": _encoder_decoder("layers", positions="learned_by_index", note="The prompt is the encoder's."),
}


def check_family(name: str, model_type: str, needs: frozenset[str] = frozenset()) -> Family:
    """The family of a model; needs nothing but its `config.json`.

    Args:
        name: `backbone.name`, for the error.
        model_type: as `config.json` says.
        needs: what the run asks of it, keys of `NEEDS`.
    Raises:
        ConfigError: the family is not in the table, or cannot do what is needed.
    """
    if model_type not in FAMILIES:
        raise ConfigError(
            f"backbone.name is {name!r}, a model of the family {model_type!r}, but prompts can be placed in these "
            f"families so far: {', '.join(FAMILIES)}. Choose a model of one of them."
        )
    family = FAMILIES[model_type]
    for need in sorted(needs):
        if need in family.cannot:
            setting, words = NEEDS[need]
            able = [other for other, row in FAMILIES.items() if need not in row.cannot]
            raise ConfigError(
                f"{setting} needs {words}, which backbone.name {name!r}, of the family {model_type}, cannot offer: "
                f"{family.cannot[need]}. Use another {setting}, or a model of one of {', '.join(able)}."
            )
    return family


def capability_table() -> str:
    """The families and what each can do, in Markdown; `configs/BACKBONES.md` is this text."""
    columns = ["input prompts", "K/V prefix", "layer prompts", "gradient checkpointing", "label words", "label texts"]
    columns += ["choices", "without padding"]
    keys = ["prefix", "layers", None, "label_words", "label_texts", "choice_texts"]
    notes: dict[str, int] = {}
    rows = []
    for name, family in FAMILIES.items():
        positions = _footnote(family.note, notes) if family.note else ""
        rows.append(
            [
                f"`{name}`",
                family.kind,
                family.summary,
                f"yes{positions}",
                *[_cell(family, key, notes) for key in keys],
                _unpadded(family, notes),
            ]
        )
    lines = [
        "# Backbones",
        "",
        "What can be done with each family of models, by the `model_type` in its `config.json`. A yes is a test that "
        "passes (`tests/infoprompt/model/test_families.py`), a no a refusal by name before any weight is loaded. "
        "*Summary* is the real token whose state stands for a text.",
        "",
        _row(["family", "kind", "summary", *columns]),
        _row(["---"] * (3 + len(columns))),
        *[_row(row) for row in rows],
        "",
        *[f"{number}. {_sentence(text)}" for text, number in notes.items()],
        "",
        "Real tokens keep the positions that they have without a prompt, and a slot has its left neighbour's. Keys "
        "and values of a prefix have no position, and are seen from "
        "everywhere. Windows of attention are counted in positions, so slots do not narrow them.",
    ]
    return "\n".join(lines) + "\n"


def _cell(family: Family, key: str | None, notes: dict[str, int]) -> str:
    if key is None or key not in family.cannot:
        return "yes"
    return "no" + _footnote(family.cannot[key], notes)


def _unpadded(family: Family, notes: dict[str, int]) -> str:
    if family.packs:
        return "yes" if family.last_layer else "yes" + _footnote("its last layer is made at every position", notes)
    return "no" + _footnote("its layers compute positions of a padded batch", notes)


def _footnote(text: str, notes: dict[str, int]) -> str:
    return f"<sup>{notes.setdefault(text, len(notes) + 1)}</sup>"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."
