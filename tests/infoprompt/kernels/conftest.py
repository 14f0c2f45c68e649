"""Where kernels are tested."""

import pytest
import torch


@pytest.fixture
def device() -> str:
    """The GPU where there is one, else the CPU, in Triton's interpreter."""
    return "cuda" if torch.cuda.is_available() else "cpu"
