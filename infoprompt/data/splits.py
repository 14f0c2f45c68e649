"""The rows of a run: training, validation and test, from `data.*` settings."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.few_shot import hold_out_sample, hold_out_share, is_few_shot, sample_few_shot
from infoprompt.data.forms import adapter
from infoprompt.data.infer import infer_task
from infoprompt.data.parts import Parts, find_parts, no_rows
from infoprompt.data.rows import Example, read_examples
from infoprompt.data.task import KINDS, Source, Task
from infoprompt.data.tasks import TASKS, known_task


@dataclass(frozen=True)
class Splits:
    """What is trained on, what chooses the best state, and what is only reported."""

    task: Task
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    """May be empty."""
    description: str
    """One line for people: what was inferred, how many rows, where the validation rows came from."""


def load_splits(settings: DataSettings, seed: int) -> Splits:
    """Read, check and split the data.

    Validation rows are those of `data.validation`. Without it they are those that a known task has beside its test
    rows, if there is no few-shot size; else they are held out of the training rows: with a few-shot size a second
    sample of that size from the rows not trained on, else `data.validation_share` of each class. Rows with the same
    text are never on both sides of that cut. Test rows choose nothing.

    Args:
        settings: `data.*`. A task known by name finds its own rows (see `parts`) if `data.train` is not given.
        seed: of the few-shot sample and the held-out rows; the same seed gives the same rows.
    Raises:
        ConfigError: naming the setting, file or row at fault.
    """
    parts = _parts(settings)
    assert parts.train is not None  # but for diagnostic tasks, which were refused
    rows = _read(parts.train, settings, parts)
    task = infer_task(rows, settings)
    _check_labels(rows, task, "training", parts.train)
    units = _units(rows)
    firsts = [unit[0] for unit in units]
    labels = _strata(firsts, task, settings)
    training = sample_few_shot(labels, settings.few_shot, seed, task.labels)
    chosen_on = settings.validation or (None if is_few_shot(settings.few_shot) else parts.validation)
    if chosen_on is not None:
        validation = _read_part(chosen_on, settings, task, "validation", parts)
        origin = f"from {chosen_on}"
    else:
        training, held_out = _hold_out(firsts, labels, training, settings, seed)
        validation = [row for unit in held_out for row in units[unit]]
        origin = f"held out of the training rows by seed {seed}"
    train = [row for unit in training for row in units[unit]]
    if task.classifies:
        _check_classes_drawn(train, settings)
    test = _read_part(parts.test, settings, task, "test", parts) if parts.test else []
    sizes = (
        f"{_training_text(train, rows, task)}, {len(validation):,} validation rows {origin}, {len(test):,} test rows"
    )
    classes = f", {task.num_classes} classes" if task.kind not in ("choice", "regression") else ""
    description = f"{task.name}: {KINDS[task.kind]}{classes}; {sizes}"
    return Splits(task, train, validation, test, description)


def _parts(settings: DataSettings) -> Parts:
    if settings.task is not None:
        _check_trainable(known_task(settings.task))
    if settings.train is not None:
        return Parts(settings.train, settings.test, origin="given")
    if settings.task is None:
        raise ConfigError(
            f"Neither data.train nor data.task is given. Give data.train a file or a hub split, or data.task one of "
            f"{', '.join(TASKS)}."
        )
    task = known_task(settings.task)
    parts = find_parts(task, settings.folder)
    if parts is None:
        raise no_rows(task, settings)
    return replace(parts, test=settings.test or parts.test)


def _check_trainable(task: Task) -> None:
    tested = (task.source or Source()).tests
    if tested:
        raise ConfigError(
            f"data.task is {task.name}, which has no training rows: it tests prompts that were trained on "
            f"{' or '.join(tested)}. Train with data.task={tested[0]}, then run "
            f"`infoprompt evaluate ARTIFACT --task {task.name}`."
        )


def _read(source: str, settings: DataSettings, parts: Parts) -> list[Example]:
    task = known_task(settings.task) if settings.task is not None else None
    try:
        return read_examples(source, settings.columns, adapt=adapter(task))
    except ConfigError as error:
        if task is not None and parts.origin == "hub" and source in (parts.train, parts.validation, parts.test):
            raise no_rows(task, settings, str(error)) from error
        raise


def _read_part(source: str, settings: DataSettings, task: Task, part: str, parts: Parts) -> list[Example]:
    examples = _read(source, settings, parts)
    _check_labels(examples, task, part, source)
    for number, example in enumerate(examples, 1):
        if not task.fits(example):
            raise ConfigError(
                f"The {part} row {number} of {source} is of the kind {example.kind}, but the task is of the kind "
                f"{task.kind}. All parts need the same columns."
            )
    return examples


def _check_labels(examples: Sequence[Example], task: Task, part: str, source: str) -> None:
    known = set(task.labels)
    for number, example in enumerate(examples, 1):
        if unknown := next((label for label in example.given_labels if label not in known), None):
            origin = (
                "the training rows have no such label" if task.name not in TASKS else f"{task.name} has no such label"
            )
            raise ConfigError(
                f"The {part} row {number} of {source} has the label {unknown!r}, but {origin}. "
                "Correct or remove the row, or check data.columns.label."
            )
        if example.choices is not None and len(example.choices) != task.num_classes:
            raise ConfigError(
                f"The {part} row {number} of {source} has {len(example.choices)} choices, but the training rows have "
                f"{task.num_classes}. Correct or remove the row."
            )
        if task.scale and example.value is not None and not task.scale[0] <= example.value <= task.scale[1]:
            low, high = task.scale
            if task.name in TASKS:
                raise ConfigError(
                    f"The {part} row {number} of {source} has the value {example.value:g}, but those of {task.name} "
                    f"run from {low:g} to {high:g}. Correct or remove the row, or check data.columns.value."
                )


def _units(rows: Sequence[Example]) -> list[list[Example]]:
    """Rows that are drawn together: all candidates of a question, else each row alone."""
    units: dict[str | int, list[Example]] = {}
    for number, row in enumerate(rows):
        units.setdefault(number if row.candidate is None else row.candidate.question, []).append(row)
    return list(units.values())


def _strata(rows: Sequence[Example], task: Task, settings: DataSettings) -> list[int]:
    """Class of each row, by which samples are drawn; all one for tags, answers and values."""
    if task.kind not in ("tags", "answer", "regression"):
        return task.ids(rows)
    if settings.few_shot.per_class is not None:
        raise ConfigError(
            f"data.few_shot.per_class is {settings.few_shot.per_class}, but the rows of {task.name} are "
            f"{KINDS[task.kind]} and have no class each. Use data.few_shot.total."
        )
    return [0] * len(rows)


def _hold_out(
    rows: Sequence[Example], labels: Sequence[int], training: list[int], settings: DataSettings, seed: int
) -> tuple[list[int], list[int]]:
    keys: list[Hashable] = [(row.text, row.pair, row.choices) for row in rows]
    if is_few_shot(settings.few_shot):
        return training, hold_out_sample(labels, keys, training, settings.few_shot, seed)
    return hold_out_share(labels, keys, settings.validation_share, seed)


def _check_classes_drawn(train: Sequence[Example], settings: DataSettings) -> None:
    if len({example.label for example in train}) < 2:
        raise ConfigError(
            f"All training rows drawn ({len(train)}) are of the class {train[0].label}. Use a larger "
            f"data.few_shot.total than {settings.few_shot.total}, or data.few_shot.per_class."
        )


def _training_text(train: Sequence[Example], rows: Sequence[Example], task: Task) -> str:
    text = f"{len(train):,} training rows"
    if len(train) < len(rows):
        text += f" of {len(rows):,}"
    if not task.classifies:
        return text
    num_seen = len({example.label for example in train})
    return text if num_seen == task.num_classes else f"{text} (only {num_seen} of the {task.num_classes} classes)"
