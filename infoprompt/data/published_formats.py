"""From the rows that others publish to ours: columns and labels by other names, or one row made into several."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from infoprompt.config import ConfigError
from infoprompt.data.ace import entity_rows, relation_rows
from infoprompt.data.columns import COLUMNS
from infoprompt.data.rows import Adapter
from infoprompt.data.task import Task

Row = Mapping[str, Any]


def adapter(task: Task | None) -> Adapter | None:
    """What makes our rows of a published row of the task; None where nothing is to be done.

    Rows already in our form pass unchanged: a column is renamed only if the row has it, and has none of our name.
    """
    source = task.source if task is not None else None
    if source is None:
        return None

    def adapt(row: Row) -> Iterable[Row]:
        for part in FORMS[source.form](row) if source.form else (row,):
            yield _renamed(part, source.columns, source.labels)

    return adapt


def _renamed(row: Row, columns: Mapping[str, Sequence[str]], labels: Mapping[str, str]) -> Row:
    renamed = dict(row)
    for ours, candidates in columns.items():
        theirs = next((name for name in candidates if name in row), None)
        if theirs is not None and not any(alias in row for alias in COLUMNS[ours]):
            renamed[ours] = renamed.pop(theirs)
    label = renamed.get("label")
    if isinstance(label, (str, bool, int)) and str(label) in labels:
        renamed["label"] = labels[str(label)]
    return renamed


def _copa(row: Row) -> Iterable[Row]:
    """The question joins the premise; the answers become a list."""
    if "choices" in row:
        return (row,)
    asked = {"cause": "What was the cause?", "effect": "What happened as a result?"}
    premise = row.get("text", row.get("premise"))
    rest = {name: value for name, value in row.items() if name == "label"}
    text = f"{premise} {asked.get(row.get('question', ''), '')}".strip()
    return ({"text": text, "choices": [row.get("choice1"), row.get("choice2")], **rest},)


def _wic(row: Row) -> Iterable[Row]:
    """The word in question is marked by @ in both sentences, so that a pair of texts says all that is known."""
    texts = [row.get("text_a", row.get("sentence1")), row.get("text_b", row.get("sentence2"))]
    spans = [row.get("span_a"), row.get("span_b")]
    if "start1" in row:
        spans = [(row["start1"], row["end1"]), (row["start2"], row["end2"])]
    marked = [_marked(text, span) for text, span in zip(texts, spans, strict=True)]
    rest = {name: value for name, value in row.items() if name == "label"}
    return ({"text_a": marked[0], "text_b": marked[1], **rest},)


def _marked(text: Any, span: Any) -> Any:
    if not isinstance(text, str) or span is None:
        return text
    start, end = span
    return " ".join(f"{text[:start]} @ {text[start:end]} @ {text[end:]}".split())


def _wsc(row: Row) -> Iterable[Row]:
    """The noun is the head and the pronoun the tail; published places count words, ours characters."""
    spans = row.get("target", row)
    if "head" in row or "span1_index" not in spans:
        return (row,)
    named = {
        side: _words_at(str(row["text"]), int(spans[f"span{number}_index"]), str(spans[f"span{number}_text"]))
        for side, number in (("head", 1), ("tail", 2))
    }
    return ({"text": row["text"], **named, **{name: value for name, value in row.items() if name == "label"}},)


def _words_at(text: str, index: int, words: str) -> dict[str, int]:
    starts = [word.start() for word in re.finditer(r"\S+", text)]
    # Quotes and brackets stand before some words, so the named words are looked for from the start of theirs on.
    start = text.lower().find(words.lower(), starts[index]) if index < len(starts) else -1
    if start < 0:
        raise ConfigError(f"A row says that {words!r} stands at word {index} of {text!r}, but it does not.")
    return {"start": start, "end": start + len(words)}


def _multirc(row: Row) -> Iterable[Row]:
    """Each answer is a pair: the passage, and the question with the answer."""
    passage = row.get("passage")
    if isinstance(passage, Mapping):
        for question in passage["questions"]:
            for answer in question["answers"]:
                label = {"label": answer["label"]} if "label" in answer else {}
                yield {"text_a": passage["text"], "text_b": f"{question['question']} {answer['text']}", **label}
    elif "paragraph" in row:
        label = {"label": row["label"]} if "label" in row else {}
        yield {"text_a": row["paragraph"], "text_b": f"{row['question']} {row['answer']}", **label}
    else:
        yield row


def _record(row: Row) -> Iterable[Row]:
    """Each entity of the passage is a candidate: the passage, and the query with the entity at its placeholder."""
    if "passage" not in row:
        yield row
        return
    passage, questions = row["passage"], row.get("qas", [row])
    text = passage["text"] if isinstance(passage, Mapping) else passage
    # An entity's `end` is its last character, unlike ours.
    entities = row.get("entities") or [text[place["start"] : place["end"] + 1] for place in passage["entities"]]
    read = _with_sentences(text)  # one string for all candidates, of which a passage has many
    for question in questions:
        answers = [answer if isinstance(answer, str) else answer["text"] for answer in question.get("answers", [])]
        asked = f"{question.get('idx', text)} {question['query']}"
        for entity in dict.fromkeys(entities):
            candidate = {"question": asked, "text": entity, "answers": answers}
            stated = question["query"].replace("@placeholder", entity)
            labelled = {"candidate": candidate} if answers else {}
            yield {"text_a": read, "text_b": stated, **labelled}


def _with_sentences(passage: str) -> str:
    """A news text whose highlights, lines without a full stop, are sentences."""
    parts = [part.strip() for part in passage.split("@highlight")]
    return " ".join(part if part[-1] in ".!?'\"" else f"{part}." for part in parts if part)


def _spans_of_tags(row: Row) -> Iterable[Row]:
    """Each entity of a tagged sentence is a row of its own: the sentence, the span, its type."""
    if "span" in row:
        return (row,)
    words, tags = row.get("tokens", row.get("words")), row.get("tags")
    if not isinstance(words, list) or not isinstance(tags, list) or len(words) != len(tags):
        raise ConfigError(f"A row needs lists of as many tokens as tags, but it is {str(row)[:200]}.")
    entities: list[list[Any]] = []
    for place, tag in enumerate(tags):
        position, _, kind = str(tag).partition("-")
        if position == "I" and entities and entities[-1][1] == place - 1 and entities[-1][2] == kind:
            entities[-1][1] = place
        elif position in ("B", "I"):  # an I that follows nothing of its type opens an entity, as in seqeval
            entities.append([place, place, kind])
    return entity_rows({"tokens": words, "ner": entities})


FORMS: dict[str, Adapter] = {
    "copa": _copa,
    "wic": _wic,
    "wsc": _wsc,
    "multirc": _multirc,
    "record": _record,
    "spans_of_tags": _spans_of_tags,
    "ace_entities": entity_rows,
    "ace_relations": relation_rows,
}
"""Ways to make our rows of a published row, by name."""
