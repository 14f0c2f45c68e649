"""The benchmark runs, and measures what it says."""

import json

import pytest
import torch

from infoprompt.kernels.benchmark import main, measure
from infoprompt.kernels.ceilings import Ceilings
from infoprompt.kernels.contenders import Case, Contender, Missing, floor_seconds


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder with what a run at the smallest sizes wrote."""
    folder = tmp_path_factory.mktemp("benchmark")
    files = ["--json", str(folder / "out.json"), "--plot", str(folder / "out.png")]
    assert main(["--size", "tiny", "--seconds", "0", "--without", "compile", *files]) == 0
    return folder


def test_every_op_is_measured_beside_plain_torch_and_whoever_is_missing_is_named(tiny):
    written = json.loads((tiny / "out.json").read_text())
    assert written["machine"]["torch"] == torch.__version__
    assert written["machine"]["commit"]
    by_op = {}
    for row in written["rows"]:
        by_op.setdefault(row["op"], {})[row["contender"]] = row
    assert list(by_op) == ["representation loss", "head loss", "pairs", "frozen head"]
    for rows in by_op.values():
        done = [row for row in rows.values() if row["seconds"] is not None]
        assert {row["ours"] for row in done} == {True, False}
        assert all(row["peak_bytes"] > 0 for row in done)
    if not torch.cuda.is_available():
        assert by_op["frozen head"]["QuACK"]["problem"] == "runs on a GPU only"
    assert (tiny / "out.png").stat().st_size > 10_000


def test_all_contenders_compute_the_same_loss(tiny):
    for op in ("head loss", "pairs", "frozen head"):
        rows = [row for row in json.loads((tiny / "out.json").read_text())["rows"] if row["op"] == op]
        losses = [row["loss"] for row in rows if row["loss"] is not None]
        assert len(losses) >= 2
        assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)


def test_the_peak_counts_what_is_held_at_a_time():
    leaf = torch.ones(1000, requires_grad=True)

    def holds_two() -> torch.Tensor:
        return (leaf.exp() + leaf.sin()).mean()

    (row,) = measure(Case("toy", {"N": 1000}, [leaf], [Contender("toy", holds_two)]), 0)
    # exp and sin are kept or summed at once, 4,000 bytes each; nothing is near ten times that
    assert 8_000 <= row.peak_bytes < 40_000
    assert row.seconds > 0


def test_a_contender_that_fails_or_does_not_fit_is_named_with_the_reason():
    leaf = torch.ones(3, requires_grad=True)

    def broken() -> torch.Tensor:
        raise RuntimeError("no such kernel\nand more")

    contenders = [
        Contender("sum", leaf.sum, ours=True),
        Contender("broken", broken),
        Contender("ours, broken", broken, ours=True),
        Contender("huge", leaf.sum, needs_bytes=2**60),
        Missing("absent", "not installed"),
    ]
    rows = {row.contender: row for row in measure(Case("toy", {"N": 3}, [leaf], contenders), 0)}
    assert rows["sum"].problem is None
    assert rows["broken"].problem == "RuntimeError: no such kernel"
    assert (rows["ours, broken"].ours, rows["broken"].ours) == (True, False)
    assert rows["huge"].problem.startswith("needs 1073741824 GiB, and ")
    assert rows["absent"].problem == "not installed"


def test_the_floor_is_the_longer_of_products_and_bytes():
    card = Ceilings(bytes_per_second=1e9, flops=1e12)

    def floor(op: str, **sizes: int) -> float | None:
        return floor_seconds(Case(op, sizes, [], []), card)

    assert floor("pairs", N=100, M=50, d=10) == pytest.approx(8 * 100 * 50 * 10 / 1e12)
    assert floor("frozen head", N=1, V=1000, d=8) == pytest.approx(
        2 * 1000 * 8 / 1e9
    )  # bytes: one row uses a word once
    assert floor("frozen head", N=10_000, V=1000, d=8) == pytest.approx(4 * 10_000 * 1000 * 8 / 1e12)
    assert floor("head loss", B=4, L=16, d=32) == pytest.approx(4 * 4 * 16 * 32 / 1e9)
    assert floor("representation loss", B=4, K=8, d=64) is None
