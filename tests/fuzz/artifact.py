"""Damages a small artifact and a small resume state in every way it knows, and looks what comes of it.

    python -m tests.fuzz.artifact --rounds 10000

Each must load with the tensors that were saved, or be refused by a message of our own: no other exception, no other
tensors, and no file outside the folder may be opened. A round depends on its seed and its number alone.
"""

import argparse
import copy
import json
import logging
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "earlier"))

from make import make_backbone

from infoprompt.artifact import Artifact
from infoprompt.artifact_files import ArtifactError, predicting_config, read_card
from infoprompt.checkpoint import write_manifest
from infoprompt.config import ConfigError, build_config
from infoprompt.engine.adamw import check_state
from infoprompt.model.backbone.load import Backbone, load_backbone
from infoprompt.training_state import _usable_state, check_same_run

EARLIER = Path(__file__).resolve().parents[1] / "earlier"
STATE = "step-00000006"

ODD: list[Any] = [None, True, False, -1, 0, 1, 3, 7, 10**9, 2**70, 1e308, float("nan"), float("inf"), 0.5]
ODD += ["", "x", "none", "../x", "/etc/passwd", "~nobody/x", "\0", "\ud800", "é" * 3000, [], {}, ["a"], [[]], {"a": 1}]
ODD += ["static", "instance", "prefix", "ipt", "lpt", "tags", "choice", "regression", "text", "label_words", "entities"]

Tensors = dict[str, torch.Tensor]


def main(rounds: int, seed: int) -> Counter[str]:
    """Run so many rounds; how each ended, by name. Raises AssertionError, with the round, where one ended wrongly."""
    ends: Counter[str] = Counter()
    opened: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        place = Path(name)
        canary = place / "elsewhere.safetensors"
        shutil.copy(EARLIER / "artifact/prompt.safetensors", canary)
        sys.addaudithook(lambda event, values: opened.append(str(values[0])) if event == "open" and values else None)
        backbone = load_backbone(build_config({"backbone": {"name": make_backbone(place / "backbone")}}).backbone)
        fingerprint = backbone.fingerprint()
        for number in range(rounds):
            source = random.Random(f"{seed} {number}")
            run = place / "run"
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(EARLIER / "artifact", run / "artifact")
            shutil.copytree(EARLIER / "checkpoints", run / "checkpoints")
            of_state = source.random() < 0.5
            folder = run / "checkpoints" / STATE if of_state else run / "artifact"
            what, tensors_changed = damage(folder, canary, source)
            opened.clear()
            try:
                ending = (
                    load_state(run, tensors_changed)
                    if of_state
                    else load_artifact(folder, backbone, fingerprint, tensors_changed)
                )
            except (ArtifactError, ConfigError) as error:
                ending = "refused" if len(str(error)) > 20 else "refused without a reason"
            except Exception as error:
                raise AssertionError(
                    f"round {number} of seed {seed}: {what}: {type(error).__name__}: {error}"
                ) from error
            assert not any("elsewhere" in one for one in opened), (
                f"round {number} of seed {seed}: {what}: read a file outside the folder"
            )
            ends[f"{'state' if of_state else 'artifact'} {ending}"] += 1
    return ends


def load_artifact(folder: Path, backbone: Backbone, fingerprint: str, tensors_changed: bool) -> str:
    """Load it as `from_pretrained` does, over a backbone that is loaded, and predict."""
    predicting_config(read_card(folder))
    artifact = Artifact.over(backbone, folder, fingerprint)
    found = {name: tensor.detach() for name, tensor in artifact.model.named_parameters() if tensor.requires_grad}
    if not tensors_changed:
        check_equal(found, load_file(EARLIER / "artifact/prompt.safetensors"))
    if artifact.task.kind == "single":
        (prediction,) = artifact.predict(["the film was good"])
        assert prediction.label in artifact.task.labels
    return "loaded"


def load_state(run: Path, tensors_changed: bool) -> str:
    """Load it as a run does that is started with `--resume auto`."""
    state = _usable_state(run)
    assert state is not None, "taken for a run that never saved anything"
    check_same_run(build_config(state.values["config"]), state)
    for group in ("trained", "optimizer", "best"):
        kept = load_file(EARLIER / "checkpoints" / STATE / f"{group}.safetensors")
        if group == "trained":
            try:
                check_state(state.tensors[group], {name: tensor.shape for name, tensor in kept.items()})
            except ValueError as error:  # what the engine says to a state of another model
                raise ConfigError(str(error)) from None
        if not tensors_changed and group in state.tensors:
            check_equal(state.tensors[group], kept)
    return "loaded"


def check_equal(found: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor]) -> None:
    """Raise AssertionError unless the tensors are those that were saved, to the bit."""
    assert found.keys() == kept.keys(), f"other tensors: {found.keys() ^ kept.keys()}"
    for name, tensor in kept.items():
        assert found[name].dtype == tensor.dtype, f"{name} is {found[name].dtype}"
        assert torch.equal(found[name], tensor), f"{name} has other values"


def damage(folder: Path, canary: Path, source: random.Random) -> tuple[str, bool]:
    """Damage a file of the folder; what was done, and whether tensors may have other values with right checksums."""
    kinds: list[Callable[[Path, Path, random.Random], tuple[str, bool]]] = [_bytes, _json, _json, _tensors, _manifest]
    return source.choice(kinds)(folder, canary, source)


def _bytes(folder: Path, canary: Path, source: random.Random) -> tuple[str, bool]:
    path = source.choice(sorted(folder.iterdir()))
    content = bytearray(path.read_bytes())
    how = source.choice(["cut", "flip", "insert", "zero", "remove", "empty", "head"])
    at = source.randrange(len(content))
    if how == "cut":
        content = content[:at]
    elif how == "flip":
        content[at] ^= 1 << source.randrange(8)
    elif how == "insert":
        content[at:at] = source.randbytes(source.randrange(1, 20))
    elif how == "zero":
        content[at : at + 16] = bytes(len(content[at : at + 16]))
    elif how == "head":  # the length of a safetensors header
        content[:8] = (
            source.randbytes(8) if source.random() < 0.5 else (2 ** source.randrange(63)).to_bytes(8, "little")
        )
    path.write_bytes(b"" if how == "empty" else bytes(content))
    if how == "remove":
        path.unlink()
    mended = source.random() < 0.5 and path.name != "manifest.json"
    if mended:
        write_manifest(folder)
    return f"{path.name} {how} at {at}, checksums {'mended' if mended else 'left'}", mended and ".safe" in path.name


def _json(folder: Path, canary: Path, source: random.Random) -> tuple[str, bool]:
    path = folder / source.choice(["config.json" if (folder / "config.json").exists() else "state.json"])
    values = json.loads(path.read_text())
    done = []
    for _ in range(source.choice([1, 1, 1, 2, 5])):
        values, text = _changed(values, source)
        done.append(text)
    path.write_text(json.dumps(values))
    write_manifest(folder)
    return f"{path.name}: {'; '.join(done)}", False


def _changed(values: Any, source: random.Random) -> tuple[Any, str]:
    values = copy.deepcopy(values)
    if source.random() < 0.02 or not isinstance(values, dict | list) or not values:
        odd = source.choice(ODD)
        return odd, f"all is {odd!r:.40}"
    at, trail = values, []
    while True:
        key = source.choice(sorted(at)) if isinstance(at, dict) else source.randrange(len(at))
        trail.append(str(key))
        deeper = at[key]
        if isinstance(deeper, dict | list) and deeper and source.random() < 0.85:
            at = deeper
            continue
        break
    place = ".".join(trail)
    how = source.choice(["odd", "odd", "odd", "remove", "rename", "wrap"])
    if how == "remove":
        del at[key]
    elif how == "rename" and isinstance(at, dict):
        at[source.choice(["x", "..", f"{key} ", str(key).upper()])] = at.pop(key)
    elif how == "wrap":
        at[key] = [at[key]]
    else:
        at[key] = source.choice(ODD)
        return values, f"{place} is {at[key]!r:.40}"
    return values, f"{place} {how}"


def _tensors(folder: Path, canary: Path, source: random.Random) -> tuple[str, bool]:
    path = source.choice(sorted(folder.glob("*.safetensors")))
    tensors: Tensors = load(path.read_bytes())
    name = source.choice(sorted(tensors))
    tensor = tensors[name]
    how = source.choice(
        ["drop", "rename", "add", "rows", "more", "flat", "nan", "inf", "half", "int", "double", "turn"]
    )
    if how in ("drop", "rename"):
        del tensors[name]
    changed = {
        "rename": lambda: {source.choice(["x", "../x", "", f"{name}.x", "step"]): tensor},
        "add": lambda: {source.choice(["x", "../x", "head.x", "gaussian.log_std.x"]): tensor.clone()},
        "rows": lambda: {name: tensor[:1] if tensor.dim() else tensor[None]},
        "more": lambda: {name: torch.cat([tensor, tensor]) if tensor.dim() else torch.stack([tensor, tensor])},
        "flat": lambda: {name: tensor.reshape(1, -1)},
        "nan": lambda: {name: torch.full(tensor.shape, float("nan"))},
        "inf": lambda: {name: torch.full(tensor.shape, float("inf"))},
        "half": lambda: {name: tensor.half()},
        "int": lambda: {name: tensor.to(torch.int32)},
        "double": lambda: {name: tensor.double()},
        "turn": lambda: {name: tensor.T if tensor.dim() == 2 else tensor[None]},
    }
    tensors |= changed[how]() if how in changed else {}
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    write_manifest(folder)
    return f"{path.name}: {name} {how}", False


def _manifest(folder: Path, canary: Path, source: random.Random) -> tuple[str, bool]:
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    how = source.choice(["change", "outside", "absolute", "swap", "not named"])
    if how == "change":
        values, how = _changed(values, source)
    elif how in ("outside", "absolute"):
        steps = "../" * source.randrange(1, 4)
        name = f"{steps}elsewhere.safetensors" if how == "outside" else str(canary)
        for above in (folder.parent, folder.parent.parent):
            if above != canary.parent:
                shutil.copy(canary, above / canary.name)
        values[name] = values[source.choice([key for key in sorted(values) if key.endswith(".safetensors")])]
    elif how == "swap":
        one, other = source.sample(sorted(values), 2)
        values[one], values[other] = values[other], values[one]
    else:
        del values[source.choice(sorted(values))]
    path.write_text(json.dumps(values))
    return f"manifest.json: {how}", False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    logging.disable()  # each damaged state is told of
    options = parser.parse_args()
    for ending, count in sorted(main(options.rounds, options.seed).items()):
        print(f"{count:6}  {ending}")
