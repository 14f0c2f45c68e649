"""Proof that two machines train one run as one does: with `deepspeed` over ssh, without ssh, and with torchrun.

    python -m tests.proofs.two_hosts > tests/proofs/two_hosts.txt

Two network namespaces joined by a cable stand for two machines, each with an address, a host name and an sshd of its
own. A run of two ranks is trained on one machine, then with a rank on each. Every loss, every score and the trained
tensors must be the same to the bit.

Linux, as root, with OpenSSH's sshd; pdsh where `deepspeed` shall use it. Namespaces are removed however this ends.

Exits with 0 after PASS, 1 after FAIL, 2 where this machine cannot be two.
"""

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.proofs.fault_sweep import NoNamespaces, ip, write_sweep

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 240.0
"""For a run to end; plenty, as a busy machine starts processes slowly."""
SHORT = "optim.max_steps=8 evaluation.every_steps=4 tracking.enabled=false checkpoint.every_steps=4".split()
ENGINE = "engine.kind=deepspeed engine.zero_stage=2 engine.timeout_seconds=20".split()
PORT = "29571"

# As on a machine: names of both, and one of its own. `ip netns exec` gives mounts of its own.
BECOME = 'mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'


@dataclass(frozen=True)
class Host:
    """A namespace that stands for a machine."""

    name: str
    address: str
    namespace: str
    folder: Path
    """What both machines share."""

    def popen(self, command: Sequence[str], log: Path, **variables: str) -> "subprocess.Popen[bytes]":
        """Start a command on it, in the shared folder; `log` takes what it says."""
        place = ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", BECOME, "sh"]
        with log.open("wb") as said:
            return subprocess.Popen(
                [*place, str(self.folder / "hosts"), self.name, *command],
                cwd=self.folder,
                env=environment(self.folder) | variables,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def remove(self) -> None:
        """Kill what runs in it, and leave nothing."""
        while left := subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, check=False).stdout:
            for process in left.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            time.sleep(0.05)
        subprocess.run(["ip", "netns", "delete", self.namespace], capture_output=True, check=False)


def environment(folder: Path) -> dict[str, str]:
    """Of every process: nothing of the user's own, and `ssh` with the keys of the folder."""
    kept = {name: os.environ[name] for name in ("LANG", "VIRTUAL_ENV") if name in os.environ}
    own = os.pathsep.join(
        [str(folder / "bin"), str(Path(sys.executable).parent), "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    )
    return {**kept, "PATH": own, "HOME": str(folder), "PYTHONPATH": str(REPOSITORY), **variables(folder)}


def variables(folder: Path) -> dict[str, str]:
    """What every rank needs; `deepspeed` takes it to other machines from `.deepspeed_env`."""
    return {
        "GLOO_SOCKET_IFNAME": "eth0",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "INFOPROMPT_CACHE": str(folder / "cache"),
    }


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Two machines that log in to each other; removed at the end. Raises NoNamespaces where that cannot be."""
    missing = [program for program in ("ip", "ssh", "ssh-keygen", "sshd") if not program_of(program)]
    if missing:
        raise NoNamespaces(f"{', '.join(missing)} not found; `apt-get install iproute2 openssh-server` brings them")
    own, servers = os.getpid(), []
    hosts = [Host(f"node{n}", f"10.78.0.{n}", f"host-{own}-{n}", folder) for n in (1, 2)]
    try:
        for host in hosts:
            ip("netns", "add", host.namespace)
        first, second = (host.namespace for host in hosts)
        ip("link", "add", "eth0", "netns", first, "type", "veth", "peer", "name", "eth0", "netns", second)
        for host in hosts:
            ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                ip("-n", host.namespace, "link", "set", link, "up")
        _write_login(folder, hosts)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd asks for it
        for host in hosts:
            sshd = [
                program_of("sshd"),
                "-D",
                "-e",
                "-f",
                str(folder / "sshd_config"),
                "-o",
                f"ListenAddress={host.address}",
            ]
            servers.append(host.popen(sshd, folder / f"sshd-{host.name}.log"))
        for host in hosts:
            _await_login(host)
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            host.remove()
        for server in servers:
            server.wait()


def program_of(name: str) -> str:
    """Path of a program, also of those for root alone; empty if there is none."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""


def _write_login(folder: Path, hosts: Sequence[Host]) -> None:
    """Keys, what sshd and ssh are told, and the names of the machines; all in the folder, nothing in the user's own."""
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{one.address} {one.name}\n" for one in hosts))
    (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
    key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text("".join(f"{one.name},{one.address} {key}\n" for one in hosts))
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\n"
    )
    (folder / "ssh_config").write_text(
        f"IdentityFile {folder}/user_key\nUserKnownHostsFile {folder}/known_hosts\nStrictHostKeyChecking yes\n"
        "BatchMode yes\nConnectTimeout 5\n"
    )
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/ssh").write_text(f'#!/bin/sh\nexec {program_of("ssh")} -F {folder}/ssh_config "$@"\n')
    (folder / "bin/ssh").chmod(0o755)
    (folder / "hostfile").write_text("".join(f"{one.name} slots=1\n" for one in hosts))
    (folder / ".deepspeed_env").write_text("\n".join(f"{key}={value}" for key, value in variables(folder).items()))


def _await_login(host: Host) -> None:
    deadline = time.monotonic() + 20
    log = host.folder / "login.log"
    while host.popen(["ssh", host.name, "true"], log).wait(timeout=30):
        if time.monotonic() > deadline:
            raise NoNamespaces(
                f"no login by ssh: {log.read_text()} {(host.folder / f'sshd-{host.name}.log').read_text()}"
            )
        time.sleep(0.1)


# ---- one run, started in several ways

Launch = list[tuple[Host, list[str]]]


def launches(first: Host, second: Host) -> dict[str, Launch]:
    """The commands of each way to start the same run, and the machine that each is typed on."""

    def training(out: str) -> list[str]:
        return [str(REPOSITORY / "launcher/train.py"), "base.yaml", *SHORT, *ENGINE, f"run.output_dir={out}"]

    tools = Path(sys.executable).parent
    deepspeed, torchrun = str(tools / "deepspeed"), str(tools / "torchrun")
    one = ["infoprompt", "train", *training("one machine")[1:], "--processes=2", "--quiet"]
    found: dict[str, Launch] = {"one machine": [(first, one)]}
    if program_of("pdsh"):
        over_ssh = [deepspeed, "--hostfile=hostfile", f"--master_port={PORT}", *training("deepspeed over ssh")]
        found["deepspeed over ssh"] = [(first, over_ssh)]
    alone = [deepspeed, "--hostfile=hostfile", "--no_ssh", f"--master_addr={first.address}", f"--master_port={PORT}"]
    found["deepspeed without ssh"] = [
        (host, [*alone, f"--node_rank={rank}", *training("deepspeed without ssh")])
        for rank, host in enumerate((first, second))
    ]
    meeting = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint={first.address}:{PORT}"]
    found["torchrun"] = [(host, [torchrun, *meeting, *training("torchrun")]) for host in (first, second)]
    return found


def end_of(launch: Launch, name: str, seconds: float = SECONDS) -> tuple[list[int], str]:
    """Start a launch and wait; the code of each command, and what they said."""
    folder = launch[0][0].folder
    logs = [folder / f"{name}-{place}.log" for place in range(len(launch))]
    started = [host.popen(command, log) for (host, command), log in zip(launch, logs, strict=True)]
    deadline = time.monotonic() + seconds
    try:
        codes = [process.wait(timeout=max(0.1, deadline - time.monotonic())) for process in started]
    except subprocess.TimeoutExpired:
        said = "\n".join(log.read_text() for log in logs)
        raise TimeoutError(f"{name} has not ended after {seconds:.0f} s:\n{said}") from None
    finally:
        for process in started:
            process.kill()
            process.wait()
    return codes, "\n".join(log.read_text() for log in logs)


def difference(folder: Path, name: str) -> str:
    """What a run has other than the one on one machine; empty if it is the same to the bit."""
    one, other = folder / "one machine", folder / name
    dev = [json.loads((place / "result.json").read_text())["dev"] for place in (one, other)]
    if dev[0] != dev[1]:
        return f"dev scores are {dev[1]}, not {dev[0]}"
    differing = [
        file
        for file in ("history.json", "artifact/prompt.safetensors")
        if (one / file).read_bytes() != (other / file).read_bytes()
    ]
    return f"{' and '.join(differing)} differ" if differing else ""


def main() -> int:
    """Every launch, and a line for each."""
    print(f"Linux {platform.release()}, Python {platform.python_version()}, ", end="")
    print(", ".join(f"{package} {version(package)}" for package in ("torch", "deepspeed")))
    print(subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr.strip())
    failed = False
    with tempfile.TemporaryDirectory(prefix="two-hosts-") as name:
        folder = Path(name)
        write_sweep(folder)
        with two_hosts(folder) as (first, second):
            for host in (first, second):
                print(f"{host.name} {host.address}")
            for launched, launch in launches(first, second).items():
                start = time.monotonic()
                codes, said = end_of(launch, launched)
                problem = said if any(codes) else difference(folder, launched)
                failed = failed or bool(problem)
                good = "the yardstick" if launched == "one machine" else "the same to the bit"
                print(f"{launched}: codes {codes}, {time.monotonic() - start:.0f} s, {problem or good}", flush=True)
        if not program_of("pdsh"):
            print("deepspeed over ssh was left out: pdsh is not installed")
    print("FAIL" if failed else "PASS")
    return int(failed)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except NoNamespaces as obstacle:
        print(f"This machine cannot be two: {obstacle}", file=sys.stderr)
        raise SystemExit(2) from None
