"""What enters between the layers: vectors put into slots or added there, and slots that nobody sees before.

Hooks change a layer's arguments from outside, and live as long as one forward pass. So a layer that is computed again
in backward gets the same arguments, and passes of different prompts do not mix.

Shapes: B examples, L positions, P prompt vectors, D hidden width, H heads.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from infoprompt.data.batch import Batch
from infoprompt.model.backbone.deberta import Distances
from infoprompt.model.backbone.packing import OfOwners, Packing
from infoprompt.model.insert import insert_prompt
from infoprompt.model.prompts.kind import DeepPrompt


@contextmanager
def deep_prompt(
    layers: Sequence[nn.Module],
    num_layers: int,
    deep: DeepPrompt | None,
    batch: Batch,
    causal: bool,
    packing: Packing | None,
) -> Iterator[None]:
    """While open, the layers of the model are passed with the prompt.

    Args:
        layers: in the order in which they run; one module may stand for several (ALBERT).
        num_layers: how many are run.
        deep: the prompt; None for none.
        batch: as long as the states.
        causal: whether a position sees only those before it.
        packing: of the stream that the layers are given; None where they are given a padded batch.
    """
    if deep is None and packing is None:
        yield
        return
    deep = deep or DeepPrompt()
    lower_BLD = batch.lower_BLD if starts_at(deep, batch) else None
    visit = iter(range(1_000_000))
    without_slots = packing.hiding(batch.slot_BL >= 0) if packing is not None and deep.first_layer else packing

    def enter(arguments: dict[str, Any]) -> None:
        layer = next(visit)
        if lower_BLD is not None and packing is not None and layer == deep.first_layer:
            arguments["hidden_states"] = packing.pack(lower_BLD)
        if layer in deep.layers:
            states = arguments["hidden_states"]
            if packing is None:
                arguments["hidden_states"] = _placed(states, layer, deep, batch)
            else:
                arguments["hidden_states"] = packing.pack(_placed(packing.unpack(states), layer, deep, batch))
        if packing is not None:
            _pass_along(arguments, "packing", without_slots if layer < deep.first_layer else packing)
            if layer == num_layers - 1:
                _pass_along(arguments, "reads", packing.reads)
        elif layer < deep.first_layer:
            arguments["attention_mask"] = _without_slots(arguments.get("attention_mask"), batch.slot_BL, causal)
        for name in ("prefix", "adapter_kv") if deep.owners else ():
            _pass_along(arguments, _ARGUMENTS[name], _of_owners(deep, name, layer))
        if deep.prefix:
            seen = () if deep.prefix_seen_BP is None else (deep.prefix_seen_BP,)
            _pass_along(arguments, "prompt_prefix", (*deep.prefix[layer], *seen))
        if deep.adapter_kv:
            seen = () if deep.adapter_seen_BP is None else (deep.adapter_seen_BP,)
            _pass_along(arguments, "prompt_adapter", (*deep.adapter_kv[layer], *seen))

    with _around_layers(layers, enter):
        yield


def starts_at(deep: DeepPrompt | None, batch: Batch) -> int:
    """The layer at which a pass without padding can start, for the states that come to it are kept; 0 if from below."""
    if deep is None or batch.lower_BLD is None or deep.adds or deep.first_layer not in deep.layers:
        return 0
    return deep.first_layer


@contextmanager
def passed_over(layers: Sequence[nn.Module]) -> Iterator[None]:
    """While open, these layers give back what they are given."""
    before = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = lambda hidden_states, *args, **kwargs: hidden_states
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


class Reached(Exception):
    """A pass has come to a layer."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


@contextmanager
def ended_at(layers: Sequence[nn.Module], layer: int) -> Iterator[None]:
    """While open, a pass ends before a layer, and raises `Reached` with what the layer would be given."""

    def enter(arguments: dict[str, Any]) -> None:
        raise Reached(arguments["hidden_states"])

    with _around_layers([layers[layer]], enter):
        yield


@contextmanager
def position_bias(layers: Sequence[Any], position_BL: Tensor) -> Iterator[None]:
    """While open, T5's bias is computed of positions, not of indices, so that slots and left padding move no token."""

    def enter(arguments: dict[str, Any]) -> None:
        attention = layers[0].layer[0].SelfAttention
        bucket_BLL = attention._relative_position_bucket(
            position_BL[:, None, :] - position_BL[:, :, None],
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        arguments["position_bias"] = attention.relative_attention_bias(bucket_BLL).permute(0, 3, 1, 2)

    with _around_layers(layers[:1], enter):
        yield


@contextmanager
def distances(layers: Sequence[nn.Module], position_BL: Tensor) -> Iterator[None]:
    """While open, DeBERTa's distances are those of positions; `deberta.take_distances` has been called."""

    def enter(arguments: dict[str, Any]) -> None:
        arguments["relative_pos"] = Distances(position_BL)

    with _around_layers(layers, enter):
        yield


@contextmanager
def learned_positions(table: nn.Module, position_BL: Tensor) -> Iterator[None]:
    """While open, BART's table of positions is read at ours instead of at indices."""
    handles = [
        table.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "position_ids": position_BL}), with_kwargs=True
        ),
        table.register_forward_hook(lambda module, args, output: output.squeeze(0)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def recompute_in_backward(layers: Sequence[nn.Module]) -> None:
    """Have each layer keep only its input for backward, and compute the rest again there.

    transformers' own checkpointing is on in training mode only, in which a frozen model would drop units; and ALBERT
    has none. Hooks stay outside, as there.
    """
    for layer in dict.fromkeys(layers):
        layer.forward = _checkpointed(layer.forward)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return checkpointed


@contextmanager
def _around_layers(layers: Sequence[nn.Module], enter: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # Families differ in which arguments they pass by name.
        bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
        enter(bound.arguments)
        return bound.args[1:], bound.kwargs

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in dict.fromkeys(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


_ARGUMENTS = {"prefix": "prompt_prefix", "adapter_kv": "prompt_adapter"}


def _of_owners(deep: DeepPrompt, name: str, layer: int) -> OfOwners | None:
    """The keys and values that each prompt of a shared pass has at a layer; None if none has any."""
    of_layers = [() if own is None else getattr(own, name) for _, own in deep.owners]
    if not any(of_layers):
        return None
    parts = tuple(own[layer] if own else None for own in of_layers)
    return OfOwners(parts, tuple(first for first, _ in deep.owners))


def _pass_along(arguments: dict[str, Any], name: str, value: Any) -> None:
    """Have the layer's attention function get an argument."""
    told = arguments.get("relative_pos")
    if isinstance(told, Distances):
        arguments["relative_pos"] = replace(told, **{name: value})
    else:
        arguments.setdefault("kwargs", {})[name] = value


def _placed(states_BLD: Tensor, layer: int, deep: DeepPrompt, batch: Batch) -> Tensor:
    vectors_BPD = deep.layers[layer](states_BLD, batch)
    placed_BLD = insert_prompt(states_BLD, vectors_BPD, batch.slot_BL)
    if not deep.adds:
        return placed_BLD
    return torch.where((batch.slot_BL >= 0).unsqueeze(-1), states_BLD + placed_BLD, states_BLD)


def _without_slots(mask: Tensor | None, slot_BL: Tensor, causal: bool) -> Tensor:
    seen_B11L = (slot_BL < 0)[:, None, None, :]
    if mask is not None:
        return mask & seen_B11L
    if not causal:
        return seen_B11L.expand(-1, -1, slot_BL.shape[1], -1)
    length = slot_BL.shape[1]
    return seen_B11L & torch.ones(length, length, dtype=torch.bool, device=slot_BL.device).tril()
