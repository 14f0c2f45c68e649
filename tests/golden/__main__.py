"""Train the golden runs and compare them with what is committed, or with what another commit does here.

python -m tests.golden                    with curves/, bit for bit on the machine they are from, else to rounding
python -m tests.golden --against COMMIT   with that commit's code, bit for bit
python -m tests.golden --savings          with what a step saves by default, to rounding
python -m tests.golden --record           write curves/ anew, where numbers are meant to change
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .compare import differences
from .measure import machine
from .runs import DRAWS_BY_SHAPE, RUNS

TESTS = Path(__file__).resolve().parents[1]
CURVES = Path(__file__).parent / "curves"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 if nothing differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="RUN", help=f"only these of {', '.join(run.name for run in RUNS)}")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--against", metavar="COMMIT", help="compare with what this commit's code does")
    what.add_argument("--savings", action="store_true", help="train with what a step saves, compare to rounding")
    what.add_argument("--record", action="store_true", help="write the curves anew")
    chosen = parser.parse_args(arguments)
    names = chosen.names or [run.name for run in RUNS if not (chosen.savings and run.name in DRAWS_BY_SHAPE)]
    if unknown := set(names) - {run.name for run in RUNS}:
        parser.error(f"no golden run is called {', '.join(sorted(unknown))}")
    found = measured_by(TESTS.parent, names, savings=chosen.savings)
    if chosen.record:
        record(found)
        return 0
    wrong = []
    for name in names:
        if chosen.against is None:
            expected, exact = committed(name), False if chosen.savings else None
        else:
            expected, exact = {"machine": machine(), "run": before(chosen.against, name)}, True
        wrong += [f"{name}: {text}" for text in against(found[name], expected, exact=exact)]
    same_machine = committed(names[0])["machine"] == machine()
    exactly = chosen.against is not None or (same_machine and not chosen.savings)
    sys.stdout.writelines(f"{line}\n" for line in wrong[:40])
    how = "bit for bit" if exactly else "to rounding"
    sys.stdout.write(f"{len(names)} golden runs, compared {how}: {len(wrong)} differences\n")
    return 1 if wrong else 0


def measured_by(checkout: Path, names: Sequence[str], *, savings: bool = False) -> dict[str, Any]:
    """What the runs do with the code of a checkout, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        file = Path(folder) / "found.json"
        path = os.pathsep.join([str(checkout), str(TESTS)])
        alone = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DS_ACCELERATOR": "cpu"}
        environment = {**os.environ, **alone, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        command = [sys.executable, "-m", "golden.measure", str(file), *["--savings"] * savings, *names]
        subprocess.run(command, env=environment, cwd=folder, check=True)
        return dict(json.loads(file.read_text())["runs"])


_before: dict[str, dict[str, Any]] = {}


def before(commit: str, name: str) -> Any:
    """What a run did at another commit; all of them are trained at the first call."""
    if commit not in _before:
        with tempfile.TemporaryDirectory(prefix="golden-") as folder:
            tree = Path(folder) / "checkout"
            git = ["git", "-C", str(TESTS.parent), "worktree"]
            subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
            try:
                _before[commit] = measured_by(tree, [run.name for run in RUNS])
            finally:
                subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    return _before[commit][name]


def record(found: dict[str, Any]) -> None:
    """Write what runs did as what they are to do."""
    CURVES.mkdir(exist_ok=True)
    for name, run in found.items():
        text = json.dumps({"machine": machine(), "run": run}, indent=1, sort_keys=True)
        (CURVES / f"{name}.json").write_text(text + "\n")


def committed(name: str) -> dict[str, Any]:
    """`machine` and `run` of a committed curve."""
    return dict(json.loads((CURVES / f"{name}.json").read_text()))


def against(found: Any, expected: dict[str, Any], *, exact: bool | None = None) -> list[str]:
    """Differences of a run, to the bit if it was recorded on such a machine or `exact` says so."""
    exact = expected["machine"] == machine() if exact is None else exact
    return list(differences(found, expected["run"], exact=exact))


if __name__ == "__main__":
    sys.exit(main())
