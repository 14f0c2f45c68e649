"""Values for other ranks as JSON and tensors: torch's own collectives of objects unpickle, which runs whatever is sent.

Neither torch's store nor its collectives know who speaks to them, so a rank must not run what it is sent.
"""

import json
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

_LENGTH_BYTES = 8
_PLAIN = (str, int, float, bool, type(None))


def encoded(value: Any) -> bytes:
    """A value as bytes: plain values, lists, tuples, dicts and tensors, in each other.

    Raises:
        TypeError: something of another type is in it.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_tagged(value, tensors)).encode()
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + save(tensors)


def decoded(data: bytes) -> Any:
    """The value that was encoded; its tensors are on the CPU."""
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    return _untagged(json.loads(data[_LENGTH_BYTES:end]), load(data[end:]))


def gather(value: Any, device: torch.device | str, group: Any = None) -> list[Any]:
    """The value of every rank, in rank order, on every rank; collective.

    Args:
        value: see `encoded`.
        device: where collectives of the group are made.
        group: of ranks; all if None.
    """
    data = encoded(value)
    size = torch.tensor([len(data)], device=device)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, size, group=group)
    longest = max(int(each) for each in sizes)
    own = torch.zeros(longest, dtype=torch.uint8, device=device)
    own[: len(data)] = _bytes(data).to(device)
    parts = [torch.empty_like(own) for _ in sizes]
    dist.all_gather(parts, own, group=group)
    return [decoded(part[: int(each)].cpu().numpy().tobytes()) for part, each in zip(parts, sizes, strict=True)]


def broadcast(value: Any, device: torch.device | str, group: Any = None) -> Any:
    """The first rank's value, on every rank; collective. Arguments as for `gather`; elsewhere `value` is not read."""
    first = dist.get_rank(group) == 0
    data = encoded(value) if first else b""
    size = torch.tensor([len(data)], device=device)
    dist.broadcast(size, src=0, group=group)
    sent = _bytes(data).to(device) if first else torch.empty(int(size), dtype=torch.uint8, device=device)
    dist.broadcast(sent, src=0, group=group)
    return value if first else decoded(sent.cpu().numpy().tobytes())


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _tagged(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value with each container and tensor as an object that says which it was."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_tagged(item, tensors) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_tagged(key, tensors), _tagged(item, tensors)] for key, item in value.items()]}
    raise TypeError(f"{type(value).__name__} cannot be sent to other ranks: only plain values and tensors can")


def _untagged(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_untagged(key, tensors): _untagged(item, tensors) for key, item in content}
    items = [_untagged(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
