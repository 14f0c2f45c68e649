"""Two machines, which are network namespaces with addresses, names and sshd of their own, train one run as one does."""

import json
import sys
from pathlib import Path

import pytest

from tests.proofs import two_hosts
from tests.proofs.fault_sweep import NoNamespaces, write_sweep
from tests.proofs.two_hosts import ENGINE, PORT, REPOSITORY, SHORT, difference, end_of, launches, program_of

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Both, with the run that one machine has trained in the folder that they share."""
    folder = tmp_path_factory.mktemp("hosts")
    try:
        with two_hosts.two_hosts(folder) as both:
            write_sweep(folder)
            codes, said = end_of(launches(*both)["one machine"], "one machine")
            assert codes == [0], said
            yield both
    except NoNamespaces as obstacle:
        pytest.skip(f"this machine cannot be two: {obstacle}")


@pytest.mark.parametrize("way", ["deepspeed over ssh", "deepspeed without ssh", "torchrun"])
def test_two_machines_train_as_one_to_the_bit(hosts, way):
    if way == "deepspeed over ssh" and not program_of("pdsh"):
        pytest.skip("pdsh not found; `apt-get install pdsh` brings it, and `deepspeed --hostfile` needs it")
    codes, said = end_of(launches(*hosts)[way], way)
    assert codes == [0] * len(codes), said
    assert "2 processes" in said
    assert difference(hosts[0].folder, way) == ""


def test_the_doctor_tells_which_machines_are_ready(hosts):
    folder = hosts[0].folder
    (folder / "three").write_text((folder / "hostfile").read_text() + "node3 slots=1\n")
    command = ["infoprompt", "doctor", "--hostfile=three", f"--port={PORT}", "--json"]
    (code,), said = end_of([(hosts[0], command)], "doctor")
    assert code == 1
    _, *machines = json.loads(said.splitlines()[-1])
    assert [(check["name"], check["status"]) for check in machines] == [
        ("node1", "ok"),
        ("node2", "ok"),
        ("node3", "fail"),
    ]
    assert "Could not resolve hostname node3" in machines[2]["remedy"]


def test_a_machine_that_does_not_see_the_output_folder_ends_the_run_with_one_message(hosts):
    folder, train = hosts[0].folder, str(REPOSITORY / "launcher/train.py")
    (folder / "hidden").mkdir()
    command = [sys.executable, train, "base.yaml", *SHORT, *ENGINE, "engine.kind=plain", "run.output_dir=hidden/run"]
    place = ["env", "WORLD_SIZE=2", "LOCAL_RANK=0", f"MASTER_ADDR={hosts[0].address}", f"MASTER_PORT={PORT}"]
    alone = ["sh", "-c", 'mount -t tmpfs none hidden && exec "$@"', "sh"]
    launch = [(hosts[0], [*place, "RANK=0", *command]), (hosts[1], [*alone, *place, "RANK=1", *command])]
    codes, said = end_of(launch, "hidden")
    assert codes == [2, 2], said
    (error,) = [line for line in said.splitlines() if line.startswith("error")]
    out = folder / "hidden/run"
    assert f"run.output_dir is {out} on node1, but what is written there is not seen in {out} on node2." in error
    assert "Traceback" not in said
    assert not (Path(out) / "config.yaml").exists()
