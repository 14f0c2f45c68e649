"""Where kernels are tested."""

import pytest
import torch


@pytest.fixture
def device() -> str:
    """The GPU where there is one, else the CPU, in Triton's interpreter."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _kernels_have_their_tensors_where_they_run(request) -> None:
    """On a GPU the kernels are not interpreted, so a test that gives them the CPU's tensors is left out there."""
    named = getattr(getattr(request.node, "callspec", None), "params", {}).get("impl")
    if torch.cuda.is_available() and named == "triton" and "device" not in request.fixturenames:
        pytest.skip("gives the CPU's tensors to kernels that run on the GPU")
