"""docs/failures.md names tests that exist, and exit codes that commands have."""

import re
from pathlib import Path

from launcher import exits

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/failures.md").read_text(encoding="utf-8")


def test_every_failure_has_its_row_and_every_named_test_exists():
    rows = dict(re.findall(r"(?m)^\| (\d+) \|.*\| (.+) \|$", PAGE.partition("## Known failures")[2]))
    assert [int(number) for number in rows] == list(range(1, 44))
    files = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for text in files for name in re.findall(r"def (test_\w+)\(", text)}
    for number, tests in rows.items():
        named = re.findall(r"`(test_\w+)`", tests)
        assert named or tests == "none", f"row {number} names no test"
        assert set(named) <= there, f"row {number}"


def test_the_codes_are_those_of_commands():
    told = {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", PAGE.partition("## Known failures")[0])}
    assert told == {0, exits.STOPPED, exits.BAD_INPUT, exits.RESUMABLE, exits.LOST}
    for number in exits.SIGNALS:
        assert str(128 + number) in PAGE
