"""The fast paths of the frozen head: as near to the truth as plain torch, and well-behaved under torch's machinery."""

import os
import subprocess
import sys

import pytest
import torch
from numerics import assert_no_worse

from infoprompt.kernels.frozen_linear_cross_entropy import chunked
from infoprompt.kernels.frozen_linear_cross_entropy.op import _rows, frozen_linear_cross_entropy

PLAIN = {}
BIASED = {"bias": True}
CAPPED = {"bias": True, "softcap": 5.0}


def case(rows, words, width, dtype=torch.float32, device="cpu"):
    """States, a head whose logits spread by 3, targets, a bias."""
    torch.manual_seed(rows * words)
    hidden_ND = torch.randn(rows, width, device=device).to(dtype)
    weight_VD = (torch.randn(words, width, device=device) * 3 / width**0.5).to(dtype)
    target_N = torch.randint(words, (rows,), device=device)
    return hidden_ND, weight_VD, target_N, torch.randn(words, device=device).to(dtype)


def results(inputs, impl, bias=False, **options):
    """Loss of each row, and the gradient for an upstream gradient that differs from row to row."""
    hidden_ND, weight_VD, target_N, bias_V = inputs
    hidden_ND = hidden_ND.detach().requires_grad_()
    loss_N = frozen_linear_cross_entropy(hidden_ND, weight_VD, target_N, bias_V if bias else None, **options, impl=impl)
    upstream_N = torch.linspace(-1, 2, len(loss_N), dtype=loss_N.dtype, device=loss_N.device)
    return loss_N.detach(), torch.autograd.grad(loss_N, hidden_ND, upstream_N)[0]


def compare(inputs, impl, **options):
    wide = [tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs]
    truth = results(wide, "reference", **options)
    plain = results(inputs, "reference", **options)
    for ours, plain_one, true_one in zip(results(inputs, impl, **options), plain, truth, strict=True):
        assert_no_worse(ours, plain_one, true_one, inputs[0].dtype)


@pytest.fixture
def small_tiles(monkeypatch):
    """Panels of 8 rows and tiles of 16 words."""
    monkeypatch.setattr(chunked, "CPU_ROWS", 8)
    monkeypatch.setattr(chunked, "CPU_LOGIT_BYTES", 4 * 8 * 16)
    monkeypatch.setattr(chunked, "LEAST_WORDS", 1)


# (8, 64) fills panels and tiles, (7, 15) and (9, 17) leave ragged edges, (1, 1) is the smallest legal input.
@pytest.mark.parametrize(("rows", "words"), [(8, 64), (7, 15), (9, 17), (20, 50), (1, 1)])
@pytest.mark.parametrize("options", [PLAIN, BIASED, CAPPED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("small_tiles")
def test_panels_are_no_worse_than_plain_torch(rows, words, options, dtype):
    compare(case(rows, words, 40, dtype), "chunked", **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_panels_of_their_true_size_are_no_worse_than_plain_torch(dtype):
    compare(case(600, 3000, 64, dtype), "chunked", **BIASED)


# In the interpreter bfloat16 is cast by cutting off, so only the kernel that stores none of it is tested with it there.
@pytest.mark.parametrize(
    ("rows", "words", "width", "dtype"),
    [
        (5, 70, 40, torch.bfloat16),
        (17, 65, 64, torch.float16),
        (3, 130, 70, torch.float16),
        (40, 63, 40, torch.float16),
        (6, 2100, 16, torch.float32),
        (1, 1, 3, torch.float32),
    ],
)
@pytest.mark.parametrize("options", [BIASED, CAPPED])
def test_kernels_are_no_worse_than_plain_torch(rows, words, width, dtype, options, device):
    compare(case(rows, words, width, dtype, device), "triton", **options)


def test_kernels_take_wide_states_in_tiles_of_few_words(device):
    compare(case(2, 37, 1030, torch.float16, device), "triton", **PLAIN)


def test_kernels_take_rows_block_by_block(device, monkeypatch):
    from infoprompt.kernels.frozen_linear_cross_entropy import triton_many_rows

    monkeypatch.setattr(triton_many_rows, "BLOCK_BYTES", 1)
    monkeypatch.setattr(triton_many_rows, "LEAST_ROWS", 7)
    compare(case(16, 50, 24, torch.float32, device), "triton", **BIASED)


def test_programs_with_several_tiles_each_are_merged(device, monkeypatch):
    from infoprompt.kernels.frozen_linear_cross_entropy import triton_few_rows

    monkeypatch.setattr(triton_few_rows, "MOST_SHARES", 2)
    compare(case(4, 5 * 64 + 1, 40, torch.float16, device), "triton", **CAPPED)


def test_words_far_apart_in_memory_are_found(device, tmp_path):
    if device != "cpu":
        pytest.skip("the file that takes no memory is the CPU's")
    words, width, stride = 3, 16, 2**30 + 8
    # a sparse file: offsets beyond 2**31, and no memory
    flat = torch.from_file(
        str(tmp_path / "sparse"), shared=True, size=(words - 1) * stride + width, dtype=torch.float16
    )
    far_VD = flat.as_strided((words, width), (stride, 1))
    hidden_ND, near_VD, target_N, bias_V = case(2, words, width, torch.float16)
    far_VD.copy_(near_VD)
    far, near = (results((hidden_ND, weight_VD, target_N, bias_V), "triton") for weight_VD in (far_VD, near_VD))
    assert all(torch.equal(*pair) for pair in zip(far, near, strict=True))


@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_views_give_what_copies_give(impl, device):
    hidden_ND, weight_VD, target_N, bias_V = case(6, 40, 24, torch.float16, device)
    views = (
        hidden_ND[:1].expand(6, -1),
        weight_VD.repeat_interleave(2, 1).T.contiguous().T[:, ::2],
        target_N.repeat_interleave(3)[::3],
        bias_V[:1].expand(40),
    )
    copies = [view.contiguous() for view in views]
    for view, copy in zip(results(views, impl, **BIASED), results(copies, impl, **BIASED), strict=True):
        torch.testing.assert_close(view, copy, rtol=2e-3, atol=2e-4)  # float16's


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.usefixtures("small_tiles")
def test_gradients_agree_with_finite_differences(softcap, bias):
    hidden_ND, weight_VD, target_N, bias_V = case(9, 21, 3, torch.float64)
    bias_V = bias_V if bias else None

    def loss(hidden_ND):
        return frozen_linear_cross_entropy(hidden_ND, weight_VD, target_N, bias_V, softcap=softcap, impl="chunked")

    assert torch.autograd.gradcheck(loss, hidden_ND.requires_grad_())


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_the_op_is_registered_as_torch_wants_it(softcap):
    hidden_ND, weight_VD, target_N, bias_V = case(5, 11, 3, torch.float64)
    hidden_ND.requires_grad_()
    torch.library.opcheck(_rows, (hidden_ND, weight_VD, target_N, bias_V, softcap, True, "chunked"))
    with torch.no_grad():
        torch.library.opcheck(_rows, (hidden_ND.detach(), weight_VD, target_N, bias_V, softcap, False, "chunked"))


def test_a_compiled_loss_is_the_same():
    inputs = case(7, 30, 12)
    compiled = torch.compile(
        lambda hidden_ND: frozen_linear_cross_entropy(hidden_ND, *inputs[1:], softcap=4.0),
        fullgraph=True,
        backend="aot_eager",
    )
    hidden_ND = inputs[0].clone().requires_grad_()
    loss_N = compiled(hidden_ND)
    loss_N.backward(torch.linspace(-1, 2, 7))
    expected_N, expected_ND = results(inputs, "auto", softcap=4.0, bias=True)
    torch.testing.assert_close(loss_N, expected_N)
    torch.testing.assert_close(hidden_ND.grad, expected_ND)


@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_autocast_changes_nothing(impl, device):
    inputs = case(6, 40, 24, device=device)
    plain = results(inputs, impl, **BIASED)
    with torch.autocast(device, torch.bfloat16):
        cast = results(inputs, impl, **BIASED)
    assert all(torch.equal(*pair) for pair in zip(plain, cast, strict=True))


def test_states_of_another_dtype_are_taken_in_the_heads():
    hidden_ND, weight_VD, target_N, bias_V = case(6, 40, 24, torch.bfloat16)
    mixed = results((hidden_ND.float(), weight_VD, target_N, bias_V), "chunked", **BIASED)
    same = results((hidden_ND, weight_VD, target_N, bias_V), "chunked", **BIASED)
    assert mixed[1].dtype == torch.float32
    assert torch.equal(mixed[0], same[0])
    assert torch.equal(mixed[1], same[1].float())


@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_a_second_backward_with_another_upstream_is_right(impl, device):
    hidden_ND, weight_VD, target_N, _ = case(6, 40, 24, device=device)
    hidden_ND.requires_grad_()
    loss_N = frozen_linear_cross_entropy(hidden_ND, weight_VD, target_N, impl=impl)
    first_N, second_N = torch.randn(2, 6, device=device)
    gradients = [
        torch.autograd.grad(loss_N, hidden_ND, upstream_N, retain_graph=True)[0]
        for upstream_N in (first_N, second_N, first_N + second_N, first_N)
    ]
    torch.testing.assert_close(gradients[0] + gradients[1], gradients[2])
    assert torch.equal(gradients[0], gradients[3])


def test_a_result_changed_in_place_does_not_change_the_gradient():
    hidden_ND, weight_VD, target_N, _ = case(6, 40, 24)
    hidden_ND.requires_grad_()
    gradients = []
    for factor in (1.0, 1.0, 2.0):
        loss_N = frozen_linear_cross_entropy(hidden_ND, weight_VD, target_N)
        loss_N.mul_(factor)
        gradients.append(torch.autograd.grad(loss_N.sum(), hidden_ND)[0].mul_(1.0))
    assert torch.equal(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0] * 2, gradients[2])


def test_a_second_derivative_is_refused_in_words():
    hidden_ND, weight_VD, target_N, _ = case(3, 10, 4)
    loss = frozen_linear_cross_entropy(hidden_ND.requires_grad_(), weight_VD, target_N).sum()
    with pytest.raises(RuntimeError, match=r"create_graph=True needs a second derivative.*Use impl='reference'"):
        torch.autograd.grad(loss, hidden_ND, create_graph=True)


@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_it_gives_the_same_bits_every_time(impl, device):
    inputs = case(20, 150, 24, torch.float16, device)
    first, second = (results(inputs, impl, **BIASED) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_neither_logits_nor_the_head_are_kept_for_backward(softcap):
    rows, words, width = 64, 5000, 32
    hidden_ND, weight_VD, target_N, bias_V = case(rows, words, width)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        frozen_linear_cross_entropy(hidden_ND.requires_grad_(), weight_VD, target_N, bias_V, softcap=softcap)
    # two tensors [N, D], and some of [N]
    assert rows * width * 2 <= sum(tensor.numel() for tensor in kept) < rows * width * 2 + 20 * rows
    assert all(tensor.untyped_storage().data_ptr() != weight_VD.untyped_storage().data_ptr() for tensor in kept)


@pytest.mark.parametrize("grad_enabled", [True, False])
def test_without_a_gradient_only_the_forward_product_is_made(grad_enabled, monkeypatch):
    products = []

    def counted(left, right, room=None):
        products.append(left.shape)
        return torch.mm(left, right)

    monkeypatch.setattr(chunked, "wide_product", counted)
    hidden_ND, weight_VD, target_N, _ = case(6, 40, 24)
    with torch.set_grad_enabled(grad_enabled):
        frozen_linear_cross_entropy(hidden_ND.requires_grad_(), weight_VD, target_N)
        assert len(products) == (2 if grad_enabled else 1)
        frozen_linear_cross_entropy(hidden_ND.detach(), weight_VD, target_N)
    assert len(products) == (3 if grad_enabled else 2)


@pytest.mark.parametrize("impl", ["chunked", "triton"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_nothing_is_read_of_memory_that_was_not_written(impl, dtype, device, monkeypatch):
    inputs = case(6, 70, 24, dtype, device)
    expected = results(inputs, impl, **CAPPED)

    def poisoned(make):
        def made(*args, **kwargs):
            tensor = make(*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
    assert all(torch.equal(*pair) for pair in zip(results(inputs, impl, **CAPPED), expected, strict=True))


COMPILE = """
from infoprompt.kernels.frozen_linear_cross_entropy.triton_kernels import SHIPPED
from infoprompt.kernels.offline import compile_for_hopper

assert any(kernel.tensor_cores for kernel in SHIPPED)
for kernel in SHIPPED:
    problems = compile_for_hopper(kernel).problems
    assert not problems, f"{kernel.name}: {problems}"
print(len(SHIPPED))
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_without_spilling():
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 7
