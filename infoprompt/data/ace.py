"""Entities and relations of ACE 2005 (and SciERC) from the two common forms of processed files.

The first is that of SciERC and DyGIE++ (Wadden et al. 2019), a document or a sentence a line:

    {"sentences": [["Jane", "runs", "Acme"]], "ner": [[[0, 0, "PER"], [2, 2, "ORG"]]],
     "relations": [[[0, 0, 2, 2, "ORG-AFF"]]]}

Places count tokens from the start of the document, and the last one is inclusive; a line of one sentence may have
`tokens` for `sentences`, with flat lists beside it. The second, of ACE's event tools, is a list of sentences:

    {"words": ["Jane", "runs", "Acme"],
     "golden-entity-mentions": [{"start": 0, "end": 1, "entity-type": "PER:Individual"}],
     "golden-relation-mentions": [{"relation-type": "ORG-AFF:Employment", "arguments": [{...}, {...}]}]}

Places count tokens, and the end is exclusive; `_` may stand for `-` in the names. Of a type with a subtype, the type
alone is kept. Rows already in our form pass unchanged.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from infoprompt.config import ConfigError

Row = Mapping[str, Any]


class _Sentence(NamedTuple):
    tokens: list[str]
    entities: list[tuple[int, int, str]]
    """First and last token, both inclusive, and the type."""
    relations: list[tuple[int, int, int, int, str]]


def entity_rows(row: Row) -> Iterator[Row]:
    """A row for each entity: the sentence, the entity's span and its type."""
    if "text" in row and "span" in row:
        yield row
        return
    for sentence in _sentences(row):
        text, starts = _joined(sentence.tokens)
        for first, last, label in sentence.entities:
            yield {"text": text, "span": _span(sentence, starts, first, last), "label": label}


def relation_rows(row: Row) -> Iterator[Row]:
    """A row for each relation: the sentence, its two entities and the relation's type."""
    if "text" in row and "head" in row:
        yield row
        return
    for sentence in _sentences(row):
        text, starts = _joined(sentence.tokens)
        for first, last, second, second_last, label in sentence.relations:
            head, tail = _span(sentence, starts, first, last), _span(sentence, starts, second, second_last)
            yield {"text": text, "head": head, "tail": tail, "label": label}


def _sentences(row: Row) -> Iterator[_Sentence]:
    named = {name.replace("_", "-"): value for name, value in row.items()}
    if any(name.startswith("golden-") for name in named):
        yield _golden(named)
    elif "sentences" in row:
        offset = 0
        for number, tokens in enumerate(row["sentences"]):
            entities, relations = _at(row, "ner", number), _at(row, "relations", number)
            yield _Sentence(
                list(tokens),
                [(item[0] - offset, item[1] - offset, _type(item[2])) for item in entities],
                [(*(place - offset for place in item[:4]), _type(item[4])) for item in relations],
            )
            offset += len(tokens)
    elif "tokens" in row:
        entities = [(item[0], item[1], _type(item[2])) for item in row.get("ner", [])]
        yield _Sentence(
            list(row["tokens"]), entities, [(*item[:4], _type(item[4])) for item in row.get("relations", [])]
        )
    else:
        raise ConfigError(
            f"A row of ACE entities or relations needs sentences, tokens or golden-entity-mentions, but has: "
            f"{', '.join(row)}."
        )


def _at(row: Row, name: str, number: int) -> Sequence[Any]:
    values = row.get(name) or []
    part: Sequence[Any] = values[number] if number < len(values) else []
    return part


def _golden(row: Row) -> _Sentence:
    entities = [
        (item["start"], item["end"] - 1, _type(_kind(item, "entity-type")))
        for item in row.get("golden-entity-mentions", [])
    ]
    relations = []
    for item in row.get("golden-relation-mentions", []):
        first, second = sorted(item["arguments"], key=lambda argument: str(argument.get("role", "")))[:2]
        label = _type(_kind(item, "relation-type"))
        relations.append((first["start"], first["end"] - 1, second["start"], second["end"] - 1, label))
    return _Sentence(list(row["words"]), entities, relations)


def _kind(item: Mapping[str, Any], name: str) -> str:
    return str(item.get(name, item.get(name.replace("-", "_"))))


def _type(name: str) -> str:
    """`PART-WHOLE` of `PART-WHOLE:Geographical` and `PART-WHOLE.Geographical`."""
    return re.split(r"[:.]", name, maxsplit=1)[0]


def _joined(tokens: Sequence[str]) -> tuple[str, list[int]]:
    """The sentence with blanks between its tokens, and where each starts."""
    starts, position = [], 0
    for token in tokens:
        starts.append(position)
        position += len(token) + 1
    return " ".join(tokens), starts


def _span(sentence: _Sentence, starts: Sequence[int], first: int, last: int) -> dict[str, int]:
    if not 0 <= first <= last < len(starts):
        raise ConfigError(
            f"An entity runs from token {first} to {last}, but its sentence has {len(starts)} tokens: "
            f"{' '.join(sentence.tokens)!r}. Places of `ner` and `relations` count the tokens of the document."
        )
    return {"start": starts[first], "end": starts[last] + len(sentence.tokens[last])}
