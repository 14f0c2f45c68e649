"""What a test changes in its process is put back after it, so that the order of tests does not matter.

Warnings' filters need nothing here: pytest puts them back around each part of a test.
"""

import contextlib
import gc
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

MEMORIES: dict[tuple[str, str], Any] = {
    ("infoprompt.model.backbone.cache", "_kept"): {},
    ("infoprompt.kernels.implementation", "_said"): set(),
    ("infoprompt.cache_folder", "_distrust"): 0,  # of a cached function: how many calls it remembers
    ("infoprompt.data.loader", "epoch_order"): 0,
    ("infoprompt.data.kept_splits", "_remembered"): {},
    ("infoprompt.engine.row_check", "rows_are_independent"): 0,
    ("infoprompt.data.tokenized", "_remembered"): 0,
    ("infoprompt.stopping", "_heard"): {
        "number": 0,
        "at": 0.0,
        "raised": False,
        "noting": 0,
    },  # of a dataclass: its fields
    ("infoprompt.engine.watch", "_starts"): [0],
    ("transformers.utils.logging", "_tqdm_active"): True,
    ("datasets.utils.tqdm", "_hf_datasets_progress_bars_disabled"): False,
    ("huggingface_hub.utils.tqdm", "progress_bar_states"): {},
}
"""Variables of modules, ours and others', that calls change, and what they are when the module is imported."""

OUR_LOGGERS = ("infoprompt", "launcher")
HOMES = tuple({str(Path(__file__).resolve().parents[1]), sys.prefix, sys.base_prefix, str(Path(sys.prefix).resolve())})
"""Where modules lie that may stay imported: ours, and those that are installed."""
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
SIGNALS += [signal.SIGCHLD, signal.SIGPIPE, signal.SIGTSTP, signal.SIGCONT]  # SIGALRM is the time limit's of each test


@contextlib.contextmanager
def put_back() -> Iterator[None]:
    """Whatever the body changes of what `STATES` lists is afterwards as it was before."""
    before = [read() for read, _ in STATES]
    try:
        yield
    finally:
        for (read, restore), value in zip(STATES, before, strict=True):
            if read() != value:
                restore(value)


def _has_process_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _end_process_group(had_one: bool) -> None:
    if had_one:
        return  # what is gone cannot be brought back
    from infoprompt.engine.ranks import stop_ranks

    stop_ranks()
    if torch.distributed.is_initialized():  # one that a test made itself
        torch.distributed.destroy_process_group()


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # a test has removed it
        return None


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def _set_environment(values: Mapping[str, str]) -> None:
    for name in _environment().keys() - values.keys():
        del os.environ[name]
    os.environ.update(values)


Logger = tuple[int, bool, bool, tuple[Any, ...], tuple[Any, ...]]
UNTOUCHED: Logger = (logging.NOTSET, True, False, (), ())


def _loggers() -> tuple[dict[str, Logger], int]:
    """Those that are not as they were made, and how many names there are: there may be thousands."""
    known: dict[str, Any] = logging.root.manager.loggerDict
    changed = {
        name: (one.level, one.propagate, one.disabled, (*one.handlers,), (*one.filters,))
        for name, one in [("", logging.root), *known.items()]
        if isinstance(one, logging.Logger)
        and (one.level or one.handlers or one.disabled or one.filters or not one.propagate)
    }
    return changed, len(known)


def _set_loggers(values: tuple[dict[str, Logger], int]) -> None:
    before, num_names = values
    now = _loggers()[0]
    # a library's logger that is new was set when the library was imported, which happens once
    new = [*logging.root.manager.loggerDict][num_names:]
    imported = {name for name in new if name.partition(".")[0] not in OUR_LOGGERS}
    for name in (now.keys() | before.keys()) - imported:
        if now.get(name) != before.get(name):
            one = logging.getLogger(name)
            level, one.propagate, one.disabled, one.handlers[:], one.filters[:] = before.get(name, UNTOUCHED)
            one.setLevel(level)


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


def _set_handlers(values: list[Any]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number, now, before in zip(SIGNALS, _handlers(), values, strict=True):
        if now != before and before is not None:  # None: it was not Python that set it
            signal.signal(number, before)


def _interpreter() -> list[Any]:
    hooks = [sys.excepthook, threading.excepthook]
    return [[*sys.path], [*sys.argv], *hooks, logging.root.manager.disable, gc.get_threshold()]


def _set_interpreter(values: list[Any]) -> None:
    sys.path[:], sys.argv[:], sys.excepthook, threading.excepthook, logging.root.manager.disable, thresholds = values
    gc.set_threshold(*thresholds)


def _modules() -> tuple[tuple[str, ...], tuple[ModuleType, ...]]:
    return tuple(sys.modules), tuple(sys.modules.values())  # quicker to make and compare than a copy


def _set_modules(values: tuple[tuple[str, ...], tuple[ModuleType, ...]]) -> None:
    """Bring back what was replaced or removed; a module that was imported stays, unless a test has made it up."""
    before = dict(zip(*values, strict=True))
    for name in sys.modules.keys() - before.keys():
        if _made_up(name, sys.modules[name]):
            del sys.modules[name]
    sys.modules.update(before)


def _made_up(name: str, module: ModuleType | None) -> bool:
    if module is None:  # made unimportable
        return True
    file = getattr(module, "__file__", None)
    if file is None:
        return "." not in name and getattr(module, "__spec__", None) is None
    return not file.startswith(HOMES)


def _memories() -> dict[tuple[str, str], Any]:
    return {
        (module, name): _content(getattr(sys.modules[module], name)) if module in sys.modules else first
        for (module, name), first in MEMORIES.items()
    }


def _content(variable: Any) -> Any:
    if hasattr(variable, "cache_info"):
        return variable.cache_info().currsize
    if is_dataclass(variable):
        return dict(vars(variable))
    return variable.copy() if isinstance(variable, (dict, set, list)) else variable


def _set_memories(values: Mapping[tuple[str, str], Any]) -> None:
    for (module, name), value in values.items():
        variable = getattr(sys.modules[module], name) if module in sys.modules else None
        if variable is None or _content(variable) == value:
            continue
        if hasattr(variable, "cache_clear"):
            variable.cache_clear()
        elif is_dataclass(variable):
            vars(variable).update(value)
        elif isinstance(variable, list):
            variable[:] = value
        elif isinstance(variable, (dict, set)):
            variable.clear()
            variable.update(value)
        else:
            setattr(sys.modules[module], name, value)


def _random() -> tuple[Any, ...]:
    generators: list[Any] = [random.getstate()]
    kind, keys, *rest = np.random.get_state()
    generators += [(kind, keys.tobytes(), *rest), torch.get_rng_state().numpy().tobytes()]
    return tuple(generators)


def _set_random(values: tuple[Any, ...]) -> None:
    own, (kind, keys, *rest), torchs = values
    random.setstate(own)
    np.random.set_state((kind, np.frombuffer(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(torch.frombuffer(bytearray(torchs), dtype=torch.uint8))


# How torch is asked for each of its settings, and how it is told.
_TORCH: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, torch.set_default_device),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.is_grad_enabled, torch._C._set_grad_enabled),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (
        lambda: (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        lambda both: torch.backends.cudnn.set_flags(_deterministic=both[0], _benchmark=both[1]),
    ),
]


def _rc_params() -> dict[str, Any] | None:
    # dict's own methods: matplotlib's would check each value, and choose a backend
    return dict(dict.items(sys.modules["matplotlib"].rcParams)) if "matplotlib" in sys.modules else None


def _set_rc_params(values: dict[str, Any] | None) -> None:
    import matplotlib

    if values is None:  # imported meanwhile
        values = {**dict(dict.items(matplotlib.rcParamsDefault)), "backend": dict.get(matplotlib.rcParams, "backend")}
    dict.update(matplotlib.rcParams, values)


def _figures() -> list[int]:
    return sys.modules["matplotlib.pyplot"].get_fignums() if "matplotlib.pyplot" in sys.modules else []


def _close_figures(before: list[int]) -> None:
    for number in set(_figures()) - set(before):
        sys.modules["matplotlib.pyplot"].close(number)


STATES: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (_has_process_group, _end_process_group),  # first, for it reads the environment
    (_folder, os.chdir),
    (_environment, _set_environment),
    (_loggers, _set_loggers),
    (_handlers, _set_handlers),
    (_interpreter, _set_interpreter),
    (_memories, _set_memories),
    (_modules, _set_modules),
    (_random, _set_random),
    *_TORCH,
    (_rc_params, _set_rc_params),
    (_figures, _close_figures),
]
"""How each thing that a process has once is read, and set."""
