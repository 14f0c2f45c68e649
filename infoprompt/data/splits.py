"""The rows of a run: training, validation and test, from `data.*` settings."""

from collections.abc import Sequence
from dataclasses import replace

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.few_shot import hold_out_sample, hold_out_share, is_few_shot, sample_few_shot
from infoprompt.data.infer import infer_task, kind_of, majority
from infoprompt.data.kept_splits import Splits, kept_splits
from infoprompt.data.labels import label_notes, merged_spellings
from infoprompt.data.mapped_rows import chosen
from infoprompt.data.places import RowSource, source_name
from infoprompt.data.published_formats import adapter
from infoprompt.data.rows import Example, labels_of
from infoprompt.data.sources import Dialect
from infoprompt.data.split_rows import SkippedRow, SplitRows, doubling_notes, numbers_of, settle
from infoprompt.data.task import KINDS, Source, Task
from infoprompt.data.task_files import TaskFiles, find_task_files, no_rows
from infoprompt.data.tasks import TASKS, known_task
from infoprompt.data.unlabelled import UnlabelledTexts, check_kind, choose_texts, read_texts


def load_splits(settings: DataSettings, seed: int) -> Splits:
    """Read, check and split the data.

    Validation rows are those of `data.validation`. Without it they are those that a known task has beside its test
    rows, if there is no few-shot size. Else they are held out of the training rows: `data.validation_share` of each
    class, or, with a few-shot size, a second sample of that size from the rows not trained on. Rows with the same text
    are never on both sides of that cut. Test rows choose nothing.

    Args:
        settings: `data.*`. A task known by name finds its own rows (see `parts`) if `data.train` is not given.
        seed: of the few-shot sample and the held-out rows; the same seed gives the same rows.
    Raises:
        ConfigError: naming the setting, file or row at fault.
    """
    parts = _parts(settings)
    assert parts.train is not None  # but for diagnostic tasks, which were refused
    texts = None if settings.unlabelled in ("rest", "transductive") else settings.unlabelled
    given = (parts.train, settings.validation or parts.validation, parts.test, texts)
    return kept_splits(settings, seed, [source for source in given if source], lambda: _split(parts, settings, seed))


def _split(parts: TaskFiles, settings: DataSettings, seed: int) -> Splits:
    assert parts.train is not None
    train = _read("training", parts.train, settings, parts)
    chosen_on = settings.validation or (None if is_few_shot(settings.few_shot) else parts.validation)
    given = {"validation": chosen_on, "test": parts.test}
    others = {name: _read(name, source, settings, parts) for name, source in given.items() if source is not None}
    task, skipped = _checked(train, list(others.values()), settings)
    rows = train.examples
    units = _units(rows)
    firsts = rows if units is None else chosen(rows, [unit[0] for unit in units])

    def rows_of(numbers: Sequence[int]) -> Sequence[Example]:
        return chosen(rows, numbers if units is None else [row for number in numbers for row in units[number]])

    labels = _strata(firsts, task, settings)
    training = sample_few_shot(labels, settings.few_shot, seed, task.labels)
    if chosen_on is not None:
        validation = others["validation"].examples
        origin = f"from {source_name(chosen_on)}"
    else:
        try:
            training, held_out = _hold_out(firsts, labels, training, settings, seed)
        except ConfigError as error:  # nearly every row a class of its own, which has its reason
            looks = label_notes(rows) if task.classifies else []
            raise ConfigError(" ".join([str(error), *looks])) from None
        validation = rows_of(held_out)
        origin = f"held out of the training rows by seed {seed}"
    drawn = rows_of(training)
    if task.classifies:
        _check_classes_drawn(drawn, settings)
    test = others["test"].examples if "test" in others else []
    pool = _unlabelled(rows, drawn, validation, test, task, settings, parts, seed)
    sizes = (
        f"{_training_text(drawn, rows, task)}, {len(validation):,} validation rows {origin}, {len(test):,} test rows"
        + (f", {len(pool.used):,} texts without labels ({_pool_name(settings)})" if len(pool.used) else "")
    )
    classes = f", {task.num_classes} classes" if task.kind not in ("choice", "regression") else ""
    description = f"{task.name}: {KINDS[task.kind]}{classes}; {sizes}{_unbalanced_text(rows, task, settings)}"
    notes = [note for part in (train, *others.values()) for note in part.notes]
    return Splits(task, drawn, validation, test, description, tuple(dict.fromkeys(notes)), tuple(skipped), pool)


def _unlabelled(
    rows: Sequence[Example],
    drawn: Sequence[Example],
    validation: Sequence[Example],
    test: Sequence[Example],
    task: Task,
    settings: DataSettings,
    parts: TaskFiles,
    seed: int,
) -> UnlabelledTexts:
    if settings.unlabelled is None:
        return UnlabelledTexts()
    check_kind(task)
    others: list[Sequence[Example]] = [drawn, validation, test]
    if settings.unlabelled == "transductive":
        if not test:
            raise ConfigError("data.unlabelled is transductive, but there are no test rows. Give data.test.")
        candidates, others = test, [drawn, validation]
    elif settings.unlabelled == "rest":
        candidates = rows
    else:
        given = TASKS.get(settings.task or "") if parts.origin != "given" else None
        candidates = read_texts(settings.unlabelled, settings, adapter(given), dialect_of(settings))
    return choose_texts(candidates, others, settings, task, seed)


def _pool_name(settings: DataSettings) -> str:
    named = settings.unlabelled in ("rest", "transductive")
    return str(settings.unlabelled) if named else source_name(settings.unlabelled or "")


def _unbalanced_text(rows: Sequence[Example], task: Task, settings: DataSettings) -> str:
    if settings.task is not None or task.metrics[0] != "macro_f1":
        return ""
    label, share = majority(rows)
    return f"; {share:.0%} of the training rows are {label}, so macro_f1 chooses (evaluation.metric=accuracy to differ)"


def _parts(settings: DataSettings) -> TaskFiles:
    if settings.task is not None and settings.task not in KINDS:
        _check_trainable(known_task(settings.task))
    if settings.train is not None:
        return TaskFiles(settings.train, settings.test, origin="given")
    if settings.task is None or settings.task in KINDS:
        if settings.task in KINDS:
            raise ConfigError(f"data.task is {settings.task}, a kind of task, so data.train must name its rows.")
        raise ConfigError(
            f"Neither data.train nor data.task is given. Give data.train a file or a hub split, or data.task one of "
            f"{', '.join(TASKS)}."
        )
    task = known_task(settings.task)
    parts = find_task_files(task, settings.folder)
    if parts is None:
        raise no_rows(task, settings)
    return replace(parts, test=settings.test or parts.test)


def dialect_of(settings: DataSettings) -> Dialect:
    """How the files are to be read."""
    return Dialect(settings.encoding, settings.delimiter)


def _check_trainable(task: Task) -> None:
    tested = (task.source or Source()).tests
    if tested:
        raise ConfigError(
            f"data.task is {task.name}, which has no training rows: it tests prompts that were trained on "
            f"{' or '.join(tested)}. Train with data.task={tested[0]}, then run "
            f"`infoprompt evaluate ARTIFACT --task {task.name}`."
        )


def _read(name: str, source: RowSource, settings: DataSettings, parts: TaskFiles) -> SplitRows:
    task = known_task(settings.task) if settings.task is not None and settings.task not in KINDS else None
    part = SplitRows.read(name, source, settings.columns, adapter(task), dialect_of(settings), kind_of(settings))
    from_hub = parts.origin == "hub" and source in (parts.train, parts.validation, parts.test)
    if part.problems and task is not None and from_hub:
        problem = part.problems.error(source_name(source))
        raise no_rows(task, settings, str(problem)) from problem
    return part


def _checked(train: SplitRows, others: Sequence[SplitRows], settings: DataSettings) -> tuple[Task, list[SkippedRow]]:
    """The task of the training rows, and the rows that were left out; all parts keep the rows that fit it.

    Raises:
        ConfigError: all that is wrong with any row of any part.
    """
    parts = [train, *others]
    if not train.examples or any(part.problems.fatal for part in parts):
        settle(parts, settings.bad_rows)
    known = settings.task if settings.task is not None and settings.task not in KINDS else None
    train.keep_kind(known_task(known).kind if known else kind_of(settings))
    if known is None:
        train.examples, notes = merged_spellings(train.examples)
        train.notes += notes
    try:
        task = infer_task(train.examples, settings)
    except ConfigError as error:
        train.problems.fatal.append(error)
        settle(parts, "refuse")
        raise
    for part in parts:
        part.check(task, known_task=known is not None)
    skipped = settle(parts, settings.bad_rows)
    if task.classifies and known is None:
        train.notes += label_notes(train.examples)
    train.notes += doubling_notes(train, others)
    return task, skipped


def _units(rows: Sequence[Example]) -> list[list[int]] | None:
    """Rows that are drawn together: all candidates of a question; None where that is each row alone."""
    if rows[0].candidate is None:
        return None
    units: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        assert row.candidate is not None  # all rows are of one kind
        units.setdefault(row.candidate.question, []).append(number)
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
    keys = numbers_of((row.text, row.pair, row.choices) for row in rows)
    if is_few_shot(settings.few_shot):
        return training, hold_out_sample(labels, keys, training, settings.few_shot, seed)
    return hold_out_share(labels, keys, settings.validation_share, seed)


def _check_classes_drawn(train: Sequence[Example], settings: DataSettings) -> None:
    if len(set(labels_of(train))) < 2:
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
    num_seen = len(set(labels_of(train)))
    return text if num_seen == task.num_classes else f"{text} (only {num_seen} of the {task.num_classes} classes)"
