"""The runs of a comparison that is planned, and what they say."""

import json
import math
import shlex
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infoprompt.config import FewShotSettings
from launcher.choosing.asked import Asked, Rows
from launcher.choosing.candidates import Candidate, Plan
from launcher.choosing.cells import GivenCell, HeldOutCell
from launcher.choosing.deadline import Clock, OutOfTime, at_most
from launcher.choosing.methods import METHODS
from launcher.choosing.probe import Estimate
from launcher.choosing.recommended import recommend
from launcher.choosing.rows import Facts
from launcher.choosing.screen import LiveTable, result_table
from launcher.choosing.study_files import write_chosen
from launcher.choosing.verdict import (
    Choice,
    OnTestRows,
    Scored,
    as_json,
    choice_lines,
    choose_best,
    confirmation,
    cost_line,
    curve_lines,
    gap_between,
    taken,
)
from launcher.report import relative, tool
from launcher.studies.jobs import Cell, Job
from launcher.studies.plan import Study, show_setting
from launcher.studies.queue import forget_failures
from launcher.studies.results import RunRow, run_row, write_csv
from launcher.studies.settings import size_name

if TYPE_CHECKING:
    from rich.console import Console

LEAST_SCORED = 2
"""Seeds that a method needs to be chosen."""
MARGIN_SECONDS = 10.0
"""Before the end of the time, for workers to end and tables to be written."""
END_SECONDS = 2.0
"""Of it, for the tables."""
LARGE_BYTES = 2**25
"""Of what a run has trained, for a start with more time: more, such as all weights, is not kept behind the test."""
LEAST_FOR_CURVE = 16
"""Rows from which on a part of them says something."""


class ComparisonFailed(RuntimeError):
    """No method could be scored."""


@dataclass
class Comparison:
    """A comparison that is planned."""

    asked: Asked
    folder: Path
    rows: Rows
    plan: Plan
    estimates: Mapping[str, Estimate]
    study: Study
    clock: Clock
    screen: "Console"
    quiet: bool

    def run(self) -> dict[str, Any]:
        """Train what is left, and tell the verdict; what came out, as plain values."""
        task, size = next(iter(self.study.config.tasks)), self.study.config.sizes[0]
        cells = [HeldOutCell(self.study, task, size, one.name, one.search_seeds) for one in self.plan.candidates]
        with LiveTable(cells, self.plan, self.screen, quiet=self.quiet) as shown:
            self._train(cells, self.plan.test_seconds, shown.update)
        scored = [one for cell in cells if (one := self._scored(cell))]
        unfinished = _unfinished(cells)
        if not scored:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in unfinished.items())
            raise ComparisonFailed(f"No method could be scored. {reasons}. Give more --minutes.")
        advice = recommend(self.rows.facts, self.rows.config.backbone.name)
        choice = choose_best(scored, self._held_out_share, advice.method.name)
        of_name = {cell.method: cell for cell in cells}
        smaller = self._smaller(choice, of_name)
        curve_method = smaller[0].method if smaller else choice.best.name
        curve = [(_train_rows(cell), cell.scores()) for cell in (*smaller, of_name[curve_method])] if smaller else []
        tested = self._test(choice, of_name)
        metric = self.rows.facts.metric
        lines = choice_lines(choice, metric)
        lines += self._test_lines(choice, tested)
        cheaper = next((one for one in scored if one.name == choice.reference), None)
        lines.append(cost_line(choice.best, cheaper))
        lines += curve_lines(curve_method, curve, self._held_out_share)
        lines += self._text_lines(scored)
        lines += [f"Not finished in the time: {name} ({reason})." for name, reason in unfinished.items()]
        chosen, _ = write_chosen(
            self.folder, self.study, choice.best.name, of_name[choice.best.name].chosen or {}, self.rows.facts.num_rows
        )
        command = f"{tool('infoprompt')} train {shlex.quote(relative(str(chosen)))}"
        table = [self._row(one, of_name[one.name], tested) for one in scored]
        self.screen.print(result_table(table, metric, tested=bool(tested)), soft_wrap=False)
        self.screen.print("\n".join([*lines, f"To train it and save it: {command}"]))
        self._write([*cells, *smaller], tested, lines, command)
        return {
            **as_json(choice, scored),
            "verdict": lines,
            "command": command,
            "config": str(chosen),
            "setting": of_name[choice.best.name].chosen,
            "test": {name: dict(one.scores) for name, one in tested.items()},
            "curve": {"method": curve_method, "sizes": [{"rows": rows, "scores": scores} for rows, scores in curve]},
            "unfinished": unfinished,
            "seconds": round(self.clock.used, 1),
            "output_dir": str(self.folder),
        }

    @property
    def _held_out_share(self) -> float:
        if self.rows.facts.num_held_out:
            return 0.0
        return len(self.rows.splits.validation) / len(self.rows.splits.train)

    def _train(
        self, cells: Sequence[HeldOutCell], kept_seconds: float, changed: Callable[[Sequence[Job], Job | None], None]
    ) -> None:
        """Train cells in their order, as far as the time goes that is not kept for later."""
        from launcher.studies.loop import train_study

        forget_failures(cells)
        planned = {one.name: one for one in self.plan.candidates}

        def next_seconds() -> float:
            left = (planned[cell.method] for cell in cells if not _complete(cell))
            return next((one.run_seconds for one in left), 0.0)

        def watched(running: Sequence[Job], ended: Job | None) -> None:
            changed(running, ended)
            if ended and isinstance(ended.cell, HeldOutCell) and _complete(ended.cell):
                ended.cell.drop_saved()
            if ended and not running and next_seconds() > self.clock.left - kept_seconds - MARGIN_SECONDS:
                raise OutOfTime

        left = self.clock.left - kept_seconds - MARGIN_SECONDS
        try:
            if left > 0:
                with at_most(left):
                    train_study(cells, parent_run_id=None, changed=watched)
        except OutOfTime:
            return

    def _scored(self, cell: HeldOutCell) -> Scored | None:
        scores = cell.scores()
        if len(scores) < min(LEAST_SCORED, len(self.study.config.seeds)) or not _complete(cell):
            return None
        results = [result for job in cell.final_jobs if (result := job.result())]
        planned, estimate = self._planned(cell.method), self.estimates[cell.method]
        measured = statistics.fmean(result["seconds"] for result in results)
        return Scored(
            cell.method,
            scores,
            measured if planned.updates else estimate.start,
            estimate.row or None,
            None if planned.method.asks else results[0]["trained_parameters"],
            planned.method.trained != "body",
        )

    def _planned(self, name: str) -> Candidate:
        return next(one for one in self.plan.candidates if one.name == name)

    def _smaller(self, choice: Choice, cells: Mapping[str, HeldOutCell]) -> list[GivenCell]:
        """A quarter and a half of the labels, by the best method or a quick one; none where there is no time."""
        facts, num_train = self.rows.facts, len(self.rows.splits.train)
        left = self.clock.left - self.plan.test_seconds - MARGIN_SECONDS
        quick = [one.name for one in self.plan.candidates if one.method.trained == "head"]
        seconds = {name: 2 * len(self.study.config.seeds) * self._planned(name).run_seconds for name in cells}
        names = [name for name in (choice.best.name, *quick) if seconds[name] < left]
        names = [name for name in names if cells[name].scores() and METHODS[name].reads_labels]
        if not names or facts.num_rows < LEAST_FOR_CURVE:
            return []
        cell = cells[names[0]]
        sizes = {size_name(size): size for part in (4, 2) if (size := _few_shot(facts, num_train // part))}
        smaller = [GivenCell(self.study, cell.task, size, cell.method, cell.chosen or {}) for size in sizes.values()]
        if not self.quiet:
            self.screen.print(f"{cell.method} with a quarter and a half of the labels")
        self._train(smaller, self.plan.test_seconds, lambda running, ended: None)
        return smaller

    def _test(self, choice: Choice, cells: Mapping[str, HeldOutCell]) -> dict[str, OnTestRows]:
        """Read the test rows, once: by what the best method and the one it is compared with have trained."""
        if not self.rows.facts.num_test:
            return {}
        path, names = self.folder / "test.json", [choice.best.name, *filter(None, [choice.reference])]
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        # a start with more time may have chosen another setting
        kept = {name: one for name, one in kept.items() if name in cells and one["setting"] == cells[name].chosen}
        if missing := [name for name in names if name not in kept]:
            if not self.quiet:
                self.screen.print(f"test rows: {' and '.join(missing)}")
            try:
                with at_most(max(0.0, self.clock.left - END_SECONDS)):
                    kept |= {name: self._tested(cells[name]) for name in missing}
            except OutOfTime:
                return {}
            path.write_text(json.dumps(kept), encoding="utf-8")
        for cell in cells.values():
            cell.drop_saved(LARGE_BYTES)
        return {name: OnTestRows.of(kept[name]) for name in names if kept[name]["scores"]}

    def _tested(self, cell: HeldOutCell) -> dict[str, Any]:
        from infoprompt.artifact import Artifact
        from infoprompt.evaluate import evaluate_examples

        metric = self.rows.facts.metric
        scores: dict[int, float] = {}
        right: dict[int, list[bool]] = {}
        for seed, folder in list(cell.saved().items())[: self.plan.test_seeds]:
            loaded = Artifact.from_pretrained(folder, backbone=self.rows.config.backbone.name)
            found = evaluate_examples(loaded, self.rows.splits.test)
            scores[seed] = found.scores[metric]
            if metric == "accuracy" and loaded.task.classifies:
                right[seed] = (found.labels == found.predictions).tolist()
        return {"setting": cell.chosen, "scores": scores, "right": right}

    def _test_lines(self, choice: Choice, tested: Mapping[str, OnTestRows]) -> list[str]:
        if not self.rows.facts.num_test:
            return [
                "These are figures of held-out rows, which also chose the method, so the best one's is a little high. "
                "Give --test for rows that choose nothing."
            ]
        if choice.best.name not in tested:
            return ["The test rows were not read: there was no time left, or what it trained was too large to be kept."]
        told = ", ".join(f"{name} {one.text()}" for name, one in tested.items())
        lines = [f"On {self.rows.facts.num_test:,} test rows, read once: {told}."]
        if (other := choice.reference) and other in tested:
            lines.append(confirmation(choice.best.name, other, tested[choice.best.name], tested[other]))
        return lines

    def _text_lines(self, scored: Sequence[Scored]) -> list[str]:
        of = {one.name: one for one in scored}
        if "label_information" in of and "head_only" in of:
            gap = gap_between(of["label_information"], of["head_only"], self._held_out_share)
            return [f"Texts without labels: {gap.text()}."]
        facts = self.rows.facts
        if facts.kind in METHODS["label_information"].kinds and not facts.num_unlabelled:
            return [
                "Texts without labels were not tried. A thousand or more of them help where classes are topics or "
                "intents: give --unlabelled."
            ]
        return []

    def _row(self, one: Scored, cell: HeldOutCell, tests: Mapping[str, OnTestRows]) -> list[str]:
        test = [f"{tests[one.name].mean:.4f}" if one.name in tests else "-"] if tests else []
        shown = (f"{one.mean:.4f}", f"{one.deviation:.4f}", str(len(one.scores)), taken(one.run_seconds))
        return [one.name, show_setting(cell.chosen or {}), *shown, *test]

    def _write(
        self,
        cells: Sequence[HeldOutCell],
        tested: Mapping[str, OnTestRows],
        lines: Sequence[str],
        command: str,
    ) -> None:
        rows = []
        for cell in cells:
            jobs = [job for job in cell.jobs if job.ended]
            chosen, scores = json.dumps(cell.chosen), tested[cell.method].scores if cell.method in tested else {}
            of_all = not isinstance(cell, GivenCell)
            for row in (run_row(job) for job in jobs):
                known = scores.get(row.seed) if of_all and row.setting == chosen else None
                rows.append(replace(row, test=known))
        write_csv(self.folder / "runs.csv", rows, RunRow)
        text = [f"# {self.rows.facts.name}", *lines, f"    {command}"]
        (self.folder / "verdict.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _complete(cell: Cell) -> bool:
    """Whether each of its runs has ended."""
    return all(job.ended for job in (*cell.search_jobs, *cell.final_jobs)) and bool(cell.final_jobs or cell.search_jobs)


def _unfinished(cells: Iterable[HeldOutCell]) -> dict[str, str]:
    """Methods without a score, and why."""
    found = {}
    for cell in cells:
        failures = [message for job in cell.jobs if (message := job.failure())]
        if failures and len(cell.scores()) < LEAST_SCORED:
            found[cell.method] = failures[0]
        elif not _complete(cell):
            found[cell.method] = f"{sum(job.ended for job in cell.jobs)} runs ended"
    return found


def _few_shot(facts: Facts, count: int) -> FewShotSettings:
    """So many training rows; of each class as many, where the file has it so."""
    if facts.num_classes and not facts.skewed and facts.kind in METHODS["majority"].kinds:
        return FewShotSettings(per_class=math.ceil(count / facts.num_classes), short_classes="take_all")
    return FewShotSettings(total=max(2, count))


def _train_rows(cell: HeldOutCell) -> int:
    results = [result for job in cell.final_jobs if (result := job.result())]
    return int(results[0]["rows"]["train"]) if results else 0
