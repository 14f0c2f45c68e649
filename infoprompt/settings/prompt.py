"""The settings of a prompt: those of every kind, and a model for each kind with its own."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from infoprompt.settings.base import NonNegativeInt, PositiveInt, Settings, files_of
from infoprompt.settings.kinds import OWN, kind_of, known_kind

PromptInit = Literal["random", "vocabulary", "text", "labels", "mask"]

PROMPT_KINDS = files_of("model/prompts", besides=("kind", "start"))
"""A kind of prompt is a file in `model/prompts/`, and its name is the file's."""


class NoPromptSettings(Settings):
    """No prompt."""

    kind: Literal["none"] = "none"


class PromptSettings(Settings):
    """How the soft prompt is made, whatever its kind."""

    kind: str

    length: PositiveInt = 4
    """Prompt vectors per example, summed over all template slots."""


class InputPromptSettings(PromptSettings):
    """A prompt with slots in the input."""

    template: Literal["warp", "front", "before"] = "warp"
    """`warp`: slots around the texts and the mask; `front`: all vectors after the first token; `before`: all vectors
    before the first token, each counted as a position, as in PEFT."""


class StartedPromptSettings(InputPromptSettings):
    """A prompt with trained static vectors."""

    init: PromptInit = "vocabulary"
    """Start of the static vectors: `random` at the embeddings' scale, sampled `vocabulary` rows, the words of
    `prompt.text`, the `labels`' names, or the `mask` token. A table of kind `ipt` starts `random`, or as the
    `vocabulary`."""

    text: str | None = None
    """Words for `init: text`."""

    @model_validator(mode="after")
    def _text_given(self) -> "StartedPromptSettings":
        if self.init == "text" and not (self.text or "").strip():
            raise ValueError("prompt.init is text, but prompt.text is empty. Give prompt.text, or another prompt.init.")
        return self


class _Network(Settings):
    bottleneck: PositiveInt = 32
    """Hidden width of the network that makes the vectors."""


class _FromPeft(Settings):
    start_from: str | None = None
    """Folder of a PEFT prompt (prompt tuning or prefix tuning) whose vectors training starts from."""


class InstanceSettings(_Network, StartedPromptSettings):
    """A prompt that is made from the example's own state."""

    kind: Literal["instance"] = "instance"
    """`none`, or a file in `infoprompt/model/prompts/`: `static` is one prompt for all, `instance` is made from the
    example's own unprompted state; configs/recipes/ has one recipe for each method."""

    static_base: bool = True
    """Whether the instance generator's output is added to trained static vectors."""

    source: Literal["own", "constant", "other"] = "own"
    """What the instance generator reads: the example's own state, the same vector for all, or another example's
    state. The last two are controls: they show what instance dependence itself is worth."""


class InstanceLayersSettings(_Network, StartedPromptSettings):
    """A prompt at every layer that is made from the running states."""

    kind: Literal["instance_layers"] = "instance_layers"


class StaticSettings(_FromPeft, StartedPromptSettings):
    """One prompt for all examples."""

    kind: Literal["static"] = "static"


class PTuningSettings(_Network, StartedPromptSettings):
    """A static prompt through a network."""

    kind: Literal["p_tuning"] = "p_tuning"

    reparameterization: Literal["lstm", "mlp"] = "lstm"
    """Network through which the vectors pass; only its output is kept."""


class ResidualSettings(_Network, StartedPromptSettings):
    """A static prompt through a network with a skip."""

    kind: Literal["residual"] = "residual"


class LptSettings(_Network, InputPromptSettings):
    """A generated prompt at one layer."""

    kind: Literal["lpt"] = "lpt"

    layer: NonNegativeInt | None = None
    """Layer at which the prompt is placed, counted from 0; the middle one if not given."""


class IptSettings(InputPromptSettings):
    """A prompt that is looked up in a table."""

    kind: Literal["ipt"] = "ipt"

    init: PromptInit = "vocabulary"

    mode: Literal["prompt", "prefix"] = "prompt"
    """Where the vectors are placed: at the input, or in the first layer's keys and values, times 0.05, on top of a
    trained prefix at every layer."""

    encoder: Literal["none", "cnn", "rnn", "mlp"] = "none"
    """What is made of the looked-up vectors: nothing, or all prompt vectors by a small network."""

    table: str | None = None
    """Folder with a table and encoder, written by `infoprompt pretrain`; random if not given."""


class PrefixSettings(_FromPeft, PromptSettings):
    """Keys and values at every layer."""

    kind: Literal["prefix"] = "prefix"


class AdaptionPromptSettings(PromptSettings):
    """Keys and values at every layer with a softmax of their own."""

    kind: Literal["adaption_prompt"] = "adaption_prompt"


class OwnPromptSettings(StartedPromptSettings):
    """A kind of prompt that you added yourself."""

    options: dict[str, Any] = Field(default={})
    """Settings of a kind of prompt that you added yourself; its file reads and checks them."""

    @field_validator("kind")
    @classmethod
    def _kind_known(cls, kind: str) -> str:
        return known_kind("prompt", kind, ("none", *PROMPT_KINDS), "infoprompt/model/prompts")


_Kinds = (
    Annotated[InstanceSettings, Tag("instance")]
    | Annotated[NoPromptSettings, Tag("none")]
    | Annotated[StaticSettings, Tag("static")]
    | Annotated[InstanceLayersSettings, Tag("instance_layers")]
    | Annotated[PTuningSettings, Tag("p_tuning")]
    | Annotated[ResidualSettings, Tag("residual")]
    | Annotated[LptSettings, Tag("lpt")]
    | Annotated[IptSettings, Tag("ipt")]
    | Annotated[PrefixSettings, Tag("prefix")]
    | Annotated[AdaptionPromptSettings, Tag("adaption_prompt")]
    | Annotated[OwnPromptSettings, Tag(OWN)]
)
AnyPrompt = Annotated[_Kinds, Discriminator(kind_of(_Kinds))]
"""The settings of any kind of prompt."""
