"""A sweep as a person sees it: MLflow's own pages in a browser, and pictures that show all they should."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import infoprompt.train
from infoprompt.config import build_config
from infoprompt.tracking import connect
from launcher.pool.jobs import Job
from launcher.processes import held_port
from launcher.sweeps.dispatcher import Dispatcher
from launcher.sweeps.figures import parallel_coordinates
from launcher.sweeps.mlflow_runs import Record, recorded
from launcher.sweeps.outcome import SweepOutcome, outcome_of
from launcher.sweeps.plan import load_sweep
from launcher.sweeps.search import Search
from launcher.sweeps.statistics import TrialScores

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # which root cannot have; it sees nothing but a page of this machine
    "--disable-gpu",
    "--disable-dev-shm-usage",  # 64 MB in containers
    "--no-first-run",
    "--window-size=1600,2400",  # tables list the rows that are in sight alone
)
# Chromium reads commands from descriptor 3 and answers on 4; both may be taken here, so they are moved out of the way.
AS_THREE_AND_FOUR = """
import os, sys
commands, answers = (os.dup(int(number)) for number in sys.argv[1:3])
os.dup2(commands, 20), os.dup2(answers, 21)
os.dup2(20, 3), os.dup2(21, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
PAGE_SECONDS = 60.0

ROWS = """[...document.querySelectorAll('[row-index] a[href*="/runs/"]')]
    .sort((one, other) => one.closest('[row-index]').ariaRowIndex - other.closest('[row-index]').ariaRowIndex)
    .map(link => link.innerText).join(', ')"""
"""The names in the table of runs, from top to bottom."""


class Browser:
    """One tab of a Chromium without a window, driven by its DevTools protocol over a pipe."""

    def __init__(self, binary: str, profile: Path) -> None:
        (theirs_in, self._commands), (self._answers, theirs_out) = os.pipe(), os.pipe()
        command = [sys.executable, "-c", AS_THREE_AND_FOUR, str(theirs_in), str(theirs_out)]
        with (profile.parent / "browser.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, binary, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
                pass_fds=(theirs_in, theirs_out),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(theirs_in), os.close(theirs_out)
        self._number, self._read, self._session = 0, b"", {}
        tab = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self._ask("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]}

    def close(self) -> None:
        os.close(self._commands), os.close(self._answers)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=10)

    def open(self, url: str) -> None:
        self._ask("Page.navigate", url="about:blank")  # else a change behind the # would keep the page
        self._ask("Page.navigate", url=url)

    def value(self, script: str) -> Any:
        """What a piece of JavaScript comes to in the page; None while the page is not there."""
        return self._ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script: str) -> Any:
        """The same, as soon as it is anything."""
        deadline = time.monotonic() + PAGE_SECONDS
        while not (value := self.value(script)):
            assert time.monotonic() < deadline, f"{script} came to nothing in: {self.value('document.body.innerText')}"
            time.sleep(0.1)
        return value

    def shows(self, *texts: str) -> None:
        """Wait until the page's text has all of these."""
        self.wait(f"{json.dumps(texts)}.every(text => document.body.innerText.includes(text))")

    def click(self, selector: str) -> None:
        """Click what it selects, as soon as that is there."""
        self.wait(f"document.querySelector({json.dumps(selector)}) && true")
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    def link(self, text: str) -> str:
        """Where the link with this text leads, as soon as there is one."""
        return str(self.wait(f"[...document.links].find(a => a.innerText.trim() == {json.dumps(text)})?.href"))

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._next())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> bytes:
        while b"\0" not in self._read:
            assert select.select([self._answers], [], [], PAGE_SECONDS)[0], "the browser does not answer"
            part = os.read(self._answers, 1 << 16)
            assert part, "the browser has ended"
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        return message


@pytest.fixture
def browser(tmp_path) -> Iterator[Browser]:
    names = (os.environ.get("CHROME_BIN"), *BROWSERS)
    binary = next((path for name in names if name and (path := shutil.which(name))), None)
    if binary is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)} on PATH, or its path in CHROME_BIN")
    one = Browser(binary, tmp_path / "profile")
    yield one
    one.close()


@pytest.fixture
def mlflow_ui(tmp_path) -> Iterator[Callable[[str], str]]:
    """Starts MLflow's pages of a database; their address."""
    started = []

    def start(uri: str) -> str:
        options = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        # jobs would be processes of their own, which take as long to start
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, "-m", "mlflow", "ui", *options]
        started.append(
            subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        )
        return f"http://127.0.0.1:{port}/"

    with held_port() as port, (tmp_path / "ui.log").open("wb") as log:
        yield start
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}health", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise TimeoutError(f"nobody answers at {url}")


def run_in_this_process(file: Path, changes: list[str], started: Callable[[], None]) -> SweepOutcome:
    """A whole sweep as a group of one would do it, without Ray; `started` is called when MLflow has its run."""
    sweep = load_sweep(file, changes)
    folder = Path(sweep.settings.output_dir)
    folder.mkdir(parents=True)
    with recorded(sweep, sweep.first.tracking, []) as record:
        started()
        coordinator = Dispatcher(sweep, Search(sweep), parent_run_id=record.parent_run_id, group_runs=record.groups)
        coordinator.register("group", 1, ["here"])
        seen = 0
        while (answer := coordinator.next("group", 1)) != "leave":
            seen = tell(record, coordinator, seen)
            if isinstance(answer, Job):
                train(coordinator, answer)
        tell(record, coordinator, seen)
        trials = list(coordinator.trials.values())
        record.finish(trials)
        outcome = outcome_of(sweep, trials, record.parent_run_id)
        record.conclude(sweep, outcome)
    return outcome


def train(coordinator: Dispatcher, job: Job) -> None:
    result = infoprompt.train.run(
        build_config(job.config),
        parent_run_id=job.parent_run_id,
        tags=job.tags,
        report=lambda progress, scores: coordinator.report(job.token, progress.step, scores, last=progress.done),
    )
    coordinator.finished(job.token, result.as_json())


def tell(record: Record, coordinator: Dispatcher, seen: int) -> int:
    for event in coordinator.events[seen:]:
        trial = None if event.trial is None else coordinator.trials[event.trial]
        if event.kind == "opened" and trial is not None:
            coordinator.opened(trial.number, record.open_trial(trial))
        record.note(event, trial)
    return len(coordinator.events)


@pytest.mark.slow
def test_a_sweep_is_found_and_read_in_mlflow(tiny_sweep, tmp_path, mlflow_ui, browser):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    changes = [
        "space={optim.lr: {grid: [0.003, 0.01]}}", "seeds=[0, 1]", "workers_per_trial=1", "register_as=tiny",
        "tracking.enabled=true", f"tracking.uri={uri}",
    ]  # fmt: skip
    addresses: list[str] = []
    outcome = run_in_this_process(tiny_sweep, changes, lambda: addresses.append(mlflow_ui(uri)))
    (address,) = addresses
    wait_for(address)
    best = outcome.best
    assert best is not None

    # the experiment's table: the sweep, behind it its trials, behind each its seeds
    browser.open(f"{address}#/experiments/1/runs")
    browser.wait(f"{ROWS} == 'sweep'")
    browser.click(f'[row-id="{outcome.parent_run_id}"] button')
    browser.wait(f"{ROWS} == 'sweep, sweep-0001, sweep-0000'")
    browser.click(f'[row-id="{best.parent_run_id}"] button')
    seeds = f"sweep-{best.name}-seed_1, sweep-{best.name}-seed_0"
    shown = "sweep, sweep-0001, sweep-0000".replace(f"sweep-{best.name}", f"sweep-{best.name}, {seeds}")
    browser.wait(f"{ROWS} == '{shown}'")

    # the sweep's page: what was tried, what came out, and where it is
    browser.open(browser.link("sweep"))
    browser.shows("Child runs", "space.optim.lr", "sweep/best_score", "Finished", str(outcome.sentence))
    assert browser.link("sweep-0000").endswith(str(outcome.trials[0].parent_run_id))
    places = {text: browser.link(text) for text in ("Its artifact", "tiny, version 1", "All trials in pictures")}
    trial = browser.link(f"trial {best.number}")

    browser.open(places["All trials in pictures"])
    browser.shows("learning_curves.png", "parallel_coordinates.png", "score_by_setting.png", "best.yaml", "sweep.json")
    browser.wait("[...document.images].some(image => image.src.startsWith('blob:') && image.naturalWidth > 300)")

    # the best trial's page
    browser.open(trial)
    browser.shows("Parent run", f"optim.lr={best.values['optim.lr']}; dev/score {best.score:.4f}, the mean of 2 seeds.")
    assert browser.link("sweep").endswith(str(outcome.parent_run_id))
    assert browser.link("dev/score_mean").endswith("/model-metrics")
    browser.link(f"sweep-{best.name}-seed_0")
    history = connect(uri).get_metric_history(best.parent_run_id, "dev/score_mean")
    assert [metric.step for metric in history] == [2, 4]  # every update at which all seeds were evaluated, once
    assert history[-1].value == pytest.approx(best.score)

    # the artifact, from the sweep's page and from the registry
    assert f"/runs/{max(best.runs, key=lambda run: run.best(1)).result['run_id']}/" in places["Its artifact"]
    browser.open(places["Its artifact"])
    browser.shows("prompt.safetensors", "manifest.json")
    browser.open(f"{address}#/models/tiny")
    browser.shows("Version 1", "champion", f"optim.lr={best.values['optim.lr']}")
    browser.open(places["tiny, version 1"])
    browser.shows("champion", "Source Run")


def test_the_legend_of_a_narrow_picture_is_not_cut_off():
    endings = ("finished", "finished", "stopped", "failed", "unfinished")
    trials = [
        TrialScores(number, {"lr": number}, status, {0: 0.5} if status == "finished" else {}, {0: [(1, 0.5)]})
        for number, status in enumerate(endings)
    ]
    figure = parallel_coordinates(trials, metric="dev/score", direction="max")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 4
    assert 0 <= legend.get_window_extent().x0 < legend.get_window_extent().x1 <= figure.bbox.x1
