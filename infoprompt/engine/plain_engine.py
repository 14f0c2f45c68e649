"""Training in torch alone: the yardstick that DeepSpeed must match."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from infoprompt.config import RunConfig
from infoprompt.data.batch import Batch
from infoprompt.engine.adamw import (
    MOMENTS,
    build_optimizer,
    check_state,
    cpu_copy,
    optimizer_shapes,
    trained_parameters,
)
from infoprompt.engine.deepspeed_config import accumulation_steps
from infoprompt.engine.interface import Update, checked_norm, finite_losses, total
from infoprompt.model.shared import SharedModel
from infoprompt.objective.encoding import Encoding
from infoprompt.ranks import Ranks


class PlainEngine:
    """An `Engine`: the model is whole on every rank, and gradients are averaged in one collective per update.

    `step` does not wait for a GPU that trains one member alone: see `Update`. `waits`: whether it does, where given.
    """

    def __init__(
        self, model: SharedModel, configs: Sequence[RunConfig], ranks: Ranks, *, waits: bool | None = None
    ) -> None:
        self.ranks = ranks
        self._model = model.to(ranks.device)
        self._accumulation = accumulation_steps(configs[0].data, ranks.world_size)
        self._max_norms = [config.optim.max_grad_norm for config in configs]
        self._trained = [trained_parameters(member) for member in model.members]
        self._optimizer = build_optimizer(self._trained, [config.optim for config in configs])
        self._micro_steps = 0
        alone = ranks.device.type == "cuda" and ranks.world_size == 1 and len(configs) == 1
        self._waits = not alone if waits is None else waits

    def forward(self, batches: Mapping[int, Batch]) -> dict[int, Encoding]:
        """See `Engine`."""
        self._model.train()
        return dict(zip(batches, self._model(list(batches), list(batches.values())), strict=True))

    def step(self, losses: Mapping[int, Tensor]) -> dict[int, Update]:
        """See `Engine`."""
        finite, updates = finite_losses(losses, self.ranks, waits=self._waits)
        if finite:
            (total(finite) / self._accumulation).backward()
        self._micro_steps += 1
        if self._micro_steps % self._accumulation:
            return updates
        for member, gradients in self._averaged_gradients(finite).items():
            norm = nn.utils.get_total_norm(gradients)
            updates[member] = checked_norm(float(norm)) if self._waits else norm
            if self._max_norms[member] > 0:
                nn.utils.clip_grads_with_norm_(self._trained[member].values(), self._max_norms[member], norm)
        for member, trained in enumerate(self._trained):
            if not isinstance(updates.get(member), float | Tensor):
                for parameter in trained.values():  # without a gradient AdamW leaves it as it is
                    parameter.grad = None
        self._optimizer.step()
        self._optimizer.zero_grad()
        return updates

    def set_lr(self, lr: float, member: int = 0) -> None:
        """See `Engine`."""
        self._optimizer.param_groups[member]["lr"] = lr

    @torch.no_grad()
    def infer(self, batches: Mapping[int, Batch]) -> dict[int, Encoding]:
        """See `Engine`."""
        self._model.eval()
        return dict(zip(batches, self._model(list(batches), list(batches.values())), strict=True))

    def trained_state(self, member: int = 0) -> dict[str, Tensor]:
        """See `Engine`."""
        return {name: cpu_copy(parameter) for name, parameter in self._trained[member].items()}

    @torch.no_grad()
    def load_trained_state(self, state: Mapping[str, Tensor], member: int = 0) -> None:
        """See `Engine`."""
        check_state(state, self._shapes(member))
        for name, parameter in self._trained[member].items():
            parameter.copy_(state[name])

    def optimizer_state(self, member: int = 0) -> dict[str, Tensor]:
        """See `Engine`."""
        return whole_optimizer_state(self._optimizer, self._trained[member])

    def load_optimizer_state(self, state: Mapping[str, Tensor], member: int = 0) -> None:
        """See `Engine`."""
        check_state(state, optimizer_shapes(self._shapes(member)))
        set_whole_optimizer_state(self._optimizer, self._trained[member], state)

    def close(self) -> None:
        """See `Engine`."""
        self._optimizer.zero_grad()

    def _shapes(self, member: int) -> dict[str, torch.Size]:
        return {name: parameter.shape for name, parameter in self._trained[member].items()}

    def _averaged_gradients(self, members: Iterable[int]) -> dict[int, list[Tensor]]:
        found = {member: [_gradient(parameter) for parameter in self._trained[member].values()] for member in members}
        gradients = [gradient for own in found.values() for gradient in own]
        if self.ranks.world_size > 1 and gradients:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            self.ranks.sum_in_place(flat)
            flat /= self.ranks.world_size
            for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))
        return found


def _gradient(parameter: nn.Parameter) -> Tensor:
    # A parameter the loss did not reach gets a zero gradient, as DeepSpeed has it. So ranks agree on what is sent,
    # and every parameter of a member has made the same number of updates.
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def whole_optimizer_state(optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """State of an AdamW over whole parameters; zeros before its first update."""
    state: dict[str, Tensor] = {"step": torch.tensor(0)}
    for name, parameter in trained.items():
        held = optimizer.state.get(parameter, {})
        for moment in MOMENTS:
            state[f"{name}.{moment}"] = cpu_copy(held.get(moment, torch.zeros_like(parameter)))
        if held:
            state["step"] = held["step"].to("cpu", torch.int64)
    return state


def set_whole_optimizer_state(
    optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]
) -> None:
    """Set what `whole_optimizer_state` gave."""
    for name, parameter in trained.items():
        # torch counts AdamW's steps in a float32 on the CPU.
        held = {moment: state[f"{name}.{moment}"].to(parameter.device, copy=True) for moment in MOMENTS}
        optimizer.state[parameter] = held | {"step": state["step"].to("cpu", torch.float32, copy=True)}
