"""InfoPrompt's presets: what each sets when neither file nor override does."""

from collections.abc import Mapping
from typing import Any

from infoprompt.nested import copy_nested

# `release` also sets objective.negatives to four times the
# batch size. Sources: InfoPrompt (arXiv:2306.04933), for `release` its authors' code; `analytic` is ours.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "objective.head_weight": 0.05,
        "objective.representation_weight": 0.1,
        "objective.kl_weight": 0.0,
        "objective.head_critic": "bilinear",
        "objective.head_negatives": "sampled_tokens",
        "objective.representation_critic": "bilinear",
        "objective.representation_negatives": "sampled",
        "objective.negatives": 32,
        "objective.head_loss_cap": None,
        "objective.representation_loss_cap": None,
        "head.kind": "variational",
        "prompt.static_base": False,
    },
    "release": {
        "objective.head_weight": 0.1,
        "objective.representation_weight": 0.2,
        "objective.kl_weight": 0.1,
        "objective.head_critic": "dot",
        "objective.head_negatives": "all_tokens",
        "objective.representation_critic": "projections",
        "objective.representation_negatives": "sampled",
        "objective.negatives": 32,
        "objective.head_loss_cap": 2.0,
        "objective.representation_loss_cap": 2.0,
        "head.kind": "variational",
        "prompt.static_base": False,
    },
    "analytic": {
        "objective.head_weight": 0.05,
        "objective.representation_weight": 0.1,
        "objective.kl_weight": 0.0,
        "objective.head_critic": "bilinear",
        "objective.head_negatives": "all_tokens",
        "objective.representation_critic": "bilinear",
        "objective.representation_negatives": "exact",
        "objective.negatives": 32,
        "objective.head_loss_cap": None,
        "objective.representation_loss_cap": None,
        "head.kind": "linear",
        "prompt.static_base": True,
    },
}


def with_both_caps(values: Mapping[str, Any]) -> dict[str, Any]:
    """`objective.loss_cap`, the one cap of earlier artifacts and resume states, stands for both that are not given."""
    values = copy_nested(values)
    objective = values.get("objective")
    if isinstance(objective, dict) and "loss_cap" in objective:
        cap = objective.pop("loss_cap")
        values["objective"] = {"head_loss_cap": cap, "representation_loss_cap": cap, **objective}
    return values
