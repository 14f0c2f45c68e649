import errno
import os
import signal

import pytest

from infoprompt.config import ConfigError, load_config
from launcher.exits import Terminated, exit_code, explain, guarded


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
