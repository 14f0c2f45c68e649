"""The same run in other micro-batches, and killed and resumed, with the real model."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from infoprompt.config import build_config, dump_config, override_config
from infoprompt.train import run

ROOT = Path(__file__).parents[2]

# Ten times what one start takes on an idle machine: the limit is there for what hangs, not for a busy machine.
SECONDS = 600


def test_micro_batches_give_the_curve_of_the_whole_batch(toy_settings):
    config = override_config(build_config(toy_settings), ["optim.max_steps=6", "optim.lr=1e-3"])
    curves = []
    for micro in (8, 4, 1):
        result = run(override_config(config, [f"data.micro_batch_size={micro}"]))
        curves.append(json.loads((Path(result.output_dir) / "history.json").read_text()))
    for curve in curves[1:]:
        for name in ("dev/accuracy", "dev/macro_f1"):
            assert curve[-1][name] == curves[0][-1][name]
        # float32 sums in another order
        losses = [[row["train/loss"] for row in rows if "train/loss" in row] for rows in (curve, curves[0])]
        assert losses[0] == pytest.approx(losses[1], rel=2e-3)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("engine", ["plain", "deepspeed"])
def test_a_run_killed_at_a_random_step_and_resumed_ends_as_one_never_stopped(toy_settings, tmp_path, processes, engine):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracking = {"enabled": True, "uri": uri, "every_steps": 1}
    settings = {**toy_settings, "engine": {"kind": engine}, "checkpoint": {"every_steps": 3}, "tracking": tracking}
    config = override_config(build_config(settings), ["optim.epochs=3", "objective.preset=paper"])
    whole = _start(processes, config, tmp_path / "whole")
    assert whole.wait(timeout=SECONDS) == 0, _output(tmp_path / "whole")
    killed = _start(processes, config, tmp_path / "killed")
    steps = random.Random(engine).randint(4, 30)
    _kill_after(killed, tmp_path / "killed" / "metrics.jsonl", steps)
    assert not (tmp_path / "killed" / "result.json").exists()
    resumed = _start(processes, config, tmp_path / "killed", "--resume", "auto")
    assert resumed.wait(timeout=SECONDS) == 0, _output(tmp_path / "killed")
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed")]
    timeless = [
        {key: value for key, value in result.items() if key not in ("seconds", "artifact", "output_dir", "run_id")}
        for result in results
    ]
    assert timeless[0] == timeless[1]
    for file in ("history.json", "artifact/prompt.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes(), file
    runs = MlflowClient(uri).search_runs(["1"])
    assert {run.info.run_id for run in runs} == {result["run_id"] for result in results}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for recorded in runs:
        curve = MlflowClient(uri).get_metric_history(recorded.info.run_id, "train/loss")
        assert sorted(point.step for point in curve) == list(range(1, results[0]["steps"] + 1))


class Killed(Exception):
    """The run ends here, between two resume states."""


NO_TERMS = ["objective.head_weight=0", "objective.representation_weight=0"]
MINE = ["objective.head_estimator=mine", "objective.representation_estimator=mine", "data.micro_batch_size=4"]


@pytest.mark.parametrize(
    "method",
    [
        ["prompt.kind=prefix", *NO_TERMS],
        ["prompt.kind=ipt", "prompt.init=random", "prompt.encoder=mlp", *NO_TERMS],  # dropout is drawn, so seeds count
        ["prompt.kind=ipt", "prompt.init=random", "prompt.mode=prefix", *NO_TERMS],
        MINE,  # its running means are kept
    ],
    ids=" ".join,
)
def test_other_methods_resume_as_if_never_stopped(toy_settings, tmp_path, method):
    changes = ["checkpoint.every_steps=3", "optim.max_steps=8", "evaluation.every_steps=4"]
    config = override_config(build_config(toy_settings), [*method, *changes])
    whole, stopped = (override_config(config, [f"run.output_dir={tmp_path / name}"]) for name in ("whole", "stopped"))
    run(whole)

    def end_at_update_4(progress, scores):
        raise Killed

    with pytest.raises(Killed):
        run(stopped, report=end_at_update_4)
    run(stopped, resume="auto")
    for file in ("history.json", "artifact/prompt.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "stopped" / file).read_bytes(), file


def test_resuming_with_other_settings_is_refused_and_a_finished_run_resumes_to_its_result(toy_settings):
    config = override_config(build_config(toy_settings), ["optim.epochs=1"])
    first = run(config)
    again = run(config, resume="auto")
    assert again.test == first.test
    assert again.steps == first.steps
    with pytest.raises(ValueError, match=r"optim.lr is 0.5, but the run to go on with was started with 0.01"):
        run(override_config(config, ["optim.lr=0.5"]), resume="auto")


def _start(processes, config, folder, *options):
    folder.mkdir(exist_ok=True)
    file = folder.with_suffix(".yaml")
    file.write_text(dump_config(override_config(config, [f"run.output_dir={folder}"])))
    log = folder.with_suffix(".log")
    script = f"import runpy; runpy.run_path({str(ROOT / 'launcher' / 'train.py')!r}, run_name='__main__')"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return processes.start(script, [file, *options], Path.cwd(), environment, [Path(os.devnull), log, log])


def _kill_after(process, spool: Path, steps: int) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if spool.exists() and len(spool.read_text().splitlines()) >= steps:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    raise AssertionError("the run did not get that far")


def _output(folder: Path) -> str:
    return folder.with_suffix(".log").read_text()[-6000:]
