"""The suite's own tests of kernels, those that take a device: views, clean memory, offsets, far rows, autocast."""

import importlib.util
import os
from collections import Counter

import pytest

from tests.gpu.record import ROOT, Recorder

FILES = ("test_row_info_nce_impls.py", "test_pair_stats_impls.py", "test_frozen_linear_cross_entropy_impls.py")
DRY = "test_pair_stats_impls.py::test_autocast_neither_rounds_scores_nor_statistics"


class _Outcomes:
    """Writes each test's."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.passed = recorder, Counter[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file, _, test = report.nodeid.rsplit("/", 1)[-1].partition("::")
        if report.failed:
            lines = str(report.longrepr).strip().splitlines()
            reason = next((line for line in reversed(lines) if line.startswith("E ")), lines[-1] if lines else "")
            self.recorder.add(f"{file}, {test}", wrong=True, note=f"{report.when}: {reason[:200]}")
        elif report.passed and report.when == "call":
            self.recorder.judge(f"{test}: failures", 0, 0, group=f"{file}: failures")
            self.passed[file] += 1


def prove(recorder: Recorder, dry: bool) -> None:
    """Run them; each that fails is a wrong number."""
    folder = ROOT / "tests" / "infoprompt" / "kernels"
    chosen = [str(folder / DRY)] if dry else [str(folder / name) for name in FILES]
    plugin = _Outcomes(recorder)
    # warnings of other versions than the pinned ones are no errors here
    options = ["-q", "-p", "no:cacheprovider", "-p", "gpu.on_device", f"--rootdir={ROOT}", "-W", "default"]
    if not dry and importlib.util.find_spec("xdist"):
        options += ["--numprocesses", str(min(8, os.cpu_count() or 1))]
    code = pytest.main([*options, *chosen], plugins=[plugin])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        recorder.add("pytest", wrong=True, note=f"ended with {code!s}")
    recorder.add("tests passed", sum(plugin.passed.values()))
