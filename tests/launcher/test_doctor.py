import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from launcher.doctor import checks as doctor
from launcher.doctor.checks import Check, _kernels, _mlflow, _ninja, _no_answer, _ray, _safely, show_checks
from launcher.processes import held_port


def test_a_broken_package_is_a_finding_and_not_a_crash():
    def _wheel():
        raise ImportError("no wheel")

    (check,) = _safely(_wheel)
    assert (check.name, check.status, check.detail) == ("wheel", "fail", "ImportError: no wheel")


@pytest.mark.parametrize(
    ("has_gpu", "has_triton", "status", "told"),
    [
        (False, True, "ok", "auto takes chunked on the cpu"),
        (True, True, "ok", "auto takes triton on the cuda"),
        (True, False, "warn", "auto takes chunked on the cuda; not triton, as the package triton is not installed"),
    ],
)
def test_the_implementation_of_the_kernels_is_told(monkeypatch, has_gpu, has_triton, status, told):
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    monkeypatch.setattr("importlib.util.find_spec", lambda package: has_triton or None)
    (check,) = _kernels()
    assert check.status == status
    assert told in check.detail
    assert bool(check.remedy) == (status == "warn")


def test_two_versions_of_ninja_are_told(monkeypatch, tmp_path):
    for version in ("1.11", "1.13"):
        program = tmp_path / version / "ninja"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho {version}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "1.11"), str(tmp_path / "1.13")]))
    (check,) = _ninja()
    assert check.status == "warn"
    assert "1.11" in check.detail
    assert "1.13" in check.detail


@pytest.fixture
def no_ray(monkeypatch, tmp_path):
    """A client that has nothing to do with Ray yet, in an empty folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def test_a_token_without_the_mode_that_sends_it_is_told(monkeypatch, no_ray):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary")
    (check,) = _ray()
    assert check.status == "warn"
    assert "RAY_AUTH_MODE=token" in check.remedy
    assert "canary" not in f"{check}"


def test_a_mode_without_a_token_is_told(monkeypatch, no_ray):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    (check,) = _ray()
    assert (check.status, "get-auth-token --generate" in check.remedy) == ("warn", True)


@pytest.mark.parametrize(("code", "status"), [(401, "warn"), (200, "ok")])
def test_both_sides_of_a_job_server_are_told(monkeypatch, no_ray, code, status):
    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{server.server_port}")
        (check,) = _ray()
        server.shutdown()
    assert check.status == status
    assert ("asks for a token" if code == 401 else "asks for no token") in check.detail
    assert "no token, RAY_AUTH_MODE is not set" in check.detail


def test_a_working_directory_that_ray_would_refuse_is_told_with_its_largest_files(no_ray, tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "small.txt").write_text("x")
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(150 * 2**20)
    _, check = _ray()
    assert check.status == "warn"
    assert "150.0 MiB" in check.detail
    assert "weights.bin (150 MiB)" in check.remedy
    assert ".rayignore" in check.remedy
    (tmp_path / ".gitignore").write_text("*.bin\n")
    assert [check.status for check in _ray()] == ["ok", "ok"]


def test_a_tracking_server_that_is_down_is_a_warning(monkeypatch):
    with held_port() as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:canary@127.0.0.1:{port}")
        (check,) = _mlflow()
    assert check.status == "warn"
    assert "infoprompt sync" in check.remedy
    assert "canary" not in f"{check}"


def test_a_folder_as_tracking_store_is_a_failure(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///elsewhere/mlruns")
    (check,) = _mlflow()
    assert check.status == "fail"
    assert "sqlite:" in check.detail + check.remedy


def test_a_closed_port_does_not_answer():
    with held_port() as port:
        assert "does not answer" in (_no_answer(f"http://127.0.0.1:{port}") or "")


def test_json_has_every_field(capsys):
    show_checks([Check("disk", "warn", "1 GiB", "Make room.")], json_output=True)
    assert json.loads(capsys.readouterr().out) == [
        {"name": "disk", "status": "warn", "detail": "1 GiB", "remedy": "Make room."}
    ]


@pytest.mark.slow
def test_this_machine_passes(infoprompt):
    done = infoprompt("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert len(checks) >= len(doctor.EXAMINATIONS)
    assert checks["torch"]["status"] == "ok"
