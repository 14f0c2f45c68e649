"""A run's folder is copied to a store, from which a run goes on elsewhere; nothing in it is read that is not whole."""

import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from infoprompt import mirror as mirrors
from infoprompt.checkpoint import check_manifest, write_manifest
from infoprompt.config import ConfigError, build_config, dump_config, override_config
from infoprompt.mirror import Mirror
from infoprompt.progress import TrainingStopped
from infoprompt.stopping import Preempted, forget
from infoprompt.train import run
from infoprompt.training_state import copy_state
from launcher.comparison import comparisons, train_all
from launcher.exits import signals_heard
from launcher.sweeps.plan import load_sweep

ROOT = Path(__file__).parents[2]
SECONDS = 300
TRAINS = f"import runpy; runpy.run_path({str(ROOT / 'launcher' / 'train.py')!r}, run_name='__main__')"
# The newest states stay while the run waits after its first evaluation.
NEVER_ENDS = f"""
import sys, time
from pathlib import Path
from infoprompt.config import load_config
from infoprompt.train import run
run(load_config(Path(sys.argv[1])), report=lambda progress, scores: time.sleep({2 * SECONDS}))
"""
CHANGES = ["optim.max_steps=8", "checkpoint.every_steps=3", "evaluation.every_steps=4", "run.mirror={mirror}"]


class Killed(Exception):
    """The run ends here, between two resume states."""


def stop_at_update_4(progress, scores):
    raise Killed


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """Address of a local S3 server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
    )
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
            break
        except OSError:
            assert time.monotonic() < end, Path(log.name).read_text()
            time.sleep(0.2)
    yield address
    server.terminate()
    server.wait()
    log.close()


@pytest.fixture
def s3_environment(s3_server, monkeypatch):
    """The server as the one that S3's clients find."""
    values = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "hidden-word",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3(s3_environment, tmp_path):
    """Address of an empty place in a bucket."""
    name = f"bucket{abs(hash(str(tmp_path)))}"
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}/runs/first"


@pytest.fixture
def memory():
    MemoryFileSystem.store.clear()
    yield "memory://place/first"
    MemoryFileSystem.store.clear()


@pytest.fixture(params=["file", "memory", "s3"])
def address(request, tmp_path):
    if request.param == "file":
        return f"file://{tmp_path / 'mirror'}"
    return request.getfixturevalue(request.param)


@pytest.fixture
def configured(toy_settings, tmp_path):
    """The settings of a run of eight updates in a folder of that name, with a mirror."""

    def settings(folder, mirror):
        changes = [change.format(mirror=mirror) for change in CHANGES]
        return override_config(build_config(toy_settings), [*changes, f"run.output_dir={tmp_path / folder}"])

    return settings


def names(address):
    """Full names of the files below an address, by relative name."""
    system, root = fsspec.core.url_to_fs(address)
    system.invalidate_cache()
    return {path[len(root.rstrip("/")) + 1 :]: path for path in system.find(root)}


def contents(address):
    """What lies below an address, by relative name."""
    system, _ = fsspec.core.url_to_fs(address)
    return {name: system.cat_file(path) for name, path in names(address).items()}


def whole_folders(address, to):
    """The folders below an address that a reader takes as whole: those whose manifest fits."""
    shutil.rmtree(to, ignore_errors=True)
    for name, content in contents(address).items():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes(content)
    return {
        path.parent.relative_to(to).as_posix() for path in to.rglob("manifest.json") if not check_manifest(path.parent)
    }


def equal_results(one, other):
    for name in ("history.json", "artifact/prompt.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["metrics"]) for row in rows if "train/loss" in row["metrics"]]


def test_all_that_a_run_leaves_is_copied(configured, address, tmp_path):
    run(configured("run", address))
    folder, copied = tmp_path / "run", contents(address)
    for name in ("result.json", "history.json", "metrics.jsonl", "config.yaml", "resume.json", "mirror.json"):
        assert copied[name] == (folder / name).read_bytes(), name
    for place in ("artifact", "checkpoints"):
        files = {path.relative_to(folder).as_posix() for path in (folder / place).rglob("*") if path.is_file()}
        assert files == {name for name in copied if name.startswith(f"{place}/")}
        assert all(copied[name] == (folder / name).read_bytes() for name in files)
    assert {"artifact", "checkpoints/step-00000006", "checkpoints/step-00000008"} == whole_folders(
        address, tmp_path / "read"
    )
    if address.startswith("file:"):
        kept = sorted(path.name for path in (tmp_path / "mirror" / "checkpoints").iterdir())
        assert kept == ["step-00000006", "step-00000008"]
    given_away = b"".join(path.read_bytes() for path in (folder / "artifact").iterdir())
    assert address.encode() not in given_away


def test_a_run_goes_on_in_an_empty_folder_bit_for_bit(configured, address, tmp_path):
    run(override_config(configured("whole", address), ["run.mirror=null"]))
    with pytest.raises(Killed):
        run(configured("one", address), report=stop_at_update_4)
    run(configured("another", address), resume="auto")
    equal_results(tmp_path / "whole", tmp_path / "another")
    values = [
        [{k: v for k, v in row.items() if "second" not in k} for _, row in losses(tmp_path / name)]
        for name in ("whole", "another")
    ]
    assert values[0] == values[1]
    assert [step for step, _ in losses(tmp_path / "another")] == list(range(1, 9))
    assert (
        contents(address)["artifact/prompt.safetensors"]
        == (tmp_path / "whole/artifact/prompt.safetensors").read_bytes()
    )


@pytest.mark.distributed
@pytest.mark.timeout(2 * SECONDS)
def test_a_killed_run_goes_on_from_an_s3_server_in_an_empty_folder(configured, s3, tmp_path, processes):
    changes = ["checkpoint.every_steps=1", "optim.max_steps=40", "evaluation.every_steps=20"]
    config = override_config(configured("killed", s3), changes)
    run(override_config(config, ["run.mirror=null", f"run.output_dir={tmp_path / 'whole'}"]))
    killed = start(processes, config, tmp_path / "killed", script=NEVER_ENDS)
    end = time.monotonic() + SECONDS
    while not any(name.endswith("manifest.json") for name in names(s3)):
        assert killed.poll() is None, (tmp_path / "killed.log").read_text()
        assert time.monotonic() < end
        time.sleep(0.05)  # the server has one thread's time to give
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(timeout=SECONDS)
    assert not (tmp_path / "killed" / "result.json").exists()
    (tmp_path / "killed").rename(tmp_path / "gone")
    again = start(
        processes,
        override_config(config, [f"run.output_dir={tmp_path / 'another'}"]),
        tmp_path / "another",
        "--resume",
        "auto",
        script=TRAINS,
    )
    assert again.wait(timeout=SECONDS) == 0, (tmp_path / "another.log").read_text()
    assert "Fetched the state" in (tmp_path / "another.log").read_text()
    equal_results(tmp_path / "whole", tmp_path / "another")
    written = b"".join(contents(s3).values()) + (tmp_path / "another.log").read_bytes()
    assert b"hidden-word" not in written


def start(processes, config, folder, *options, script):
    file, log = folder.with_suffix(".yaml"), folder.with_suffix(".log")
    file.write_text(dump_config(config))
    return processes.start(script, [file, *options], Path.cwd(), {**os.environ}, [Path(os.devnull), log, log])


def test_a_run_that_a_signal_ends_has_copied_its_state_before_it_leaves(configured, memory, tmp_path):
    def told(progress, scores):
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        with pytest.raises(Preempted), signals_heard():
            run(override_config(configured("one", memory), ["checkpoint.every_steps=8"]), report=told)
    finally:
        forget()
    assert {name.split("/")[1] for name in names(memory) if name.startswith("checkpoints/")} == {"step-00000005"}


# ---- what is not whole


def make_folder(folder, steps, artifact):
    """A run's folder with states and an artifact of a few bytes."""
    picks = random.Random(artifact)
    for name in [*(f"checkpoints/step-{step:08d}" for step in steps), "artifact"]:
        if (folder / name).exists() and name != "artifact":
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file in ("a", "b"):
            (folder / name / file).write_bytes(picks.randbytes(40))
        write_manifest(folder / name)
    for old in (folder / "checkpoints").iterdir():
        if old.name not in {f"step-{step:08d}" for step in steps}:
            shutil.rmtree(old)
    (folder / "result.json").write_text(json.dumps({"of": artifact}))


def cut_after(monkeypatch, count):
    """Let the store take so many changes, and none after them; the one that is cut leaves half a file."""
    left = itertools.count(count, -1)

    def limited(call, half):
        def changed(self, *arguments, **options):
            number = next(left)
            if number == 0 and half:
                half(self, *arguments)
            if number <= 0:
                raise OSError("the line is cut")
            return call(self, *arguments, **options)

        return changed

    def half_file(self, path, to):
        os.makedirs(os.path.dirname(to), exist_ok=True)
        Path(to).write_bytes(Path(path).read_bytes()[:20])

    def half_content(self, to, content):
        Path(to).write_bytes(content[:20])

    monkeypatch.setattr(LocalFileSystem, "put_file", limited(LocalFileSystem.put_file, half_file))
    monkeypatch.setattr(LocalFileSystem, "pipe_file", limited(LocalFileSystem.pipe_file, half_content))
    monkeypatch.setattr(LocalFileSystem, "rm_file", limited(LocalFileSystem.rm_file, None))
    return left


def test_an_upload_cut_at_any_moment_leaves_only_what_is_whole(configured, tmp_path, monkeypatch):
    address, folder = f"file://{tmp_path / 'mirror'}", tmp_path / "run"
    config = configured("run", address)
    ends = []
    for count in itertools.count():
        for place in (folder, tmp_path / "mirror"):
            shutil.rmtree(place, ignore_errors=True)
        make_folder(folder, [3, 6], artifact=1)
        one = Mirror(config, resume=True)
        one._copy()
        old = contents(address)
        make_folder(folder, [6, 9], artifact=2)
        with monkeypatch.context() as patched:
            left = cut_after(patched, count)
            done = one._attempt()
            used = next(left) >= 0
        read = whole_folders(address, tmp_path / "read")
        assert "checkpoints/step-00000006" in read
        now = contents(address)
        for name in read:  # one version alone, which is the folder's or the earlier one
            versions = [{key: value for key, value in of.items() if key.startswith(f"{name}/")} for of in (old, now)]
            local = {f"{name}/{path.name}": path.read_bytes() for path in (folder / name).glob("*")}
            assert versions[1] in (versions[0], local), name
        if "artifact" not in read or now["artifact/a"] == old["artifact/a"]:
            assert now["result.json"] == old["result.json"]
        ends.append(done)
        assert one._attempt()
        assert whole_folders(address, tmp_path / "read") == {
            "artifact",
            "checkpoints/step-00000006",
            "checkpoints/step-00000009",
        }
        assert contents(address)["result.json"] == (folder / "result.json").read_bytes()
        one.close()
        if used and done:
            break
    assert len(ends) > 8
    assert not any(ends[:-1])


def test_a_state_that_the_run_drops_while_it_is_copied_arrives_whole(configured, memory, tmp_path, monkeypatch):
    folder, put = tmp_path / "run", mirrors.Store.put
    make_folder(folder, [3], artifact=1)
    one = Mirror(configured("run", memory), resume=True)

    def put_and_drop(self, path, name):
        if name.startswith("checkpoints/step-00000003") and (folder / "checkpoints/step-00000003").exists():
            make_folder(folder, [6, 9], artifact=1)  # a run that is faster than the store
        put(self, path, name)

    monkeypatch.setattr(mirrors.Store, "put", put_and_drop)
    assert one._attempt()
    assert not (folder / "checkpoints/step-00000003").exists()
    assert "checkpoints/step-00000003" in whole_folders(memory, tmp_path / "read")
    assert one._attempt()
    states = {name for name in whole_folders(memory, tmp_path / "read") if name != "artifact"}
    assert states == {"checkpoints/step-00000006", "checkpoints/step-00000009"}
    one.close()
    assert not (folder / mirrors.HELD).exists()


@pytest.mark.parametrize("harm", ["no manifest", "other content", "a file missing"])
def test_a_state_that_is_not_whole_is_passed_over(configured, memory, tmp_path, caplog, harm):
    run(override_config(configured("whole", memory), ["run.mirror=null"]))
    run(configured("one", memory))
    state = "/place/first/checkpoints/step-00000008"
    store = fsspec.filesystem("memory")
    if harm == "no manifest":
        store.rm_file(f"{state}/manifest.json")
    elif harm == "other content":
        store.pipe_file(f"{state}/trained.safetensors", b"other")
    else:
        store.rm_file(f"{state}/trained.safetensors")
    caplog.set_level("INFO")
    run(configured("another", memory), resume="auto")
    assert "Fetched the state step-00000006" in caplog.text
    assert ("step-00000008 of the mirror memory://place/first is damaged" in caplog.text) == (harm != "no manifest")
    equal_results(tmp_path / "whole", tmp_path / "another")


def test_a_mirror_whose_states_are_all_damaged_is_refused_by_name(configured, memory):
    run(configured("one", memory))
    store = fsspec.filesystem("memory")
    for step in (6, 8):
        store.pipe_file(f"/place/first/checkpoints/step-{step:08d}/trained.safetensors", b"other")
    with pytest.raises(ConfigError, match=r"run.mirror is memory://place/first, whose .* none of the 2 there can be"):
        run(configured("another", memory), resume="auto")


def test_no_name_in_a_mirror_leads_out_of_the_folder(configured, memory, tmp_path):
    run(configured("one", memory))
    store = MemoryFileSystem.store
    manifest = store["/place/first/checkpoints/step-00000008/manifest.json"]
    for name in ("../outside", "artifacts/../../outside", ".lock", "checkpoints/step-..%2f/manifest.json"):
        store[f"/place/first/{name}"] = manifest
    folder = tmp_path / "below" / "another"
    run(override_config(configured("another", memory), [f"run.output_dir={folder}"]), resume="auto")
    assert (folder / "result.json").exists()
    assert not [path for path in tmp_path.rglob("*") if path.name in ("outside", ".lock") or "%2f" in path.name]


# ---- which of two is newer


def test_an_older_folder_takes_the_newer_state_and_a_newer_one_keeps_its_own(configured, memory, tmp_path, caplog):
    run(override_config(configured("whole", memory), ["run.mirror=null"]))
    with pytest.raises(Killed):
        run(configured("one", memory), report=stop_at_update_4)
    shutil.copytree(tmp_path / "one", tmp_path / "old")
    caplog.set_level("INFO")
    run(configured("one", memory), resume="auto")
    assert "Fetched" not in caplog.text
    run(configured("old", memory), resume="auto")
    assert "Fetched the state step-00000008" in caplog.text
    equal_results(tmp_path / "whole", tmp_path / "old")


def test_a_state_taken_over_from_another_trial_is_not_undone_by_the_mirror(configured, memory, tmp_path):
    for name in ("one", "two"):
        config = override_config(configured(name, f"{memory}/{name}"), [f"seed={len(name)}"])
        with pytest.raises(Killed):
            run(override_config(config, ["evaluation.every_steps=7"] if name == "one" else []), report=stop_at_update_4)
    one = configured("one", f"{memory}/one")
    copy_state(one, tmp_path / "two")
    Mirror(one, resume=True).close()
    assert [path.name for path in (tmp_path / "one" / "checkpoints").iterdir()] == ["step-00000003"]


# ---- outages


def broken(monkeypatch):
    def refuse(self, path, name):
        raise ConnectionError("the network is away")

    monkeypatch.setattr(mirrors.Store, "put", refuse)


def test_an_outage_in_the_middle_is_told_and_made_up_for(configured, memory, tmp_path, caplog, monkeypatch):
    put, tries = mirrors.Store.put, []

    def away_for_a_while(self, path, name):
        if name != "mirror.json":
            tries.append(name)
            if len(tries) == 1:
                raise ConnectionError("the network is away")
        put(self, path, name)

    def wait(progress, scores):
        end = time.monotonic() + 30
        while not tries and time.monotonic() < end:
            time.sleep(0.01)

    monkeypatch.setattr(mirrors.Store, "put", away_for_a_while)
    caplog.set_level("INFO")
    run(configured("run", memory), report=wait)
    assert caplog.text.count("does not take the run's files (ConnectionError: the network is away)") == 1
    assert "The mirror memory://place/first has all files again." in caplog.text
    assert "does not have all of this run" not in caplog.text
    assert contents(memory)["result.json"] == (tmp_path / "run" / "result.json").read_bytes()


def test_a_run_whose_mirror_stays_away_ends_well_and_says_what_is_missing(
    configured, memory, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(mirrors, "LAST_PAUSES", (0.0, 0.01))

    def cut(progress, scores):
        broken(monkeypatch)

    config = override_config(configured("run", memory), ["checkpoint.every_steps=6"])
    result = run(config, report=cut)
    assert result.steps == 8
    assert (tmp_path / "run" / "result.json").exists()
    (told,) = [record.message for record in caplog.records if "does not have all of this run yet" in record.message]
    assert "missing are checkpoints/step-00000006, checkpoints/step-00000008, artifact, " in told
    assert f"They are in {tmp_path / 'run'}." in told
    assert "--resume auto" in told
    monkeypatch.undo()
    run(config, resume="auto")
    assert contents(memory)["result.json"] == (tmp_path / "run" / "result.json").read_bytes()


def test_a_mirror_that_hangs_keeps_no_run_from_its_end(configured, memory, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(mirrors, "STALLED_SECONDS", 0.2)
    put, answered = mirrors.Store.put, threading.Event()

    def hang(self, path, name):
        if name == "mirror.json":
            put(self, path, name)
        else:
            answered.wait(60)

    monkeypatch.setattr(mirrors.Store, "put", hang)
    run(configured("run", memory))
    (copying,) = [thread for thread in threading.enumerate() if thread.name == "mirror"]
    answered.set()
    copying.join(30)
    assert "does not have all of this run yet" in caplog.text


# ---- refused at the start


def refusal(config, **options):
    with pytest.raises(ConfigError) as caught:
        run(config, **options)
    return str(caught.value)


def test_a_mirror_that_cannot_be_reached_is_refused_before_anything_is_trained(
    configured, s3_environment, monkeypatch, tmp_path
):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
        monkeypatch.setattr(mirrors, "START_SECONDS", 1)
        told = refusal(configured("run", "s3://bucket/first"))
    assert told.startswith("run.mirror is s3://bucket/first, which cannot be used (")
    assert "Check the address, the network, and the credentials" in told
    assert "hidden-word" not in told
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_bucket_that_is_not_there_is_refused_and_not_made(configured, s3_environment):
    told = refusal(configured("run", "s3://no-such-bucket/first"))
    assert told.startswith("run.mirror is s3://no-such-bucket/first, which cannot be used (")
    assert "bucket" in told.partition("used")[2]
    assert not fsspec.filesystem("s3").exists("no-such-bucket")


def test_a_missing_package_is_named(configured, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for loaded in ("s3", "s3a"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, loaded, raising=False)
    told = refusal(configured("run", "s3://bucket/first"))
    assert told == (
        "run.mirror is s3://bucket/first, but the package for s3:// is not installed. Install it: pip install s3fs. Or "
        "leave run.mirror out."
    )


def test_an_unknown_protocol_and_a_place_in_the_folder_itself_are_refused(configured, tmp_path):
    assert "is nowhere://place, but Protocol not known: nowhere" in refusal(configured("run", "nowhere://place"))
    inside = f"file://{tmp_path / 'run' / 'copy'}"
    assert f"run.mirror is {inside}, which lies in run.output_dir" in refusal(configured("run", inside))


@pytest.mark.parametrize(
    ("mirror", "words"),
    [
        ("s3://key:secret@bucket/first", r"s3://\*\*\*@bucket/first, but an address is saved with the run"),
        ("https://host/first?token=secret", r"https://host/first\?token=\*\*\*, but an address is saved with the run"),
        ("bucket/first", "bucket/first, but it must be PROTOCOL://PLACE"),
        ("s3://", "s3://, but it must be PROTOCOL://PLACE"),
        ("file://runs/first", "file://runs/first, but the path must be absolute"),
    ],
)
def test_an_address_that_cannot_be_one_or_has_a_password_is_refused_when_it_is_read(toy_settings, mirror, words):
    with pytest.raises(ConfigError, match=f"^run.mirror is {words}") as caught:
        override_config(build_config(toy_settings), [f"run.mirror={mirror}"])
    assert "secret" not in str(caught.value)


# ---- two runs, one mirror


def test_a_mirror_with_another_run_is_refused_and_left_as_it_is(configured, memory, tmp_path):
    run(configured("one", memory))
    before = contents(memory)
    for resume in ("never", "auto"):
        folder = configured("two", memory)
        if resume == "auto":  # with states of its own
            run(override_config(folder, ["run.mirror=null"]))
        told = refusal(folder, resume=resume)
        assert told.startswith("run.mirror is memory://place/first, which has another run (on ")
        assert "Give each run a mirror of its own" in told
    assert refusal(configured("one", memory)) == told
    assert sorted(path.name for path in tmp_path.glob("one*")) == ["one"]  # not moved aside
    assert contents(memory) == before


def test_of_two_runs_at_the_same_time_the_earlier_one_stops_by_name(configured, memory, caplog):
    def another(progress, scores):
        if progress.step == 4:
            run(configured("two", memory), resume="auto")
            end = time.monotonic() + 30
            while "was taken over" not in caplog.text and time.monotonic() < end:
                running[0].copy_soon()
                time.sleep(0.05)

    running = []
    made = Mirror.__init__

    def note(self, *arguments, **options):
        made(self, *arguments, **options)
        running.append(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Mirror, "__init__", note)
        with pytest.raises(TrainingStopped, match=r"run.mirror is memory://place/first, but another start \(on "):
            run(configured("one", memory), report=another)
    copied = contents(memory)
    assert json.loads(copied["result.json"])["output_dir"].endswith("two")


def test_a_run_that_failed_before_its_first_state_leaves_the_mirror_free(configured, memory, tmp_path):
    with pytest.raises(ConfigError):
        run(override_config(configured("one", memory), ["backbone.name=/no/such/folder"]))
    assert contents(memory).keys() == {"mirror.json"}
    run(configured("two", memory))
    assert "result.json" in contents(memory)


def test_each_run_of_a_comparison_and_a_sweep_has_a_place_of_its_own(toy_settings, memory, tmp_path):
    config = override_config(
        build_config(toy_settings),
        ["optim.max_steps=2", f"run.mirror={memory}", "run.compare_with={wide: [prompt.length=6]}"],
    )
    assert [other.run.mirror for other in comparisons(config).values()] == [f"{memory}/compare/wide"]
    train_all(config)
    assert {"result.json", "compare/wide/result.json"} <= contents(memory).keys()
    sweep = load_sweep(ROOT / "configs/sweeps/quickstart.yaml", [f"run.mirror={memory}/"], tmp_path)
    assert sweep.config({}, name="3/seed_1").run.mirror == f"{memory}/trials/3/seed_1"
