"""The fast paths of InfoNCE per row: as near to the truth as plain torch, and well-behaved under torch's machinery."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from numerics import CAPS, assert_no_worse, relative_error
from torch.utils._python_dispatch import TorchDispatchMode

from infoprompt.kernels.row_info_nce import chunked, custom_ops
from infoprompt.kernels.row_info_nce.op import embedded_row_info_nce, gaussian_row_info_nce


@dataclass
class Case:
    """One way to ask for the loss: the function, what has a gradient, and what has none."""

    function: Any
    trained: list[torch.Tensor]
    fixed: dict[str, Any] = field(default_factory=dict)

    def loss(self, impl, trained=None):
        return self.function(*(self.trained if trained is None else trained), **self.fixed, impl=impl)

    def results(self, impl):
        """The loss, and the gradients for an upstream gradient that differs from row to row."""
        trained = [tensor.detach().clone(memory_format=torch.preserve_format) for tensor in self.trained]
        loss_B = self.loss(impl, [tensor.requires_grad_() for tensor in trained])
        upstream_B = torch.linspace(-1, 2, len(loss_B), dtype=loss_B.dtype, device=loss_B.device)
        return [loss_B.detach(), *torch.autograd.grad(loss_B, trained, upstream_B)]

    def to(self, dtype):
        """Floats in another dtype; only what is large in a narrow one, so that a gradient is more than one rounding."""

        def moved(value):
            floats = isinstance(value, torch.Tensor) and value.is_floating_point()
            return value.to(dtype) if floats and (dtype.itemsize > 2 or value.ndim > 1) else value

        return Case(self.function, [moved(t) for t in self.trained], {k: moved(v) for k, v in self.fixed.items()})


def embedded(positive_B, direction_E, *, embeddings_BLE, keep_BL, impl):
    return embedded_row_info_nce(positive_B, embeddings_BLE, keep_BL, direction_E, impl=impl)


def kept(size, count, device):
    """Which count: padding behind a random length, and a row without any."""
    length_B1 = torch.randint(1, count + 1, (size, 1), device=device)
    length_B1[size // 2] = 0
    return torch.arange(count, device=device) < length_B1


def make(name, size, count, device="cpu", width=40):
    """A case in float32; `count` negatives or tokens."""
    torch.manual_seed(size * count)

    def normal(*shape):
        return torch.randn(*shape, device=device)

    positive_B, keep = normal(size), kept(size, count, device)
    spread = [positive_B, normal(size), torch.rand(size, device=device)]
    direction_E = normal(width) / width**0.5
    embeddings = {"embeddings_BLE": normal(size, count, width)}
    return {
        "gaussian": lambda: Case(gaussian_row_info_nce, spread, {"noise_BK": normal(size, count)}),
        "embedded": lambda: Case(embedded, [positive_B, direction_E], {**embeddings, "keep_BL": torch.ones_like(keep)}),
        "embedded, kept": lambda: Case(embedded, [positive_B, direction_E], {**embeddings, "keep_BL": keep}),
        "embedded, counted": lambda: Case(
            embedded, [positive_B, direction_E], {**embeddings, "keep_BL": 3 * keep.long()}
        ),
    }[name]()


NAMES = ["gaussian", "embedded", "embedded, kept", "embedded, counted"]

OPERATORS = ["gaussian", "embedded, kept"]
"""One of each kind."""


def assert_close_to_truth(case, impl, dtype):
    truth, plain, ours = case.to(torch.float64).results("reference"), case.results("reference"), case.results(impl)
    for mine, theirs, true in zip(ours, plain, truth, strict=True):
        assert_no_worse(mine, theirs, true, dtype)


# (6, 1030) leaves a ragged edge in every kernel's block, (1, 1) is the smallest legal input.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(6, 1030), (33, 8), (1, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_parts_err_no_more_than_plain_torch(name, shape, dtype, monkeypatch):
    monkeypatch.setattr(chunked, "PART_BYTES", 2000)  # parts of rows, and of long rows
    if shape == (1, 1) and ("kept" in name or "counted" in name):
        pytest.skip("its only row would be empty")
    assert_close_to_truth(make(name, *shape).to(dtype), "chunked", dtype)


# One below a block, a block, one above; 40 and 33 entries are filled up to 64.
@pytest.mark.parametrize("shape", [(3, 511), (2, 512), (2, 513)])
@pytest.mark.parametrize("name", NAMES)
def test_kernels_err_no_more_than_plain_torch(name, shape, device):
    assert_close_to_truth(make(name, *shape, device=device), "triton", torch.float32)


@pytest.mark.parametrize("name", ["gaussian", "embedded, kept"])
def test_kernels_take_half_precision(name, device):
    # the interpreter truncates when it rounds to bfloat16, so float16 stands for both there
    dtype = torch.bfloat16 if device == "cuda" else torch.float16
    assert_close_to_truth(make(name, 3, 40, device=device, width=33).to(dtype), "triton", dtype)


@pytest.mark.parametrize("impl", ["chunked", "triton"])
@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_what_positive_and_negatives_share_costs_no_precision(impl, offset, device):
    case = make("gaussian", 4, 30, device=device)
    case.trained[:2] = [tensor + offset for tensor in case.trained[:2]]  # positive, and the negatives' mean
    truth = case.to(torch.float64).results("reference")
    for mine, true in zip(case.results(impl), truth, strict=True):
        assert relative_error(mine, true)[0] < CAPS[torch.float32]


@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_dominant_scores_and_equal_ones(impl, device):
    case = make("embedded", 4, 30, device=device, width=1)
    positive_B, direction_E = case.trained
    direction_E.fill_(1.0)  # so the vectors are the scores
    negative_BK = case.fixed["embeddings_BLE"].squeeze(2)
    negative_BK[0, 7] += 300
    positive_B[1] += 60
    negative_BK[2], positive_B[2] = 0.5, 0.5
    negative_BK[3], positive_B[3] = -5e8, 0
    truth = case.to(torch.float64).results("reference")
    assert truth[0][3] == 0
    for mine, true in zip(case.results(impl), truth, strict=True):
        # Row by row, so that the largest loss hides no other's error. A difference of 60 is rounded by up to 4e-6,
        # which is the relative error of its exponential.
        for mine_row, true_row in zip(mine, true, strict=True):
            assert relative_error(mine_row, true_row)[0] < 1e-5


@pytest.fixture
def unclean_memory():
    """New memory is filled with NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("unclean_memory")
@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_memory_need_not_be_clean_and_what_does_not_count_is_not_read(impl, device):
    keep = torch.tensor([[True, False, True], [False, False, False]], device=device)
    for name in ("embedded, kept", "embedded, counted", "gaussian"):
        case = make(name, 2, 3, device=device)
        if "," in name:
            case.fixed["keep_BL"] = keep if "kept" in name else 2 * keep.int()
        expected = case.results("reference")
        if impl == "triton" and "," in name:
            case.fixed["embeddings_BLE"][~keep] = torch.nan
        for mine, plain in zip(case.results(impl), expected, strict=True):
            torch.testing.assert_close(mine, plain, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_views_of_any_stride_are_read_where_they_are(impl, device):
    numbers_BK, numbers_LBE = torch.randn(4, 14, device=device), torch.randn(5, 4, 12, device=device)
    kept_BL = torch.tensor([[True], [False], [True], [True]], device=device).expand(4, 5)
    row_B, width_E = torch.tensor(0.7, device=device).expand(4), torch.tensor(0.2, device=device).expand(6)
    vectors_BLE = numbers_LBE.transpose(0, 1)[..., ::2]
    cases = [
        Case(gaussian_row_info_nce, [row_B, row_B, row_B], {"noise_BK": numbers_BK[:, ::2]}),
        Case(gaussian_row_info_nce, [row_B, row_B, row_B], {"noise_BK": numbers_BK[:1, :7].expand(4, 7)}),
        Case(embedded, [row_B, width_E], {"embeddings_BLE": vectors_BLE, "keep_BL": kept_BL}),
    ]
    for case in cases:
        for mine, plain in zip(case.results(impl), case.results("reference"), strict=True):
            torch.testing.assert_close(mine, plain)


def test_rows_lie_beyond_the_reach_of_32_bits(device):
    # memory that is never touched takes no place
    storage = torch.empty(2**31 + 200, dtype=torch.float16, device=device)
    noise_BK = storage.as_strided((3, 100), (2**30, 1))  # the last row starts where 32 bits end
    noise_BK.copy_(torch.randn(3, 100))
    row_B = torch.ones(3, device=device)
    expected_B = gaussian_row_info_nce(row_B, row_B, row_B, noise_BK.clone(), impl="reference")
    for impl in ("chunked", "triton"):
        torch.testing.assert_close(gaussian_row_info_nce(row_B, row_B, row_B, noise_BK, impl=impl), expected_B)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences_whichever_are_asked_for(name):
    case = make(name, 3, 5, width=4).to(torch.float64)
    for asked in range(1, 2 ** len(case.trained)):
        trained = [t.clone().requires_grad_(bool(asked >> i & 1)) for i, t in enumerate(case.trained)]
        assert torch.autograd.gradcheck(lambda *x: case.loss("chunked", x), trained)


@pytest.mark.parametrize("name", OPERATORS)
def test_torch_finds_nothing_wrong_with_the_operators(name):
    case = make(name, 3, 5, width=4)
    positive_B = case.trained[0].requires_grad_()
    if name == "gaussian":
        inputs = (case.trained[2].requires_grad_(), case.fixed["noise_BK"], "chunked")
        torch.library.opcheck(custom_ops.gaussian_log_sum_exp, inputs)
    else:
        for with_mean in (True, False):
            direction_E = case.trained[1].detach().requires_grad_(with_mean)
            inputs = (positive_B, *case.fixed.values(), direction_E, with_mean, "chunked")
            torch.library.opcheck(custom_ops.vector_log_odds, inputs)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_compiled_loss_is_one_graph_and_the_same(name):
    torch.compiler.reset()
    case = make(name, 3, 5)
    trained = [tensor.requires_grad_() for tensor in case.trained]
    compiled = torch.compile(lambda *x: case.loss("auto", x).mean(), fullgraph=True, backend="aot_eager")
    ours = torch.autograd.grad(compiled(*trained), trained)
    for mine, plain in zip(ours, torch.autograd.grad(case.loss("auto").mean(), trained), strict=True):
        torch.testing.assert_close(mine, plain)


@pytest.mark.parametrize("name", OPERATORS)
def test_autocast_changes_nothing(name):
    case = make(name, 3, 40)
    expected = case.results("chunked")
    with torch.autocast("cpu", torch.bfloat16):
        for mine, plain in zip(case.results("chunked"), expected, strict=True):
            assert torch.equal(mine, plain)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_second_backward_pass_is_right_and_a_second_derivative_refused(name):
    case = make(name, 3, 5)
    trained = [tensor.requires_grad_() for tensor in case.trained]
    loss_B = case.loss("chunked")
    first = torch.autograd.grad(loss_B.sum(), trained, retain_graph=True)
    second = torch.autograd.grad((loss_B * 3).sum(), trained, retain_graph=True)
    for one, three in zip(first, second, strict=True):
        torch.testing.assert_close(three, one * 3)
    with pytest.raises(RuntimeError, match="has no second derivative"):
        torch.autograd.grad(loss_B.sum(), trained, create_graph=True)


def test_the_same_inputs_give_the_same_bits(device):
    for name in NAMES:
        case = make(name, 3, 600, device=device)
        for impl in ("chunked", "triton"):
            assert all(torch.equal(*pair) for pair in zip(case.results(impl), case.results(impl), strict=True))


def saved_bytes(case):
    """What autograd keeps for the backward pass, leaving out what the caller holds anyway."""
    held, saved = {t.data_ptr() for t in [*case.trained, *case.fixed.values()] if isinstance(t, torch.Tensor)}, []

    def keep(tensor):
        if tensor.data_ptr() not in held:
            saved.append(tensor.nbytes)
        return tensor

    trained = [tensor.requires_grad_() for tensor in case.trained]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        case.loss("chunked", trained)
    return sum(saved)


def test_what_is_kept_for_the_backward_pass_is_of_the_size_of_the_rows():
    for name in NAMES:
        few, many = (saved_bytes(make(name, 8, count, width=16)) for count in (10, 1000))
        assert few == many, name
        assert many <= (8 * 16 + 10 * 8) * 4, name


class Largest(TorchDispatchMode):
    """The largest memory that is taken, beside that of tensors at hand."""

    def __init__(self, *held):
        super().__init__()
        self.held = {tensor.untyped_storage().data_ptr() for tensor in held}
        self.nbytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.held:
                self.nbytes = max(self.nbytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_part_that_is_made_is_large(dtype):
    size, length, width = 64, 64, 256
    embeddings_BLE, direction_E = torch.randn(size, length, width).to(dtype), torch.randn(width)
    std_B, positive_B, noise_BK = torch.rand(size), torch.zeros(size), torch.randn(size, 100_000).to(dtype)
    keep_BL = torch.ones(size, length, dtype=torch.bool)
    with Largest(embeddings_BLE, noise_BK) as largest:
        chunked.vector_log_odds(positive_B, embeddings_BLE, keep_BL, direction_E, True)
        chunked.gaussian_log_sum_exp(std_B, noise_BK)
    # in float32 the vectors are 4 MiB, the draws 24 MiB
    assert largest.nbytes <= 2 * chunked.PART_BYTES + 64


def test_without_a_gradient_the_weighted_sum_is_not_made(monkeypatch):
    asked, made = [], chunked.vector_log_odds
    monkeypatch.setattr(chunked, "vector_log_odds", lambda *a: (asked.append(a[-1]), made(*a))[1])
    case = make("embedded", 3, 5)
    case.loss("chunked")
    case.trained[0].requires_grad_()
    case.loss("chunked")
    case.trained[1].requires_grad_()
    case.loss("chunked")
    with torch.no_grad():
        case.loss("chunked")
    assert asked == [False, False, True, False]


def test_vectors_that_are_trained_get_their_gradient():
    case = make("embedded, kept", 3, 5)
    case.fixed["embeddings_BLE"].requires_grad_()
    gradients = []
    for impl in ("chunked", "reference"):
        gradients.append(torch.autograd.grad(case.loss(impl).sum(), case.fixed["embeddings_BLE"])[0])
    assert gradients[0].any()
    assert torch.equal(*gradients)


COMPILE = """
from infoprompt.kernels.offline import compile_for_hopper
from infoprompt.kernels.row_info_nce.triton_kernels import SHIPPED
for shipped in SHIPPED:
    problems = compile_for_hopper(shipped).problems
    assert not problems, (shipped.name, problems)
print(len(SHIPPED))
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_without_spilling():
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5
