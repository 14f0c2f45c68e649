"""The settings of a run, and how its sections must fit each other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from infoprompt.nested import copy_nested, get_nested, set_nested
from infoprompt.presets import PRESETS, with_both_caps
from infoprompt.settings.base import NonNegativeInt, SettingName, Settings
from infoprompt.settings.data import DataSettings
from infoprompt.settings.head import AnyHead, ChoiceTextSettings, LinearSettings, VerbaliserSettings
from infoprompt.settings.kinds import of_kind, sections_with_kinds
from infoprompt.settings.objective import ObjectiveSettings, without_unread
from infoprompt.settings.prompt import AnyPrompt, InputPromptSettings, InstanceSettings
from infoprompt.settings.sections import (
    BackboneSettings,
    CheckpointSettings,
    EngineSettings,
    EvaluationSettings,
    OptimSettings,
    RunSettings,
    TrackingSettings,
)


class RunConfig(Settings):
    """One run: everything needed to repeat it."""

    seed: NonNegativeInt = 0
    """Seed of initial values, data order and noise."""

    search: dict[SettingName, list[Any]] = Field(default={})
    """Values that a study tries: a dotted setting, and a list. Under `points`, settings that go together, such as
    `{optim.lr: 0.01, prompt.length: 8}`. A single run ignores it."""

    run: RunSettings = RunSettings()
    backbone: BackboneSettings = BackboneSettings()
    data: DataSettings = DataSettings()
    prompt: AnyPrompt = InstanceSettings()
    head: AnyHead = LinearSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    optim: OptimSettings = OptimSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    engine: EngineSettings = EngineSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        preset = get_nested(values, "objective.preset", "analytic")
        if not isinstance(preset, str) or preset not in PRESETS:
            return values  # the field's own check says what is wrong
        values = of_chosen_kinds(with_both_caps(values))
        governed = dict(PRESETS[preset])
        if preset == "release":
            batch_size = get_nested(values, "data.batch_size", 8)
            governed["objective.negatives"] = 4 * int(batch_size) if str(batch_size).isdigit() else 32
        if get_nested(values, "prompt.kind", "instance") != "instance":
            del governed["prompt.static_base"]
        filled = copy_nested(values)
        for key, value in governed.items():
            if get_nested(filled, key, _ABSENT) is _ABSENT and isinstance(filled.get(key.split(".")[0], {}), Mapping):
                set_nested(filled, key, value)
        return filled

    @model_validator(mode="after")
    def _parts_fit(self) -> "RunConfig":
        weights = {
            "objective.head_weight": self.objective.head_weight,
            "objective.representation_weight": self.objective.representation_weight,
        }
        if self.prompt.kind == "none":
            for key, weight in weights.items():
                if weight > 0:
                    raise ValueError(
                        f"{key} is {weight:g}, but prompt.kind is none, and without a prompt there is no mutual "
                        "information with it. Set it to 0, or use configs/recipes/head_only.yaml."
                    )
        if self.objective.kl_weight > 0 and self.head.kind != "variational" and not self.has_latent:
            raise ValueError(
                f"objective.kl_weight is {self.objective.kl_weight:g}, but no part of this run has a Gaussian latent. "
                "Set it to 0, or head.kind to variational."
            )
        in_batch = self.objective.representation_weight > 0 and self.objective.representation_negatives == "batch"
        for key, size in (("batch_size", self.data.batch_size), ("micro_batch_size", self.data.micro_batch_size)):
            if in_batch and size == 1:
                raise ValueError(
                    f"data.{key} is 1, but objective.representation_negatives is batch, and an example alone has no "
                    "others to be told from. Use 2 or more."
                )
        if self.data.micro_batch_size and self.data.batch_size % self.data.micro_batch_size:
            raise ValueError(
                f"data.batch_size is {self.data.batch_size}, but data.micro_batch_size {self.data.micro_batch_size} "
                "must divide it. Change one of them."
            )
        return self

    @model_validator(mode="after")
    def _label_term_fits(self) -> "RunConfig":
        if self.objective.label_form != "off" and self.data.unlabelled is None:
            raise ValueError(
                f"objective.label_form is {self.objective.label_form}, but data.unlabelled names no texts. Set it to "
                "rest, which takes the training rows that are left over, or to a file."
            )
        if self.evaluation.state == "last" and self.evaluation.patience:
            raise ValueError(
                f"evaluation.patience is {self.evaluation.patience}, which ends a run that gets no better, but "
                "evaluation.state is last, which then keeps what was no better. Leave one of them out."
            )
        if self.objective.start_anchor > 0 and self.head.kind in ("label_words", "text", "choice_text"):
            raise ValueError(
                f"objective.start_anchor is {self.objective.start_anchor:g}, but head.kind {self.head.kind} trains no "
                "class vectors. Set it to 0, or use head.kind=linear."
            )
        return self

    @model_validator(mode="after")
    def _choices_stand_in_words(self) -> "RunConfig":
        if self.head.kind != "choice_text":
            return self
        if self.data.template is None:
            raise ValueError(
                "head.kind is choice_text, but data.template is not given, which says where a choice stands. Set it "
                "to task, or to words such as '{text} {choice}'."
            )
        if self.data.chat:
            raise ValueError(
                "data.chat is true, but head.kind is choice_text, whose choices would stand in what the user says. Set "
                "data.chat=false."
            )
        if isinstance(self.prompt, InputPromptSettings) and self.prompt.template == "warp":
            raise ValueError(
                "prompt.template is warp, but head.kind is choice_text, and a choice does not see what stands behind "
                "it. Use prompt.template=front or before."
            )
        if self.objective.head_weight > 0:
            raise ValueError(
                f"objective.head_weight is {self.objective.head_weight:g}, but head.kind choice_text has no class "
                "vectors. Set it to 0, or use head.kind=linear."
            )
        return self

    @model_validator(mode="after")
    def _what_is_parted_is_plain(self) -> "RunConfig":
        if self.engine.kind != "deepspeed" or self.engine.zero_stage < 3:
            return self
        if self.backbone.quantization != "none":
            raise ValueError(
                f"backbone.quantization is {self.backbone.quantization}, but engine.zero_stage is 3, which parts plain "
                "weights alone. Use engine.zero_stage=2 or less, or backbone.quantization=none."
            )
        if self.backbone.lora_rank is not None:
            raise ValueError(
                f"backbone.lora_rank is {self.backbone.lora_rank}, but engine.zero_stage is 3, which loads the "
                "backbone in parts that LoRA cannot change. Use engine.zero_stage=2 or less."
            )
        return self

    @model_validator(mode="after")
    def _fit_reads_a_task_alone(self) -> "RunConfig":
        if self.head_fit == "gradient":
            return self
        given = f"head.fit is {self.head_fit}, but"
        if self.has_latent or self.objective.head_weight > 0 or self.objective.label_form != "off":
            raise ValueError(
                f"{given} information terms read a head that is trained by gradient. Set head.fit=gradient, or "
                "objective.head_weight=0, objective.representation_weight=0 and objective.label_form=off."
            )
        if isinstance(self.head, LinearSettings) and self.head.warm_start_steps:
            raise ValueError(
                f"{given} head.warm_start_steps is {self.head.warm_start_steps}, which are updates of the head. Set "
                "one of them back."
            )
        if self.trains_body and self.objective.task == "cross_entropy":
            raise ValueError(
                f"{given} {self.backbone.trained_by or f'prompt.kind is {self.prompt.kind}'}, so more than the head is "
                "trained. Set head.fit=gradient, or prompt.kind=none and a backbone that stays as it is."
            )
        return self

    @model_validator(mode="after")
    def _calibrates_by_words(self) -> "RunConfig":
        contextual = isinstance(self.head, VerbaliserSettings) and self.head.calibration == "contextual"
        if contextual and self.data.template is None:
            raise ValueError(
                "head.calibration is contextual, but data.template is not given, so of a text without content nothing "
                "is left. Give data.template, or set head.calibration to prior."
            )
        return self

    @model_validator(mode="after")
    def _contrasts_pairs(self) -> "RunConfig":
        if self.objective.task == "cross_entropy":
            return self
        given = f"objective.task is {self.objective.task}, but"
        if self.head_fit != "logistic_regression":
            raise ValueError(
                f"{given} head.kind is {self.head.kind} and head.fit {self.head_fit}, and pairs of rows train no head. "
                "Set head.kind=linear and head.fit=logistic_regression."
            )
        if not self.trains_body:
            raise ValueError(
                f"{given} prompt.kind is none and the backbone stays as it is, so pairs have nothing to train. Set "
                "backbone.frozen=false, backbone.lora_rank or a prompt.kind, or objective.task=cross_entropy."
            )
        for key, size in (("batch_size", self.data.batch_size), ("micro_batch_size", self.data.micro_batch_size)):
            if size and size % 2:
                raise ValueError(f"{given} data.{key} is {size}, and a pair has two rows. Use {size + 1}.")
        return self

    @model_validator(mode="after")
    def _scores_given_predictions(self) -> "RunConfig":
        has_model = self.updates or self.run.save_artifact or self.run.final_on_all
        if self.evaluation.predictions is not None and has_model:
            raise ValueError(
                f"evaluation.predictions is {self.evaluation.predictions}, so there is no model to train or to save. "
                "Use configs/recipes/predictions_file.yaml, or head.fit=start, prompt.kind=none, "
                "run.save_artifact=false and run.final_on_all=false."
            )
        return self

    @property
    def head_fit(self) -> str:
        """How the head is found."""
        with_fit = LinearSettings | VerbaliserSettings | ChoiceTextSettings
        return self.head.fit if isinstance(self.head, with_fit) else "gradient"

    @property
    def trains_body(self) -> bool:
        """Whether something besides the head is trained."""
        return self.prompt.kind != "none" or self.backbone.trained_by is not None

    @property
    def updates(self) -> bool:
        """Whether anything is trained by gradient."""
        return self.trains_body or self.head_fit == "gradient"

    @property
    def has_latent(self) -> bool:
        """Whether a Gaussian latent is part of the model (in the head, or for the representation loss alone)."""
        return self.head.kind == "variational" or self.objective.representation_weight > 0

    @property
    def mixes_rows(self) -> bool:
        """Whether a row's prompt is made from another row's state."""
        return isinstance(self.prompt, InstanceSettings) and self.prompt.source == "other"

    @property
    def data_seed(self) -> int:
        """Seed of the few-shot sample and the held-out part."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def run_name(self) -> str:
        """Name shown to people."""
        return self.run.name or Path(self.run.output_dir).name

    def mirrored_below(self, place: str) -> "RunConfig":
        """The same for one of many runs, whose mirror is the sub-path `place` of this one's, where there is one."""
        if self.run.mirror is None:
            return self
        mirror = f"{self.run.mirror.rstrip('/')}/{place}"
        return self.model_copy(update={"run": self.run.model_copy(update={"mirror": mirror})})


_ABSENT = object()

# What every config saved before a kind's settings were its own says of its prompt, whatever the kind.
_ALL_OF_PROMPT = {
    *("kind", "length", "init", "text", "bottleneck", "static_base", "template", "source", "layer", "mode", "encoder"),
    *("table", "reparameterization", "start_from", "options"),
}


def of_chosen_kinds(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are; of those that an earlier version saved, none of kinds that they do not choose.

    Earlier versions wrote down the settings of all kinds, and read those of one.
    """
    values = copy_nested(values)
    prompt = values.get("prompt")
    if isinstance(prompt, dict) and prompt.keys() >= _ALL_OF_PROMPT:
        for name, models in sections_with_kinds(RunConfig).items():
            if isinstance(section := values.get(name), dict):
                values[name] = of_kind(section, models, section.get("kind"))
        if isinstance(objective := values.get("objective"), dict):
            chosen = [objective.get(f"{term}_estimator") for term in ("head", "representation")]
            values["objective"] = without_unread(objective, chosen)
    return values
