"""That a sweep has an autoscaling cluster grow from no worker node to those that it asked for, and lets it shrink.

    python -m tests.proofs.growing_cluster

Ray's autoscaler with its provider of pretended nodes, each a raylet of this machine; the head has no CPU. A sweep of
eight short runs asks for two worker groups, then the nodes are left idle. Prints how many nodes there were. The same
sweep on one node that stands gives the scores to compare with. Exits with 1 unless nodes came, all scores are equal,
and the nodes went. Port 6379 must be free: the provider knows no other.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
IDLE_MINUTES = 0.5
PORT = 6379

CLUSTER = {
    "cluster_name": "pretended",
    "max_workers": 2,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": IDLE_MINUTES,
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 1, "object_store_memory": 80 * 2**20},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
    **{name: {} for name in ("auth", "head_node", "worker_nodes", "file_mounts")},
    **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")},
    **{name: [] for name in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
    **{name: [] for name in ("head_start_ray_commands", "worker_start_ray_commands")},
    "file_mounts_sync_continuously": False,
}
SWEEP = {
    "base": str(ROOT / "configs" / "recipes" / "head_only.yaml"),
    "overrides": [
        "data.task=banking77",
        "data.few_shot.per_class=1",
        "optim.max_steps=8",
        "optim.epochs=100",
        "tracking.enabled=false",
        "evaluation.test=false",
    ],
    "space": {"optim.lr": {"grid": [0.001, 0.003, 0.01, 0.03]}, "seed": {"grid": [0, 1]}},
    "max_concurrent": 2,
}


def num_workers() -> int:
    """Worker nodes that Ray has now."""
    code = "import ray; ray.init(log_to_driver=False, logging_level=50); "
    code += "print('NODES', sum(n['Alive'] and n['Resources'].get('CPU', 0) > 0 for n in ray.nodes()))"
    environment = os.environ | {"RAY_ADDRESS": f"127.0.0.1:{PORT}", "RAY_AUTH_MODE": "disabled"}
    output = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    return int(output.split("NODES")[1])


def sweep(folder: Path, name: str, environment: Mapping[str, str], **settings: object) -> dict[str, float]:
    """Run it; the score of each setting."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(SWEEP | settings | {"output_dir": str(folder / name)}))
    command = [str(BIN / "infoprompt"), "sweep", str(file)]
    subprocess.run(command, env=os.environ | environment, cwd=ROOT, check=True, stdout=sys.stderr)
    trials = json.loads((folder / name / "sweep.json").read_text())["trials"]
    return {json.dumps(trial["values"]): trial["score"] for trial in trials}


def stop(started: set[int]) -> None:
    """End what Ray has started since."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        if process.pid not in started and any("site-packages/ray/" in part for part in process.info["cmdline"] or ()):
            process.send_signal(signal.SIGKILL)


def main() -> int:
    """Print what happened; the exit code."""
    before = set(psutil.pids())
    shared = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "cluster.yaml").write_text(yaml.safe_dump(CLUSTER))
        command = [str(BIN / "ray"), "start", "--head", f"--autoscaling-config={folder / 'cluster.yaml'}"]
        command += ["--num-cpus=0", f"--port={PORT}", "--include-dashboard=false"]
        fake = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
        try:
            subprocess.run(command, env=os.environ | shared | fake, check=True, stdout=subprocess.DEVNULL)
            counts = [num_workers()]
            grown = sweep(folder, "grown", shared | {"RAY_ADDRESS": f"127.0.0.1:{PORT}"}, autoscaling=True)
            counts.append(num_workers())
            until = time.monotonic() + 60 * IDLE_MINUTES + 60
            while counts[-1] and time.monotonic() < until:
                time.sleep(5)
                counts.append(num_workers())
        finally:
            stop(before)
        standing = sweep(folder, "standing", shared)
    print(f"worker nodes before the sweep {counts[0]}, at its end {counts[1]}, left idle {counts[-1]}")
    print(f"{len(grown)} trials; scores equal to those on one standing node: {grown == standing}")
    return 0 if counts[0] == counts[-1] == 0 and counts[1] == 2 and grown == standing else 1


if __name__ == "__main__":
    raise SystemExit(main())
