"""What the inputs of an example are made of, before they are tokens: one, or one for each choice."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from infoprompt.data.marked import marked, span_text, starts_of_words
from infoprompt.data.pattern import Filled, Pattern
from infoprompt.data.rows import Example


class Input(NamedTuple):
    """What one input is made of."""

    layout: str
    texts: list[str]
    words: Sequence[int] = ()
    """Where the words to tag start in the first text, in characters."""
    entities: Sequence[int] = ()
    """Where the markers stand that open a relation's entities, in characters of the first text."""
    sides: Sequence[Filled] = ()
    """The texts, where words stand around them, with what was filled in."""
    values: Mapping[str, str] = {}
    """What that was."""


def inputs_of(example: Example, pattern: Pattern | None) -> list[Input]:
    """The inputs; `pattern`: the words around the text, None where there are none."""
    return _without_words(example) if pattern is None else _in_words(pattern, example)


def _in_words(pattern: Pattern, example: Example) -> list[Input]:
    found = []
    for choice in example.choices or (None,):
        values = pattern.values(example, choice)
        sides = pattern.fill(values)
        found.append(Input("words", [side.text for side in sides], sides=sides, values=values))
    return found


def _without_words(example: Example) -> list[Input]:
    if example.choices is not None:
        return [Input("pair", [example.text, choice]) for choice in example.choices]
    if example.head is not None and example.tail is not None:
        text, places = marked(example.text, [(example.head, "@"), (example.tail, "#")])
        named = [span_text(example, example.head), span_text(example, example.tail)]
        return [Input("relation", [text, *named], entities=places)]
    if example.span is not None:
        text, _ = marked(example.text, [(example.span, "@")])
        return [Input("span", [text, span_text(example, example.span)])]
    if example.pair is not None:
        return [Input("pair", [example.text, example.pair])]
    return [Input("single", [example.text], words=starts_of_words(example.words or ()))]
