"""Which implementation of an op runs: its Triton kernels, torch in panels, or the plain formula."""

import importlib.util
import logging
import os
from typing import Literal, cast, get_args

import torch

log = logging.getLogger(__name__)

Impl = Literal["auto", "triton", "chunked", "reference"]
Chosen = Literal["triton", "chunked", "reference"]

_said: set[tuple[str, str, str]] = set()


def choose(op: str, impl: str, device: torch.device, unfit: str | None = None) -> Chosen:
    """The implementation that runs; `auto` says once per op and device what it took.

    Args:
        op: name of the op, for messages.
        impl: what the caller asked for. `auto` takes `triton` where it can, else `chunked`.
        device: of the inputs.
        unfit: why the Triton kernels cannot take these inputs; None if they can.
    Raises:
        ValueError: `impl` is unknown, or `triton` cannot run here.
    """
    if impl not in get_args(Impl):
        raise ValueError(f"impl is {impl!r}, but {op} has {', '.join(get_args(Impl))}. Choose one of them.")
    if impl not in ("auto", "triton"):
        return cast(Chosen, impl)
    obstacle = triton_obstacle(device.type) or unfit
    if impl == "triton":
        if obstacle:
            raise ValueError(f"impl is 'triton', but {obstacle}, so {op} cannot run so. Use 'auto' or 'chunked'.")
        return "triton"
    chosen = automatic(device.type, obstacle)
    _say_once(op, chosen, device.type, obstacle)
    return chosen


def automatic(device_type: str, obstacle: str | None) -> Chosen:
    """What `auto` takes, given why the Triton kernels cannot run, if they cannot."""
    # the interpreter is for tests of the kernels: thousands of times slower than torch, so never chosen
    return "triton" if obstacle is None and device_type == "cuda" else "chunked"


def triton_obstacle(device_type: str) -> str | None:
    """Why Triton kernels cannot run on this kind of device here; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if device_type != "cuda" and not interpreting():
        return f"the inputs are on the {device_type}, where Triton needs TRITON_INTERPRET=1"
    return None


def interpreting() -> bool:
    """Whether Triton kernels run in Triton's interpreter, on the CPU; settled when the kernels are first imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def _say_once(op: str, chosen: str, device_type: str, obstacle: str | None) -> None:
    if (op, chosen, device_type) in _said:
        return
    _said.add((op, chosen, device_type))
    why = f" ({obstacle})" if obstacle and device_type == "cuda" else ""
    log.info("%s runs as %s on the %s%s.", op, chosen, device_type, why)
