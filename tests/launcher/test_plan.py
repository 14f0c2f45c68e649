"""A plan against the run itself: trained parameters of every recipe, and the peak of memory on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infoprompt.config import ConfigError, load_config
from infoprompt.data.tasks import TASKS
from infoprompt.engine.adamw import trained_parameters
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.build import backbone_needs, build_member
from infoprompt.model.heads.kind import head_kind
from launcher.plan.devices import find_device
from launcher.plan.heap import Heap
from launcher.plan.memory import weight_bytes
from launcher.plan.model import parameters, read_model_config, weightless_backbone, weightless_member
from launcher.plan.rows import read_rows

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "configs" / "recipes").glob("*.yaml"))
ROWS = "data.task=semeval2010_task8 data.few_shot.total=256"
QUIET = "engine.kind=plain tracking.enabled=false checkpoint.enabled=false evaluation.test=false"
# Not ru_maxrss: a child of vfork starts with its parent's, which is larger than the run's own late in a suite.
MEASURED = """
import re, sys
from pathlib import Path
from infoprompt import load_config, run
run(load_config(sys.argv[1], sys.argv[2:]))
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.fixture(scope="module")
def task():
    """The task of every recipe."""
    return read_rows(load_config(ROOT / "configs" / "recipes" / "head_only.yaml", ROWS.split()))[1]


@pytest.fixture(scope="module")
def backbones():
    """The backbone that a config plans with, and the one that it runs with; read once for recipes that share them."""
    read = {}

    def of(config):
        needs, lm_head = backbone_needs(config), head_kind(config.head.kind).lm_head
        key = config.backbone.model_dump_json(), needs, lm_head
        if key not in read:
            planned = weightless_backbone(config, read_model_config(config), on_cpu=True)
            read[key] = planned, load_backbone(config.backbone, needs=needs, lm_head=lm_head)
        return read[key]

    return of


@pytest.mark.parametrize("recipe", RECIPES)
def test_trained_parameters_are_those_of_the_run(recipe, task, backbones, tiny_bert, tiny_backbones):
    path = ROOT / "configs" / "recipes" / f"{recipe}.yaml"
    head = load_config(path).head.kind
    own = [f"backbone.name={tiny_bert}"] if head_kind(head).lm_head else []
    if head == "choice_text":
        own, task = [f"backbone.name={tiny_backbones['llama']}"], TASKS["copa"]
    config = load_config(path, [*ROWS.split(), *own])
    without_weights, backbone = backbones(config)
    planned = weightless_member(config, without_weights, task)
    if "pretrained" in recipe:  # its table is not there; a random one has the same shape
        config = config.model_copy(update={"prompt": config.prompt.model_copy(update={"table": None})})
    real = build_member(config, backbone, task)
    assert parameters(planned, trained=True) == sum(item.numel() for item in trained_parameters(real).values())
    assert parameters(planned) == parameters(real)


# Not held: head_only and lpt, whose plans are 6 to 15 % too low; a run's own peak differs by 5 % from time to time.
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("recipe", "dtype", "batch_size"),
    [("prompt_tuning", "bfloat16", 32), ("prefix", "float32", 32)],
)
def test_the_peak_of_memory_is_within_15_percent_of_the_planned(recipe, dtype, batch_size, tmp_path):
    settings = [f"backbone.dtype={dtype}", f"data.batch_size={batch_size}", f"run.output_dir={tmp_path / 'run'}"]
    rows = ["data.task=semeval2010_task8", "data.few_shot.total=64"]
    words = [f"configs/recipes/{recipe}.yaml", *rows, *QUIET.split(), *settings, "optim.max_steps=4"]
    infoprompt = "from launcher.cli import main; main()"
    measured = last_line(sys.executable, "-c", MEASURED, *words, "run.save_artifact=false", cache=tmp_path)
    planned = last_line(sys.executable, "-c", infoprompt, "plan", *words, "--json", cache=tmp_path)
    assert planned["memory"]["peak"] == pytest.approx(measured, rel=0.15)


def last_line(*words: str, cache: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "INFOPROMPT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_freed_block_leaves_a_hole_too_small_for_its_own_size():
    heap = Heap()
    for key in ("first", "second"):
        heap.allocate(key, 100_000)
    heap.free("first")
    before = heap.peak_bytes
    heap.allocate("smaller", 90_000)
    assert heap.peak_bytes == before
    heap.free("smaller")
    heap.allocate("equal", 100_000)
    assert heap.peak_bytes > before


def test_an_unknown_device_is_refused_by_name():
    with pytest.raises(ConfigError, match="cpu, h200, h100, a100, l4"):
        find_device("abacus")


# Parameters without the language-model head, as the hub's safetensors tell them.
PUBLISHED = {
    "roberta_large": 354_310_144,
    "deberta_v3_large": 434_012_160,
    "modernbert_large": 394_781_696,
    "t5_11b": 4_864_791_552,  # of the encoder
    "llama_3_1_8b": 8_030_261_248 - 128_256 * 4096,
    "qwen3_32b": 32_762_123_264 - 151_936 * 5120,
    "llama_3_1_70b": 70_553_706_496 - 128_256 * 8192,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_large_backbones_are_planned_by_their_published_shape_where_no_hub_is(name):
    config = load_config(ROOT / "configs" / "backbones" / f"{name}.yaml")
    backbone = weightless_backbone(config, read_model_config(config), on_cpu=False)
    assert parameters(backbone.body) == PUBLISHED[name]


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_quantised_weights_take_what_is_planned(form, task):
    config = load_config(
        ROOT / "configs" / "recipes" / "head_only.yaml",
        [*ROWS.split(), f"backbone.quantization={form}", "backbone.dtype=bfloat16"],
    )
    member = weightless_member(config, weightless_backbone(config, read_model_config(config), on_cpu=True), task)
    loaded = load_backbone(config.backbone)
    found = sum(parameter.nbytes for parameter in loaded.model.parameters())
    assert found == pytest.approx(weight_bytes(config, member, parts=1), rel=0.01)  # but for scales
