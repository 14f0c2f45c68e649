"""What a run's config makes of its texts: the layout of the input, and whether plain texts are read too."""

from collections.abc import Sequence

from infoprompt.config import ConfigError, RunConfig
from infoprompt.data.pattern import Pattern
from infoprompt.data.rows import Example
from infoprompt.data.task import Task
from infoprompt.data.template import Template
from infoprompt.model.backbone.load import Backbone
from infoprompt.model.build import prompt_slots, reads_unprompted
from infoprompt.model.heads.kind import head_kind
from infoprompt.settings.prompt import InputPromptSettings


def make_template(
    config: RunConfig, backbone: Backbone, task: Task | None = None, rows: Sequence[Example] = ()
) -> Template:
    """The input layout that a config asks for on a backbone.

    Args:
        config: of the run.
        backbone: what reads the input.
        task: whose words stand around a text; none do if not given.
        rows: training rows, of which demonstrations are drawn.
    Raises:
        ConfigError: the backbone has too few positions, or the words do not fit the task.
    """
    asked = config.backbone.max_length
    if asked is not None and asked > backbone.max_length:
        raise ConfigError(
            f"backbone.max_length is {asked}, but {backbone.name!r} reads at most {backbone.max_length} positions. "
            f"Use {backbone.max_length} or less, or leave it out for the model's own limit."
        )
    pattern = None
    if task is not None:
        pattern = Pattern.of(config.data, task, backbone.tokenizer, rows, config.data_seed)
    if pattern is not None and task is not None and task.kind == "choice" and config.head.kind == "choice_text":
        pattern.check_continues()
    if pattern is not None and config.head.pooling == "entities":
        raise ConfigError(
            "head.pooling is entities, but data.template is given, and behind its words no marker is looked for. Use "
            "another head.pooling, or leave data.template out."
        )
    return Template.probe(
        backbone.tokenizer,
        num_vectors=prompt_slots(config.prompt),
        placement=config.prompt.template if isinstance(config.prompt, InputPromptSettings) else "warp",
        use_mask=config.head.pooling_of(backbone.kind) == "mask",
        max_length=asked or backbone.max_length,
        num_embeddings=backbone.num_embeddings,
        pattern=pattern,
    )


def needs_unprompted_states(config: RunConfig, task: Task, training: bool) -> bool:
    """Whether a forward reads the plain text's states."""
    objective = config.objective
    if config.backbone.trained_by is not None or config.evaluation.predictions is not None:
        return False
    contrasted = objective.representation_weight > 0 and objective.representation_negatives != "batch"
    in_loss = training and (contrasted or objective.kl_weight > 0)
    kept = config.prompt.kind == "none" and task.kind != "tags" and not head_kind(config.head.kind).passes_itself
    return reads_unprompted(config) or in_loss or kept
