"""The files in cluster/ are what the tools that read them take."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_deepspeed_reads_the_host_file():
    from deepspeed.launcher.runner import fetch_hostfile

    assert dict(fetch_hostfile(str(ROOT / "cluster" / "hostfile"))) == {"node1": 8, "node2": 8}
