"""Which transformers class shall hold an exported prompt, so that PEFT's model gives our scores, and how to read them.

A linear head commutes with pooling: the pooled score is the pooled scores of the tokens. So a class for token
classification, which puts one linear layer on every state, gives our scores whatever is pooled. The classes for
sequence classification do not, but for the decoders'. BERT's pools position 0, where PEFT has put the first prompt
vector, and has a layer more before the classes. RoBERTa's and ELECTRA's have two layers; T5's reads its decoder.

    decoder, `last` pooled, linear head      SEQ_CLS             score         the class pools
    encoder or decoder, linear head          TOKEN_CLS           classifier    the reader pools
    no such class, or two states pooled      FEATURE_EXTRACTION  head.safetensors beside the prompt
    label_words or text                      CAUSAL_LM, SEQ_2_SEQ_LM; encoders FEATURE_EXTRACTION of the masked LM
"""

from dataclasses import dataclass

from infoprompt.config import ConfigError, RunConfig
from infoprompt.data.tasks import Task
from infoprompt.model.backbone.load import FAMILIES, Backbone
from infoprompt.model.heads.kind import head_kind
from infoprompt.settings.prompt import InputPromptSettings

# Families whose token classification is dropout and one linear layer, and that layer's name.
_TOKEN_HEAD = {
    **dict.fromkeys(
        "bert roberta xlm-roberta camembert electra albert deberta-v2 gpt2 t5".split(),
        "classifier",
    ),
    **dict.fromkeys("llama qwen2 qwen3 mistral gemma gemma2".split(), "score"),
}
# PEFT hands a prefix over as a cache; these take one and attend to it.
_PREFIX = tuple(
    "bert roberta xlm-roberta camembert electra gpt2 llama qwen2 qwen3 mistral gemma gemma2 gemma3_text".split()
)


@dataclass(frozen=True)
class Host:
    """A transformers model to load a prompt into."""

    task_type: str
    """PEFT's name of what it is for."""
    auto_class: str
    """In transformers."""
    head: str | None = None
    """Name of its linear layer for the classes, if it has one."""
    encoder_only: bool = False
    """Whether only its encoder is taken."""

    @property
    def pools(self) -> bool:
        """Whether the class itself makes one row of scores per example."""
        return self.task_type == "SEQ_CLS"


def choose_host(config: RunConfig, task: Task, model_type: str) -> Host:
    """The class that gives our scores, see the table above."""
    family = FAMILIES[model_type]
    if head_kind(config.head.kind).lm_head:
        return {
            "encoder": Host("FEATURE_EXTRACTION", "AutoModelForMaskedLM"),
            "decoder": Host("CAUSAL_LM", "AutoModelForCausalLM"),
            "encoder-decoder": Host("SEQ_2_SEQ_LM", "AutoModelForSeq2SeqLM"),
        }[family.kind]
    if family.kind == "decoder" and config.head.pooling == "last" and task.kind != "tags":
        return Host("SEQ_CLS", "AutoModelForSequenceClassification", "score")
    if model_type in _TOKEN_HEAD and config.head.pooling != "entities":
        return Host("TOKEN_CLS", "AutoModelForTokenClassification", _TOKEN_HEAD[model_type])
    return Host("FEATURE_EXTRACTION", "AutoModel", encoder_only=family.kind == "encoder-decoder")


def check_prefix(model_type: str) -> None:
    """Raise ConfigError where PEFT cannot place a prefix."""
    if model_type not in _PREFIX:
        raise ConfigError(
            f"prompt.kind is prefix, but PEFT hands a prefix over as a cache, which models of the family {model_type} "
            f"do not take or do not attend to. It can for {', '.join(_PREFIX)}; input vectors (prompt.kind=static, "
            "prompt.template=before) it can for all."
        )


def differences(config: RunConfig, task: Task, backbone: Backbone, host: Host) -> list[str]:
    """Why PEFT's scores would differ from ours; empty if they are equal to rounding."""
    family, window = backbone.family, getattr(backbone.config, "sliding_window", None)
    found = []
    if isinstance(config.prompt, InputPromptSettings) and config.prompt.template == "front":
        found.append(
            "PEFT puts the vectors before the first token and counts them as positions; this prompt was trained behind "
            "the first token (`prompt.template: front`), with the text's positions unmoved. Use the folder as a start, "
            "or train with `prompt.template: before`."
        )
    if config.prompt.kind == "prefix" and family.window != "none" and window is not None:
        found.append(
            "Here a prefix is seen from everywhere; with PEFT it is out of sight where prefix and text are longer than "
            f"the {window} positions that some layers see, and longer texts score differently."
        )
    if (
        host.task_type == "FEATURE_EXTRACTION"
        and family.segments
        and task.kind in ("pair", "relation", "choice", "answer")
    ):
        found.append("PEFT drops `token_type_ids` for this class, so the second text's segment is lost on BERT models.")
    return found
