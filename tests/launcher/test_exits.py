import errno
import io
import os
import signal
import sys

import pytest

from infoprompt.config import ConfigError, load_config
from infoprompt.progress import RankLost
from infoprompt.stopping import Preempted, Terminated, forget, hear, noting, told
from launcher.exits import SIGNALS, exit_code, explain, guarded, signals_heard
from launcher.resume import check_new_run, resume_command


@pytest.fixture(autouse=True)
def _nothing_heard(monkeypatch):
    """A signal of another test is not the first one here."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("INFOPROMPT_PARENT", raising=False)
    forget()
    yield
    forget()


def raised(function, *arguments) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the kind is what is looked at
        function(*arguments)
    return caught.value


def test_our_own_value_error_is_bad_input():
    assert exit_code(raised(load_config, "none.yaml")) == 2


def test_a_value_error_of_a_library_keeps_its_traceback():
    assert exit_code(raised(int, "one")) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1),
        (MemoryError(), 1),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (Terminated(signal.SIGHUP), 129),
        (Preempted(signal.SIGUSR1, 7, "/x", saved=True), 75),
        (Preempted(signal.SIGUSR1, 7, "/x", saved=False), 138),
        (RankLost("Rank 1 did not answer.", said=False), 76),
        (BrokenPipeError(), None),
    ],
)
def test_each_kind_of_end_has_its_code(error, code):
    assert exit_code(error) == code


def test_an_operating_system_error_names_the_file():
    assert explain(OSError(errno.ENOSPC, "No space left on device", "/x")) == "No space left on device: /x"


def test_sigterm_unwinds_the_command_and_ends_with_143(capsys):
    closed = []

    @guarded
    def command() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            closed.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert raised(command).code == 143
    assert closed
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "error: stopped by SIGTERM.\n"


def test_sigterm_stays_sigterm_when_a_library_makes_ctrl_c_of_it():
    @guarded
    def command() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    assert raised(command).code == 143


def test_other_ranks_say_who_they_are(capsys, monkeypatch):
    @guarded
    def command() -> None:
        load_config("none.yaml")

    monkeypatch.setenv("RANK", "1")
    assert isinstance(raised(command), SystemExit)
    assert capsys.readouterr().err.startswith("error on rank 1: There is no config file")


def test_debug_lets_the_error_through():
    @guarded
    def command(*, debug: bool) -> None:
        load_config("none.yaml")

    with pytest.raises(ConfigError):
        command(debug=True)


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_that_ends_a_command_has_its_code(number):
    @guarded
    def command() -> None:
        os.kill(os.getpid(), number)

    assert raised(command).code == 128 + number


def test_a_library_that_makes_another_error_of_a_signal_changes_nothing():
    @guarded
    def command() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise TypeError("loading was interrupted") from None

    assert raised(command).code == 143


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_heard():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not told()


def test_a_signal_is_noted_while_a_run_trains_and_a_second_one_raises(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("infoprompt.stopping.time.monotonic", lambda: now[0])
    with noting():
        hear(signal.SIGINT)
        now[0] += 0.5
        hear(signal.SIGTERM)  # the launcher passes on what the terminal has sent to all
        assert told() == signal.SIGINT
        now[0] += 2
        with pytest.raises(Terminated):
            hear(signal.SIGINT)


def test_a_launcher_may_pass_a_signal_on_late(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("infoprompt.stopping.time.monotonic", lambda: now[0])
    monkeypatch.setenv("RANK", "1")
    with noting():
        hear(signal.SIGINT)
        now[0] += 5
        hear(signal.SIGTERM)


def test_the_command_to_go_on_with_is_the_one_given():
    for given in (["--resume", "never"], ["--resume=auto"], []):
        words = ["/bin/infoprompt", "train", "c.yaml", *given, "--quiet", "run.name=a b"]
        assert resume_command(words).endswith("infoprompt train c.yaml --quiet 'run.name=a b' --resume auto")
    assert resume_command(["launcher/train.py", "c.yaml"]).endswith("python launcher/train.py c.yaml --resume auto")


def test_what_was_saved_is_said_or_that_nothing_was(monkeypatch):
    monkeypatch.setattr("sys.argv", ["infoprompt", "train", "c.yaml"])
    text = explain(Preempted(signal.SIGINT, 7, "/x", saved=True))
    assert "stopped by Ctrl-C after update 7" in text
    assert "train c.yaml --resume auto" in text
    assert "checkpoint.enabled is false" in explain(Preempted(signal.SIGINT, 7, "/x", saved=False))
    monkeypatch.setenv("RANK", "1")
    assert explain(Preempted(signal.SIGINT, 7, "/x", saved=True)) == ""


class TestNewRunInTheFolderOfAStoppedOne:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        (tmp_path / "checkpoints/step-00000007").mkdir(parents=True)
        (tmp_path / "config.yaml").touch()
        monkeypatch.setattr("sys.argv", ["infoprompt", "train", "c.yaml"])
        return tmp_path

    def on_terminal(self, monkeypatch, answer: str) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setattr("sys.stdin", Terminal(answer))
        monkeypatch.setattr("sys.stderr", Terminal())

    def test_without_a_terminal_it_says_how_to_go_on_instead(self, folder, capsys):
        check_new_run(folder, "never")
        (line,) = capsys.readouterr().err.splitlines()
        assert "stopped after update 7 and is moved aside" in line
        assert line.endswith("train c.yaml --resume auto")

    @pytest.mark.parametrize(("answer", "goes_on"), [("y\n", True), ("n\n", False), ("\n", False)])
    def test_on_a_terminal_it_asks(self, folder, monkeypatch, answer, goes_on):
        self.on_terminal(monkeypatch, answer)
        if goes_on:
            check_new_run(folder, "never")
        else:
            assert raised(check_new_run, folder, "never").code == 1
            assert "Nothing was changed" in sys.stderr.getvalue()

    def test_it_asks_nothing_where_nothing_would_be_lost(self, folder, monkeypatch):
        self.on_terminal(monkeypatch, "")
        check_new_run(folder, "auto")
        (folder / "result.json").touch()
        check_new_run(folder, "never")
        check_new_run(folder / "new", "never")


def test_a_reader_of_standard_error_that_is_gone_fails_no_command(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Gone())
    done = []

    @guarded
    def command():
        from infoprompt.bar import ProgressBar
        from infoprompt.progress import Progress

        with ProgressBar(True, "run", Progress(2, 2)) as bar:
            bar.update(Progress(2, 2, 1), loss=1.0)
        sys.stderr.write("a line")
        done.append(True)
        raise Preempted(signal.SIGUSR1, 7, "/x", saved=True)

    with pytest.raises(SystemExit) as ended:
        command()
    assert done
    assert ended.value.code == 75
    assert isinstance(sys.stderr, Gone)
