"""Contenders of a table, measured; the table for people; a picture of all tables."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.splits import Splits
from infoprompt.embedded import backbone_source
from infoprompt.model.backbone.backbone import Backbone
from infoprompt.model.backbone.cache import kept_backbone
from infoprompt.model.build import backbone_needs
from infoprompt.model.inputs import make_template
from launcher.bench import ours, released
from launcher.bench.contender import Contender, Missing
from launcher.bench.flops import useful_flops
from launcher.bench.lengths import splits_of
from launcher.bench.measure import Measured, attempt, turns
from launcher.bench.ours import Wanted, config_of
from launcher.bench.plain_loop import PlainRows

ROOM_OF_TEMPLATE = 10
PEFT_METHODS = ("prompt tuning", "prefix tuning")


def measured_table(
    lengths: str,
    wanted: Wanted,
    *,
    steps: int,
    rounds: int,
    only: Sequence[str] = (),
    after: Callable[[Contender], object] | None = None,
) -> tuple[str, list[Measured]]:
    """What the rows are, and a line for each contender.

    Args:
        lengths: see `lengths.splits_of`.
        wanted: backbone, batch size, device.
        steps: of a round, which passes over the rows once.
        rounds: counted.
        only: names, or parts of names, of contenders; all if none is given.
        after: called with each contender that ran, at the end.
    """
    source = backbone_source(wanted.backbone)
    most = getattr(AutoConfig.from_pretrained(source), "max_position_embeddings", 512)
    room = most - wanted.prompt_length - ROOM_OF_TEMPLATE
    tokenizer = AutoTokenizer.from_pretrained(source)
    splits = splits_of(lengths, steps * wanted.batch_size, tokenizer, room, wanted.prompt_length)
    built = contenders(splits, wanted, only)
    lines = [Measured(lengths, wanted.batch_size, each.name, each.method) for each in built]
    for line in lines:
        _count(line, splits, wanted)
    able = []
    for each, line in zip(built, lines, strict=True):
        if isinstance(each, Missing):
            line.problem = each.reason
        else:
            able.append((each, line))
    turns([each for each, _ in able], [line for _, line in able], rounds, torch.device(wanted.device))
    for each, line in able:
        if after and line.problem is None:
            after(each)
    return splits.description, lines


def contenders(splits: Splits, wanted: Wanted, only: Sequence[str] = ()) -> list[Contender | Missing]:
    """Every contender whose name has a part of `only` in it."""
    found: list[tuple[str, str, Any]] = []
    for padded in (False, True):  # those of one kind share the backbone that is kept
        for method in ("prompt tuning", "prefix tuning", "InfoPrompt"):
            name = f"{'ours, padded' if padded else 'ours'}: {method}"
            found.append((name, method, partial(ours.contender, method, splits, wanted, padded=padded)))
    release = partial(ours.contender, "InfoPrompt, release", splits, wanted)
    found.insert(3, ("ours, release preset: InfoPrompt", "InfoPrompt", release))
    for method in PEFT_METHODS:
        for grouped in (False, True):
            name = f"{'PEFT, grouped by length' if grouped else 'PEFT'}: {method}"
            found.append((name, method, partial(_peft, method, splits, wanted, grouped)))
    found.append(("released form: InfoPrompt", "InfoPrompt", partial(_released, splits, wanted)))
    chosen = [each for each in found if not only or any(part in each[0] for part in only)]
    return [attempt(name, method, build) for name, method, build in chosen]


def _peft(method: str, splits: Splits, wanted: Wanted, grouped: bool) -> Contender:
    from launcher.bench import peft_step  # an extra, which one may lack

    rows, _ = encoded("prompt tuning", splits, wanted)
    plain = PlainRows.of(rows.without_prompt(), wanted.batch_size, grouped)
    return peft_step.contender(method, plain, rows.pad_id, splits.task.num_classes, wanted)


def _released(splits: Splits, wanted: Wanted) -> Contender:
    rows, _ = encoded("InfoPrompt, release", splits, wanted)
    prompted, plain = (PlainRows.of(part, wanted.batch_size) for part in (rows, rows.without_prompt()))
    return released.contender(prompted, plain, rows.pad_id, splits.task.num_classes, wanted)


def encoded(method: str, splits: Splits, wanted: Wanted) -> tuple[EncodedDataset, Backbone]:
    """The rows as a method's template lays them out, and the backbone that says how."""
    config = config_of(method, wanted)
    device = torch.device(wanted.device)
    backbone, _ = kept_backbone(config.backbone, device, needs=backbone_needs(config), lm_head=False)
    template = make_template(config, backbone, splits.task, splits.train)
    return EncodedDataset.encode(splits.train, splits.task.labels, template, "training"), backbone


def _count(line: Measured, splits: Splits, wanted: Wanted) -> None:
    released_form = "release" in line.contender
    rows, backbone = encoded("InfoPrompt, release" if released_form else line.method, splits, wanted)
    plain = rows.without_prompt().lengths_M
    line.examples = len(rows)
    line.tokens = int(plain.sum())
    read = [1] * len(rows) if released_form else plain.tolist()  # the mask token's state, or the mean of real tokens'
    prefix = wanted.prompt_length if line.method == "prefix tuning" else 0
    line.useful_flops = useful_flops(backbone, rows.lengths_M.tolist(), read, prefix)


HEADER = (
    f"  {'':39} {'ms a step':>10} {'to ours':>8} {'rows/s':>8} {'tokens/s':>9} {'MiB':>8} {'useful':>7} {'host':>6}"
)


def shown(lines: Sequence[Measured], rate: float | None = None) -> Iterator[str]:
    """The table; `rate` is the device's own for products, in operations a second, and adds the share of it used."""
    yield HEADER + (f" {'MFU':>6}" if rate else "")
    ours_of = {line.method: line.median for line in lines if line.contender.startswith("ours: ")}
    for line in lines:
        seconds = line.median
        if seconds is None:
            yield f"  {line.contender:39} not run: {line.problem}"
            continue
        own = ours_of.get(line.method)
        each = line.steps * seconds
        ratio = f"{seconds / own:.2f} x" if own else ""
        useful = "" if line.useful_share is None else f"{line.useful_share:.0%}"
        mfu = mfu_of(line, rate)
        yield (
            f"  {line.contender:39} {seconds * 1e3:10.2f} {ratio:>8} {line.examples / each:8.1f} "
            f"{line.tokens / each:9.0f} {(line.peak_bytes or 0) / 2**20:8.1f} {useful:>7} {line.host_share:6.1%}"
            + (f" {mfu:6.1%}" if mfu else "")
        )


def mfu_of(line: Measured, rate: float | None) -> float | None:
    """Useful operations a second over those of a large product on this device."""
    if rate is None or line.median is None or line.useful_flops is None:
        return None
    return line.useful_flops / (line.steps * line.median) / rate


def draw(lines: Sequence[Measured], path: Path) -> None:
    """Bars of milliseconds a step, a panel for each table."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tables = list(dict.fromkeys((line.lengths, line.batch) for line in lines))
    figure, axes = pyplot.subplots(len(tables), 1, figsize=(9, 3.2 * len(tables)), squeeze=False, layout="constrained")
    for (lengths, batch), axis in zip(tables, axes[:, 0], strict=True):
        part = [line for line in lines if (line.lengths, line.batch) == (lengths, batch) and line.seconds][::-1]
        colours = ["tab:orange" if line.contender.startswith("ours: ") else "tab:gray" for line in part]
        axis.barh([line.contender for line in part], [(line.median or 0) * 1e3 for line in part], color=colours)
        axis.set(title=f"{lengths}, batches of {batch}", xlabel="ms a step")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
