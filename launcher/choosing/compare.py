"""`infoprompt compare`: what works on rows of one's own, by how much, and what it costs."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infoprompt.bar import duration
from infoprompt.config import ConfigError, compose_config
from infoprompt.data.splits import load_splits
from infoprompt.data.unlabelled import LEAST_ROWS
from infoprompt.folder_lock import held, inside
from launcher.choosing.asked import PROBE_NAME, Asked, Rows, keep, kept_of
from launcher.choosing.candidates import Plan, make_plan, misfits
from launcher.choosing.deadline import Clock, OutOfTime, at_most
from launcher.choosing.methods import METHODS
from launcher.choosing.probe import Estimate, probe
from launcher.choosing.recommended import recommend
from launcher.choosing.rows import facts_of, read_by
from launcher.choosing.running import Comparison, ComparisonFailed
from launcher.choosing.screen import left_out_lines, plan_table
from launcher.choosing.study_files import base_settings, method_settings, size_of, write_study
from launcher.processes import prepare_environment
from launcher.report import configure_logging, console, print_json
from launcher.studies.plan import DECIDED, POINTS

if TYPE_CHECKING:
    from rich.console import Console

PROBE_SHARE = 0.3
"""Most of the time that is used to measure what runs take."""
NO_TIME = "there was no time to measure it"


def compare(
    asked: Asked,
    folder: Path,
    *,
    plan_only: bool = False,
    json_output: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Compare methods on rows of one's own within a time, or go on with it, and say what came out.

    Args:
        asked: rows, backbone, time and settings for every run.
        folder: where everything is written.
        plan_only: only measure, and show what would be trained.
        json_output: one JSON object as the last line of standard output.
        quiet: no table of what is going on.
        debug: more log lines.
    Raises:
        ConfigError: rows or settings do not fit, or the folder holds a comparison of others.
        ComparisonFailed: no method could be scored.
    """
    clock = Clock(60 * asked.minutes)
    configure_logging(quiet=True, debug=debug)
    prepare_environment(asked.workers)
    screen = console(json_output)
    rows = _look(asked)
    read = read_by(rows.config, [*rows.splits.train])
    screen.print("\n".join([*rows.facts.lines(), *read.lines()]))
    with held(inside(folder), f"--output is {folder}", "a comparison"):
        kept = kept_of(asked, folder)
        estimates, left_out = _measure(asked, rows, folder, kept, clock, screen)
        plan = _plan(asked, rows, estimates, left_out, kept, clock)
        keep(folder, asked, estimates, left_out, plan)
        screen.print(plan_table(plan, asked.minutes), soft_wrap=False)
        screen.print("\n".join(left_out_lines(plan.left_out)))
        if plan_only:
            if json_output:
                print_json({"facts": vars(rows.facts), "reading": read.as_json(), "plan": plan.as_json()})
            return
        study = write_study(
            folder,
            rows.base,
            plan.candidates,
            rows.facts,
            asked.overrides,
            num_train=len(rows.splits.train),
            unlabelled=asked.unlabelled,
            workers=asked.workers,
        )
        values = Comparison(asked, folder, rows, plan, estimates, study, clock, screen, quiet).run()
    if json_output:
        print_json({"facts": vars(rows.facts), "reading": read.as_json(), "plan": plan.as_json(), **values})


def _look(asked: Asked) -> Rows:
    """The rows with what is told of them; of a large file a sample is what runs are trained on."""
    check_overrides(asked.overrides)
    plain = METHODS["head_only"].settings
    first = compose_config([plain, {"backbone": {"name": asked.backbone}, "data": asked.data()}], asked.overrides)
    facts = facts_of(load_splits(first.data, 0), first.data)
    base = base_settings(asked.data(), asked.backbone, facts)
    texts: dict[str, Any] = {"data": {"unlabelled": asked.unlabelled}} if asked.unlabelled else {}
    size: dict[str, Any] = {"data": {"few_shot": size_of(facts)}}
    config = compose_config([plain, base, size, texts], asked.overrides)
    try:
        splits = load_splits(config.data, 0)
    except ConfigError as error:
        if f"under {LEAST_ROWS} the term harms" not in str(error):
            raise
        config = compose_config([plain, base, size], asked.overrides)
        splits = load_splits(config.data, 0)
    metric = config.evaluation.metric or facts.metric
    return Rows(replace(facts, num_unlabelled=len(splits.unlabelled.used), metric=metric), base, splits, config)


def _measure(
    asked: Asked, rows: Rows, folder: Path, kept: Mapping[str, Any], clock: Clock, screen: "Console"
) -> tuple[dict[str, Estimate], dict[str, str]]:
    """What a run of each method takes, the cheapest first; those that do not fit are named with the reason."""
    more_time = bool(kept) and asked.minutes > kept["minutes"]
    if kept and not (more_time and NO_TIME in kept["left_out"].values()):
        return {name: Estimate(**one) for name, one in kept["estimates"].items()}, dict(kept["left_out"])
    left_out = misfits(rows.facts, rows.config, texts_given=asked.unlabelled is not None)
    screen.print(
        f"measuring what a run of each method takes, about {duration(PROBE_SHARE * 60 * asked.minutes)} at most"
    )
    estimates: dict[str, Estimate] = {}
    for name, method in METHODS.items():
        if name in left_out:
            continue
        if method.trained == "body" and clock.used > PROBE_SHARE * 60 * asked.minutes:
            left_out[name] = NO_TIME
            continue
        settings = method_settings(method, len(rows.splits.train), asked.unlabelled)
        decided = {**method.default(rows.facts.num_classes), "run.output_dir": str(folder / PROBE_NAME / name)}
        decided |= {f"data.few_shot.{key}": value for key, value in size_of(rows.facts).items()}
        try:
            config = compose_config([rows.base, settings], asked.overrides, decided)
            with at_most(clock.left):
                if not estimates:  # the first one loads modules and the backbone, which stay
                    probe(config, rows.splits)
                estimates[name] = probe(config, rows.splits)
        except ConfigError as error:
            left_out[name] = f"it does not fit: {_first_clause(error)}"
        except OutOfTime:
            left_out[name] = NO_TIME
        except RuntimeError as error:  # torch's, such as for want of memory
            left_out[name] = f"it failed: {_first_clause(error)}"
    shutil.rmtree(folder / PROBE_NAME, ignore_errors=True)
    plain = [one.row for name, one in estimates.items() if METHODS[name].trained == "body" and one.row]
    for name, one in estimates.items():  # others read kept states of held-out rows, and have none of test rows
        if METHODS[name].asks:
            estimates[name] = replace(one, row=one.start / len(rows.splits.validation))
        elif METHODS[name].trained != "body":
            estimates[name] = replace(one, row=min(plain, default=0.0))
    if not estimates:
        raise ComparisonFailed(f"No method could be tried. {'; '.join(left_out_lines(left_out))}")
    return estimates, left_out


def _plan(
    asked: Asked,
    rows: Rows,
    estimates: Mapping[str, Estimate],
    left_out: Mapping[str, str],
    kept: Mapping[str, Any],
    clock: Clock,
) -> Plan:
    """The plan of an earlier start with the same time, which its runs belong to; else a new one."""
    if kept and kept["minutes"] == asked.minutes:
        return Plan.load(kept["plan"])
    advice = recommend(rows.facts, rows.config.backbone.name)
    return make_plan(
        rows.facts, estimates, left_out, len(rows.splits.train), clock.left, advice.method.name, asked.workers
    )


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise ConfigError for a setting that a comparison tries or decides itself: it would be lost."""
    tried = {key for method in METHODS.values() for key in method.grid if key != POINTS}
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in tried or key in DECIDED or key.startswith("search"):
            raise ConfigError(f"{override} is given, but a comparison decides {key} itself. Leave it out.")


def _first_clause(error: Exception) -> str:
    return str(error).splitlines()[0].partition(" (")[0].partition(". ")[0]
