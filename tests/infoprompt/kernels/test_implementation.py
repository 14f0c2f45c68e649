"""The choice of an implementation is the caller's, and `auto` says what it took."""

import logging
import os

import pytest
import torch

from infoprompt.kernels import implementation
from infoprompt.kernels.implementation import choose

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("impl", ["chunked", "reference"])
def test_what_is_asked_for_is_taken(impl):
    assert choose("op", impl, CPU) == impl


def test_auto_takes_torch_on_a_cpu_even_where_triton_could_be_interpreted(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose("op", "auto", CPU) == "chunked"
    assert choose("op", "triton", CPU) == "triton"


def test_auto_takes_triton_on_a_gpu_unless_the_inputs_do_not_fit():
    assert choose("op", "auto", CUDA) == "triton"
    assert choose("op", "auto", CUDA, unfit="float64 has no tensor cores") == "chunked"


def test_auto_says_once_what_it_took(monkeypatch, caplog):
    monkeypatch.setattr(implementation, "_said", set())
    with caplog.at_level(logging.INFO):
        choose("some_op", "auto", CUDA, unfit="the rows are too long")
        choose("some_op", "auto", CUDA, unfit="the rows are too long")
    assert caplog.messages == ["some_op runs as chunked on the cuda (the rows are too long)."]


def test_errors_name_the_way_out(monkeypatch):
    with pytest.raises(ValueError, match=r"impl is 'fast', but some_op has auto, triton, chunked, reference"):
        choose("some_op", "fast", CPU)
    monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match=r"TRITON_INTERPRET=1, so some_op cannot run so. Use 'auto' or 'chunked'"):
        choose("some_op", "triton", CPU)
