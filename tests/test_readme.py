"""Every command of the README runs, in its order, in a folder of its own; made short by overrides."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from preloaded import preloaded
from project_copy import copied_project
from safetensors.torch import load_file

from launcher.sweeps.plan import load_sweep

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

# The same commands, smaller: a README's run takes minutes.
SHORT = (
    "data.few_shot.per_class=null data.few_shot.total=40 optim.max_steps=3 evaluation.every_steps=3 "
    "evaluation.test=false run.compare_with={}"
).split()
SHORTENED = ("infoprompt train", "deepspeed", "torchrun")
SHORT_STUDY = [
    "methods={prompt_tuning: ../recipes/prompt_tuning.yaml, head_only: ../recipes/head_only.yaml}",
    "tasks={mine: [data.train=train.csv, data.test=test.csv]}",
    "seeds=[0]",
    "search.budget=1",
    "optim.max_steps=3",
    "evaluation.every_steps=3",
]
SHORT_COMPARISON = ["--minutes", "1.5", "optim.max_steps=2"]
SHORT_BENCHMARK = ["--size", "tiny", "--seconds", "0", "--without", "compile"]
SHORT_STEPS = "--lengths sst2 --batch 2 --rounds 1 --steps 1".split()

# These run elsewhere: `make` in continuous integration, the sweeps in tests/launcher/test_ray_run.py.
ELSEWHERE = ("make ", "infoprompt sweep", "export RAY_AUTH_MODE", "ray ")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toy_data):
    """A copy of the project, small, which takes what the commands write."""
    place = copied_project(tmp_path_factory.mktemp("readme"))
    _as_csv(toy_data["train"], place / "train.csv")
    _as_csv(toy_data["test"], place / "test.csv")
    return place


@pytest.fixture(scope="module")
def run(folder):
    """Runs words of the command line there; all `infoprompt` but the first one share what they import."""
    environment, started = _environment(folder), []
    with preloaded(environment, folder) as processes:

        def run(*words: str) -> "subprocess.CompletedProcess[str]":
            started.append(words)
            if words[0] == "infoprompt" and len(started) > 1:
                return processes.run(words[1:], folder, environment)
            if words[:2] == ("python", "-c"):
                return processes.run([], folder, environment, python=words[2])
            return subprocess.run(
                words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
            )

        yield run


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.timeout(1200)
def test_every_command_runs_as_written(run):
    ran = 0
    for command in commands():
        if command.startswith(ELSEWHERE):
            continue
        words = shlex.split(command) + (SHORT if command.startswith(SHORTENED) else [])
        words += SHORT_STUDY if command.startswith("infoprompt study") else []
        words += SHORT_COMPARISON if command.startswith("infoprompt compare") else []
        words += SHORT_STEPS if command.startswith("infoprompt bench step") else []
        words += SHORT_BENCHMARK if "kernels.benchmark" in command else []
        launched = command.startswith(("deepspeed", "torchrun"))
        words += ["--json"] if launched else []
        done = run(*words)
        # `doctor` ends with 1 where something would fail on this machine; it must still have looked at everything
        allowed = (0, 1) if command == "infoprompt doctor" else (0,)
        assert done.returncode in allowed, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        if launched:  # their own lines stand around it
            assert re.findall(r'^{"test".*"steps": (\d+)', done.stdout, flags=re.MULTILINE) == ["3"], command
        ran += 1
    assert ran >= 10


@pytest.mark.slow
def test_the_python_example_runs(run):
    (code,) = (block for block in blocks("python") if "load_config" in block)
    code = code.replace('"run.output_dir=runs/python"', ", ".join(map(repr, ["run.output_dir=runs/python", *SHORT])))
    code = code.replace('["the text of one example"]', "[Example('a cat and a dog', None, Span(2, 5), Span(12, 15))]")
    code = code.replace("import Artifact", "import Artifact, Example, Span")
    done = run("python", "-c", code)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Prediction(label=" in done.stdout


@pytest.mark.slow
def test_a_prompt_and_a_head_of_ones_own_are_a_file_each_and_a_recipe(tmp_path, toy_settings):
    kinds = [block for block in blocks("python") if "KIND" in block]
    (recipe,) = (block for block in blocks("yaml") if "gated" in block)
    copied_project(tmp_path)
    for text in (*kinds, recipe):
        place = tmp_path / text.splitlines()[0].removeprefix("# ")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    values = {f"{part}.{key}": value for part, entries in toy_settings.items() for key, value in entries.items()}
    overrides = [f"{key}={value}" for key, value in values.items()] + ["optim.epochs=1"]
    words = [sys.executable, "-c", "from launcher.cli import main; main()", "train", "configs/recipes/gated.yaml"]
    done = subprocess.run(
        [*words, *overrides],
        cwd=tmp_path,
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trained = load_file(tmp_path / "run" / "artifact" / "prompt.safetensors")
    assert trained["prompt.gate_P1"].shape == (8, 1)
    assert not torch.equal(trained["prompt.gate_P1"], torch.ones(8, 1))
    assert trained["head.vectors_CD"].shape == (2, 32)


def test_the_commands_that_run_elsewhere_do():
    ci = (ROOT / ".ci" / "run").read_text()
    assert all(command in ci for command in commands() if command.startswith("make "))
    ray = (ROOT / "tests" / "launcher" / "test_ray_run.py").read_text()
    named = [command for command in commands() if command.startswith(ELSEWHERE[1:])]
    assert len(named) == 6
    for word in ("sweep", "--head", "RAY_AUTH_MODE", "submit", "--working-dir", "launcher/sweep.py"):
        assert any(word in command for command in named)
        assert word in ray, word


def test_the_sweep_file_is_one(tmp_path):
    (text,) = (block for block in blocks("yaml") if "seeds" in block)
    (tmp_path / "configs").mkdir()
    for name in ("quickstart.yaml", "recipes"):
        (tmp_path / "configs" / name).symlink_to(ROOT / "configs" / name)
    (tmp_path / "configs/sweeps").mkdir()
    (tmp_path / "configs/sweeps/mine.yaml").write_text(text)
    sweep = load_sweep(tmp_path / "configs/sweeps/mine.yaml")
    assert (sweep.num_trials, sweep.seeds, sweep.settings.scheduler.kind) == (20, [0, 1, 2], "asha")


def test_links_lead_somewhere():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("http")]
    assert targets
    assert all((ROOT / target).exists() for target in targets)


def _environment(folder: Path) -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "INFOPROMPT_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }


def _as_csv(source: str, target: Path) -> None:
    import csv
    import json

    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(json.loads(line) for line in Path(source).read_text().splitlines())
