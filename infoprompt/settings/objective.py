"""The settings of the training loss."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from infoprompt.settings.base import PositiveInt, Settings, files_of

ESTIMATOR_NAMES = files_of("kernels/estimators", besides=("registry", "scores"))
"""An estimator of mutual information is a file in `kernels/estimators/`, and its name is the file's."""

ESTIMATOR_SETTINGS = {"smile_tau": "smile", "mine_rate": "mine", "interpolation": "interpolated"}
"""The settings of the objective that one estimator alone reads, and which."""

# Estimators that read the score of every negative; the others need no more than the log-mean-exp of the scores.
_NEED_SAMPLES = ("jsd", "smile")


Share = Annotated[float, Field(gt=0, le=1)]

LABEL_FORMS: dict[str, dict[str, Any]] = {
    "off": {"label_marginal": "uniform", "label_start": 0.0, "start_anchor": 0.0},
    "plain": {"label_marginal": "uniform", "label_start": 0.0, "start_anchor": 0.0},
    "guarded": {"label_marginal": "estimated", "label_start": 0.3, "start_anchor": 8.0},
}
"""What each form of the label's term sets when neither file nor override does."""


class ObjectiveSettings(Settings):
    """The training loss: task + w(t) (head_weight * head + representation_weight * representation + kl_weight * KL).

    Ours are label_weight * label, and start_anchor / (2 * rows) * |W - W_start|^2, which come to it.
    """

    preset: Literal["paper", "release", "analytic"] = "analytic"
    """Sets every setting below that is not given, `head.kind` and, for kind `instance`, `prompt.static_base`:
    `paper` is reconstructed from the InfoPrompt paper, `release` is as its authors' code, `analytic` is ours.
    `infoprompt show` prints what it sets."""

    task: Literal["cross_entropy", "contrastive"] = "cross_entropy"
    """The task's own loss. `contrastive`: of pairs of rows, half of one class and half of two, as SetFit has it. It is
    the mean squared error of the cosine of their pooled states against 1 and 0. It trains no head, so it needs
    `head.fit: logistic_regression`. `data.batch_size` counts rows, two a pair; an epoch has as many updates as ever."""

    head_weight: NonNegativeFloat = 0.05
    """Weight of the mutual information between prompt and head (gamma)."""

    representation_weight: NonNegativeFloat = 0.1
    """Weight of the mutual information between prompt and representation (beta)."""

    kl_weight: NonNegativeFloat = 0.0
    """Weight of the latents' KL divergence to a standard normal (kappa)."""

    decay: float = Field(default=0.0, ge=0, le=1)
    """How much of the three weights is gone at the last epoch: w(t) = 1 - decay * epoch / epochs."""

    label_form: Literal["off", "plain", "guarded"] = "off"
    """Whether the mutual information between a text and its label is maximised on the texts without labels that
    `data.unlabelled` names, and how. `plain`: towards equally frequent classes, from the first update on. `guarded`:
    from 30 % of the updates on, towards the classes' shares as estimated then, with an anchor of 8; for texts whose
    classes are not equally frequent. Ours, an extension: neither paper has it. After Krause et al. 2010 (regularised
    information maximisation) and TIM, arXiv:2008.11297."""

    label_weight: PositiveFloat = 3.0
    """Weight of this term (lambda)."""

    label_marginal: Literal["uniform", "estimated"] | dict[str, Share] = "uniform"
    """How frequent the classes are among these texts: equally, as the run predicts when the term starts, or each
    class's share, as `{spam: 0.2, ham: 0.8}`."""

    label_start: float = Field(default=0.0, ge=0, lt=1)
    """Share of all updates before the term starts."""

    start_anchor: NonNegativeFloat = 0.0
    """How strongly class vectors W are held to their start: the weight is this over the number of training rows."""

    head_critic: Literal["dot", "bilinear"] = "bilinear"
    """Score of a prompt vector with the mean class vector: scaled dot product, or with a learned matrix."""

    head_negatives: Literal["all_tokens", "sampled_tokens"] = "all_tokens"
    """Negatives of the head loss: every token of the same input, or `negatives` drawn from them."""

    representation_critic: Literal["bilinear", "projections"] = "bilinear"
    """Score of prompt and latent: one learned matrix, or the released two linear layers."""

    representation_negatives: Literal["sampled", "exact", "batch"] = "exact"
    """Negatives of the representation loss. `sampled`: as many Gaussian draws of the input's latent without prompt as
    `negatives` says; `exact`: their expectation. Both measure information given the input. `batch`: the prompted
    latents of the other examples of the micro-batch, over all ranks; it measures information about which input it
    is."""

    negatives: PositiveInt = 32
    """K, the number of negatives drawn (or, for `exact`, stood for); of `batch` there are as many as other examples."""

    head_estimator: str = "infonce"
    """Estimator of the mutual information between prompt and head. `infonce`, `nwj`, `tuba`, `interpolated` and `flo`
    are lower bounds; `dv`, `mine` (`dv` with a running mean in its gradient) and `smile` are not. `jsd` trains a
    discriminator and reports NWJ's bound. A critic can tell a prompt from tokens, and a prompted latent from an
    unprompted one, without error, so what is estimated has no limit. `nwj`, `dv`, `mine`, `tuba` and `flo` have no
    ceiling either: their term grows until it outweighs the task."""

    representation_estimator: str = "infonce"
    """Estimator of the mutual information between prompt and representation, as `objective.head_estimator`; `jsd` and
    `smile` need `objective.representation_negatives` to be `sampled`."""

    smile_tau: PositiveFloat = 5.0
    """Largest absolute score of a negative in the value of `smile`, in nats."""

    mine_rate: float = Field(default=0.01, gt=0, le=1)
    """Weight of the newest micro-batch in the running mean of `mine`, which all ranks share; 1 keeps only that
    micro-batch's mean, as `dv` does."""

    interpolation: float = Field(default=0.01, ge=0, le=1)
    """Share of the batch's own mean in the denominator of `interpolated` (alpha): 1 is InfoNCE's, 0 is TUBA."""

    head_loss_cap: PositiveFloat | None = None
    """Upper limit of the head loss per example, in nats; above it the gradient is zero. The released code has 2."""

    representation_loss_cap: PositiveFloat | None = None
    """Upper limit of the representation loss per example, in nats, as `objective.head_loss_cap`."""

    latent_size: PositiveInt = 32
    """Width of the Gaussian latent."""

    kernels: Literal["auto", "triton", "chunked", "reference"] = "auto"
    """Implementation of the information losses where they are InfoNCE: `triton` kernels, torch in parts (`chunked`), or
    the plain formula (`reference`); `auto` takes the first on a GPU, the second elsewhere. Their gradients are the same
    but for rounding. Other estimators are plain torch."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_label_form(cls, values: Any) -> Any:
        form = values.get("label_form") if isinstance(values, Mapping) else None
        return {**LABEL_FORMS[form], **values} if isinstance(form, str) and form in LABEL_FORMS else values

    @field_validator("label_marginal")
    @classmethod
    def _shares_of_one(cls, marginal: Any) -> Any:
        if isinstance(marginal, dict) and abs(sum(marginal.values()) - 1) > 0.01:
            raise ValueError(
                f"objective.label_marginal has shares that add up to {sum(marginal.values()):g}, but they must add up "
                "to 1. Give each class's share."
            )
        return marginal

    @field_validator("head_estimator", "representation_estimator")
    @classmethod
    def _estimator_known(cls, name: str, info: ValidationInfo) -> str:
        if name not in ESTIMATOR_NAMES:
            raise ValueError(
                f"objective.{info.field_name} is {name!r}, but estimators are {', '.join(ESTIMATOR_NAMES)}. Choose one."
            )
        return name

    @property
    def estimators(self) -> tuple[str, str]:
        """Of the two terms, the head's first."""
        return self.head_estimator, self.representation_estimator

    @model_validator(mode="after")
    def _read_by_an_estimator(self) -> "ObjectiveSettings":
        for name, estimator in ESTIMATOR_SETTINGS.items():
            if name in self.model_fields_set and estimator not in self.estimators:
                raise ValueError(
                    f"objective.{name} is {getattr(self, name):g}, but is a setting of the estimator {estimator}, and "
                    f"the two terms have {' and '.join(self.estimators)}. Leave it out, or set "
                    f"objective.head_estimator or objective.representation_estimator to {estimator}."
                )
        return self

    @model_serializer(mode="wrap")
    def _without_unread(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A setting of an estimator that neither term has would be refused when it is read back."""
        return without_unread(dump(self), self.estimators)

    @model_validator(mode="after")
    def _estimators_fit(self) -> "ObjectiveSettings":
        if self.representation_negatives != "sampled" and self.representation_estimator in _NEED_SAMPLES:
            raise ValueError(
                f"objective.representation_estimator is {self.representation_estimator}, which reads the score of each "
                f"negative, but objective.representation_negatives is {self.representation_negatives}, which has "
                "none. Set objective.representation_negatives to sampled, or use infonce, nwj, dv, mine, tuba, "
                "interpolated or flo."
            )
        for term, estimator, cap in (
            ("head", self.head_estimator, self.head_loss_cap),
            ("representation", self.representation_estimator, self.representation_loss_cap),
        ):
            if cap is not None and estimator != "infonce":
                raise ValueError(
                    f"objective.{term}_loss_cap is {cap:g}, but objective.{term}_estimator is {estimator}, and only "
                    f"infonce has a loss with a scale that a cap can refer to. Set objective.{term}_loss_cap to null, "
                    f"or objective.{term}_estimator to infonce."
                )
        return self


def without_unread(objective: Mapping[str, Any], estimators: Collection[Any]) -> dict[str, Any]:
    """Settings of the objective without those that none of these estimators reads."""
    return {
        name: value
        for name, value in objective.items()
        if name not in ESTIMATOR_SETTINGS or ESTIMATOR_SETTINGS[name] in estimators
    }
