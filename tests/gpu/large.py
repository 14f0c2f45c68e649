"""Training with a backbone of RoBERTa-large's shape, in bfloat16: examples a second, use of the card, memory."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from infoprompt.build_setup import build_setup
from infoprompt.config import RunConfig
from infoprompt.data.batch import Batch
from infoprompt.engine.interface import SeededDropout
from infoprompt.engine.ranks import start_ranks
from infoprompt.kernels.ceilings import measure_ceilings
from infoprompt.objective.total import information_objective
from infoprompt.progress import Progress
from infoprompt.setup import Setup
from tests.gpu.models import config_of, large_backbone, rows_of_words
from tests.gpu.record import Recorder

TOKENS = 118
"""Of a text; with its two ends and eight slots 128."""


@dataclass
class Training:
    """The loop of `infoprompt.train`, an update at a time, without evaluation or records."""

    setup: Setup
    step: int = 0

    def update(self) -> Tensor:
        """One update; the last micro-batch's loss."""
        config, engine = self.setup.config, self.setup.engine
        progress = Progress(self.setup.train.steps_per_epoch, 10_000, self.step)
        engine.set_lr(config.optim.lr)
        self.setup.member.drawing = SeededDropout(config.seed, self.step, self.setup.ranks)
        for batch in self.batches():
            encoding = engine.forward({0: batch})[0]
            terms = information_objective(encoding, batch, config.objective, progress)
            engine.step({0: terms.total})
        self.step += 1
        return terms.total.detach()

    def batches(self) -> Iterator[Batch]:
        """What the next update reads."""
        for batch in self.setup.train.micro_batches(self.step):
            yield batch.to(self.setup.ranks.device)


def start(recipe: str, output: str, dry: bool, batch_size: int, **changes: object) -> Training:
    """A run of a recipe, set up as every run is."""
    rows = rows_of_words(16 if dry else 256, 10 if dry else TOKENS)
    config: RunConfig = config_of(
        f"recipes/{recipe}.yaml",
        output,
        backbone__name=large_backbone(dry),
        backbone__dtype="bfloat16",
        data__train=rows,
        data__validation=rows,
        data__batch_size=batch_size,
        engine__kind="plain",
        engine__device="cpu" if dry else "cuda",
        **changes,
    )
    return Training(build_setup(config, start_ranks(config.engine)))


def prove(recorder: Recorder, dry: bool) -> None:
    """With the information losses and without, a small batch and a larger one."""
    rate = None if dry else measure_ceilings(torch.device("cuda")).flops
    if rate:
        recorder.add("product of bfloat16 matrices", rate / 1e12, "TFLOP/s", note="what use of the card is a share of")
    off = {"objective__head_weight": 0, "objective__representation_weight": 0}
    for batch_size in (4,) if dry else (8, 64):
        rates = {}
        for name, changes in (("on", {}), ("off", off)):
            label = f"batch of {batch_size}, information losses {name}"
            with recorder.trying(label):
                training = start("infoprompt_analytic", f"large-{name}", dry, batch_size, **changes)
                rates[name] = _measure(recorder, label, training, rate)
        if len(rates) == 2:
            recorder.add(f"batch of {batch_size}: time with the losses over time without", rates["off"] / rates["on"])


def _measure(recorder: Recorder, label: str, training: Training, rate: float | None) -> float:
    on_gpu, batch_size = rate is not None, training.setup.config.data.batch_size
    warm, counted = (5, 20) if on_gpu else (1, 2)
    losses = [training.update() for _ in range(warm)]
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(counted):
        _synchronize(on_gpu)
        started = time.perf_counter()
        losses.append(training.update())
        _synchronize(on_gpu)
        seconds.append(time.perf_counter() - started)
    update = statistics.median(seconds)
    finite = bool(torch.stack(losses).isfinite().all())
    recorder.add(
        f"{label}: training",
        batch_size / update,
        "examples/s",
        wrong=not finite,
        note=f"{update * 1e3:.1f} ms an update",
    )
    operations = _products(training)
    recorder.add(f"{label}: products of the frozen backbone, forward and back", operations / 1e9, "GFLOP")
    if rate is None:
        return batch_size / update
    recorder.add(f"{label}: most memory", torch.cuda.max_memory_allocated() / 2**30, "GiB", note="weights included")
    recorder.add(f"{label}: use of the card (MFU)", 100 * operations / update / rate, "%", note="those products")
    with recorder.trying(f"{label}: share of host time"):
        busy = _device_seconds(training)
        recorder.add(
            f"{label}: share of host time", 100 * max(0.0, 1 - busy / update), "%", note="no kernel runs on the card"
        )
    return batch_size / update


def _products(training: Training) -> float:
    """Floating-point operations of an update: frozen weights forward and back, without a gradient; attention."""
    (batch, *_) = training.batches()
    examples, length = batch.input_ids_BL.shape
    backbone = training.setup.member.backbone.model
    layers, width = backbone.config.num_hidden_layers, backbone.config.hidden_size
    weights = sum(parameter.numel() for parameter in backbone.encoder.parameters() if parameter.ndim == 2)
    return examples * length * (2 * 2 * weights + layers * (4 + 8) * length * width)


def _device_seconds(training: Training, updates: int = 5) -> float:
    """Time of an update in which the card runs a kernel."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
        for _ in range(updates):
            training.update()
        torch.cuda.synchronize()
    total = sum(event.self_device_time_total for event in profiled.key_averages())
    assert total > 0, "the profiler saw no kernel"
    return total / 1e6 / updates


def _synchronize(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()
