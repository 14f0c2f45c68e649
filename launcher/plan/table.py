"""A plan as tables for people."""

from collections.abc import Iterator

from rich import box
from rich.table import Table

from launcher.literal_table import LiteralTable
from launcher.plan.plan import Plan

_PARTS = {
    "base": "process before the model",
    "weights": "frozen weights",
    "gathered": "weights made whole for use",
    "trained": "trained parameters",
    "gradients": "gradients",
    "moments": "AdamW",
    "best_state": "copy of the best state",
    "states": "states of the plain texts",
    "activations": "activations kept for backward",
    "kernels": "compiled kernels",
    "working": "what passes take beside them",
}


def plan_table(plan: Plan) -> Table:
    """A row for each figure."""
    table = LiteralTable(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for name, value in _rows(plan):
        table.add_row(name, value)
    return table


def assumptions(plan: Plan) -> str:
    """What the figures rest on."""
    device, padding = plan.device, "is left out" if plan.unpadded else "is passed too"
    rates = ", ".join(f"{rate / 1e12:.3g} TFLOP/s {dtype}" for dtype, rate in device.flops.items())
    return (
        f"Lengths: {plan.rows}; padding {padding}.\n"
        "Time is an estimate. Each operation is bound by arithmetic, by memory or by its start: "
        f"{device.compute_share:.0%} of {rates}, {device.bandwidth_share:.0%} of "
        f"{device.bytes_per_second / 1e9:,.0f} GB/s, {device.start_seconds * 1e6:.1f} us ({device.source})."
        + (" What ranks send each other is left out of it." if plan.ranks > 1 else "")
    )


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    yield f"parameters of {plan.backbone}", f"{plan.body_parameters:,}"
    if plan.head_parameters:
        yield "  of its language-model head", f"{plan.head_parameters:,}"
    yield "trained parameters", f"{sum(plan.trained.values()):,}"
    for name, count in plan.trained.items():
        yield f"  {name.replace('_', ' ')}", f"{count:,}"
    yield "updates an epoch", f"{plan.steps_per_epoch:,}"
    each = " on each rank" if plan.ranks > 1 else ""
    yield f"positions an update{each}", f"{plan.padded_tokens:,.0f}"
    yield "  without padding", f"{plan.real_tokens:,.0f}"
    yield f"operations an update{each}", _operations(plan.forward_flops + plan.backward_flops)
    yield "  forward", _operations(plan.forward_flops)
    yield "  backward", _operations(plan.backward_flops)
    yield f"memory at its peak{each}", shown_bytes(plan.memory.peak)
    for name, words in _PARTS.items():
        if size := getattr(plan.memory, name):
            yield f"  {words}", shown_bytes(size)
    if plan.fetched_bytes:
        yield f"weights fetched from other ranks an update{each}", shown_bytes(plan.fetched_bytes)
    yield f"runs beside each other on {shown_bytes(plan.device.memory_bytes)}", f"{plan.runs_that_fit:,}"
    yield f"time of an update on {plan.device.name}", f"{plan.step_seconds * 1000:,.3g} ms"


def _operations(count: int) -> str:
    return f"{count / 1e9:,.3g} GFLOP" if count < 1e12 else f"{count / 1e12:,.4g} TFLOP"


def shown_bytes(size: int) -> str:
    """In the unit that leaves one to three digits before the point."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 2**10:,.1f} KiB"
