"""The suite's own promise: a test finds its process as it would find it alone, whatever ran before."""

import ast
import logging
import os
import random
import signal
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from isolation import MEMORIES, STATES, put_back

REPOSITORY = Path(__file__).resolve().parents[1]


def _configure_logging():
    from launcher.report import configure_logging

    configure_logging(quiet=True, debug=False)
    logging.getLogger("infoprompt").addHandler(logging.NullHandler())
    logging.getLogger("launcher.new").propagate = False


def _prepare_environment():
    os.environ["INFOPROMPT_GIT_COMMIT"] = "abc"
    del os.environ["HF_HUB_OFFLINE"]


def _leave_folder(tmp_path):
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()


def _load_backbone(tiny_bert):
    from infoprompt.config import BackboneSettings
    from infoprompt.model.backbone.cache import kept_backbone

    kept_backbone(BackboneSettings(name=tiny_bert), torch.device("cpu"), needs=frozenset(), lm_head=False)


def _say_once():
    from infoprompt.kernels.implementation import choose

    choose("some_op", "auto", torch.device("cpu"))


def _tell_once(tmp_path):
    from infoprompt.cache_folder import _distrust

    _distrust(tmp_path, "is nobody's")


def _hear_a_signal():
    from infoprompt import stopping
    from infoprompt.engine import watch

    stopping.hear(signal.SIGTERM, only_note=True)
    watch._starts[0] += 1


def _silence_bars():
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.utils.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()


def _draw():
    torch.manual_seed(17)
    random.seed(17)
    np.random.seed(17)


def _start_group():
    from infoprompt.config import EngineSettings
    from infoprompt.engine.ranks import start_ranks

    start_ranks(EngineSettings(kind="deepspeed"))


def _own_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)


def _handle_signals():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)


def _make_up_modules(tmp_path):
    (tmp_path / "made_up_here.py").write_text("")
    sys.path.insert(0, str(tmp_path))
    __import__("made_up_here")
    sys.modules["made_up_there"] = types.ModuleType("made_up_there")
    sys.modules["not_to_be_had"] = None  # type: ignore[assignment]
    sys.modules["json"] = types.ModuleType("json")
    del sys.modules["yaml"]


def _torch_settings():
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("medium")
    torch.set_grad_enabled(False)
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark


def _draw_figures():
    import matplotlib.pyplot as plt

    plt.figure()
    plt.rcParams["lines.linewidth"] = 17


def _interpreter_settings():
    sys.argv.append("--more")
    sys.excepthook = print
    logging.disable(logging.CRITICAL)


CHANGES = [
    _configure_logging,
    _prepare_environment,
    _leave_folder,
    _load_backbone,
    _say_once,
    _tell_once,
    _hear_a_signal,
    _silence_bars,
    _draw,
    _start_group,
    _own_group,
    _handle_signals,
    _make_up_modules,
    _torch_settings,
    _draw_figures,
    _interpreter_settings,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_what_is_changed_is_put_back(change, tmp_path, tiny_bert):
    import matplotlib.pyplot
    import yaml  # noqa: F401

    names = change.__code__.co_varnames[: change.__code__.co_argcount]
    arguments = {name: {"tmp_path": tmp_path, "tiny_bert": tiny_bert}[name] for name in names}
    matplotlib.pyplot.close("all")
    before = [read() for read, _ in STATES]
    with put_back():
        change(**arguments)
        assert [read() for read, _ in STATES] != before
    after = [read() for read, _ in STATES]
    different = [read for (read, _), was, now in zip(STATES, before, after, strict=True) if was != now]
    # a module that was imported meanwhile may stay, with the loggers that it has made
    assert {read.__name__ for read in different} <= {"_modules", "_loggers"}
    assert not {"made_up_here", "made_up_there", "not_to_be_had"} & sys.modules.keys()
    assert hasattr(sys.modules["json"], "dumps")
    assert "yaml" in sys.modules


def test_a_level_that_one_test_sets_is_not_the_next_ones():
    """The order that once failed: a command's log level, then a test that reads a line of level INFO."""
    with put_back():
        _configure_logging()
        assert not logging.getLogger("infoprompt.kernels.implementation").isEnabledFor(logging.INFO)
    assert logging.getLogger("infoprompt").level == logging.NOTSET
    assert logging.getLogger("infoprompt").handlers == []
    assert logging.getLogger("launcher.new").propagate


def test_a_test_that_fails_is_put_back_too():
    def fail():
        os.environ["LEFT_BY_A_FAILURE"] = "1"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), put_back():
        fail()
    assert "LEFT_BY_A_FAILURE" not in os.environ


def test_every_test_is_put_back(request):
    assert {"_module_leaves_nothing", "_test_leaves_nothing"} <= {*request.fixturenames}


def test_a_test_that_changes_nothing_costs_little():
    def cost() -> float:
        start = time.process_time()
        with put_back():
            pass
        return time.process_time() - start

    assert min(cost() for _ in range(20)) < 5e-3  # measured: 1e-3 with everything imported


def test_all_that_our_modules_remember_is_known():
    """A variable of a module that calls change, or a cache, would be another test's beginning; `MEMORIES` names it."""
    known = {f"{module.replace('.', '/')}.py: {name}" for module, name in MEMORIES}
    known.add("infoprompt/engine/ranks.py: _process")  # goes with the process group
    found = set()
    for path in [*(REPOSITORY / "infoprompt").rglob("*.py"), *(REPOSITORY / "launcher").rglob("*.py")]:
        where = path.relative_to(REPOSITORY).as_posix()
        found |= {f"{where}: {name}" for name in _remembered(ast.parse(path.read_text(encoding="utf-8")))}
    assert found <= known, "list them in MEMORIES of tests/isolation.py, or pass and return them"
    assert {entry for entry in known if entry.startswith("infoprompt/")} <= found, "MEMORIES names what is gone"


def _remembered(tree: ast.Module) -> set[str]:
    """Names of variables that are made at the top of a file and written in small letters, and of cached functions."""
    names = set()
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        for target in targets:
            if not isinstance(target, ast.Name) or not isinstance(value, (ast.Dict, ast.Set, ast.List, ast.Call)):
                continue
            if target.id.islower() and target.id not in FIXED:
                names.add(target.id)
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Global):
            names.update(inner.names)
        for decorator in getattr(inner, "decorator_list", ()):
            if any(word in ast.unparse(decorator) for word in ("lru_cache", "functools.cache", "cached(")):
                names.add(inner.name)  # type: ignore[attr-defined]
    return names


FIXED = {"log", "logger", "app", "__all__"}
