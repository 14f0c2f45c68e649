"""The fast paths of statistics of all pairs: as near to the truth as plain torch, and well-behaved under its machinery.

Shapes: N queries, M keys, D width.
"""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from numerics import assert_no_worse, relative_error

from infoprompt.kernels.pair_stats import chunked
from infoprompt.kernels.pair_stats.op import pair_stats, pair_stats_backward_op, pair_stats_op


def case(rows, keys, width, dtype=torch.float32, device="cpu"):
    """Queries, keys and bias, scores that spread by 3; and the first row's positive, so that the last's is last."""
    generator = torch.Generator().manual_seed(rows * keys)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(device)

    query_ND = draw(rows, width) * 3 / width**0.5
    return [query_ND.to(dtype), draw(keys, width).to(dtype), draw(rows), keys - rows]


def results(inputs, impl):
    """Statistics, and the gradients for upstream gradients that differ from entry to entry."""
    *leaves, first_positive = inputs
    leaves = [x.detach().requires_grad_() for x in leaves]
    found = pair_stats(*leaves, first_positive, impl=impl)
    upstream = [
        torch.linspace(low, 2, len(x), dtype=x.dtype, device=x.device) for low, x in zip((1, -1), found, strict=True)
    ]
    return [*(x.detach() for x in found), *torch.autograd.grad(found, leaves, upstream)]


def found_by(inputs, impl):
    """Statistics and gradients of ours, of plain torch, and of plain torch in float64."""
    *leaves, first_positive = inputs
    wide = [*(x.double() for x in leaves), first_positive]
    return results(inputs, impl), results(inputs, "reference"), results(wide, "reference")


def compare(inputs, impl):
    dtypes = [torch.float32] * 2 + [x.dtype for x in inputs[:3]]
    for values in zip(*found_by(inputs, impl), dtypes, strict=True):
        assert_no_worse(*values)


# (16, 40) fills panels of 8 rows, (9, 15) and (17, 33) leave ragged edges, (1, 2) is the smallest legal input.
@pytest.mark.parametrize(("rows", "keys"), [(16, 40), (9, 15), (17, 33), (1, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_panels_are_no_worse_than_plain_torch(rows, keys, dtype, monkeypatch):
    monkeypatch.setattr(chunked, "_panel_rows", lambda key_MD: 8)
    compare(case(rows, keys, 48, dtype), "chunked")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_panels_of_their_true_size_are_no_worse_than_plain_torch(dtype):
    compare(case(300, 9000, 32, dtype), "chunked")


# Tiles hold 64 x 64 pairs in float32, 128 x 128 in float16, 128 x 256 in bfloat16; steps 32 or 64 of the width.
@pytest.mark.parametrize(
    ("rows", "keys", "width", "dtype"),
    [
        (64, 64, 32, torch.float32),
        (63, 65, 40, torch.float32),
        (33, 65, 5, torch.float32),
        (5, 130, 32, torch.float32),
        (1, 2, 3, torch.float32),
        (130, 257, 70, torch.float16),
        (40, 50, 64, torch.bfloat16),
    ],
)
def test_kernels_are_no_worse_than_plain_torch(rows, keys, width, dtype, device):
    compare(case(rows, keys, width, dtype, device), "triton")


def test_kernels_take_rows_panel_by_panel_and_in_groups_of_tiles(device, monkeypatch):
    from infoprompt.kernels.pair_stats import triton_kernels

    monkeypatch.setitem(triton_kernels.TILES, torch.float32, (16, 32, 16, 4, 2))
    compare(case(150, 160, 16, torch.float32, device), "triton")  # 10 tiles of rows: a group of 8 and a rest
    monkeypatch.setattr(triton_kernels, "PANEL_BYTES", 1)
    compare(case(40, 40, 16, torch.float32, device), "triton")


@pytest.mark.parametrize("impl", ["chunked", "triton"])
@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_features_with_a_common_offset_are_no_worse_than_plain_torch(impl, offset, device):
    inputs = case(20, 30, 16, device=device if impl == "triton" else "cpu")
    inputs[0] *= 16**0.5 / 3
    inputs[0][:, 0], inputs[1][:, 0] = 1.0, offset
    # scores near 1e4 are rounded to the nearest 0.001, in plain torch as here, so no cap of float32 holds
    for values in zip(*found_by(inputs, impl), strict=True):
        errors = [relative_error(value, values[2]) for value in values[:2]]
        # the kernels round once more, to bits
        most = 2.5 if impl == "triton" else 1.5
        assert all(mine <= most * theirs + 1e-6 for mine, theirs in zip(*errors, strict=True)), errors


@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_views_and_expanded_features_are_read_as_they_are(impl, device):
    query, key, *rest = case(10, 12, 8, device=device if impl == "triton" else "cpu")
    views = [
        (query.T.contiguous().T, key),
        (torch.cat([query, query], 1)[:, 8:], torch.cat([key, key])[::2]),
        (query[:1].expand(10, 8), key[:, :1].expand(12, 8)),
    ]
    for query_view, key_view in views:
        strided = results([query_view, key_view, *rest], impl)
        plain = results([query_view.contiguous(), key_view.contiguous(), *rest], impl)
        torch.testing.assert_close(strided, plain)


def test_rows_far_apart_in_memory_are_found(device, tmp_path):
    if device != "cpu":
        pytest.skip("the file that takes no memory is the CPU's")
    rows, width, stride = 3, 16, 2**30 + 8
    # a sparse file: offsets beyond 2**31, and no memory
    size = (rows - 1) * stride + width
    flat = torch.from_file(str(tmp_path / "sparse"), shared=True, size=size, dtype=torch.float16)
    far_ND = flat.as_strided((rows, width), (stride, 1))
    query, key, *rest = case(rows, rows, width, torch.float16)
    far_ND.copy_(query)
    near = results([query, key, *rest], "triton")
    torch.testing.assert_close(results([far_ND, key, *rest], "triton"), near, rtol=0, atol=0)


@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_nothing_is_read_before_it_is_written_and_runs_agree(impl, device, monkeypatch):
    inputs = case(20, 70, 12, device=device if impl == "triton" else "cpu")
    expected = results(inputs, impl)

    def poisoned(make):
        def made(*args, **kwargs):
            tensor = make(*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
    torch.testing.assert_close(results(inputs, impl), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "needed", [needs for needs in itertools.product([True, False], repeat=3) if sum(needs) in (1, 2, 3)]
)
def test_gradients_agree_with_finite_differences(needed):
    *leaves, first_positive = case(3, 5, 2)
    leaves = [x.double().requires_grad_(need) for x, need in zip(leaves, needed, strict=True)]
    assert torch.autograd.gradcheck(lambda *x: pair_stats(*x, first_positive, impl="chunked"), leaves)


@pytest.mark.parametrize("asked", [0, 1])
def test_each_output_can_be_the_only_one_with_a_gradient(asked):
    leaves = [x.double().requires_grad_() for x in case(4, 5, 3)[:3]]
    assert torch.autograd.gradcheck(lambda *x: pair_stats(*x, impl="chunked")[asked], leaves)


def test_torchs_checks_of_an_op_pass():
    query, key, bias, first = case(5, 6, 3)
    torch.library.opcheck(pair_stats_op, (query.requires_grad_(), key, bias.requires_grad_(), first, "chunked"))
    detached = (query.detach(), key, bias.detach(), first, *(torch.ones(5) for _ in range(3)), "chunked")
    torch.library.opcheck(pair_stats_backward_op, detached)


def test_a_compiled_loss_is_the_same():
    leaves = [x.requires_grad_() for x in case(6, 7, 4)[:3]]

    def loss(*inputs):
        found = pair_stats(*inputs)
        return (found[1] - found[0]).mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(*(torch.autograd.grad(f(*leaves), leaves) for f in (compiled, loss)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_autocast_neither_rounds_scores_nor_statistics(impl, device):
    inputs = case(9, 11, 8, device=device if impl == "triton" else "cpu")
    expected = results(inputs, impl)
    with torch.autocast(inputs[0].device.type, dtype=torch.bfloat16):
        torch.testing.assert_close(results(inputs, impl), expected, rtol=0, atol=0)
        mixed = pair_stats(inputs[0].bfloat16(), *inputs[1:], impl=impl)
    assert all(x.dtype == torch.float32 for x in mixed)


def test_a_second_backward_is_right_and_a_second_derivative_refused():
    query, *rest = case(5, 6, 3)
    query.requires_grad_()
    found = pair_stats(query, *rest)
    for factor in (1.0, -3.0):
        (once,) = torch.autograd.grad(found[1].sum() * factor, query, retain_graph=True)
        (fresh,) = torch.autograd.grad(pair_stats(query, *rest)[1].sum() * factor, query)
        assert torch.equal(once, fresh)
    with pytest.raises(RuntimeError, match="has a first derivative only"):
        torch.autograd.grad(found[1].sum(), query, create_graph=True)


def test_what_is_kept_for_backward_grows_with_rows_and_keys_not_with_pairs():
    rows, keys, width = 200, 300, 4
    query, *rest = case(rows, keys, width)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.nbytes) or x, lambda x: x):
        pair_stats(query.requires_grad_(), *rest)
    assert 0 < sum(kept) <= 4 * (rows + keys) * (width + 2)


COMPILE = """
import sys
from infoprompt.kernels.offline import compile_for_hopper
from infoprompt.kernels.pair_stats.triton_kernels import SHIPPED

chosen = [kernel for kernel in SHIPPED if len(sys.argv) == 1 or kernel.name in sys.argv[1:]]
for kernel in chosen:
    problems = compile_for_hopper(kernel).problems
    assert not problems, f"{kernel.name}: {problems}"
print(len(chosen), sum(kernel.tensor_cores for kernel in chosen))
"""
# The largest of each kind; `python -m infoprompt.kernels.offline` compiles all, in minutes.
LARGEST = ["pair_stats._merge", "pair_stats._sums bf16", "pair_stats._weights bf16"]


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_without_spilling():
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, *LARGEST],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "2"]
