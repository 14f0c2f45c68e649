"""PEFT's prompt tuning and prefix tuning on the same shape and the same batches, turn by turn with ours."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import peft
import torch
from torch import Tensor
from transformers import AutoModelForTokenClassification

from tests.gpu.large import Training, start
from tests.gpu.models import large_backbone
from tests.gpu.record import Recorder

SLOTS = 8


def prove(recorder: Recorder, dry: bool) -> None:
    """Both methods, a small batch and a larger one."""
    device = "cpu" if dry else "cuda"
    configs = {
        "prompt_tuning": (peft.PromptTuningConfig, {"prompt__template": "before"}),  # where PEFT puts its vectors
        "prefix": (peft.PrefixTuningConfig, {}),
    }
    for batch_size in (4,) if dry else (8, 64):
        for recipe, (config, layout) in configs.items():
            label = f"{recipe.replace('_', ' ')}, batch of {batch_size}"
            with recorder.trying(label):
                ours = start(recipe, recipe, dry, batch_size, prompt__length=SLOTS, **layout)
                try:
                    theirs = _their_update(config(task_type="TOKEN_CLS", num_virtual_tokens=SLOTS), ours, device, dry)
                    theirs()
                except Exception as error:  # their limits are theirs
                    recorder.add(f"{label}: PEFT", note=f"not run: {type(error).__name__}: {error}"[:200])
                    continue
                _turns(recorder, label, ours.update, theirs, 3 if dry else 15, dry)


def _their_update(config: Any, ours: Training, device: str, dry: bool) -> Callable[[], Tensor]:
    """An update of PEFT's on what ours will read next."""
    base = AutoModelForTokenClassification.from_pretrained(
        large_backbone(dry), num_labels=2, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    model = peft.get_peft_model(base, config).to(device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)

    def update() -> Tensor:
        for batch in ours.batches():
            ids_BL = batch.input_ids_BL[batch.real_BL].view(len(batch), -1)  # every text has the same length
            labels_BL = torch.full_like(ids_BL, -100)
            labels_BL[:, 0] = batch.label_B
            logits_BLC = model(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL)).logits
            # with prompt tuning there is an answer at each slot, too
            loss = torch.nn.functional.cross_entropy(
                logits_BLC[:, -ids_BL.shape[1] :].float().transpose(1, 2), labels_BL
            )
            if not loss.detach().isfinite().item():
                raise RuntimeError("their loss is not finite")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    return update


def _turns(
    recorder: Recorder, label: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor], turns: int, dry: bool
) -> None:
    seconds: dict[str, list[float]] = {"ours": [], "PEFT": []}
    peaks, finite = {"ours": 0, "PEFT": 0}, True
    for turn in range(turns + 2):
        for name, update in (("PEFT", theirs), ("ours", ours)):  # ours is last, since it moves on to the next rows
            if not dry:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
            started = time.perf_counter()
            loss = update()
            if not dry:
                torch.cuda.synchronize()
                peaks[name] = torch.cuda.max_memory_allocated() - held
            if turn >= 2:  # the first ones warm up
                seconds[name].append(time.perf_counter() - started)
            finite = finite and bool(loss.isfinite().all())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        memory = "" if dry else f"{peaks[name] / 2**20:.0f} MiB beside weights"
        recorder.add(f"{label}: {name}", median * 1e3, "ms an update", note=memory, wrong=name == "ours" and not finite)
    recorder.add(f"{label}: PEFT's time over ours", medians["PEFT"] / medians["ours"], note=f"medians of {turns} turns")
