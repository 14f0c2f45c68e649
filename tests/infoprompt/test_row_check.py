"""Whether packs may promise bits is found out, not assumed."""

import pytest
import torch

from infoprompt.engine import row_check
from infoprompt.engine.row_check import pack_note, rows_are_independent


@pytest.fixture(autouse=True)
def _anew():
    rows_are_independent.cache_clear()
    yield
    rows_are_independent.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_products_are_independent_here(dtype):
    assert rows_are_independent("cpu", dtype)
    assert pack_note("cpu", dtype) is None


def test_a_processor_that_sums_by_the_number_of_rows_is_found_out(monkeypatch):
    linear = row_check.F.linear
    monkeypatch.setattr(
        row_check.F, "linear", lambda rows, weight: linear(rows, weight) * (1 + 1e-6 * (len(rows) > 100))
    )
    assert "this processor's products" in str(pack_note("cpu", torch.float32))


def test_a_gpu_promises_no_bits():
    assert "a GPU's products" in str(pack_note("cuda", torch.float32))
