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
from infoprompt.kernels.pair_stats.pairs import checked_pairs
from infoprompt.kernels.pair_stats.softplus_op import _pair_softplus, pair_softplus

OPS = {
    "stats": pair_stats,
    "stats_apart": lambda *inputs, **options: pair_stats(*inputs, exclude_positive=True, **options),
    "softplus": pair_softplus,
}


def case(rows, keys, width, dtype=torch.float32, device="cpu"):
    """Queries, keys, scale, biases; scores that spread by 3; positives drawn at random, the first row without one."""
    generator = torch.Generator().manual_seed(rows * keys)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(device)

    positive_N = torch.randint(keys, (rows,), generator=generator).to(device)
    positive_N[: rows // 2 : 2] = -1
    scale = torch.tensor(3 / width**0.5, device=device)
    return [draw(rows, width).to(dtype), draw(keys, width).to(dtype), scale, draw(rows), draw(keys), positive_N]


def results(inputs, op, impl):
    """Statistics, and the gradients for upstream gradients that differ from entry to entry."""
    *leaves, positive_N = inputs
    leaves = [x.detach().requires_grad_() for x in leaves]
    query, key, scale, row_bias, col_bias = leaves
    found = OPS[op](query, key, scale=scale, row_bias_N=row_bias, col_bias_M=col_bias, positive_N=positive_N, impl=impl)
    upstream = [torch.linspace(-1, 2, len(x), dtype=x.dtype, device=x.device) for x in found]
    gradients = torch.autograd.grad(found, leaves, upstream)
    return [x.detach().masked_fill(x.isinf(), 0) for x in found], gradients


def found_by(inputs, op, impl):
    """Statistics and gradients of ours, of plain torch, and of plain torch in float64."""
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    return results(inputs, op, impl), results(inputs, op, "reference"), results(wide, op, "reference")


def compare(inputs, op, impl):
    dtypes = [torch.float32] * 3, [x.dtype for x in inputs[:5]]
    for ours, plain, truth, kinds in zip(*found_by(inputs, op, impl), dtypes, strict=True):
        for values in zip(ours, plain, truth, kinds[: len(ours)], strict=True):
            assert_no_worse(*values)


# (16, 40) fills panels of 8 rows, (15, 9) and (17, 33) leave ragged edges, (1, 1) is the smallest legal input.
@pytest.mark.parametrize(("rows", "keys"), [(16, 40), (15, 9), (17, 33), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("op", OPS)
def test_panels_are_no_worse_than_plain_torch(rows, keys, dtype, op, monkeypatch):
    monkeypatch.setattr(chunked, "_panel_rows", lambda pairs: 8)
    if (rows, keys, op) != (1, 1, "stats_apart"):  # where nothing is left
        compare(case(rows, keys, 48, dtype), op, "chunked")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", OPS)
def test_panels_of_their_true_size_are_no_worse_than_plain_torch(dtype, op):
    compare(case(300, 9000, 32, dtype), op, "chunked")


# Tiles hold 64 x 64 pairs in float32, 128 x 128 in float16, 128 x 256 in bfloat16; steps 32 or 64 of the width.
@pytest.mark.parametrize(
    ("rows", "keys", "width", "dtype"),
    [
        (64, 64, 32, torch.float32),
        (63, 65, 40, torch.float32),
        (65, 33, 5, torch.float32),
        (5, 130, 32, torch.float32),
        (1, 1, 3, torch.float32),
        (130, 257, 70, torch.float16),
        (40, 50, 64, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("op", OPS)
def test_kernels_are_no_worse_than_plain_torch(rows, keys, width, dtype, op, device):
    if (rows, keys, op) != (1, 1, "stats_apart"):
        compare(case(rows, keys, width, dtype, device), op, "triton")


@pytest.mark.parametrize("op", OPS)
def test_kernels_take_rows_panel_by_panel_and_in_groups_of_tiles(op, device, monkeypatch):
    from infoprompt.kernels.pair_stats import triton_kernels, triton_launch

    monkeypatch.setitem(triton_kernels.TILES, torch.float32, (16, 32, 16, 4, 2))
    compare(case(150, 40, 16, torch.float32, device), op, "triton")  # 10 tiles of rows: a group of 8 and a rest
    monkeypatch.setattr(triton_launch, "PANEL_BYTES", 1)
    compare(case(40, 40, 16, torch.float32, device), op, "triton")


@pytest.mark.parametrize("impl", ["chunked", "triton"])
@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_features_with_a_common_offset_are_no_worse_than_plain_torch(impl, offset, device):
    inputs = case(20, 30, 16, device=device if impl == "triton" else "cpu")
    inputs[0][:, 0], inputs[1][:, 0], inputs[2] = 1.0, offset, torch.ones_like(inputs[2])
    inputs[5] = torch.arange(20, device=inputs[0].device)
    # scores near 1e4 are rounded to the nearest 0.001, in plain torch as here, so no cap of float32 holds
    for ours, plain, truth in zip(*found_by(inputs, "stats", impl), strict=True):
        for values in zip(ours, plain, truth, strict=True):
            errors = [relative_error(value, values[2]) for value in values[:2]]
            assert all(mine <= 1.5 * theirs + 1e-6 for mine, theirs in zip(*errors, strict=True)), errors


@pytest.mark.parametrize("impl", ["chunked", "triton"])
@pytest.mark.parametrize("op", OPS)
def test_views_and_expanded_features_are_read_as_they_are(impl, op, device):
    query, key, *rest, positive = case(10, 12, 8, device=device if impl == "triton" else "cpu")
    views = [
        (query.T.contiguous().T, key),
        (torch.cat([query, query], 1)[:, 8:], torch.cat([key, key])[::2]),
        (query[:1].expand(10, 8), key[:, :1].expand(12, 8)),
    ]
    for query_view, key_view in views:
        strided = results([query_view, key_view, *rest, positive], op, impl)
        plain = results([query_view.contiguous(), key_view.contiguous(), *rest, positive], op, impl)
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
    near = results([query, key, *rest], "stats", "triton")
    torch.testing.assert_close(results([far_ND, key, *rest], "stats", "triton"), near, rtol=0, atol=0)


@pytest.mark.parametrize("impl", ["chunked", "triton"])
@pytest.mark.parametrize("op", OPS)
def test_nothing_is_read_before_it_is_written_and_runs_agree(impl, op, device, monkeypatch):
    inputs = case(20, 70, 12, device=device if impl == "triton" else "cpu")
    expected = results(inputs, op, impl)

    def poisoned(make):
        def made(*args, **kwargs):
            tensor = make(*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
    torch.testing.assert_close(results(inputs, op, impl), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "needed", [needs for needs in itertools.product([True, False], repeat=5) if sum(needs) in (1, 2, 5)]
)
@pytest.mark.parametrize("op", OPS)
def test_gradients_agree_with_finite_differences(needed, op):
    inputs = [x.double() if x.is_floating_point() else x for x in case(4, 3, 2)]
    *leaves, positive_N = inputs
    leaves = [x.requires_grad_(need) for x, need in zip(leaves, needed, strict=True)]

    def statistics(query, key, scale, row_bias, col_bias):
        found = OPS[op](
            query, key, scale=scale, row_bias_N=row_bias, col_bias_M=col_bias, positive_N=positive_N, impl="chunked"
        )
        return tuple(x.masked_fill(x.isinf(), 0) for x in found)

    assert torch.autograd.gradcheck(statistics, leaves)


@pytest.mark.parametrize("asked", [[0], [1], [2], [0, 2]])
def test_each_output_can_be_the_only_one_with_a_gradient(asked):
    query, key = (x.double().requires_grad_() for x in case(4, 5, 3)[:2])

    def statistics(query, key):
        found = pair_stats(query, key, impl="chunked")
        return tuple(found[i] for i in asked)

    assert torch.autograd.gradcheck(statistics, (query, key))


@pytest.mark.parametrize("op", ["stats", "softplus"])
def test_torchs_checks_of_an_op_pass(op):
    query, key, scale, row_bias, _, positive = case(5, 6, 3)
    pairs = checked_pairs(query.requires_grad_(), key, scale.requires_grad_(), row_bias, None, positive)
    if op == "stats":
        torch.library.opcheck(pair_stats_op, (*pairs, True, None, "chunked"))
        stats = pair_stats_op(*pairs, False, None, "chunked")
        needs = [True, False, True, True, False]
        upstream = [torch.ones_like(x).detach() for x in stats]
        detached = [None if x is None else x.detach() for x in (*pairs, *stats)]
        torch.library.opcheck(pair_stats_backward_op, (*detached, *upstream, False, needs, "chunked"))
    else:
        torch.library.opcheck(_pair_softplus, (*pairs, "chunked"))


@pytest.mark.parametrize("op", OPS)
def test_a_compiled_loss_is_the_same(op):
    query, key, scale, *_ = case(6, 7, 4)
    leaves = [x.requires_grad_() for x in (query, key, scale)]

    def loss(query, key, scale):
        found = OPS[op](query, key, scale=scale)
        return (found[1] - found[0]).mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(*(torch.autograd.grad(f(*leaves), leaves) for f in (compiled, loss)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_autocast_neither_rounds_scores_nor_statistics(op, impl, device):
    inputs = case(9, 11, 8, device=device if impl == "triton" else "cpu")
    expected = results(inputs, op, impl)
    with torch.autocast(inputs[0].device.type, dtype=torch.bfloat16):
        torch.testing.assert_close(results(inputs, op, impl), expected, rtol=0, atol=0)
        mixed = OPS[op](inputs[0].bfloat16(), inputs[1], impl=impl, positive_N=inputs[5])
    assert all(x.dtype == torch.float32 for x in mixed)


@pytest.mark.parametrize("op", OPS)
def test_a_second_backward_is_right_and_a_second_derivative_refused(op):
    query, key, *_ = case(5, 6, 3)
    query.requires_grad_()
    found = OPS[op](query, key)
    for factor in (1.0, -3.0):
        (once,) = torch.autograd.grad(found[1].sum() * factor, query, retain_graph=True)
        (fresh,) = torch.autograd.grad(OPS[op](query, key)[1].sum() * factor, query)
        assert torch.equal(once, fresh)
    (grad,) = torch.autograd.grad(found[1].sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="have a first derivative only"):
        grad.sum().backward()


@pytest.mark.parametrize("op", OPS)
def test_what_is_kept_for_backward_grows_with_rows_and_keys_not_with_pairs(op):
    rows, keys, width = 200, 300, 4
    query, key, scale, row_bias, col_bias, positive = case(rows, keys, width)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.nbytes) or x, lambda x: x):
        OPS[op](query.requires_grad_(), key, scale=scale, row_bias_N=row_bias, col_bias_M=col_bias, positive_N=positive)
    assert 0 < sum(kept) <= 4 * (rows + keys) * (width + 4)


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
LARGEST = [
    "pair_stats.merge",
    "pair_stats.statistics bf16 exclude_positive",
    "pair_stats.statistics_weights bf16 has_grad_row has_grad_col",
]


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
