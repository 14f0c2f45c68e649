"""What a run's config makes of its texts: the layout of the input, and whether plain texts are read too."""

from infoprompt.config import ConfigError, RunConfig
from infoprompt.data.task import Task
from infoprompt.data.template import Template
from infoprompt.model.backbone.load import Backbone
from infoprompt.model.build import prompt_slots, reads_unprompted
from infoprompt.settings.prompt import InputPromptSettings


def make_template(config: RunConfig, backbone: Backbone) -> Template:
    """The input layout that a config asks for on a backbone; raises ConfigError where it has too few positions."""
    asked = config.backbone.max_length
    if asked is not None and asked > backbone.max_length:
        raise ConfigError(
            f"backbone.max_length is {asked}, but {backbone.name!r} reads at most {backbone.max_length} positions. "
            f"Use {backbone.max_length} or less, or leave it out for the model's own limit."
        )
    return Template.probe(
        backbone.tokenizer,
        num_vectors=prompt_slots(config.prompt),
        placement=config.prompt.template if isinstance(config.prompt, InputPromptSettings) else "warp",
        use_mask=config.head.pooling_of(backbone.kind) == "mask",
        max_length=asked or backbone.max_length,
        num_embeddings=backbone.num_embeddings,
    )


def needs_unprompted_states(config: RunConfig, task: Task, training: bool) -> bool:
    """Whether a forward reads the plain text's states."""
    objective = config.objective
    if config.backbone.trained_by is not None or config.evaluation.predictions is not None:
        return False
    contrasted = objective.representation_weight > 0 and objective.representation_negatives != "batch"
    in_loss = training and (contrasted or objective.kl_weight > 0)
    return reads_unprompted(config) or in_loss or (config.prompt.kind == "none" and task.kind != "tags")
