"""Proof that a sweep survives faults on two Ray nodes with addresses of their own, and comes to the same numbers.

    python tests/proofs/fault_sweep.py > tests/proofs/fault_sweep.txt
    python tests/proofs/fault_sweep.py packed      one of PACK, SPREAD, packed alone

Two network namespaces joined by a bridge stand for two machines, each with a Ray node of two CPUs. A sweep of short
trials, each trained by two workers, runs once without faults. Then it runs again, once with each trial on one node
(PACK), once with each trial across both (SPREAD), and once with two trials side by side in each group (packed).
Meanwhile a worker is killed, the second node is killed and comes back, and the driver is killed and resumed. Every
trial must end with exactly the same evaluations, losses and trained tensors, and MLflow with the same metrics, each
step once, and no run left open.

Linux, as root: namespaces are made and, however this ends, removed. Under half an hour on two cores.

Exits with 0 after PASS, 1 after FAIL, 2 where namespaces cannot be made.
"""

import contextlib
import json
import math
import os
import platform
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import yaml

from infoprompt.tracking.environment import git_commit
from launcher.sweeps.journal import RunState, TrialState, load_trials

REPOSITORY = Path(__file__).resolve().parents[2]

LEARNING_RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2)
SEEDS = (0, 1, 2, 3)
NUM_TRIALS = len(LEARNING_RATES) * len(SEEDS)
STEPS, EVERY_STEPS = 400, 20
NUM_EVALUATIONS = STEPS // EVERY_STEPS
DOWN_SECONDS = 20.0
PATIENCE_SECONDS = 600.0
"""For anything that is waited for; plenty, as a busy machine starts processes slowly."""
POLL_SECONDS = 0.2

TRAINING_WORKER = "RayTrainWorker"
"""In the title of a process that trains."""


class ProofFailed(RuntimeError):
    """The proof came to an end without its faults or its results."""


class NoNamespaces(RuntimeError):
    """This machine cannot make network namespaces."""


# ---- two machines


def ip(*arguments: str) -> None:
    """Change the network; raises NoNamespaces."""
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoNamespaces(f"ip: {error}") from None
    if done.returncode:
        raise NoNamespaces(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@dataclass
class Node:
    """A namespace with an address, and the Ray node in it."""

    namespace: str
    address: str
    link: str
    """The bridge's end of its cable."""
    folder: Path
    head: str | None = None
    """Address of Ray's head; None if this is it."""
    _starts: int = 0

    def lay_cable(self, bridge: str) -> None:
        """Make the namespace and join it to the bridge."""
        ip("netns", "add", self.namespace)
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        ip("link", "set", self.link, "master", bridge, "up")
        ip("-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.namespace, "link", "set", "lo", "up")
        ip("-n", self.namespace, "link", "set", "eth0", "up")
        # leads nowhere, but Ray finds a machine's own address by asking for the way out
        ip("-n", self.namespace, "route", "add", "default", "dev", "eth0")

    def popen(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
        """Start a process on this machine."""
        inside = ["ip", "netns", "exec", self.namespace, *command]
        return subprocess.Popen(inside, env=environment(self.folder), start_new_session=True, text=True, **options)

    def start_ray(self) -> None:
        """Start the Ray node and wait until it has joined."""
        self._starts += 1
        place = (
            ["--head", "--port=6379", "--include-dashboard=false"] if self.head is None else [f"--address={self.head}"]
        )
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", *place]
        command += [f"--node-ip-address={self.address}", "--num-cpus=2", f"--object-store-memory={128 * 2**20}"]
        # sockets lie in there, and their paths may have 107 characters
        command += [f"--temp-dir={self.folder / self.namespace[-1]}"]
        log = self.folder / f"{self.namespace}-{self._starts}.log"
        with log.open("w") as file:
            process = self.popen(command, stdout=file, stderr=file)

        def joined() -> bool:
            if process.poll() is not None:
                raise ProofFailed(f"The Ray node {self.address} ended:\n{log.read_text()}")
            return "Ray runtime started" in log.read_text()

        wait_until(joined, f"the Ray node {self.address} starts")

    def processes(self) -> list[int]:
        """Ids of everything that runs in it."""
        done = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
        return [int(line) for line in done.stdout.split()]

    def training_workers(self) -> list[int]:
        """Ids of the processes that train."""
        return [one for one in self.processes() if TRAINING_WORKER in title(one)]

    def kill(self) -> int:
        """Kill everything that runs in it, the raylet first; how many it were."""
        ended: set[int] = set()
        while left := self.processes():
            for one in sorted(left, key=lambda one: "raylet/raylet" not in title(one)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            ended.update(left)
            time.sleep(0.05)
        return len(ended)

    @property
    def megabytes(self) -> float:
        """What went over its cable so far, both ways."""
        counters = Path(f"/sys/class/net/{self.link}/statistics")
        return sum(int((counters / name).read_text()) for name in ("rx_bytes", "tx_bytes")) / 1e6

    def pull_cable(self) -> None:
        """Nothing that it sends, not even that a connection is closed, arrives any more."""
        ip("link", "set", self.link, "down")

    def plug_cable(self) -> None:
        """Undo `pull_cable`."""
        ip("link", "set", self.link, "up")

    def remove(self) -> None:
        """Leave nothing."""
        self.kill()
        subprocess.run(["ip", "netns", "delete", self.namespace], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self.link], capture_output=True, check=False)


def title(process: int) -> str:
    """What a process calls itself; nothing if it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def environment(folder: Path) -> dict[str, str]:
    """Of every process: this one's without what leads elsewhere."""
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "INFOPROMPT_HOME"):
        kept.pop(name, None)
    return kept | {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "GLOO_SOCKET_IFNAME": "eth0",
        "INFOPROMPT_CACHE": str(folder / "cache"),
        "RAY_TMPDIR": str(folder / "r"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_worker_niceness": "0",  # else whatever else runs on the machine goes first
        "PYTHONWARNINGS": "ignore",
    }


@contextlib.contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[Node, Node]]:
    """Head and second node, running; removed at the end."""
    own = os.getpid()
    bridge = f"sw{own}"
    head = Node(f"sweep-{own}-a", "10.77.0.1", f"sw{own}a", folder)
    second = Node(f"sweep-{own}-b", "10.77.0.2", f"sw{own}b", folder, head="10.77.0.1:6379")
    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", bridge, "up")
        for node in (head, second):
            node.lay_cable(bridge)
        (folder / "token").write_text(secrets.token_hex(32))
        for node in (head, second):
            node.start_ray()
        yield head, second
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C shall not leave half of it
            signal.signal(number, signal.SIG_IGN)
        for node in (second, head):
            node.remove()
        subprocess.run(["ip", "link", "delete", bridge], capture_output=True, check=False)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Return when it is so; raises ProofFailed."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ProofFailed(f"Waited {seconds:.0f} s in vain until {what}.")
        time.sleep(POLL_SECONDS)


# ---- the sweep


def write_sweep(folder: Path) -> Path:
    """A sweep over a model of two layers with random weights and a task whose labels are partly wrong."""
    backbone = folder / "backbone"
    words = "the a of to and in is was it for on that with as film movie car they good great bad awful".split()
    make_backbone(backbone, words)
    picks = random.Random(0)
    for part, count in (("train", 240), ("validation", 120)):
        rows = []
        for index in range(count):
            label = ("good", "bad")[index % 2]
            text = picks.choices(words[:-4], k=picks.randint(4, 12))
            text.insert(picks.randint(0, len(text)), picks.choice({"good": words[-4:-2], "bad": words[-2:]}[label]))
            shown = label if picks.random() < 0.8 else ("good", "bad")[1 - index % 2]
            rows.append(json.dumps({"text": " ".join(text), "label": shown}))
        (folder / f"{part}.jsonl").write_text("\n".join(rows))
    files = {part: str(folder / f"{part}.jsonl") for part in ("train", "validation")}
    base = {
        "backbone": {"name": str(backbone)},
        "data": {**files, "batch_size": 16},
        "optim": {"max_steps": STEPS, "epochs": 100},
        "evaluation": {"every_steps": EVERY_STEPS},
        "engine": {"kind": "plain", "timeout_seconds": 60},
        "tracking": {"enabled": True, "every_steps": 1},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    sweep = {
        "base": "base.yaml",
        "space": {"optim.lr": {"grid": list(LEARNING_RATES)}, "seed": {"grid": list(SEEDS)}},
        "workers_per_trial": 2,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


def make_backbone(folder: Path, words: Sequence[str]) -> None:
    """A BERT of two layers with random weights, small enough for a run of seconds."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    torch.manual_seed(0)
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *words, *[f"##{letter}" for letter in letters]]
    tokenizer = BertTokenizerFast(vocab={token: index for index, token in enumerate(dict.fromkeys(tokens))})
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass
class SweepRun:
    """One run of the sweep in a folder of its own, over as many drivers as it takes."""

    head: Node
    sweep: Path
    name: str
    placement: Literal["PACK", "SPREAD"]
    pack: int = 1
    """Trials that a group trains side by side."""
    started: float = field(default_factory=time.monotonic)
    timeline: list[str] = field(default_factory=list)
    finished_at: float = 0.0
    megabytes: float = 0.0
    """What went over the second node's cable meanwhile."""
    driver: Any = None
    _reader: Any = None

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return self.sweep.parent / self.name

    @property
    def uri(self) -> str:
        """Its database of MLflow."""
        return f"sqlite:///{self.folder}.db"

    def note(self, text: str) -> None:
        """Add to the timeline, and show it."""
        line = f"{time.monotonic() - self.started:7.1f} s  {text}"
        self.timeline.append(line)
        print(line, file=sys.stderr, flush=True)

    def drive(self, *, resume: bool = False) -> None:
        """Start a driver beside the head."""
        command = [sys.executable, str(REPOSITORY / "launcher/sweep.py"), str(self.sweep), "--json", "--quiet"]
        command += ["--resume"] if resume else []
        command += [f"output_dir={self.folder}", f"placement={self.placement}", f"pack={self.pack}"]
        command += [f"tracking.uri={self.uri}"]
        output = self.folder.with_name(f"{self.name}-driver.log").open("a")
        address = ["env", f"RAY_ADDRESS={self.head.address}:6379"]
        self.driver = self.head.popen(
            [*address, *command], stdout=output, stderr=subprocess.PIPE, bufsize=1, cwd=self.sweep.parent
        )
        self._reader = threading.Thread(target=self._read, args=(self.driver.stderr, output), daemon=True)
        self._reader.start()

    def _read(self, lines: Any, log: Any) -> None:
        """Keep what a driver says, and show what is about faults."""
        for line in lines:
            log.write(line)
            log.flush()
            if "group" in line or "goes on" in line or "done before" in line or "error" in line:
                self.note(f"    driver: {line.strip()}")

    def wait_until(self, condition: Callable[[list[TrialState]], bool], what: str) -> None:
        """Return when it is so of the trials while the driver runs; raises ProofFailed."""

        def so() -> bool:
            if self.driver.poll() is not None:
                raise ProofFailed(f"The sweep ended (code {self.driver.returncode}) before {what}.")
            return condition(load_trials(self.folder))

        wait_until(so, what)

    def in_the_middle(self, num_finished: int) -> dict[tuple[int, int], int]:
        """Wait until so many trials are done, both groups are full and two trials well on their way; all steps."""
        found: list[list[tuple[int, RunState]]] = []

        def midway(trials: list[TrialState]) -> bool:
            busy = running(trials)
            found.append(busy)
            return (
                sum(trial.status == "finished" for trial in trials) >= num_finished
                and len(busy) == 2 * self.pack
                and sum(2 <= len(run.curve) <= NUM_EVALUATIONS - 6 for _, run in busy) >= 2
            )

        self.wait_until(midway, f"{num_finished} trials were done and two in the middle")
        return {(number, run.seed): run.step for number, run in found[-1]}

    def end(self, seconds: float) -> None:
        """Wait for the driver to end well."""
        try:
            code = self.driver.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise ProofFailed(f"The sweep {self.name} does not come to an end.") from None
        self._reader.join()
        self.finished_at = time.monotonic() - self.started
        self.note(f"the sweep has ended with code {code}")
        if code:
            log = self.folder.with_name(f"{self.name}-driver.log").read_text()
            raise ProofFailed(f"The sweep {self.name} failed:\n{log[-4000:]}")


def running(trials: Sequence[TrialState]) -> list[tuple[int, RunState]]:
    """Trial and run of what is at work."""
    return [(trial.number, run) for trial in trials for run in trial.runs if run.status == "running"]


def past(trials: Sequence[TrialState], before: dict[tuple[int, int], int]) -> bool:
    """Whether each of these runs has come further than it was."""
    runs = {(trial.number, run.seed): run for trial in trials for run in trial.runs}
    return all(runs[key].status == "finished" or runs[key].step > step for key, step in before.items())


def described(steps: dict[tuple[int, int], int]) -> str:
    """Runs and where they are."""
    return ", ".join(f"trial {number} at update {step}" for (number, _), step in sorted(steps.items()))


def without_faults(head: Node, sweep: Path) -> SweepRun:
    """The sweep that the others are compared with."""
    one = SweepRun(head, sweep, "without", "PACK")
    one.drive()
    one.end(2 * PATIENCE_SECONDS)
    return one


def with_faults(head: Node, second: Node, sweep: Path, variant: str) -> SweepRun:
    """The sweep under a killed worker, a lost node and a killed driver; SPREAD loses the node without a farewell."""
    placement: Literal["PACK", "SPREAD"] = "SPREAD" if variant == "SPREAD" else "PACK"
    one = SweepRun(head, sweep, f"faults-{variant}", placement, pack=2 if variant == "packed" else 1)
    megabytes = second.megabytes
    one.drive()

    steps = one.in_the_middle(2)
    _check_placement(placement, head, second)
    worker = second.training_workers()[0]
    os.kill(worker, signal.SIGKILL)
    one.note(f"FAULT 1: a worker on {second.address} is killed ({described(steps)})")
    one.wait_until(lambda trials: past(trials, steps), "the killed worker's run went on")
    one.note("every run that was at work has come further than it was")

    steps = one.in_the_middle(4)
    cable = placement == "SPREAD"
    if cable:
        second.pull_cable()
    num = second.kill()
    how = "its cable pulled and all" if cable else "all"
    one.note(f"FAULT 2: the node {second.address} is killed, {how} {num} processes ({described(steps)})")
    time.sleep(DOWN_SECONDS)
    second.plug_cable()
    second.start_ray()
    one.note(f"the node {second.address} is back")
    one.wait_until(lambda trials: past(trials, steps), "the lost runs went on")
    one.note("every run that was at work has come further than it was")
    one.wait_until(
        lambda trials: len(running(trials)) == 2 * one.pack and bool(second.training_workers()),
        f"both groups were at work again, with {second.address}",
    )
    one.note(f"both groups are at work, with {len(second.training_workers())} workers on {second.address}")

    steps = one.in_the_middle(5)
    os.kill(one.driver.pid, signal.SIGKILL)
    one.note(f"FAULT 3: the driver is killed ({described(steps)})")
    one.driver.wait()
    one._reader.join()
    one.drive(resume=True)
    one.note("a new driver is started with --resume")
    one.end(2 * PATIENCE_SECONDS)
    one.megabytes = second.megabytes - megabytes
    return one


def _check_placement(placement: str, head: Node, second: Node) -> None:
    here, there = len(head.training_workers()), len(second.training_workers())
    if (here, there) != (2, 2):
        raise ProofFailed(f"Each node should have two workers with {placement}, but they have {here} and {there}.")


# ---- the comparison


@dataclass
class Difference:
    """How far a trial is from the one without faults."""

    number: int
    evaluations: float = math.inf
    """Largest difference of a score on dev at any evaluation."""
    losses: float = math.inf
    """Largest difference of anything else in the history of updates: losses, norms of gradients."""
    tensors: float = math.inf
    """Largest difference of a trained number."""
    problems: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return self.evaluations == self.losses == self.tensors == 0 and not self.problems


def compare(truth: SweepRun, other: SweepRun) -> list[Difference]:
    """Each trial's difference."""
    pairs = zip(load_trials(truth.folder), load_trials(other.folder), strict=True)
    return [_compare_trials(truth, other, a, b) for a, b in pairs]


def _compare_trials(truth: SweepRun, other: SweepRun, a: TrialState, b: TrialState) -> Difference:
    from safetensors.torch import load_file

    difference = Difference(a.number)
    if (a.values, a.status) != (b.values, b.status) or b.status != "finished":
        difference.problems.append(f"{b.values} is {b.status}")
        return difference
    run_a, run_b = a.runs[0], b.runs[0]
    assert run_a.result
    assert run_b.result
    for key in ("dev", "steps", "best_step", "steps_to_95"):
        if run_a.result[key] != run_b.result[key]:
            difference.problems.append(f"{key} is {run_b.result[key]}, not {run_a.result[key]}")
    if run_a.curve != run_b.curve or len(run_b.curve) != NUM_EVALUATIONS:
        difference.problems.append(f"the journal's curve has {len(run_b.curve)} evaluations, or others")
    folders = [truth.folder / "trials" / a.run_name(run_a), other.folder / "trials" / b.run_name(run_b)]
    first, second = (json.loads((folder / "history.json").read_text()) for folder in folders)
    if [sorted(row) for row in first] != [sorted(row) for row in second] or len(first) < STEPS:
        difference.problems.append("the history of updates has other rows")
        return difference
    apart = [(key, abs(row[key] - same[key])) for row, same in zip(first, second, strict=True) for key in row]
    difference.evaluations = max(by for key, by in apart if key.startswith("dev/"))
    difference.losses = max(by for key, by in apart if not key.startswith("dev/"))
    tensors, others = (load_file(folder / "artifact/prompt.safetensors") for folder in folders)
    if tensors.keys() != others.keys():
        difference.problems.append("the artifact has other tensors")
        return difference
    difference.tensors = max(float((tensors[key] - others[key]).abs().max()) for key in tensors)
    return difference


def tracked(one: SweepRun) -> tuple[dict[str, dict[str, list[tuple[int, float]]]], list[str]]:
    """What MLflow has of each trial, by number and metric, and what is wrong with it."""
    from mlflow import MlflowClient

    client = MlflowClient(one.uri)
    found = client.search_runs([each.experiment_id for each in client.search_experiments()], max_results=1000)
    wrong, trials = [], {}
    for run in found:
        name = f"{one.name}: MLflow's run {run.info.run_name}"
        if run.info.status != "FINISHED":
            wrong.append(f"{name} is {run.info.status}")
        histories = {}
        for metric in run.data.metrics:
            history = sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric))
            if len({step for step, _ in history}) != len(history):
                wrong.append(f"{name} has a step of {metric} twice")
            if metric != "train/examples_per_second":  # the one that time decides
                histories[metric] = history
        if run.data.tags.get("sweep.kind") != "sweep":
            number = run.data.tags["sweep.trial"]
            if number in trials:
                wrong.append(f"{one.name}: MLflow has several runs of trial {number}")
            trials[number] = histories
    if len(found) != NUM_TRIALS + 1 or len(trials) != NUM_TRIALS:
        wrong.append(f"{one.name}: MLflow has {len(found)} runs, not {NUM_TRIALS + 1}")
    return trials, wrong


def report(truth: SweepRun, others: Sequence[SweepRun]) -> bool:
    """Print everything; whether all is well."""
    print(f"{truth.name} faults: {NUM_TRIALS} trials x {STEPS} updates, {truth.finished_at:.0f} s\n")
    recorded, problems = tracked(truth)
    for other in others:
        took = f"{other.finished_at:.0f} s, {other.megabytes:.0f} MB over the second node's cable"
        print(f"with faults, placement {other.placement}, {other.pack} in a pack: {took}\n")
        print("\n".join(other.timeline) + "\n")
        differences = compare(truth, other)
        print(f"{'trial':>5}  {'without faults':>14}  {'with faults':>11}  {'best':>4}  {'deaths':>6}  equal")
        trials = zip(load_trials(truth.folder), load_trials(other.folder), differences, strict=True)
        for a, b, difference in trials:
            score = f"{b.score:11.6f}" if b.score is not None else f"{b.status:>11}"
            best = (b.runs[0].result or {}).get("best_step", "")
            row = f"{a.number:>5}  {a.score or math.nan:14.6f}  {score}  {best:>4}  {b.runs[0].deaths:>6}"
            print(f"{row}  {'yes' if difference.equal else 'NO'}")
            problems += [f"{other.name}: trial {a.number}: {problem}" for problem in difference.problems]
        problems += [f"{other.name}: trial {one.number} differs" for one in differences if not one.equal]
        for what in ("evaluations", "losses", "tensors"):
            print(f"largest difference of {what:<12} {max(getattr(one, what) for one in differences):g}")
        mlflow, wrong = tracked(other)
        problems += wrong
        unequal = [number for number in recorded if recorded[number] != mlflow.get(number)]
        problems += [f"{other.name}: MLflow has other metrics of trial {number}" for number in unequal]
        points = sum(len(history) for histories in mlflow.values() for history in histories.values())
        print(f"MLflow: {points:,} points in {len(mlflow)} trials, {len(unequal)} trials with other points\n")
    for problem in problems:
        print(f"problem: {problem}")
    return not problems


def versions() -> str:
    """What this ran on."""
    packages = ("ray", "torch", "mlflow")
    parts = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    return f"{', '.join(parts)}; Linux {platform.release()}, {os.cpu_count()} cores; commit {git_commit() or 'unknown'}"


def main(variants: Sequence[str]) -> int:
    """Run the proof; the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it is cleaned up
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed says on standard output that it looked for a GPU
    folder = Path(tempfile.mkdtemp(prefix="sf"))
    code = 1
    try:
        print(f"{versions()}\n", flush=True)
        with two_nodes(folder) as (head, second):
            sweep = write_sweep(folder)
            truth = without_faults(head, sweep)
            others = [with_faults(head, second, sweep, variant) for variant in variants]
        code = 0 if report(truth, others) else 1
    except NoNamespaces as error:
        print(f"Network namespaces cannot be made here ({error}). Run this on Linux as root.", file=sys.stderr)
        code = 2
    except ProofFailed as error:
        print(f"problem: {error}")
    finally:
        if code == 1:
            print(f"What the nodes and drivers wrote is in {folder}.", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if code != 2:
        print("PASS" if code == 0 else "FAIL")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ("PACK", "SPREAD", "packed")))
