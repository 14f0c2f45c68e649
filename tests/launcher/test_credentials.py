"""No password or token is in any file that a command writes, nor in what it prints."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from infoprompt.config import build_config, dump_config, flatten, load_config
from infoprompt.credentials import full_uri, shown_uri, without_credentials
from infoprompt.tracking import tracking_uri
from launcher.cli import main
from launcher.processes import _credentials
from launcher.sweeps.outcome import outcome_of, write_files
from launcher.sweeps.plan import load_sweep

CANARY = "hunter2canary"
URI = f"http://bob:{CANARY}@127.0.0.1:9/?token={CANARY}"
SHOWN = "http://***@127.0.0.1:9/?token=***"


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `infoprompt ...` in this process; its exit code, and all it printed."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["infoprompt", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, "".join(capsys.readouterr())

    return run


def holding(folder: Path, canary: str = CANARY) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path.relative_to(folder)) for path in files if canary.encode() in path.read_bytes()]


def test_no_file_and_no_line_of_any_command_has_the_password(command, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("HF_TOKEN", f"hf_{CANARY}")
    monkeypatch.chdir(tmp_path)
    out, run = tmp_path / "out", tmp_path / "out/run"
    words = [
        tiny_config,
        f"run.output_dir={run}",
        "tracking.enabled=true",
        f"run.compare_with={{other: ['tracking.uri={URI}', optim.lr=1e-4]}}",
        "prompt.kind=static",
        "prompt.template=before",
        "objective.head_weight=0",
        "objective.representation_weight=0",
        "run.name=tiny",
    ]
    printed = []
    # the first has a database, whose params and files are searched; the second a server that does not answer
    for uri in (f"sqlite:///{out}/mlflow.db", URI):
        code, text = command("train", *words, f"tracking.uri={uri}", "--resume=auto")
        assert code == 0, text
        printed.append(text)
    assert SHOWN in printed[-1]  # what failed is told
    artifact = run / "artifact"
    for arguments in (
        ("train", run / "config.yaml", "optim.lr=oops", f"tracking.uri={URI}"),
        ("train", tiny_config, f"tracking.uri=[{URI}]"),
        ("train", tiny_config, "--tracking.uri"),
        ("train", tiny_config, URI),
        ("show", tiny_config, f"tracking.uri={URI}"),
        ("show", tiny_config, f"tracking.uri={URI}", "--json"),
        ("evaluate", artifact),
        ("predict", artifact, "a text"),
        ("export", artifact, out / "peft", "--format", "peft"),
        ("sync", run),
    ):
        printed.append(command(*arguments)[1])
    assert "accuracy" in printed[-4]  # of the rows that its run's folder remembers
    assert (out / "peft" / "README.md").is_file()
    assert not holding(out)
    assert not [text for text in printed if CANARY in text]


def test_an_artifact_tells_nothing_of_the_machine_but_where_the_backbone_is(command, tiny_config, tmp_path):
    assert command("train", tiny_config, "--quiet")[0] == 0
    artifact = tmp_path / "run" / "artifact"
    backbone = load_config(tiny_config).backbone.name
    for path in artifact.iterdir():
        assert str(tmp_path) not in path.read_bytes().replace(backbone.encode(), b"").decode(errors="replace"), path
    assert backbone not in (artifact / "README.md").read_text()
    data = json.loads((artifact / "config.json").read_text())["config"]["data"]
    assert (data["train"], data["test"]) == ("rows.jsonl", "rows.jsonl")
    assert command("evaluate", artifact)[0] == 0
    moved = shutil.copytree(artifact, tmp_path / "sent" / "prompt")
    code, text = command("evaluate", moved)
    assert code == 2
    assert "The test rows of this prompt were in rows.jsonl" in text
    assert command("evaluate", moved, tmp_path / "rows.jsonl")[0] == 0


def test_a_sweeps_files_have_no_password_and_its_runs_are_told_it(tmp_path, tiny_config, monkeypatch):
    (tmp_path / "sweep.yaml").write_text(
        yaml.safe_dump({"base": tiny_config.name, "space": {"seed": {"grid": [0, 1]}}, "output_dir": "out"})
    )
    (tmp_path / "out").mkdir()
    sweep = load_sweep(tmp_path / "sweep.yaml", [f"tracking.uri={URI}"], tmp_path)
    write_files(sweep, outcome_of(sweep, [], None))
    assert not holding(tmp_path / "out")
    assert SHOWN in (tmp_path / "out" / "sweep.yaml").read_text()
    assert sweep.config({}, seed=1, name="0000/seed_1").tracking.uri == URI


def test_ranks_are_told_by_their_environment(tiny_config, monkeypatch):
    config = load_config(tiny_config, [f"tracking.uri={URI}"])
    assert CANARY not in dump_config(config) + str(flatten(config))
    variables = _credentials(config)
    assert variables == {"MLFLOW_TRACKING_URI": URI}
    kept = build_config(yaml.safe_load(dump_config(config)))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", variables["MLFLOW_TRACKING_URI"])
    assert tracking_uri(kept.tracking) == URI
    assert _credentials(load_config(tiny_config)) == {}


def test_a_saved_address_gets_its_credentials_from_the_environment(monkeypatch):
    for name in ("URI", "USERNAME", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    assert full_uri("http://host:5000") == "http://host:5000"
    assert full_uri("http://***@host/x") is None
    kept = build_config({"tracking": {"uri": "http://***@host/x"}})
    with pytest.raises(
        ValueError, match=r"credentials are not kept\. Set MLFLOW_TRACKING_URI .*MLFLOW_TRACKING_USERNAME"
    ):
        tracking_uri(kept.tracking)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    assert full_uri("http://***@host/x") == "http://host/x"
    assert full_uri("postgresql://***@host/x") is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://bob:pw@host/x")
    assert full_uri("postgresql://***@host/x") == "postgresql://bob:pw@host/x"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:p@ss@host/x", "http://***@host/x"),
        ("http://me:p/ss@host/x", "http://***@host/x"),
        ("https://token@host", "https://***@host"),
        ("postgresql+psycopg2://u:p@h:5432/db?sslpassword=a&b=c", "postgresql+psycopg2://***@h:5432/db?sslpassword=***&b=c"),
        ("http://h/?access_token=a#b", "http://h/?access_token=***"),
        ("http://h:5000/team@org", "http://h:5000/team@org"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_what_signs_in(uri, shown):
    assert shown_uri(uri) == shown
    assert without_credentials({"a": [f"tracking.uri={uri}", uri, 1]}) == {"a": [f"tracking.uri={shown}", shown, 1]}
