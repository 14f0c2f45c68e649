"""Which method `infoprompt train` takes where no config is named: a rule, with its reasons and their entry.

The rule knows what can be told before anything is trained: kind of task, rows, classes, balance, texts without labels,
and the backbone's name. `infoprompt compare` finds out by training, and is to be believed where the two differ.
"""

import importlib.util
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from infoprompt.config import ConfigError, RunConfig, compose_config
from infoprompt.data.splits import Splits, load_splits
from infoprompt.nested import flat_nested
from infoprompt.yaml_files import nested_setting
from launcher.choosing.methods import METHODS, Method
from launcher.choosing.probe import probe
from launcher.choosing.rows import Facts, facts_of
from launcher.choosing.schedule import (
    ENOUGH_TO_STOP,
    EVALUATIONS,
    PATIENCE,
    SMALL_ENOUGH_FOR_ALL,
    schedule,
    validation_share,
)

FEW_A_CLASS = 16
"""Rows a class up to which texts without labels were worth more than any prompt (AG News, BANKING77)."""
MANY_CLASSES = 20
LEAST_TOPICS = 3
"""Classes from which on these texts are taken: with two, and with classes of uneven size, the plain form harmed. The
guarded one harmed with many classes of few rows (BANKING77, 4: 0.67 on held-out rows against 0.78 without texts)."""
LEAST_TEXTS = 1000
OF_THE_METHOD = ("prompt.", "head.kind", "head.fit", "objective.", "backbone.frozen", "backbone.lora_")
"""Settings that name a method; where one is given, the rule stands back."""


@dataclass(frozen=True)
class Recommendation:
    """A method for rows, and why."""

    method: Method
    reason: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Dotted settings beside those of the method."""


@dataclass(frozen=True)
class Chosen:
    """What a run without a config trains."""

    name: str
    config: RunConfig
    lines: Sequence[str]
    """What is taken, and why, for people."""
    splits: Splits


def recommend(facts: Facts, backbone: str) -> Recommendation:
    """The method that the evidence supports for such rows on this backbone."""
    per_class = f"{facts.num_classes} classes with {facts.rows_per_class:.0f} rows each"
    if facts.kind != "single":
        small = backbone == "minilm" or importlib.util.find_spec("peft") is None
        return _tuned(
            facts,
            "full_fine_tuning" if small else "lora",
            f"{facts.kind} rows need a backbone that changes: on relations all weights reach 0.575, LoRA 0.500, "
            "the best prompt 0.438, a head 0.404 (EXPERIMENTS 2026-11-29)",
        )
    topics = facts.num_classes >= LEAST_TOPICS and not facts.skewed
    if facts.num_unlabelled >= LEAST_TEXTS and facts.rows_per_class <= FEW_A_CLASS and topics:
        return Recommendation(
            METHODS["label_information"],
            f"{per_class} and {facts.num_unlabelled:,} texts without labels: a head that reads these was 0.03 to 0.10 "
            "above the same head on topics and intents (EXPERIMENTS 2026-11-29)",
            {"objective.label_form": "plain"},
        )
    if facts.num_classes >= MANY_CLASSES and facts.rows_per_class > FEW_A_CLASS / 2:
        return Recommendation(
            METHODS["logistic_regression"],
            f"{per_class}: on BANKING77 with 16 a logistic regression (0.874) was above a trained head "
            "(EXPERIMENTS 2026-11-29)",
        )
    if facts.num_classes >= MANY_CLASSES:
        return _tuned(
            facts,
            "head_only",
            f"{per_class}: on BANKING77 with 4 a head (0.789) was above LoRA, all weights and prompts "
            "(EXPERIMENTS 2026-11-29)",
        )
    return _tuned(
        facts,
        "adaption_prompt",
        "keys and values at every layer were level with LoRA and all weights on topics and sentiment, and above a head "
        "(EXPERIMENTS 2026-11-21 and 2026-11-29)",
    )


def _tuned(facts: Facts, name: str, reason: str) -> Recommendation:
    """A method at the rate that goes with so many classes."""
    return Recommendation(METHODS[name], reason, METHODS[name].default(facts.num_classes))


def choose(overrides: Sequence[str]) -> Chosen:
    """The config of a run that names rows and no recipe; explicit settings win.

    Args:
        overrides: `section.key=value` strings, `data.train` or `data.task` among them.
    Raises:
        ConfigError: no rows are named, they cannot be read, or a setting does not fit.
    """
    given = {override.partition("=")[0].strip() for override in overrides}
    if not given & {"data.train", "data.task"}:
        raise ConfigError(
            "Neither a config nor rows are given. Name a config, such as configs/quickstart.yaml, or the rows, as "
            "data.train=train.csv."
        )
    asked = compose_config([METHODS["head_only"].settings], overrides)
    facts = facts_of(load_splits(asked.data, asked.data_seed), asked.data)
    advice = recommend(facts, asked.backbone.name)
    if own := sorted(key for key in given if key.startswith(OF_THE_METHOD)):
        advice = Recommendation(METHODS["head_only"], f"{', '.join(own)} say what is trained")
    layer = {**advice.changes}
    if facts.kind == "relation":
        layer["head.pooling"] = "entities"
    if "data.validation_share" not in given:
        layer["data.validation_share"] = validation_share(facts.num_rows)
    splits = load_splits(_composed(advice, layer, overrides).data, asked.data_seed)
    size = asked.data.batch_size if "data.batch_size" in given else None
    layer |= _timing(advice.method, splits, given, size)
    config = _composed(advice, layer, overrides)
    if config.updates and "evaluation.every_steps" not in given:  # of the updates that the run really makes
        total = config.optim.total_steps(-(-len(splits.train) // config.data.batch_size))
        config = _composed(advice, {**layer, "evaluation.every_steps": max(1, total // EVALUATIONS)}, overrides)
    name, told = ("own", "your own method") if own else (advice.method.name, advice.method.name)
    return Chosen(name, config, [f"{told}: {advice.reason}", _said(config, splits)], splits)


def _composed(advice: Recommendation, layer: Mapping[str, Any], overrides: Sequence[str]) -> RunConfig:
    layers = [advice.method.settings, *(nested_setting(key, value) for key, value in layer.items())]
    return compose_config(layers, overrides)


def _timing(method: Method, splits: Splits, given: Set[str], size: int | None) -> dict[str, Any]:
    """Batch, updates, patience and the last training, where they are not given otherwise."""
    settings = flat_nested(schedule(method, len(splits.train), size))
    if not settings:
        return {"run.final_on_all": len(splits.train) <= SMALL_ENOUGH_FOR_ALL}
    if "optim.max_steps" in given:
        settings["optim.epochs"] = 10**6
    elif "optim.epochs" in given:
        del settings["optim.max_steps"]
    chosen = method.name != "label_information" and len(splits.validation) >= ENOUGH_TO_STOP
    if chosen and given.isdisjoint({"evaluation.state", "evaluation.patience"}):
        settings["evaluation.patience"] = PATIENCE
    elif given.isdisjoint({"evaluation.state", "evaluation.patience"}):
        settings["evaluation.state"] = "last"
    settings["run.final_on_all"] = len(splits.train) <= SMALL_ENOUGH_FOR_ALL
    return settings


def _said(config: RunConfig, splits: Splits) -> str:
    """Rate, epochs, batch and patience in one line."""
    rows = f"{len(splits.train):,} training and {len(splits.validation):,} held-out rows"
    if not config.updates:
        return f"{rows}; nothing is trained by updates"
    per_epoch = -(-len(splits.train) // config.data.batch_size)
    total = config.optim.total_steps(per_epoch)
    stop = f"patience {config.evaluation.patience} of up to {EVALUATIONS} evaluations"
    if config.evaluation.patience is None:
        few = len(splits.validation) < ENOUGH_TO_STOP
        kept = f"the {config.evaluation.state} state is kept"
        stop = f"{kept} (too few held-out rows to stop by)" if few else kept
    whole = "; then once more on all rows" if config.run.final_on_all else ""
    return (
        f"{rows}; rate {config.optim.lr:g}, {total:,} updates of {config.data.batch_size} rows "
        f"({total / per_epoch:.1f} epochs), {stop}{whole}"
    )


def time_line(chosen: Chosen) -> str:
    """About how long the run takes, measured by a few of its updates."""
    from infoprompt.bar import duration

    config, splits = chosen.config, chosen.splits
    measured = probe(config, splits)
    total = config.optim.total_steps(-(-len(splits.train) // config.data.batch_size)) if config.updates else 0
    evaluations = -(-total // (config.evaluation.every_steps or max(1, total))) or 1
    seconds = measured.run(total, evaluations, len(splits.test))
    if config.run.final_on_all:
        seconds += measured.run(total, 0)
    return f"about {duration(seconds)}" + (", less if patience ends it" if config.evaluation.patience else "")
