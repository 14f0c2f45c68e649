"""Parts of a text between markers."""

from collections.abc import Sequence

from infoprompt.data.rows import Example, Span


def marked(text: str, spans: Sequence[tuple[Span, str]]) -> tuple[str, list[int]]:
    """The text with its spans between markers, single blanks alone, and where each span's first marker stands."""
    pieces: list[str] = []
    opened: dict[str, int] = {}
    # Markers of one place: what closes comes before what opens, and the inner span stays inside the outer one.
    events = [(span.start, 1, -span.end, marker) for span, marker in spans]
    events += [(span.end, 0, -span.start, marker) for span, marker in spans]
    position = 0
    for place, opens, _, marker in sorted(events):
        pieces += text[position:place].split()
        if opens:
            opened[marker] = len(pieces)
        pieces.append(marker)
        position = place
    pieces += text[position:].split()
    starts = starts_of_words(pieces)
    return " ".join(pieces), [starts[opened[marker]] for _, marker in spans]


def starts_of_words(words: Sequence[str]) -> list[int]:
    """Where each word starts, in characters, with one blank between them."""
    starts, position = [], 0
    for word in words:
        starts.append(position)
        position += len(word) + 1
    return starts


def span_text(example: Example, span: Span) -> str:
    """The span's own text."""
    return example.text[span.start : span.end]
