"""What a file of rows is like: the facts by which methods are left out, planned and recommended."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from infoprompt.config import ConfigError, DataSettings, RunConfig
from infoprompt.data.rows import Example, Kind, labels_of
from infoprompt.data.task import KINDS
from infoprompt.embedded import backbone_source

if TYPE_CHECKING:
    from infoprompt.data.splits import Splits

MOST_TEXTS = 1000
"""Texts that are looked at with the tokenizer."""
SPLIT_PIECES = 4
"""Pieces from which on a word counts as split badly."""


@dataclass(frozen=True)
class Facts:
    """What is known of labelled rows before anything is trained."""

    name: str
    kind: Kind
    metric: str
    num_rows: int
    """Training and held-out rows together, where these are not given apart."""
    num_held_out: int
    """Held-out rows that are given apart; 0 where they come out of `num_rows`."""
    num_test: int
    num_classes: int
    """0 of a regression."""
    largest_class: str | None
    largest_share: float
    smallest_count: int
    """Rows of the rarest class."""
    num_unlabelled: int = 0

    @property
    def rows_per_class(self) -> float:
        """Rows of a class, on average."""
        return self.num_rows / max(1, self.num_classes)

    @property
    def skewed(self) -> bool:
        """Whether one class has more than twice its even share, or 80 % of two."""
        return self.num_classes > 1 and self.largest_share > min(0.8, 2 / self.num_classes)

    def lines(self) -> list[str]:
        """What to tell people."""
        rows = f"{self.name}: {self.num_rows:,} rows, {KINDS[self.kind]}"
        if self.num_classes:
            rows += f", {self.num_classes} classes"
        lines = [f"{rows}; scored by {self.metric}"]
        if self.largest_class is not None:
            lines.append(
                f"most rows are {self.largest_class} ({self.largest_share:.0%}); the rarest class has "
                f"{self.smallest_count}" + ("; skewed" if self.skewed else "; balanced")
            )
        if self.num_unlabelled:
            lines.append(f"{self.num_unlabelled:,} texts without labels")
        return lines


def facts_of(splits: "Splits", settings: DataSettings) -> Facts:
    """The facts of rows that were read; held-out rows that came out of the training rows count as rows."""
    few_shot = settings.few_shot.total is not None or settings.few_shot.per_class is not None
    apart = few_shot or settings.validation is not None or settings.train is None
    rows = [splits.train] if apart else [splits.train, splits.validation]
    task = splits.task
    counts: Counter[str] = Counter()
    if task.kind != "regression":
        for part in rows:
            tagged = bool(part) and part[0].words is not None
            labels = (tag for row in part for tag in row.given_labels) if tagged else labels_of(part)
            counts.update(label for label in labels if label is not None)
    label, most = counts.most_common(1)[0] if counts else (None, 0)
    return Facts(
        name=task.name,
        kind=task.kind,
        metric=task.metrics[0],
        num_rows=sum(map(len, rows)),
        num_held_out=len(splits.validation) if apart else 0,
        num_test=len(splits.test),
        num_classes=task.num_classes if task.kind != "regression" else 0,
        largest_class=label,
        largest_share=most / counts.total() if counts else 0.0,
        smallest_count=min(counts.values(), default=0),
        num_unlabelled=len(splits.unlabelled.used),
    )


@dataclass(frozen=True)
class Reading:
    """How a backbone's tokenizer reads the texts; shares are of the texts looked at."""

    tokens: float
    """Of a row, on average."""
    tokens_95: int
    """95 % of the rows have at most so many."""
    cut_share: float
    """Rows that are longer than the backbone reads."""
    pieces_per_word: float
    unknown_share: float
    """Words with a piece that the tokenizer does not know."""
    split_share: float
    """Words that become four pieces or more."""

    def lines(self) -> list[str]:
        """What to tell people."""
        lines = [f"{self.tokens:.0f} tokens a row on average, 95 % have at most {self.tokens_95}"]
        if self.cut_share > 0:
            lines.append(f"{self.cut_share:.1%} of the rows are longer than the backbone reads, and are cut")
        if self.unknown_share > 0.02 or self.split_share > 0.1:
            lines.append(
                f"the tokenizer does not know {self.unknown_share:.1%} of the words and splits {self.split_share:.1%} "
                "into 4 pieces or more: perhaps the backbone was not made for this language"
            )
        return lines

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def read_by(config: RunConfig, examples: Sequence[Example]) -> Reading:
    """Look at texts with the tokenizer of `backbone.name`.

    Raises:
        ConfigError: the backbone cannot be found.
    """
    from transformers import AutoTokenizer

    source = backbone_source(config.backbone.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=config.backbone.revision, trust_remote_code=False)
    except Exception as error:  # whatever tokenizers make of files that are absent or damaged
        raise ConfigError(
            f"backbone.name is {config.backbone.name}, but its tokenizer cannot be read: {error}. Name another."
        ) from None
    step = max(1, len(examples) // MOST_TEXTS)
    texts = [_text(examples[place]) for place in range(0, len(examples), step)]
    # a limit of 1e30 stands for none
    limit = config.backbone.max_length or min(int(tokenizer.model_max_length), 10**6)
    lengths = sorted(
        len(ids) for ids in tokenizer(texts, add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
    )
    words = [word for text in texts for word in re.findall(r"\w+", text)] or ["word"]
    pieces = [tokenizer.tokenize(word) for word in words[: 20 * MOST_TEXTS]]
    unknown = tokenizer.unk_token
    return Reading(
        tokens=sum(lengths) / len(lengths),
        tokens_95=lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))],
        cut_share=sum(length > limit for length in lengths) / len(lengths),
        pieces_per_word=sum(map(len, pieces)) / len(pieces),
        unknown_share=sum(unknown in found for found in pieces) / len(pieces) if unknown else 0.0,
        split_share=sum(len(found) >= SPLIT_PIECES for found in pieces) / len(pieces),
    )


def _text(example: Example) -> str:
    longest = max(example.choices or [""], key=len)  # each is an input of its own
    return " ".join([example.text, example.pair or "", longest]).strip()
