"""What is trained, its AdamW, and the states of both as they are saved."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from infoprompt.config import OptimSettings

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's running moments, by torch's names."""


def trained_parameters(member: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by the name that saved states have for it."""
    trained = {_saved_name(name): parameter for name, parameter in member.named_parameters() if parameter.requires_grad}
    assert trained, "nothing in the member is trained"
    assert all(parameter.dtype == torch.float32 for parameter in trained.values()), "trained parameters are float32"
    return trained


# Saved states and artifacts have the names of the first release.
_SAVED_NAMES = {
    f"{term}_information.{part}.": f"{term}_{saved}."
    for term in ("head", "representation")
    for part, saved in (("critic", "critic"), ("baseline", "baseline.baseline"))
}


def _saved_name(name: str) -> str:
    for ours, saved in _SAVED_NAMES.items():
        name = name.replace(ours, saved) if name.startswith(ours) else name
    return name


def build_optimizer(
    trained: Sequence[Mapping[str, nn.Parameter]], optims: Sequence[OptimSettings]
) -> torch.optim.AdamW:
    """The optimiser, the same in every engine: a parameter group for each member, by the member's own settings."""
    return torch.optim.AdamW(
        [
            {
                "params": list(parameters.values()),
                "lr": optim.lr,
                "betas": optim.betas,
                "eps": optim.eps,
                "weight_decay": optim.weight_decay,
            }
            for parameters, optim in zip(trained, optims, strict=True)
        ]
    )


def check_state(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Raise ValueError, naming the culprits, if a saved state does not have exactly these names and shapes."""
    for what, names in (("lacks", shapes.keys() - state.keys()), ("has the unknown", state.keys() - shapes.keys())):
        if names:
            raise ValueError(
                f"the saved state {what} {', '.join(sorted(names))}. It belongs to another model: "
                "use the settings it was saved with."
            )
    for name, shape in shapes.items():
        if state[name].shape != shape:
            raise ValueError(
                f"the saved state's {name} is {list(state[name].shape)}, but the model's is {list(shape)}. "
                "Use the settings it was saved with."
            )


def optimizer_shapes(shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    """Names and shapes of the optimiser's state, for parameters of these names and shapes."""
    moments = {f"{name}.{moment}": shape for name, shape in shapes.items() for moment in MOMENTS}
    return moments | {"step": torch.Size([])}


def cpu_copy(tensor: Tensor) -> Tensor:
    """A float32 copy on the CPU that shares nothing with the tensor."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
