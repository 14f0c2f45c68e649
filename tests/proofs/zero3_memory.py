"""How far the memory of each rank grows while it loads a backbone in parts (ZeRO-3), and makes its fingerprint.

    python tests/proofs/zero3_memory.py [--sizes 111M 465M] [--ranks 2] [--shard 5GB]

The backbone is a Llama of random weights in bfloat16. Peaks are of resident memory, pages of files included (VmHWM).
Exits with 1 if a rank grew by more than 1.25 x its share + the largest tensor + 100 MiB.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from infoprompt.config import build_config
from infoprompt.embedded import backbone_source
from infoprompt.engine.engine import gathered, partitioned_loading
from infoprompt.engine.ranks import start_ranks
from infoprompt.model.backbone.load import load_backbone

SHAPES = {
    "64M": {"hidden_size": 768, "num_hidden_layers": 6, "intermediate_size": 2048, "vocab_size": 31000},
    "111M": {"hidden_size": 1024, "num_hidden_layers": 8, "intermediate_size": 2816, "vocab_size": 8000},
    "465M": {"hidden_size": 1536, "num_hidden_layers": 14, "intermediate_size": 4096, "vocab_size": 32000},
    "1.5B": {"hidden_size": 2048, "num_hidden_layers": 28, "intermediate_size": 5632, "vocab_size": 64000},
}
MIB = 2**20


@dataclass(frozen=True)
class Growth:
    """Of one rank, in MiB."""

    share: int
    largest: int
    """The largest tensor, whole."""
    loading: int
    fingerprint: int
    kept: int
    """Anonymous memory."""

    @property
    def bound(self) -> float:
        """What loading and fingerprint may take."""
        return 1.25 * self.share + self.largest + 100


def make_backbone(folder: Path, size: str, shard: str = "5GB") -> None:
    """A model of random weights with MiniLM's tokenizer."""
    AutoTokenizer.from_pretrained(backbone_source("minilm")).save_pretrained(folder)
    config = LlamaConfig(**SHAPES[size], num_attention_heads=16, num_key_value_heads=16, tie_word_embeddings=True)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.view(torch.int16).random_(0x3A00, 0x3C80)  # bfloat16 from 0.0005 to 0.016
    model.tie_weights()
    model.save_pretrained(folder, max_shard_size=shard)


def growth(folder: str) -> Growth:
    """Of this rank, which must be started as one."""
    config = build_config(
        {
            "backbone": {"name": folder, "dtype": "bfloat16"},
            "engine": {"kind": "deepspeed", "zero_stage": 3, "device": "cpu"},
        }
    )
    import deepspeed  # noqa: F401  its modules are not what is measured

    ranks = start_ranks(config.engine)
    ranks.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, anonymous = _status("VmRSS"), _status("RssAnon")
    with partitioned_loading(config, ranks):
        backbone = load_backbone(config.backbone, ranks.device, gathered)
    loading, kept = _status("VmHWM") - before, _status("RssAnon") - anonymous
    backbone.fingerprint()
    parts = [parameter.ds_tensor.nbytes for parameter in backbone.parameters()]
    wholes = [parameter.ds_shape.numel() * parameter.element_size() for parameter in backbone.parameters()]
    ranks.barrier()
    return Growth(sum(parts) // MIB, max(wholes) // MIB, loading, _status("VmHWM") - before, kept)


def leave() -> None:
    """End this process at once: gloo's threads may abort an interpreter that is taken down."""
    os._exit(0)


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, name
    return int(found[1]) // 1024


def outputs_of_ranks(code: str, num_ranks: int) -> list[str]:
    """What each of so many ranks prints that run this code, in processes of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1"}
    environment = os.environ | shared | {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    return [process.communicate()[0] for process in processes]


def measure(size: str, num_ranks: int, shard: str) -> list[Growth]:
    """Growth of each rank."""
    with tempfile.TemporaryDirectory() as folder:
        make_backbone(Path(folder), size, shard)
        code = (
            f"from tests.proofs import zero3_memory as z; print('GROWTH', z.growth({folder!r}), flush=True); z.leave()"
        )
        outputs = outputs_of_ranks(code, num_ranks)
    return [Growth(*map(int, re.findall(r"=(\d+)", output.split("GROWTH")[1]))) for output in outputs]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["111M", "465M"], choices=SHAPES)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--shard", default="5GB", help="most bytes of one file")
    options = parser.parse_args(arguments)
    right = True
    print("MiB: model, rank, share, largest tensor, peak growth: loading, with fingerprint, bound; kept (anonymous)")
    for size in options.sizes:
        for rank, one in enumerate(measure(size, options.ranks, options.shard)):
            right &= one.fingerprint <= one.bound
            print(
                f"{size:5} {rank:4} {one.share:6} {one.largest:6} {one.loading:6} {one.fingerprint:6} "
                f"{one.bound:6.0f} {one.kept:6}",
                flush=True,
            )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
