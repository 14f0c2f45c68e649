"""`infoprompt bench pack`: updates of N runs that share each pass, beside those of the same runs one after another."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from infoprompt.config import override_config
from infoprompt.data.splits import Splits
from infoprompt.embedded import backbone_source
from infoprompt.engine.engine import build_engine
from infoprompt.engine.interface import SeededDropout
from infoprompt.kernels.machine import machine
from infoprompt.model.shared import SharedModel
from infoprompt.objective.total import information_objective
from infoprompt.progress import Progress
from launcher.bench.contender import Contender
from launcher.bench.lengths import splits_of
from launcher.bench.measure import Measured, turns
from launcher.bench.ours import Training, Wanted, config_of, positions
from launcher.bench.shapes import NOTES, backbone_folder
from launcher.bench.targets import Target

ROOM = 64  # positions left to prompt and template
CPU_TARGET, CPU_NEVER = 1.1, 1.0
GPU_TARGETS = {"minilm": (64, 12.0), "roberta-large-shape": (8, 3.0)}


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    members: Sequence[int]
    methods: Sequence[str]
    """The members have them in turn."""
    lengths: str
    batch_size: int
    rounds: int
    steps: int
    backbone: str
    dtype: str
    device: str
    prompt_length: int


Made = list[tuple[int, list[Any]]]
"""An update of every run: its number and micro-batches."""


def measure_packs(options: Options, json_file: Path | None, say: Callable[[str], object]) -> dict[str, Any]:
    """Measure every number of members and say it; the file is written anew after each."""
    on_gpu = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if on_gpu else "cpu")
    found: dict[str, Any] = {"machine": machine(device), "options": asdict(options), "rows": [], "targets": []}
    say(", ".join(f"{name} {value}" for name, value in found["machine"].items()))
    note = f" ({NOTES[options.backbone]})" if options.backbone in NOTES else ""
    say(
        f"{options.backbone}{note}, {options.dtype}, {options.lengths}, batches of {options.batch_size}, "
        f"{', '.join(options.methods)}; an update of every run, medians of {options.rounds} rounds of {options.steps}; "
        "memory beyond the weights"
    )
    say("runs  one after another ms  in a pack ms  faster  least to most  memory MiB, one  in a pack")
    ratios: dict[int, float] = {}
    with backbone_folder(options.backbone) as name:
        tokenizer = AutoTokenizer.from_pretrained(backbone_source(name))
        rows = options.steps * options.batch_size
        splits = splits_of(options.lengths, rows, tokenizer, 512 - ROOM, options.prompt_length)
        wanted = Wanted(name, options.dtype, device.type, options.batch_size, options.prompt_length)
        for count in options.members:
            apart, packed = _measured(count, options, splits, wanted, device)
            found["rows"] += [{"runs": count, **asdict(line)} for line in (apart, packed)]
            say(_line(count, apart, packed))
            if apart.median and packed.median:
                ratios[count] = apart.median / packed.median
            if json_file:
                json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    targets = _targets(ratios, options.backbone, on_gpu=on_gpu)
    for target in targets:
        say(target.shown())
    found["targets"] = [{**asdict(target), "met": target.met} for target in targets]
    if json_file:
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _measured(
    count: int, options: Options, splits: Splits, wanted: Wanted, device: torch.device
) -> tuple[Measured, Measured]:
    runs = [
        Training.start(
            override_config(config_of(options.methods[seed % len(options.methods)], wanted), [f"seed={seed}"]), splits
        )
        for seed in range(count)
    ]
    configs = [run.setup.config for run in runs]
    engine = build_engine(SharedModel([run.setup.member for run in runs]), configs, runs[0].setup.ranks)

    def batches(number: int) -> Iterator[Made]:
        for made in zip(*(run.batches(number) for run in runs), strict=True):
            yield list(made)

    def one_after_another(made: Made) -> Tensor:
        return torch.stack([run.update(own) for run, own in zip(runs, made, strict=True)]).mean()

    def in_a_pack(made: Made) -> Tensor:
        on_device = {place: own[1][0].to(device) for place, own in enumerate(made)}
        for place, (run, own) in enumerate(zip(runs, made, strict=True)):
            engine.set_lr(run.setup.config.optim.lr, place)
            run.setup.member.drawing = SeededDropout(run.setup.config.seed, own[0], run.setup.ranks)
        encodings = engine.forward(on_device)
        losses = {}
        for place, (run, own) in enumerate(zip(runs, made, strict=True)):
            config, steps = run.setup.config, run.steps
            progress = Progress(steps, steps * config.optim.epochs, own[0])
            weight_C = run.setup.class_weight_C
            terms = information_objective(encodings[place], on_device[place], config.objective, progress, weight_C)
            losses[place] = terms.total
        engine.step(losses)
        return torch.stack([loss.detach() for loss in losses.values()]).mean()

    def all_positions(made: Made) -> int:
        return sum(positions(own) for own in made)

    contenders = [
        Contender("one after another", "", batches, one_after_another, all_positions),
        Contender("in a pack", "", batches, in_a_pack, all_positions),
    ]
    lines = [Measured(options.lengths, options.batch_size, each.name, each.method) for each in contenders]
    apart, packed = turns(contenders, lines, options.rounds, device)
    return apart, packed


def _line(count: int, apart: Measured, packed: Measured) -> str:
    if apart.problem or packed.problem or not apart.median or not packed.median:
        return f"{count:4}  {apart.problem or packed.problem}"
    ratios = [one / other for one, other in zip(apart.seconds, packed.seconds, strict=True)]
    memory = [(line.peak_bytes or 0) / 2**20 for line in (apart, packed)]
    return (
        f"{count:4}  {1e3 * apart.median:20.1f}  {1e3 * packed.median:12.1f}  {apart.median / packed.median:5.2f}x  "
        f"{min(ratios):5.2f} to {max(ratios):4.2f}  {memory[0]:15.0f}  {memory[1]:9.0f}"
    )


def _targets(ratios: dict[int, float], backbone: str, *, on_gpu: bool) -> list[Target]:
    if on_gpu:
        count, bound = GPU_TARGETS.get(backbone, (0, 0.0))
        return [Target(f"{count} runs in a pack, against one after another", ratios.get(count), bound)] if count else []
    return [
        Target("8 runs in a pack, against one after another", ratios.get(8), CPU_TARGET),
        Target("any number, never slower", min(ratios.values(), default=None), CPU_NEVER),
    ]
