"""The settings of a head: those of every kind, and a model for each kind with its own."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, PositiveFloat, Tag, ValidationInfo, field_validator

from infoprompt.settings.base import NonNegativeInt, Settings, files_of
from infoprompt.settings.kinds import OWN, kind_of, known_kind

HEAD_KINDS = files_of("model/heads", besides=("kind", "label_tokens"))
"""A kind of head is a file in `model/heads/`, and its name is the file's."""


class HeadSettings(Settings):
    """What turns a pooled state into label scores, whatever its kind."""

    kind: str

    pooling: Literal["mask", "first", "mean", "last", "entities"] | None = None
    """Which state is read: the mask token's, the first or the last real token's, the mean over real tokens, or, for
    relations, both entities' markers side by side. If not given, the mean; for `label_words` the token at which the
    model says words: the mask, of decoders the last."""

    @field_validator("pooling")
    @classmethod
    def _follows_the_kind(cls, pooling: str | None, info: ValidationInfo) -> str | None:
        # for label words it stays open until the backbone is known: see `pooling_of`
        return pooling if pooling is not None or info.data.get("kind") == "label_words" else "mean"

    @property
    def from_labels(self) -> bool:
        """Whether class vectors start from the label names."""
        return isinstance(self, ClassVectorSettings) and self.init in ("labels", "class_means")

    def pooling_of(self, backbone_kind: str) -> str:
        """Which state is read of a backbone of this kind, `encoder`, `decoder` or `encoder-decoder`."""
        return self.pooling or ("mask" if backbone_kind == "encoder" else "last")


class ClassVectorSettings(HeadSettings):
    """A head with trained class vectors."""

    init: Literal["labels", "class_means", "random"] = "labels"
    """Start of the class vectors: from the label names, from the mean state of each class's rows together with its
    name's (linear heads), or random."""


class LinearSettings(ClassVectorSettings):
    """A linear layer."""

    warm_start_steps: NonNegativeInt = 0
    """Updates in which the head alone is trained on the states of the plain texts, with the same loss but for the
    prompt's terms, before the prompt joins. They cost no pass of the backbone."""

    warm_start_lr: PositiveFloat = 1e-2
    """Peak learning rate of these updates."""

    kind: Literal["linear"] = "linear"
    """A file in `infoprompt/model/heads/`. `variational`: Gaussian latent, then class vectors (the published head).
    `linear`: a linear layer. `label_words`: the model's own scores of the label words at the mask (decoders: at the
    next token). `text`: the model's own probability of the whole label text (decoders and encoder-decoders).
    `choice_text`: the same of each choice of a row, behind the words before it (decoders). The last three are not
    trained."""

    fit: Literal["gradient", "start", "majority", "logistic_regression"] = "gradient"
    """How the layer is found: `gradient`, by the updates. The others make none. `start`: it stays as `head.init` has
    it, so with `labels` the nearest label text is predicted. `majority`: always the most frequent class of the training
    rows. `logistic_regression`: scikit-learn's on the training rows' pooled states, C chosen by cross-validation. It
    alone goes with something else that is trained (by `objective.task: contrastive`); then it is fitted at each
    evaluation."""


class VariationalSettings(ClassVectorSettings):
    """Class vectors on a Gaussian latent."""

    kind: Literal["variational"] = "variational"


class VerbaliserSettings(HeadSettings):
    """A head that is the model's own."""

    words: dict[str, list[str]] = Field(default={})
    """Class to the words that stand for it, such as `{positive: [great, good], negative: [bad]}`. A class's probability
    is the mean of its words'. Classes that are not named have their `data.label_texts`."""

    calibration: Literal["none", "contextual", "prior"] = "none"
    """What is taken off each class's log probability, as a bias (trained on where a prompt is trained). `contextual`:
    what texts without content have, `N/A`, `[MASK]` and none (Zhao et al. 2021). `prior`: the mean over the texts of
    `data.unlabelled`, or else of the training rows."""

    fit: Literal["gradient", "start"] = "gradient"
    """`start`: nothing is trained, and the model is asked as it is. `gradient`: the rest of the run is trained."""


class LabelWordsSettings(VerbaliserSettings):
    """The model's own scores of the label words."""

    kind: Literal["label_words"] = "label_words"


class TextSettings(VerbaliserSettings):
    """The model's own probability of the label texts."""

    kind: Literal["text"] = "text"

    length_normalization: bool = False
    """Whether a text's log probability is divided by its number of tokens."""

    end_token: bool = True
    """Whether the model's end token behind the text counts too, where there is one."""


class ChoiceTextSettings(HeadSettings):
    """The model's own probability of each choice of a row.

    A prompt that is made from the input has also seen the choice; its scores are then trained, and no probabilities.
    """

    kind: Literal["choice_text"] = "choice_text"

    length_normalization: bool = False
    """Whether a choice's log probability is divided by its number of tokens."""

    fit: Literal["gradient", "start"] = "gradient"
    """`start`: nothing is trained, and the model is asked as it is. `gradient`: the rest of the run is trained."""


class OwnHeadSettings(ClassVectorSettings):
    """A kind of head that you added yourself."""

    @field_validator("kind")
    @classmethod
    def _kind_known(cls, kind: str) -> str:
        return known_kind("head", kind, HEAD_KINDS, "infoprompt/model/heads")


_Kinds = (
    Annotated[LinearSettings, Tag("linear")]
    | Annotated[VariationalSettings, Tag("variational")]
    | Annotated[LabelWordsSettings, Tag("label_words")]
    | Annotated[TextSettings, Tag("text")]
    | Annotated[ChoiceTextSettings, Tag("choice_text")]
    | Annotated[OwnHeadSettings, Tag(OWN)]
)
AnyHead = Annotated[_Kinds, Discriminator(kind_of(_Kinds))]
"""The settings of any kind of head."""
