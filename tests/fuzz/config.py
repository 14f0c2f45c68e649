"""Run, sweep and study files and overrides, spoilt at random: each gives a config or a ConfigError, at once.

    python -m tests.fuzz.config --rounds 10000 --seed 0

A round that ends otherwise is printed with what it read.
"""

import argparse
import random
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from infoprompt.config import ConfigError, dump_config, flatten, load_config
from infoprompt.setting_table import setting_keys
from launcher.overrides import split_overrides
from launcher.report import describe
from launcher.studies.plan import load_study
from launcher.studies.settings import StudyConfig
from launcher.sweeps.plan import load_sweep
from launcher.sweeps.settings import SweepSettings

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ROUND_SECONDS = 10.0
"""No round may take longer; nearly all take milliseconds, and machines are noisy."""
MEMORY_BYTES = 2**29
"""More than this the process may not grow by."""

BASE = (CONFIGS / "quickstart.yaml").read_text().replace("base: recipes/", f"base: {CONFIGS}/recipes/")
STUDY = """
base: base.yaml
methods: {wide: wide.yaml, narrow: {recipe: narrow.yaml, overrides: [optim.epochs=9]}}
tasks: {toy: [data.train=rows.csv], other: {overrides: [data.task=sst2], sizes: [{total: 8}]}}
sizes: [{total: 16}, {per_class: 4}, {}]
seeds: [3, 4]
search: {budget: 2, seeds: [1]}
baseline: narrow
output_dir: out
"""
SWEEP = """
base: base.yaml
overrides: [optim.epochs=2]
space:
  optim.lr: {grid: [1e-3, 3e-3]}
  prompt.kind: {choice: [static, instance]}
  prompt.length: {integer: [2, 8], when: {prompt.kind: static}}
  optim.weight_decay: {log_uniform: [1e-5, 1e-1]}
seeds: [0, 1]
num_samples: 2
scheduler: {kind: asha, grace_steps: 8}
budget: {trials: 4}
output_dir: out
"""
WIDE = "search: {optim.lr: [1e-3, 3e-3], prompt.length: [2, 4, 8]}\n"
NARROW = "prompt: {kind: static}\nobjective: {head_weight: 0, representation_weight: 0}\n"

NASTY = (
    *("", "null", "~", "no", "yes", "true", "0", "-1", "010", "1e3", "1e400", "-1e400", ".inf", ".nan", "nan", "inf"),
    *("2147483648", "9" * 30, "9" * 5000, "1_000", "0x10", "12:30", "2024-01-01", "2001-12-14t21:59:43.10-05:00"),
    *("[]", "{}", "[", "}", "[[", "{a: b", "- a", "a: b", "? a", "! a", "!!python/object:os.system x", "!!int x"),
    *("!!set {a, b}", "!!binary aGk=", "&a [*a]", "*a", "<<: *a", "{<<: {a: 1}}", "%", "@x", "`", "#", "a #b"),
    *("'", '"', "''", "'it''s'", '"\\0"', '"\\ud800"', "\x00", "\x1b[1m", "\udcff", "\ufeff", "é", "日本", "\u2028"),
    *("[bold]x[/red]", "${HOME}", "~nobody/x", "/", "..", "x" * 300, "x" * 5000, "a/b\\c", "http://u:p@h"),
    *("[" * 40 + "]" * 40, "{a: " * 40 + "1" + "}" * 40, "[1, 2]", "[a, b]", "{a: 1, a: 2}", "{1: 2}", "{[1]: 2}"),
    *("static", "label_words", "paper", "release", "base.yaml", "{grid: [1, 2]}", "{uniform: [0, 1]}", "{total: 4}"),
)  # fmt: skip
LINES = (
    "base: ../base.yaml",
    "base: file.yaml",
    "---",
    "...",
    "%YAML 1.1",
    "\t",
    "a: &a {b: *a}",
    "x: &a [1]",
    "<<: *a",
)


def main(rounds: int, seed: int) -> Counter[str]:
    """Spoil and read so many times.

    Args:
        rounds: how often.
        seed: of what is done to the files.
    Returns:
        How many of each kind were taken and refused.
    Raises:
        AssertionError: something else came out, took too long, or took too much memory.
    """
    source, counts = random.Random(seed), Counter[str]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(rounds):
            kind = source.choice(("run", "sweep", "study"))
            files, words = _spoilt(kind, source)
            for file, content in files.items():
                (folder / file).write_bytes(content)
            begin = time.monotonic()
            try:
                taken = _limited(lambda kind=kind, words=words: _read(kind, folder / "file.yaml", words))
            except BaseException:
                raise AssertionError(
                    f"round {number} of seed {seed}, a {kind} file:\n{files['file.yaml'][:3000]!r}\n"
                    f"overrides {[word[:300] for word in words]!r}\n{traceback.format_exc()[-6000:]}"
                ) from None
            assert time.monotonic() - begin < ROUND_SECONDS, f"round {number} of seed {seed} took too long"
            counts[f"{kind} {'taken' if taken else 'refused'}"] += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY_BYTES, f"the process grew by {grown} bytes"
    return counts


def _read(kind: str, path: Path, words: list[str]) -> bool:
    try:
        overrides = split_overrides(words)
        if kind == "sweep":
            load_sweep(path, overrides)
        elif kind == "study":
            load_study(path, overrides)
        else:
            config = load_config(path, overrides)
            flatten(config)
            describe(config, 1).encode()
            (path.parent / "again.yaml").write_text(dump_config(config), encoding="utf-8")
            again = load_config(path.parent / "again.yaml")
            assert dump_config(again) == dump_config(config)
    except ConfigError as error:
        message = str(error)
    else:
        return True
    assert 0 < len(message.strip()) < 50_000, "nobody reads so long an error"
    return False


def _spoilt(kind: str, source: random.Random) -> tuple[dict[str, bytes], list[str]]:
    """The files of a round, of which one or more are spoilt, and overrides."""
    files = {"base.yaml": BASE, "wide.yaml": WIDE, "narrow.yaml": NARROW}
    files["file.yaml"] = {"run": BASE, "sweep": SWEEP, "study": STUDY}[kind]
    content = {name: text.encode() for name, text in files.items()}
    for _ in range(source.choice((0, 1, 1, 2, 4))):
        name = source.choice(("file.yaml", "file.yaml", "file.yaml", *files))
        content[name] = source.choice(SPOILERS)(content[name].decode("utf-8", "surrogateescape"), source)
    return content, [_override(kind, source) for _ in range(source.choice((0, 0, 1, 2)))]


def _override(kind: str, source: random.Random) -> str:
    own = {"run": [], "sweep": [*SweepSettings.model_fields], "study": [*StudyConfig.model_fields]}[kind]
    key = source.choice(own if own and source.random() < 0.5 else setting_keys())
    if source.random() < 0.3:
        key += source.choice((".x", ".grid", ".optim.lr", ".", "..", ".kind", ".\0", " ", ".a" * 40, ".toy"))
    return source.choice(("", "", "--", "-")) + key + source.choice(("=", "=", "=", "", "==", " = ")) + _value(source)


def _value(source: random.Random) -> str:
    if source.random() < 0.8:
        return source.choice(NASTY)
    return "".join(source.choice("abc019.-+eE:#,[]{}'\"&*!|>%@` \t\n~\\/?") for _ in range(source.randint(0, 12)))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _replace_value(text: str, source: random.Random) -> bytes:
    """Of one line, what stands behind its first or last colon."""
    lines = text.split("\n")
    place = source.randrange(len(lines))
    head, colon, _ = lines[place].partition(":") if source.random() < 0.5 else lines[place].rpartition(":")
    lines[place] = f"{head}{colon} {_value(source)}"
    return _encoded("\n".join(lines))


def _change_line(text: str, source: random.Random) -> bytes:
    """Take a line out, repeat it, indent it, or put another one there."""
    lines = text.split("\n")
    place = source.randrange(len(lines))
    change = source.randrange(4)
    if change == 0:
        del lines[place]
    elif change == 1:
        lines.insert(source.randrange(len(lines)), lines[place])
    elif change == 2:
        lines[place] = " " * source.randint(1, 3) + lines[place]
    else:
        lines.insert(place, source.choice((*LINES, _value(source))))
    return _encoded("\n".join(lines))


def _change_bytes(text: str, source: random.Random) -> bytes:
    content = bytearray(_encoded(text))
    for _ in range(source.randint(1, 4)):
        place = source.randrange(len(content) + 1)
        content[place : place + source.randint(0, 3)] = bytes(source.choices(range(256), k=source.randint(0, 3)))
    return bytes(content)


def _replace_word(text: str, source: random.Random) -> bytes:
    words = text.split(" ")
    words[source.randrange(len(words))] = _value(source)
    return _encoded(" ".join(words))


def _cut(text: str, source: random.Random) -> bytes:
    return _encoded(text[: source.randrange(len(text) + 1)])


def _multiply(text: str, source: random.Random) -> bytes:
    """Anchors that name each other several times."""
    each, levels = source.randint(1, 9), source.randint(1, 8)
    lines = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * each)}]" for n in range(1, levels + 1)]
    return _encoded("\n".join(["l0: &l0 [1]", *lines, text]))


SPOILERS: tuple[Callable[[str, random.Random], bytes], ...] = (
    *(_replace_value, _replace_value, _replace_value, _replace_word, _replace_word),
    *(_change_line, _change_line, _change_bytes, _cut, _multiply),
)  # fmt: skip


class _TooLong(BaseException):
    """A round hangs."""


def _limited(call: Callable[[], bool]) -> bool:
    def ring(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 3 * ROUND_SECONDS)
    try:
        return call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(dict(sorted(main(options.rounds, options.seed).items())))
