"""Training in torch alone: the yardstick that DeepSpeed must match."""

from collections.abc import Mapping

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
from infoprompt.engine.interface import require_finite_loss, require_finite_norm
from infoprompt.engine.ranks import Ranks
from infoprompt.objective.encoding import Encoding


class PlainEngine:
    """An `Engine`: the model is whole on every rank, and gradients are averaged in one collective per update."""

    def __init__(self, model: nn.Module, config: RunConfig, ranks: Ranks) -> None:
        self.ranks = ranks
        self.model = model.to(ranks.device)
        self._accumulation = accumulation_steps(config.data, ranks.world_size)
        self._max_norm = config.optim.max_grad_norm
        self._trained = trained_parameters(model)
        self._optimizer = build_optimizer(list(self._trained.values()), config.optim)
        self._micro_steps = 0

    def forward(self, batch: Batch) -> Encoding:
        """See `Engine`."""
        self.model.train()
        return self.model(batch)

    def step(self, loss: Tensor) -> float | None:
        """See `Engine`."""
        require_finite_loss(loss, self.ranks)
        (loss / self._accumulation).backward()
        self._micro_steps += 1
        if self._micro_steps % self._accumulation:
            return None
        norm = nn.utils.get_total_norm(self._averaged_gradients())
        require_finite_norm(float(norm))
        if self._max_norm > 0:
            nn.utils.clip_grads_with_norm_(self._trained.values(), self._max_norm, norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)

    def set_lr(self, lr: float) -> None:
        """See `Engine`."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    @torch.no_grad()
    def infer(self, batch: Batch) -> Encoding:
        """See `Engine`."""
        self.model.eval()
        return self.model(batch)

    def trained_state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return {name: cpu_copy(parameter) for name, parameter in self._trained.items()}

    @torch.no_grad()
    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        check_state(state, self._shapes())
        for name, parameter in self._trained.items():
            parameter.copy_(state[name])

    def optimizer_state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return whole_optimizer_state(self._optimizer, self._trained)

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        check_state(state, optimizer_shapes(self._shapes()))
        set_whole_optimizer_state(self._optimizer, self._trained, state)

    def close(self) -> None:
        """See `Engine`."""
        self._optimizer.zero_grad()

    def _shapes(self) -> dict[str, torch.Size]:
        return {name: parameter.shape for name, parameter in self._trained.items()}

    def _averaged_gradients(self) -> list[Tensor]:
        for parameter in self._trained.values():
            # A parameter the loss did not reach gets a zero gradient, as DeepSpeed has it: ranks then agree on what
            # is sent, and every parameter has made the same number of updates.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self._trained.values() if parameter.grad is not None]
        if self.ranks.world_size == 1:
            return gradients
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self.ranks.sum_in_place(flat)
        flat /= self.ranks.world_size
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
        return gradients


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
