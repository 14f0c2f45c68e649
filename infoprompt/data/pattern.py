"""The words around a text, as tokens: a template's own, demonstrations before them, and a chat around all.

A pattern in the sense of PET (Schick and Schuetze 2021). Where the whole is too long, what is filled in is cut, and
never the words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.few_shot import draw_demonstrations
from infoprompt.data.marked import marked, span_text
from infoprompt.data.rows import Example, Kind, labels_of
from infoprompt.data.task import KINDS, Source, Task
from infoprompt.data.tokens import Tokens, tokenize
from infoprompt.settings.template import FIELDS, MASK, Part, parts_of

OF_KIND: dict[Kind, str] = {
    "single": "{text}\nLabel:",
    "pair": "{text_a}\n{text_b}\nLabel:",
    "relation": "{text}\nRelation of {head} and {tail}:",
    "span": "{text}\nType of {span}:",
    "choice": "{text}\n{choice}",
}
"""`data.template: task` of rows of one's own."""
BETWEEN = "\n\n"
"""What ends a demonstration."""


@dataclass(frozen=True)
class Filled:
    """The words up to the mask, or behind it, with a text's own parts filled in."""

    text: str
    places: tuple[tuple[int, int], ...]
    """Where these stand, in characters."""
    fields: tuple[str, ...]
    """What each of them is."""

    def pieces(self, tokens: Tokens) -> list[tuple[list[int], str | None]]:
        """The tokens in turn, each stretch with the field that it fills in; None of the words themselves."""
        edges = [0, *tokens.at([place for pair in self.places for place in pair]), len(tokens.ids)]
        fields = [field for name in self.fields for field in (None, name)] + [None]
        return [(tokens.ids[start:end], field) for (start, end), field in zip(pairwise(edges), fields, strict=True)]


@dataclass(frozen=True)
class Demonstration:
    """A labelled row that stands before the text."""

    values: tuple[tuple[str, str], ...]
    """Field and what was filled in."""
    label: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Pattern:
    """See the file."""

    template: str
    parts: tuple[Part, ...]
    opening: tuple[int, ...] = ()
    """Tokens of the chat before the words."""
    closing: tuple[int, ...] = ()
    """Tokens of the chat behind the words."""
    demonstrations: tuple[Demonstration, ...] = ()

    @classmethod
    def of(
        cls, settings: DataSettings, task: Task, tokenizer: Any, rows: Sequence[Example] = (), seed: int = 0
    ) -> "Pattern | None":
        """What the settings ask for; None where no words stand around a text.

        Args:
            settings: the run's.
            task: whose rows are filled in.
            tokenizer: the backbone's.
            rows: training rows, of which demonstrations are drawn.
            seed: of that draw.
        Raises:
            ConfigError: the template does not fit the task or the tokenizer, or a demonstration is not of the task.
        """
        template = template_of(settings, task)
        if template is None:
            return None
        try:
            pattern = cls(template, tuple(parts_of(template)))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        pattern._check_fields(task)
        given = [dict(row) for row in _demonstrated(pattern, settings, task, rows, seed)]
        described = dict(zip(task.labels, task.label_texts, strict=True))
        made = tuple(_demonstration(pattern, row, described, task, tokenizer) for row in given)
        opening, closing = _chat(tokenizer) if settings.chat else ((), ())
        return cls(template, pattern.parts, opening, closing, made)

    @property
    def fields(self) -> tuple[str, ...]:
        """What a text has to fill in."""
        named = (part.field for part in self.parts if part.field is not None and part.field != MASK)
        return tuple(dict.fromkeys(named))

    @property
    def names_mask(self) -> bool:
        """Whether the mask's place is named."""
        return any(part.field == MASK for part in self.parts)

    def values(self, example: Example, choice: str | None = None) -> dict[str, str]:
        """What an example, and of its choices this one, has to fill in; spans stand between marks in its text.

        Raises:
            ConfigError: the example lacks a field.
        """
        has = {"text_a": example.text, "text_b": example.pair, "choice": choice}
        spans = {name: span for name in ("head", "tail", "span") if (span := getattr(example, name)) is not None}
        has |= {name: span_text(example, span) for name, span in spans.items()}
        marks = [(span, "#" if name == "tail" else "@") for name, span in spans.items()]
        has["text"] = marked(example.text, marks)[0] if marks else example.text
        found = {name: value for name, value in has.items() if name in self.fields and value is not None}
        if lacking := [name for name in self.fields if name not in found]:
            raise ConfigError(
                f"data.template names {{{lacking[0]}}}, but {example.where or 'a row'} has none. Leave it out of "
                "data.template, or remove the row."
            )
        return found

    def fill(self, values: Mapping[str, str]) -> list[Filled]:
        """The words with these values, in one, or parted where the mask stands."""
        sides = [self.parts]
        if self.names_mask:
            middle = next(index for index, part in enumerate(self.parts) if part.field == MASK)
            before, after = self.parts[:middle], self.parts[middle + 1 :]
            if before and before[-1].words:  # a mask brings its own blank, as a label does
                before = (*before[:-1], Part(before[-1].words.rstrip(" ")))
            sides = [before, after]
        return [_filled(side, values) for side in sides]

    def before(self, rows: Sequence[Mapping[str, str]], room: int) -> list[int]:
        """Tokens of the demonstrations, as many as `room` has a place for, without the row itself.

        Args:
            rows: what the row fills in, of choices with each of them.
            room: in tokens.
        """
        kept: list[int] = []
        own = [tuple(sorted(values.items())) for values in rows]
        for shown in self.demonstrations:
            if shown.values not in own and len(kept) + len(shown.ids) <= room:
                kept += shown.ids
        return kept

    def spelled_out(self, settings: DataSettings) -> DataSettings:
        """The same settings with these words and demonstrations in place of what says where they come from."""
        rows = [{**dict(shown.values), "label": shown.label} for shown in self.demonstrations]
        return settings.model_copy(update={"template": self.template, "demonstrations": rows or 0})

    def _check_fields(self, task: Task) -> None:
        known = FIELDS[task.kind]
        if strange := [name for name in self.fields if name not in known]:
            raise ConfigError(
                f"data.template names {{{strange[0]}}}, but the rows of {task.name} are {KINDS[task.kind]} and have "
                f"{', '.join(f'{{{name}}}' for name in known)} to fill in. Use these."
            )
        if task.kind == "choice" and "choice" not in self.fields:
            raise ConfigError(
                f"data.template is {self.template!r}, but the rows of {task.name} are {KINDS[task.kind]}, which are "
                "the same without their {choice}. Put it where an answer stands, such as '{text} {choice}'."
            )

    def check_continues(self) -> None:
        """Raise ConfigError if a choice does not stand once, at the end, behind something."""
        *before, last = self.parts
        if last.field != "choice" or not any(part.field or part.words.strip() for part in before) or last in before:
            raise ConfigError(
                f"data.template is {self.template!r}, but head.kind is choice_text, which reads how likely a choice is "
                "behind the rest. Put {choice} once, at the end, such as '{text} {choice}'."
            )


def template_of(settings: DataSettings, task: Task) -> str | None:
    """The template that the settings name; raises ConfigError where the task can have none."""
    if settings.template is None:
        return None
    if task.kind not in FIELDS:
        raise ConfigError(
            f"data.template is {settings.template!r}, but the rows of {task.name} are {KINDS[task.kind]}, whose words "
            "are read one by one. Leave data.template out."
        )
    if settings.template != "task":
        return settings.template
    found = (task.source or Source()).template or OF_KIND.get(task.kind)
    if found is None:
        raise ConfigError(
            f"data.template is task, but {task.name} has no words of its own: its rows are {KINDS[task.kind]}. Write "
            "them, such as 'Text: {text}\\nValue:'."
        )
    return found


def label_stands_alone(settings: DataSettings, task: Task) -> bool:
    """Whether a label begins a line, and so has no blank before it."""
    template = template_of(settings, task)
    before = (template or "").partition("{mask}")[0]
    return template is not None and (settings.chat or before.rstrip(" ").endswith("\n"))


def without_content(like: Example) -> list[Example]:
    """Texts without content in the form of an example: `N/A`, `[MASK]` and none, as Zhao et al. 2021 have them."""
    found = []
    for text in ("N/A", "[MASK]", ""):
        places = {
            name: type(span)(0, len(text))
            for name in ("head", "tail", "span")
            if (span := getattr(like, name)) is not None
        }
        found.append(Example(text, None if like.pair is None else text, **places))
    return found


def _filled(parts: Sequence[Part], values: Mapping[str, str]) -> Filled:
    text, places, fields = "", [], []
    for part in parts:
        start = len(text)
        text += part.words if part.field is None else values[part.field]
        if part.field is not None:
            places.append((start, len(text)))
            fields.append(part.field)
    return Filled(text, tuple(places), tuple(fields))


def _demonstrated(
    pattern: Pattern, settings: DataSettings, task: Task, rows: Sequence[Example], seed: int
) -> Sequence[Mapping[str, str]]:
    count = settings.demonstrations
    if not isinstance(count, int):
        return count
    if not count or not rows:
        return []
    if not task.classifies and task.kind != "choice":
        raise ConfigError(
            f"data.demonstrations is {count}, but the rows of {task.name} are {KINDS[task.kind]} and have no class "
            "each. Leave data.demonstrations out."
        )
    if count > len(rows):
        raise ConfigError(f"data.demonstrations is {count}, but there are only {len(rows)} training rows. Use fewer.")
    labels = [str(label) for label in labels_of(rows)]
    drawn = draw_demonstrations([task.labels.index(label) for label in labels], count, seed)
    found = []
    for row in drawn:
        choices = rows[row].choices
        right = None if choices is None else choices[task.labels.index(labels[row])]
        found.append({**pattern.values(rows[row], right), "label": labels[row]})
    return found


def _demonstration(
    pattern: Pattern, row: Mapping[str, str], described: Mapping[str, str], task: Task, tokenizer: Any
) -> Demonstration:
    values = {name: value for name, value in row.items() if name != "label"}
    if set(values) != set(pattern.fields):
        raise ConfigError(
            f"data.demonstrations has a row with {', '.join(values)}, but data.template fills in "
            f"{', '.join(pattern.fields)}. Give each row these, and a label."
        )
    if row["label"] not in described:
        raise ConfigError(
            f"data.demonstrations has the label {row['label']}, which is not one of {task.name}. Its labels are "
            f"{', '.join(described)}."
        )
    sides, label = [side.text for side in pattern.fill(values)], described[row["label"]]
    if "choice" in pattern.fields:  # the right one stands there, and says all
        label = ""
    blank = "" if sides[0].endswith("\n") or not sides[0] else " "
    text = sides[0] + blank + label + "".join(sides[1:])
    (tokens,) = tokenize(tokenizer, [text.rstrip() + BETWEEN])
    return Demonstration(tuple(sorted(values.items())), row["label"], tuple(tokens.ids))


def _chat(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of a chat before and behind what the user says, up to where the answer begins."""
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "data.chat is true, but this backbone's tokenizer has no chat template: it is no instruct model. Set "
            "data.chat=false, or use one such as backbone.name=smollm2."
        )
    said = "\ue000"  # of the private use area, so in no template
    messages = [{"role": "user", "content": said}]
    before, after = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True).split(said)
    opening, closing = (tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (before, after))
    return opening, closing
