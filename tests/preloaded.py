"""Python processes that are forked from one which has imported what all of them take seconds to import."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

COMMAND = "from launcher.cli import main; main()"

# For each request it forks a process that waits, and that one forks the child. A child ends as any process does: it
# waits for its threads, calls what is registered, and flushes. It only takes down no module, which would take seconds.
SERVER = """
import atexit, gc, json, os, signal, sys, threading
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what an import prints is no answer
import deepspeed, mlflow, infoprompt.pretraining.pretrain, infoprompt.train, launcher.cli
gc.collect()
gc.freeze()  # a child that collects would copy, page by page, all that is loaded
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how those that wait have ended
requests = os.fdopen(os.dup(0))
for line in requests:
    if os.fork() == 0:
        break
else:
    os._exit(0)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
request = json.loads(line)
if child := os.fork():
    os.setpgid(child, child)
    print(child, file=answers)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(request["code"], "x") as file:
        print(code, file=file)
    os._exit(0)
os.setpgid(0, 0)
os.chdir(request["cwd"])
os.environ.clear()
os.environ.update(request["environment"])
for number, path in enumerate(request["files"]):
    os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), number)
requests.close()
answers.close()
sys.stdin = open(0)
sys.argv = ["-c", *request["arguments"]]
try:
    exec(request["python"], {"__name__": "__main__"})
    code = 0
except BaseException as end:
    if not isinstance(end, SystemExit) or not isinstance(end.code, int | None):
        gc.unfreeze()  # else libraries say at the end that they leak
        raise
    code = end.code or 0
threading._shutdown()
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
"""


class Forked:
    """A child, with the methods of `subprocess.Popen` that tests need; it leads a process group of its own."""

    def __init__(self, pid: int, code: Path) -> None:
        self.pid, self._code = pid, code

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        text = self._code.read_text() if self._code.exists() else ""
        return int(text) if text.endswith("\n") else None

    def wait(self, timeout: float = 60) -> int:
        """Its exit code, once it has ended."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        return code


class Preloaded:
    """Forks children; `preloaded` makes it."""

    def __init__(self, server: "subprocess.Popen[str]", folder: Path) -> None:
        self._server, self._folder, self._count = server, folder, 0

    def start(
        self, python: str, arguments: Sequence[object], cwd: Path, environment: Mapping[str, str], files: Sequence[Path]
    ) -> Forked:
        """As `python -c PYTHON ARGUMENTS`. `files`: standard input, output and error."""
        self._count += 1
        code = self._folder / str(self._count)
        request: dict[str, Any] = {"python": python, "arguments": list(map(str, arguments)), "cwd": str(cwd)}
        request |= {"environment": dict(environment), "files": list(map(str, files)), "code": str(code)}
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return Forked(int(self._server.stdout.readline()), code)

    def run(
        self,
        arguments: Sequence[object],
        cwd: Path,
        environment: Mapping[str, str],
        stdin: str = "",
        seconds: float = 300,
        python: str = COMMAND,
    ) -> "subprocess.CompletedProcess[str]":
        """`infoprompt ARGUMENTS`, as `subprocess.run` would; or other Python code."""
        with tempfile.TemporaryDirectory() as folder:
            given, out, error = files = [Path(folder, name) for name in ("stdin", "stdout", "stderr")]
            given.write_text(stdin)
            process = self.start(python, arguments, cwd, environment, files)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            return subprocess.CompletedProcess(list(arguments), code, out.read_text(), error.read_text())


@contextlib.contextmanager
def preloaded(environment: Mapping[str, str], cwd: Path | None = None) -> Iterator[Preloaded]:
    """A process that imports what lies in `cwd`, then what `environment` says, and forks children."""
    command = [sys.executable, "-c", SERVER]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, cwd=cwd, env=environment, **pipes) as server,
    ):
        yield Preloaded(server, Path(folder))
