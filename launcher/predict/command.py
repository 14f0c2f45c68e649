"""`infoprompt predict`: rows come in, and answers go out as they are made."""

import os
import queue
import stat
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import typer

from infoprompt.config import ConfigError
from infoprompt.data.problems import SHOWN_ROWS, Problems
from infoprompt.data.sources import Dialect
from launcher.predict.answers import Output
from launcher.predict.choose import Asked, Router
from launcher.predict.inputs import BLANK, STANDARD_INPUT, check_file, read_given

if TYPE_CHECKING:
    from infoprompt.artifact import Prediction

ROWS_AT_ONCE = 256
"""Rows that are read before they are answered, where they do not come slowly."""
_UNREADABLE_ROWS = 64
"""Rows at the start of which none can be read before it is clear that the file is not meant for this prompt."""

T = TypeVar("T")
Write = Callable[[Asked, "Prediction | None"], None]
Predict = Callable[[Sequence[Asked]], "Sequence[Prediction]"]


def predict_from(
    load: Callable[[], Any],
    texts: Sequence[str],
    file: str | None,
    columns: Mapping[str, str],
    dialect: Dialect,
    output: Output,
) -> None:
    """Answer texts, the rows of a file, or standard input.

    Args:
        load: gives the artifact, or the set of several.
        texts, file, dialect: see `inputs.read_given`.
        columns: our column to the file's, where they differ.
        output: takes the answers.
    Raises:
        ConfigError: see `answer`.
    """
    check_file(file)
    given = read_given(texts, file, sys.stdin, dialect, _say)
    loaded = load()
    several: Mapping[str, Any] | None = getattr(loaded, "artifacts", None)
    artifacts = {"": loaded} if several is None else several
    router = Router(artifacts, columns, named=several is not None)
    asked: Iterator[Asked] = (one for where, item in given for one in router.read(where, item))
    if texts:
        asked = iter(_all_readable(list(asked)))

    def predict(part: Sequence[Asked]) -> Sequence["Prediction"]:
        examples = [one.example for one in part]
        predictions: Sequence[Prediction] = (
            loaded.predict(examples) if several is None else loaded.predict(examples, [one.name for one in part])
        )
        return predictions

    # That control reads the state of another row, so its answers depend on which rows come together.
    mixing = any(artifact.config.mixes_rows for artifact in artifacts.values())
    from_stdin = sys.stdin if not texts and file in (None, STANDARD_INPUT) else None
    output.open()
    try:
        parts = in_parts(asked, from_stdin, None if mixing else ROWS_AT_ONCE)
        answer(parts, predict, output.write, output.flush)
    finally:
        output.close()


def _all_readable(asked: list[Asked]) -> list[Asked]:
    """Texts of the command line, all of which must be right."""
    for one in asked:
        if one.problem is not None:
            raise one.problem
    return asked


def _say(line: str) -> None:
    typer.echo(line, err=True)


def answer(parts: Iterable[Sequence[Asked]], predict: Predict, write: Write, flush: Callable[[], None]) -> None:
    """Answer rows part by part. A row that cannot be read is said on standard error, and has an answer without a label.

    Args:
        parts: what is to be answered.
        predict: answers rows that can be read.
        write: takes each row with its answer, or None, in the order of the input.
        flush: called behind each part.
    Raises:
        ConfigError: no row at all can be read; or, when all is written, some could not.
    """
    unread = Problems()
    told: Counter[str] = Counter()
    held: list[Asked] = []  # until it is clear that some row can be read
    answered = False
    for part in parts:
        for asked in part:
            if asked.problem is not None:
                _tell(asked, told)
                unread.rows += [asked.problem] if asked.problem.kind != BLANK else []
        readable = [asked for asked in part if asked.example is not None]
        held += part
        answered = answered or bool(readable) or not unread
        if not answered:
            if len(held) >= _UNREADABLE_ROWS:
                raise unread.error("The input")
            continue
        predictions = iter(predict(readable) if readable else [])
        for asked in held:
            write(asked, next(predictions) if asked.example is not None else None)
        held = []
        flush()
    if not answered and unread:
        raise unread.error("The input")
    if unread:
        raise ConfigError(f"{len(unread.rows):,} rows got no answer, since they cannot be read; see above.")


def _tell(asked: Asked, told: Counter[str]) -> None:
    problem = asked.problem
    assert problem is not None
    told[problem.kind] += 1
    if told[problem.kind] <= SHOWN_ROWS:
        typer.echo(f"no answer: {problem}", err=True)
    elif told[problem.kind] == SHOWN_ROWS + 1:
        typer.echo(f"no answer: further rows with the same fault ({problem.kind}) are not named.", err=True)


def in_parts(items: Iterator[T], stdin: TextIO | None, size: int | None) -> Iterator[list[T]]:
    """The items in lists of `size`; from a pipe or a terminal, as many as are there.

    Args:
        items: read from a file, or from standard input.
        stdin: standard input, where they come from it.
        size: all at once if not given.
    """
    if size is None:
        yield list(items)
    elif stdin is not None and _comes_slowly(stdin):
        yield from _as_they_come(items, size)
    else:
        part = []
        for item in items:
            part.append(item)
            if len(part) == size:
                yield part
                part = []
        if part:
            yield part


def _comes_slowly(stdin: TextIO) -> bool:
    try:
        return not stat.S_ISREG(os.fstat(stdin.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):  # a stream of the test's own
        return False


def _as_they_come(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """A thread reads ahead, so that what is there is answered while more is waited for."""
    waiting: queue.Queue[list[T] | BaseException | None] = queue.Queue(maxsize=2 * size)

    def read() -> None:
        try:
            for item in items:
                waiting.put([item])
            waiting.put(None)
        except BaseException as error:  # raised again where the items are used
            waiting.put(error)

    threading.Thread(target=read, daemon=True).start()
    ended: BaseException | bool = False
    while not ended:
        part: list[T] = []
        found = waiting.get()
        while True:
            if found is None or isinstance(found, BaseException):
                ended = found or True
                break
            part += found
            if len(part) >= size or waiting.empty():
                break
            found = waiting.get()
        if part:
            yield part
    if isinstance(ended, BaseException):
        raise ended
