"""Without a GPU, Triton interprets its kernels; it settles that when they are first imported."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def device() -> str:
    """Where kernels are tested: the GPU where there is one, else the CPU, in Triton's interpreter."""
    return "cuda" if torch.cuda.is_available() else "cpu"
