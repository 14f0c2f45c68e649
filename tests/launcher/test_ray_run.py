"""Sweeps on a real Ray of this machine, each in a process of its own; the longest tests of the launcher."""

import contextlib
import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray
from preloaded import COMMAND, Forked, Preloaded
from project_copy import copied_project

from launcher.pool.jobs import Job
from launcher.pool.ray_groups import RayGroups
from launcher.pool.ray_worker import Work, _Member, train_one
from launcher.processes import held_port
from launcher.sweeps.plan import load_sweep

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

# A training function in the place of the real one; inside `main`, so that Ray sends the function itself to workers.
STUB = """
import sys
from pathlib import Path
from launcher.pool.ray_worker import TrialStopped
from launcher.sweeps.ray_driver import run_sweep
from launcher.report import console
from launcher.sweeps.outcome import report_sweep
from launcher.sweeps.plan import load_sweep
from launcher.sweeps.view import View

def main():
    def train(config, parent_run_id, tags, report):
        import os, signal, sys, time
        from infoprompt.stopping import Preempted, noting, told
        import torch, torch.distributed as dist
        from infoprompt.progress import Progress

        assert "infoprompt.train" not in sys.modules, "what this function does not need takes seconds to import"
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
        if config.seed == 4 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if config.seed == 5 and not folder.exists():
            with noting():
                if dist.get_rank() == 1:
                    os.kill(os.getpid(), signal.SIGTERM)  # as a node is told before it is taken away
                while dist.get_rank() == 1 and not told():
                    time.sleep(0.01)
                dist.barrier()
            folder.mkdir(parents=True, exist_ok=True)
            raise Preempted(signal.SIGTERM, 3, folder, saved=True)
        dist.barrier()
        scores = {"accuracy": 0.5 + config.seed / 10}
        assert report(Progress(2, 2, 1), {**scores, "score": scores["accuracy"]}) == "go"
        return {
            "dev": scores, "test": scores, "metric": "accuracy", "seconds": 1.0, "artifact": str(folder), "steps": 1,
            "pid": os.getpid(),
        }

    changes = ["space={seed: {grid: [0, 1, 2, 3, 4, 5]}}", "retries=1"]
    sweep = load_sweep(Path(sys.argv[1]), changes)
    outcome = run_sweep(sweep, view=View(console(True), live=False), train=train)
    report_sweep(sweep, outcome, json_output=True)

main()
"""


def test_what_the_real_function_needs_is_imported_before_work_comes():
    sent = ray.cloudpickle.loads(ray.cloudpickle.dumps(Work(None, {}, train_one)))
    assert sent.train is train_one  # by which a worker knows it


def last_json(text: str) -> dict:
    return json.loads(text.splitlines()[-1])


def test_every_way_a_trial_can_end(tiny_sweep, tmp_path):
    (tmp_path / "stub.py").write_text(STUB)
    command = [sys.executable, str(tmp_path / "stub.py"), str(tiny_sweep)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    outcome = last_json(done.stdout)
    ended = [(trial["status"], trial["reason"]) for trial in outcome["trials"]]
    assert ended[:4] == [
        ("finished", None),
        ("failed", "the loss is not finite"),
        ("failed", "rank 1: ValueError: boom on purpose"),
        ("finished", None),  # a worker was killed once, and the group started again
    ]
    assert ended[4][0] == "failed"
    assert ended[4][1].startswith("its workers were killed 2 times (retries is 1)")
    assert ended[5] == ("finished", None)
    assert outcome["best"] == 5
    assert outcome["trials"][5]["seeds"]["5"]["deaths"] == 0
    assert "a worker was told to end by SIGTERM); its run goes on elsewhere" in done.stderr
    assert outcome["trials"][3]["seeds"]["3"]["deaths"] == 1
    assert "trial 3 seed 3 update 1: 0.8000" in done.stderr
    # the same processes go on after a run that ended in good order, for better or worse
    assert "trial 1 failed: the loss is not finite" in done.stderr


@pytest.fixture
def runs_in_mlflow(processes, tmp_path):
    """Called with an address: name to status, parent, world size and the steps of the dev score."""
    code = (
        "import json, sys\nfrom mlflow import MlflowClient\nclient = MlflowClient(sys.argv[1])\n"
        "ids = [e.experiment_id for e in client.search_experiments()]\n"
        "print(json.dumps({run.info.run_name: {'id': run.info.run_id, 'status': run.info.status, "
        "'parent': run.data.tags.get('mlflow.parentRunId'), 'world_size': run.data.tags.get('world_size'), "
        "'metrics': run.data.metrics, 'files': [f.path for f in client.list_artifacts(run.info.run_id)], "
        "'steps': [m.step for m in client.get_metric_history(run.info.run_id, 'dev/accuracy')]} "
        "for run in client.search_runs(ids)}))"
    )

    def runs(uri: str) -> dict[str, dict]:
        shown = processes.run([uri], tmp_path, os.environ, python=code)
        assert shown.returncode == 0, shown.stderr
        return last_json(shown.stdout)

    return runs


def test_seeds_run_side_by_side_and_are_grandchildren_of_the_sweep_in_mlflow(
    infoprompt, runs_in_mlflow, tiny_sweep, tmp_path
):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracking = ["tracking.enabled=true", f"tracking.uri={uri}"]
    changes = ["workers_per_trial=1", "space={optim.lr: {grid: [0.003, 0.01]}}", "seeds=[0, 1]"]
    done = infoprompt("sweep", tiny_sweep, "--json", *changes, "register_as=tiny", *tracking, seconds=300)
    assert done.returncode == 0, done.stderr
    outcome = last_json(done.stdout)
    assert [trial["status"] for trial in outcome["trials"]] == ["finished", "finished"]
    assert "2 trials x 2 seeds; 2 at a time with 1 worker each" in done.stderr
    assert "models:/tiny@champion (version 1)" in done.stderr
    assert json.loads((tmp_path / "sweep/sweep.json").read_text()) == outcome
    assert outcome["registered_version"] == 1
    best = outcome["trials"][outcome["best"]]
    tests = [[seed["result"]["test"] for seed in trial["seeds"].values()] for trial in outcome["trials"]]
    assert all(tests[outcome["best"]]), "the best trial's test rows were not scored"
    assert not any(tests[1 - outcome["best"]]), "another trial has read the test rows"
    assert best["score"] == pytest.approx(sum(seed["score"] for seed in best["seeds"].values()) / 2)
    runs = runs_in_mlflow(uri)
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    sweep = runs.pop("sweep")
    assert sweep["id"] == outcome["parent_run_id"]
    assert {"sweep.json", "sweep.yaml", "best.yaml", "figures"} <= set(sweep["files"])
    for trial in ("sweep-0000", "sweep-0001"):
        assert runs[trial]["parent"] == sweep["id"]
        seeds = [runs[f"{trial}-seed_{seed}"] for seed in (0, 1)]
        assert all(seed["parent"] == runs[trial]["id"] and seed["world_size"] == "1" for seed in seeds)
        tested = [seed["metrics"].get("test/accuracy") for seed in seeds]
        assert tested == [test.get("accuracy") for test in tests[int(trial[-1])]]
        mean = sum(seed["metrics"]["best/dev_accuracy"] for seed in seeds) / 2
        assert runs[trial]["metrics"]["dev/score_mean"] == pytest.approx(mean)


LONG = ("optim.max_steps=600", "optim.epochs=600", "evaluation.every_steps=40")
"""A killed driver's workers end before they have made so many updates."""


@pytest.mark.timeout(700)  # five starts of Ray
def test_a_packed_sweep_of_two_ranks_a_run_ends_as_one_after_another(infoprompt, tiny_sweep, tmp_path):
    changes = ["space={optim.lr: {grid: [0.003, 0.1]}}", "seeds=[0, 1]"]
    outcomes = []
    for pack in (1, 3):
        folder = tmp_path / f"pack_{pack}"
        options = ["--pack", pack, f"output_dir={folder}", "--json"]
        done = infoprompt("sweep", tiny_sweep, *options, *changes, seconds=300)
        assert done.returncode == 0, done.stderr
        found = last_json(done.stdout)
        scores = [(trial["status"], trial["score"], trial["values"]) for trial in found["trials"]]
        artifacts = [path.read_bytes() for path in sorted(folder.glob("trials/*/seed_*/artifact/*.safetensors"))]
        assert len(artifacts) == 4
        outcomes.append((found["best"], scores, artifacts))
    assert outcomes[0] == outcomes[1]


def test_a_stopped_and_then_killed_driver_is_resumed_and_repeats_nothing(
    infoprompt, processes, runs_in_mlflow, tiny_sweep, tmp_path
):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    changes = [
        "space={seed: {grid: [0, 1, 2]}}", "workers_per_trial=1", "max_concurrent=1", *LONG,
        "checkpoint.every_steps=40", "tracking.enabled=true", f"tracking.uri={uri}", "evaluation.test=false",
    ]  # fmt: skip
    folder = tmp_path / "sweep"
    code, said = _end_driver(processes, signal.SIGTERM, tiny_sweep, ["--resume", *changes], folder, trial=1)
    assert code == 143, said
    assert "there is nothing to resume" in said
    assert "the same command with --resume goes on" in said
    assert "error: stopped by SIGTERM." in said
    before = json.loads((folder / "trials/0000/seed_0/result.json").read_text())
    finished_at = (folder / "trials/0000/seed_0/result.json").stat().st_mtime
    assert {run["status"] for run in runs_in_mlflow(uri).values()} == {"FINISHED", "KILLED"}
    code, said = _end_driver(processes, signal.SIGKILL, tiny_sweep, ["--resume", *changes], folder, trial=2)
    assert "trial 1 seed 1 goes on from update" in said

    refused = infoprompt("sweep", tiny_sweep, *changes)
    assert refused.returncode == 2
    assert "Add --resume to go on with it" in refused.stderr
    other = infoprompt("sweep", tiny_sweep, "--resume", "space={seed: {grid: [0, 2, 1]}}", *changes[1:])
    assert other.returncode == 2
    assert "which is not what this file plans" in other.stderr

    done = infoprompt("sweep", tiny_sweep, "--resume", "--json", *changes, seconds=300)
    assert done.returncode == 0, done.stderr
    assert "trial 2 seed 2 goes on from update" in done.stderr
    outcome = last_json(done.stdout)
    assert [trial["status"] for trial in outcome["trials"]] == ["finished"] * 3
    assert {"state": "finished", **outcome["trials"][0]["seeds"]["0"]["result"]} == before
    assert (folder / "trials/0000/seed_0/result.json").stat().st_mtime == finished_at
    runs = runs_in_mlflow(uri)
    assert len(runs) == 4
    for run in runs.values():
        assert run["status"] == "FINISHED"
        assert len(set(run["steps"])) == len(run["steps"])
    assert infoprompt("train", tmp_path / "tiny.yaml", "seed=2", *LONG).returncode == 0
    undisturbed = json.loads((tmp_path / "run/result.json").read_text())
    assert outcome["trials"][2]["seeds"]["2"]["result"]["dev"] == undisturbed["dev"]


def _end_driver(
    processes: Preloaded, with_signal: signal.Signals, file: Path, changes: list[str], folder: Path, *, trial: int
) -> tuple[int, str]:
    """Start a sweep, send it a signal in the middle of a trial; its code and what it said."""
    log = folder.with_suffix(f".{with_signal.name}")
    driver = processes.start(
        COMMAND, ["sweep", file, *changes], folder.parent, os.environ, [Path(os.devnull), log, log]
    )
    try:
        # by its second evaluation, the training state of its first one is saved
        _wait_until(lambda: len(_curve(folder, trial)) > 1, driver, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(driver.pid, with_signal)
        code = driver.wait(timeout=100)
    return code, log.read_text()


def _curve(folder: Path, trial: int) -> list:
    """The evaluations of a trial's first run so far; none after its end."""
    path = folder / f"trials/{trial:04d}/trial.json"
    run = json.loads(path.read_text())["runs"][0] if path.exists() else {"status": "ready", "curve": []}
    return run["curve"] if run["status"] == "running" else []


def _wait_until(condition, process: Forked, log: Path, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


# Stages, places and a node that is lost, on a cluster of two nodes in one process.
NODES = """
import json, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from launcher.sweeps.ray_driver import run_sweep
from launcher.report import console
from launcher.sweeps.plan import load_sweep
from launcher.sweeps.view import View

def main():
    def train(config, parent_run_id, tags, report):
        import os, time
        from infoprompt.progress import Progress
        from infoprompt.progress import LeftOff
        import ray

        folder = Path(config.run.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        state = folder / "step"
        step = int(state.read_text()) if state.exists() else 0
        while step < 9:
            step += 1
            time.sleep(0.1)
            score = config.optim.lr * step / 9
            decision = report(Progress(9, 9, step), {"score": score, "accuracy": score})
            if decision != "stop":
                state.write_text(str(step))
            if decision != "go":
                raise LeftOff(decision)
        scores = {"accuracy": score}
        return {"dev": scores, "test": {}, "metric": "accuracy", "seconds": 1.0, "artifact": "", "steps": 9}

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    import os
    os.environ["RAY_ADDRESS"] = cluster.address
    rates = ", ".join(str(rate / 100) for rate in range(9, 0, -1))
    changes = ["workers_per_trial=1", f"space={{optim.lr: {{grid: [{rates}]}}}}", "output_dir=" + sys.argv[2]]
    sweep = load_sweep(Path(sys.argv[1]), [*changes, "scheduler={kind: asha, grace_steps: 1, reduction_factor: 3}"])

    class Losing(View):
        def update(self, news):
            super().update(news)
            if second in cluster.worker_nodes and len([t for t in self._trials.values() if t.over]) >= 2:
                cluster.remove_node(second)  # from the thread that made it

    outcome = run_sweep(sweep, view=Losing(console(True), live=False), train=train)
    ray.init(address=cluster.address, logging_level="ERROR")
    time.sleep(1)
    print(json.dumps({
        "status": [trial.status for trial in outcome.trials], "best": outcome.best.number,
        "updates": sum(run.step for trial in outcome.trials for run in trial.runs),
        "free": ray.available_resources().get("CPU"), "has": ray.cluster_resources().get("CPU"),
    }))
    ray.shutdown()
    cluster.shutdown()

main()
"""


def test_a_lost_node_costs_no_trial_and_stopped_ones_leave_their_places(tiny_sweep, tmp_path):
    (tmp_path / "nodes.py").write_text(NODES)
    command = [sys.executable, str(tmp_path / "nodes.py"), str(tiny_sweep), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    outcome = last_json(done.stdout)
    assert outcome["best"] == 0, done.stderr
    assert set(outcome["status"]) <= {"finished", "stopped"}
    assert outcome["status"].count("stopped") >= 3
    assert outcome["updates"] < 9 * 9
    assert outcome["free"] == outcome["has"] == 1  # of the node that is left, without a dashboard to ask


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of one node with two CPUs, which asks for a token: `ray`, its clients' environment, its process."""
    log_file = tmp_path_factory.mktemp("ray") / "head.log"
    with held_port() as port, held_port() as dashboard, log_file.open("w") as log:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # as the README activates the environment
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
            yield ray, environment, head
        finally:  # at once: by itself it takes half a minute to end what it started
            started = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
            for process in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            head.wait(timeout=60)


def _wait_for_jobs(ray: str, environment: dict[str, str], head: subprocess.Popen, log: Path) -> None:
    """Until a job runs: the server answers before the agent that starts jobs is there."""
    deadline = time.monotonic() + 150
    command = [ray, "job", "submit", "--", "true"]
    while subprocess.run(command, env=environment, capture_output=True, check=False).returncode:
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(1)


def test_the_readmes_job_runs_as_written_on_a_cluster_with_a_token(cluster, tmp_path):
    _, environment, _ = cluster
    (submit,) = re.findall(r"^ray job submit .*$", (REPOSITORY / "README.md").read_text(), flags=re.MULTILINE)
    home = ["--runtime-env-json", json.dumps({"env_vars": {"INFOPROMPT_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}})]
    command = shlex.split(submit)
    command[command.index("--") : command.index("--")] = home  # not into the home folder of who tests
    command += ["optim.max_steps=4", "evaluation.every_steps=2"]
    (tmp_path / "project").mkdir()
    done = subprocess.run(
        command,
        cwd=copied_project(tmp_path / "project"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=350,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads((tmp_path / "runs/sweeps/quickstart/sweep.json").read_text())
    assert [trial["status"] for trial in outcome["trials"]] == ["finished"] * 2
    assert all(len(trial["seeds"]) == 2 for trial in outcome["trials"])
    assert (tmp_path / "mlflow.db").exists()
    assert "95 % interval" in done.stdout


def test_a_trial_that_does_not_fit_ends_the_job_with_the_numbers(cluster, tiny_sweep):
    ray, environment, _ = cluster
    entry = [sys.executable, "launcher/sweep.py", str(tiny_sweep), "workers_per_trial=3"]
    submit = [ray, "job", "submit", "--working-dir", str(REPOSITORY), "--", *entry]
    done = subprocess.run(submit, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode != 0
    assert "a trial needs 3 CPUs, but the cluster has 2" in done.stdout + done.stderr


def test_the_proof_of_a_thousand_trials_runs_with_six(runs_in_mlflow, tmp_path):
    script = str(REPOSITORY / "tests/proofs/thousand_trials.py")
    command = [sys.executable, script, "--trials", "6", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    finished, stopped, failed = map(int, re.findall(r"(?:finished|early|failed) (\d+)", done.stdout))
    assert finished
    assert (finished + stopped, failed) == (6, 0)
    assert len(runs_in_mlflow(f"sqlite:///{tmp_path / 'mlflow.db'}")) == 7


@pytest.mark.timeout(60)
def test_a_result_that_cannot_be_told_fails_its_run_with_the_reason():
    told = []

    class Place(_Member):
        def __init__(self):
            self._rank, self._world_size = 0, 1

        def _tell(self, method, *arguments, **named):
            if method == "finished":
                raise TypeError("cannot pickle it")
            told.append((method, *arguments, named))

    Place().settle(Job("token", 0, 0, "trial 0 seed 0", {}, None, {}), None, {"a": 1})
    text = "its result could not be told (TypeError: cannot pickle it)"
    assert told == [("raised", "token", 0, text, {"connection": False, "ends_group": False})]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("address", "waited"), [(None, 0), ("ray://127.0.0.1:1", 1)])
def test_groups_are_waited_for_on_a_cluster_alone(address, waited, tiny_sweep, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    calls = []
    monkeypatch.setattr(ray, "wait", lambda tasks, **options: calls.append(options["timeout"]) or (tasks, []))
    needs = load_sweep(tiny_sweep).settings.needs
    groups = RayGroups(None, needs, tmp_path, num_runs=1, timeout_seconds=1, what="sweep")
    groups._tasks = ["a task"]
    groups.wait()
    assert len(calls) == waited


@pytest.mark.timeout(60)
def test_a_sweep_that_stands_still_says_what_it_waits_for(tiny_sweep, monkeypatch):
    from launcher.pool.ray_groups import why_stalled

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0})
    settings = load_sweep(tiny_sweep).settings
    assert why_stalled(settings.needs, {"group-0": "idle"}) == (
        "no worker group could start. a trial needs 2 CPUs, the cluster has 4 and 1 are free"
    )
    assert "group-1 is at trial 3 seed 0. Its next" in why_stalled(settings.needs, {"group-1": "trial 3 seed 0"})


def _training_workers(head: subprocess.Popen) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(head.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def _rows(folder: Path) -> list[dict[str, str]]:
    """Those of runs.csv, without what says when and where."""
    with (folder / "runs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return [{key: value for key, value in row.items() if key not in ("seconds", "run_id", "folder")} for row in rows]


def test_a_packed_study_as_a_job_loses_a_worker_and_has_the_rows_of_this_machine(
    cluster, study_file, infoprompt, tmp_path
):
    ray, environment, head = cluster
    longer = ["optim.epochs=100", "evaluation.every_steps=40"]
    alone = infoprompt("study", study_file, *longer, f"output_dir={tmp_path / 'here'}", seconds=200)
    assert alone.returncode == 0, alone.stderr
    entry = [sys.executable, "launcher/study.py", str(study_file), *longer, "pack=2", f"output_dir={tmp_path / 'job'}"]
    submit = [ray, "job", "submit", "--working-dir", str(REPOSITORY), "--", *entry]
    log = tmp_path / "job.log"
    with log.open("w") as output:
        job = subprocess.Popen(submit, env=environment, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 200
            while not list((tmp_path / "job").glob("runs/*/*/*/search/*/config.yaml")):
                assert job.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            _training_workers(head)[0].kill()
            assert job.wait(timeout=200) == 0, log.read_text()
        finally:
            job.kill()
    assert _rows(tmp_path / "job") == _rows(tmp_path / "here")
    assert not list((tmp_path / "job").rglob("failure.json"))
    assert "8 of 8" in log.read_text()
