"""The table that the proof prints, and the same as Markdown and JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.gpu.record import Finding, Records


def written(records: Records, folder: Path, command: str) -> str:
    """Write `proof.json` and `proof.md`; the table for the terminal."""
    values = {"command": command, "wrong": records.wrong, **asdict(records)}
    (folder / "proof.json").write_text(json.dumps(values, indent=1))
    (folder / "proof.md").write_text(_markdown(records, command))
    return _table(records)


def _table(records: Records) -> str:
    lines = [", ".join(f"{name} {value}" for name, value in records.about.items())]
    for end in records.ends:
        lines.append(f"\n{end.part}: {_ended(records, end.part)}")
        for finding in _folded(records, end.part):
            mark = "WRONG" if finding.wrong else ""
            lines.append(
                f"  {mark:5} {finding.name:58} {_value(finding):>14} {_limit(finding):16} {finding.note}".rstrip()
            )
    lines.append("\n" + _verdict(records))
    return "\n".join(lines) + "\n"


def _markdown(records: Records, command: str) -> str:
    about = ", ".join(f"{name} {value}" for name, value in records.about.items())
    lines = ["Question: does what was written for a GPU run right on one, and how fast?", "", "```", command, "```", ""]
    lines += [about + ".", ""]
    for end in records.ends:
        lines += [f"{end.part}: {_ended(records, end.part)}.", ""]
        findings = _folded(records, end.part)
        if findings:
            lines += ["| what | value | right if | |", "| --- | ---: | --- | --- |"]
        for finding in findings:
            cells = [
                finding.name,
                _value(finding),
                _limit(finding),
                ("**wrong** " if finding.wrong else "") + finding.note,
            ]
            lines.append("| " + " | ".join(cell.replace("|", "/").strip() for cell in cells) + " |")
        lines += [""] if findings else []
    return "\n".join([*lines, f"Verdict: {_verdict(records)}", ""])


def _verdict(records: Records) -> str:
    wrong = sum(finding.wrong for finding in records.findings)
    judged = sum(finding.limit is not None or finding.wrong for finding in records.findings)
    incomplete = [f"{end.part} {end.state}" for end in records.ends if end.state != "done"]
    words = f"{judged} numbers were checked and {wrong or 'none'} {'are' if wrong > 1 else 'is'} wrong"
    return words + (f"; {', '.join(incomplete)}" if incomplete else "") + "."


def _ended(records: Records, part: str) -> str:
    end = next(end for end in records.ends if end.part == part)
    return f"{end.state}{f' after {end.seconds:.0f} s' if end.seconds else ''}{f', {end.note}' if end.note else ''}"


def _folded(records: Records, part: str) -> list[Finding]:
    """A part's findings, those of a group as its worst one."""
    lines: list[Finding] = []
    groups: dict[str, list[Finding]] = {}
    for finding in records.findings:
        if finding.part != part:
            continue
        if not finding.group or finding.wrong:
            lines.append(finding)
        else:
            groups.setdefault(finding.group, []).append(finding)
    return lines + [_worst(group, findings) for group, findings in groups.items()]


def _worst(group: str, findings: Sequence[Finding]) -> Finding:
    worst = max(findings, key=lambda finding: (finding.value or 0) / (finding.limit or 1))
    note = f"the nearest to its limit of {len(findings)}: {worst.name}"
    return Finding(worst.part, group, worst.value, worst.unit, worst.limit, False, note)


def _value(finding: Finding) -> str:
    if finding.value is None:
        return "-"
    number = f"{finding.value:.4g}" if abs(finding.value) < 1e5 else f"{finding.value:,.0f}"
    return f"{number} {finding.unit}".strip()


def _limit(finding: Finding) -> str:
    return "" if finding.limit is None else f"at most {finding.limit:.3g}"
