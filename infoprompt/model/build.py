"""From a config to the member that it trains, and what it asks of a backbone."""

import torch

from infoprompt.config import ConfigError, PromptSettings, RunConfig
from infoprompt.data.tasks import Task
from infoprompt.model.backbone.load import Backbone
from infoprompt.model.backbone.lora import start_lora
from infoprompt.model.gaussian import GaussianLayer
from infoprompt.model.heads.kind import WHOLE_TEXTS, HeadContext, head_kind
from infoprompt.model.member import Member
from infoprompt.model.prompts.kind import PromptContext, prompt_kind
from infoprompt.model.prompts.start import Vocabulary
from infoprompt.objective.head_information import HeadInformation
from infoprompt.objective.label_information import LabelInformation, StartAnchor
from infoprompt.objective.representation_information import RepresentationInformation
from infoprompt.settings.prompt import AnyPrompt


def reads_unprompted(config: RunConfig) -> bool:
    """Whether the prompt is made from the states of the plain text."""
    return config.prompt.kind != "none" and prompt_kind(config.prompt.kind).reads_unprompted


def prompt_slots(settings: AnyPrompt) -> int:
    """Slots that the prompt takes in the input."""
    return prompt_kind(settings.kind).slots(settings) if isinstance(settings, PromptSettings) else 0


def backbone_needs(config: RunConfig) -> frozenset[str]:
    """What prompt and head ask of the backbone's family beside input vectors, keys of `families.NEEDS`."""
    kind = config.prompt.kind
    of_prompt = frozenset() if kind == "none" else prompt_kind(kind).needs(config.prompt)
    return of_prompt | head_kind(config.head.kind).needs


def build_member(config: RunConfig, backbone: Backbone, task: Task, vocabulary: Vocabulary | None = None) -> Member:
    """Everything that is trained, started from `config.seed` alone, around the backbone.

    A linear head that starts from label names is left at zero here: its start takes an encoder pass over the label
    texts, see `setup.start_head`. Starts come from the backbone's own vocabulary if none is given.

    Raises:
        ConfigError: two settings do not fit each other, this backbone or the task.
    """
    check_parts(config, backbone, task)
    vocabulary = vocabulary or Vocabulary(backbone, backbone.tokenizer, task.label_texts)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        objective, width = config.objective, backbone.embedding_size
        pooling = config.head.pooling_of(backbone.kind)
        pooled_size = backbone.hidden_size * (2 if pooling == "entities" else 1)
        prompt = None
        if config.prompt.kind != "none":
            context = PromptContext(
                vocabulary,
                backbone.hidden_size,
                backbone.num_layers,
                backbone.num_kv_heads,
                backbone.head_size,
                backbone.summary,
                generator,
            )
            prompt = prompt_kind(config.prompt.kind).build(config.prompt, context)
        of_head = head_kind(config.head.kind)
        head = of_head.build(config, HeadContext(vocabulary, task, pooled_size, generator))
        latent = of_head.latent or objective.representation_weight > 0
        gaussian = GaussianLayer(pooled_size, objective.latent_size) if latent else None
        head_information = representation_information = None
        if objective.head_weight > 0:
            head_information = HeadInformation(objective, width, head.class_vectors().shape[1])
        if objective.representation_weight > 0:
            representation_information = RepresentationInformation(
                objective, width, vocabulary.scale, head.latent_map()
            )
        if config.backbone.lora_rank is not None:
            start_lora(backbone)
    return Member(
        backbone,
        head,
        pooling,
        prompt=prompt,
        gaussian=gaussian,
        head_information=head_information,
        representation_information=representation_information,
        label_information=LabelInformation(objective, task.labels) if objective.label_form != "off" else None,
        start_anchor=StartAnchor() if objective.start_anchor > 0 else None,
    )


def check_parts(config: RunConfig, backbone: Backbone, task: Task) -> None:
    """Raise ConfigError where prompt, head, objective, backbone and task do not fit each other."""
    objective, head, kind = config.objective, config.head, config.prompt.kind
    weights = {
        "objective.head_weight": objective.head_weight,
        "objective.representation_weight": objective.representation_weight,
    }
    for key, weight in weights.items():
        if weight > 0 and kind != "none" and not prompt_kind(kind).embeds(config.prompt):
            raise ConfigError(
                f"{key} is {weight:g}, but prompt.kind {kind} has no vectors among the word embeddings, for which the "
                "information terms are defined. Set it to 0, or use another prompt.kind."
            )
    if head.pooling == "entities" and task.kind != "relation":
        raise ConfigError(
            f"head.pooling is entities, but {task.name} is of the kind {task.kind} and marks no two entities. Use mean."
        )
    of_head = head_kind(head.kind)
    if task.kind not in of_head.tasks:
        other = " or, of a decoder, head.kind=choice_text" if task.kind == "choice" else ""
        raise ConfigError(
            f"head.kind is {head.kind}, but {task.name} is of the kind {task.kind}, which it does not score. "
            f"Use head.kind=linear{other}."
        )
    if config.head_fit != "gradient" and task.kind not in WHOLE_TEXTS and not of_head.lm_head:
        raise ConfigError(
            f"head.fit is {config.head_fit}, but {task.name} is of the kind {task.kind}, whose examples have no class "
            "each. Use head.fit=gradient."
        )
    pooling = None if of_head.pooling is None else of_head.pooling(backbone.kind)
    if pooling is not None and head.pooling not in (None, pooling):
        raise ConfigError(
            f"head.pooling is {head.pooling}, but head.kind {head.kind} reads this model's words at its "
            f"{pooling} token. Use head.pooling={pooling}, or leave it out."
        )
    trained_by = config.backbone.trained_by
    if trained_by and (reads_unprompted(config) or objective.representation_weight > 0):
        raise ConfigError(
            f"{trained_by}, but the prompt or the representation loss reads states of the plain text, which are kept "
            "once and would grow stale. Set backbone.frozen=true without LoRA, or use another prompt.kind and "
            "objective.representation_weight=0."
        )
    if not config.updates or kind != "none" or trained_by is not None:
        return
    if of_head.lm_head:
        raise ConfigError(
            f"prompt.kind is none and head.kind is {head.kind}, so there is nothing to train. Use another of the two, "
            "or ask the model as it is by head.fit=start."
        )
