"""Sweeps on a real Ray of this machine, each in a process of its own; the longest tests of the launcher."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infoprompt.config import load_config
from launcher.processes import held_port
from launcher.sweep_plan import Trial, load_sweep

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

# A training function in the place of the real one; inside `main`, so that Ray sends the function itself to workers.
STUB = """
import sys
from pathlib import Path
from launcher.ray_run import TrialStopped, run_sweep
from launcher.sweep_outcome import report_sweep
from launcher.sweep_plan import load_sweep

def main():
    def train(config, parent_run_id, tags, report):
        import os, signal
        import torch, torch.distributed as dist
        from infoprompt.progress import Progress

        total = torch.ones(1)
        dist.all_reduce(total)
        assert total.item() == 2, "not both workers are in the group"
        assert config.engine.device == "cpu"
        folder = Path(config.run.output_dir)
        if config.seed == 1:
            raise TrialStopped("the loss is not finite")
        if config.seed == 2 and dist.get_rank() == 1:
            raise ValueError("boom on purpose")
        if config.seed == 3 and dist.get_rank() == 1 and not folder.exists():
            folder.mkdir(parents=True)
            os.kill(os.getpid(), signal.SIGKILL)
        scores = {"accuracy": 0.5 + config.seed / 10}
        report(Progress(2, 2, 1), {**scores, "score": scores["accuracy"]})
        return {"dev": scores, "test": scores, "metric": "accuracy", "seconds": 1.0, "artifact": str(folder)}

    sweep, trials = load_sweep(Path(sys.argv[1]), ["space={seed: {grid: [1, 2, 3]}}", "max_concurrent=2"])
    outcome = run_sweep(sweep, trials, say=lambda line: sys.stderr.write(line + "\\n"), train=train)
    report_sweep(sweep, outcome, trials[0].config, json_output=True)

main()
"""


def last_json(text: str) -> dict:
    return json.loads(text.splitlines()[-1])


def test_every_way_a_trial_can_end(tiny_sweep, tmp_path):
    (tmp_path / "stub.py").write_text(STUB)
    command = [sys.executable, str(tmp_path / "stub.py"), str(tiny_sweep)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    outcome = last_json(done.stdout)
    ended = [(trial["status"], trial["reason"]) for trial in outcome["trials"]]
    assert ended == [
        ("failed", "the loss is not finite"),
        ("failed", "rank 1: ValueError: boom on purpose"),
        ("finished", None),  # a worker was killed once, and the group started again
    ]
    assert outcome["best"] == outcome["trials"][2]["trial_id"]
    assert "dev/score 0.8000" in done.stderr


def test_trials_run_side_by_side_and_are_children_of_the_sweep_in_mlflow(infoprompt, tiny_sweep, tmp_path):
    tracking = ["tracking.enabled=true", f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"]
    done = infoprompt("sweep", tiny_sweep, "--json", "workers_per_trial=1", *tracking, seconds=300)
    assert done.returncode == 0, done.stderr
    outcome = last_json(done.stdout)
    assert [trial["status"] for trial in outcome["trials"]] == ["finished", "finished"]
    assert "2 at a time" in done.stderr
    assert "best " in done.stderr
    code = (
        "import json, sys\nfrom mlflow import MlflowClient\nclient = MlflowClient(sys.argv[1])\n"
        "ids = [e.experiment_id for e in client.search_experiments()]\n"
        "print(json.dumps({run.info.run_name: [run.info.status, run.data.tags.get('mlflow.parentRunId'), "
        "run.data.tags.get('world_size')] for run in client.search_runs(ids)}))"
    )
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    shown = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, text=True, timeout=100, check=True)
    runs = last_json(shown.stdout)
    assert runs.pop("sweep") == ["FINISHED", None, None]
    parent = outcome["parent_run_id"]
    assert runs == {trial["trial_id"]: ["FINISHED", parent, "1"] for trial in outcome["trials"]}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of one node with two CPUs, which asks for a token; yields the environment of its clients."""
    log_file = tmp_path_factory.mktemp("ray") / "head.log"
    with held_port() as port, held_port() as dashboard, log_file.open("w") as log:
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 2,
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        ray = str(Path(sys.executable).with_name("ray"))
        options = [f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
        head = subprocess.Popen(
            [ray, "start", "--head", "--block", "--include-dashboard=true", *options],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for_jobs(ray, environment, head, log_file)
            yield ray, environment
        finally:
            head.terminate()  # with --block it ends what it started
            head.wait(timeout=60)


def _wait_for_jobs(ray: str, environment: dict[str, str], head: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while subprocess.run([ray, "job", "list"], env=environment, capture_output=True, check=False).returncode:
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(1)


def test_a_sweep_is_submitted_as_a_job_to_a_cluster_with_a_token(cluster, tiny_sweep, tmp_path):
    ray, environment = cluster
    entry = [sys.executable, "launcher/sweep.py", str(tiny_sweep), "--json", "space={seed: {grid: [0]}}"]
    submit = [ray, "job", "submit", "--working-dir", str(REPOSITORY), "--", *entry]
    done = subprocess.run(submit, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert [trial["status"] for trial in outcome["trials"]] == ["finished"]
    assert outcome["trials"][0]["result"]["steps"] == 4


def test_a_trial_that_does_not_fit_ends_the_job_with_the_numbers(cluster, tiny_sweep):
    ray, environment = cluster
    entry = [sys.executable, "launcher/sweep.py", str(tiny_sweep), "workers_per_trial=3"]
    submit = [ray, "job", "submit", "--working-dir", str(REPOSITORY), "--", *entry]
    done = subprocess.run(submit, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode != 0
    assert "a trial needs 3 CPUs, but the cluster has 2" in done.stdout + done.stderr


def test_a_trial_has_its_own_folder_and_is_bound_to_the_cpu(tiny_sweep, tmp_path):
    from launcher.ray_run import trial_config

    sweep, trials = load_sweep(tiny_sweep)
    config = trial_config(sweep, trials[1], "abc_1")
    assert config.run.output_dir == str(tmp_path / "sweep/trials/abc_1")
    assert config.run_name == "abc_1"
    assert config.engine.device == "cpu"
    gpu = sweep.model_copy(update={"gpus_per_worker": 1})
    assert trial_config(gpu, trials[1], "abc_1").engine.device == "auto"
    assert trials[1] == Trial(1, {"seed": 1}, load_config(tmp_path / "tiny.yaml", ["seed=1"]))
