"""The settings of the labelled task."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, PositiveFloat, ValidationInfo, field_validator, model_validator

from infoprompt.settings.base import AnyInt, NonNegativeInt, PositiveInt, Settings
from infoprompt.settings.template import check_demonstrations, parts_of


class FewShotSettings(Settings):
    """Train on a seeded sample of the training rows."""

    total: PositiveInt | None = None
    """Rows in all; of candidate answers, questions in all."""

    per_class: PositiveInt | None = None
    """Rows of each class."""

    short_classes: Literal["refuse", "take_all"] = "refuse"
    """What to do with a class that has fewer rows than `per_class`."""

    @model_validator(mode="after")
    def _one_size(self) -> "FewShotSettings":
        if self.total and self.per_class:
            raise ValueError(
                f"data.few_shot.total is {self.total} and data.few_shot.per_class is {self.per_class}, "
                "but only one of them can set the sample's size. Remove one."
            )
        return self


class DataSettings(Settings):
    """The labelled task."""

    task: str | None = None
    """A task known by name (`infoprompt show --tasks` lists them), or a kind of task; inferred from the columns if not
    given. `regression` reads values also from the column `label`."""

    folder: str | None = None
    """Folder that holds `NAME/train.jsonl.gz` and so on for tasks known by name; INFOPROMPT_DATA if not given."""

    train: str | list[str] | None = None
    """Training rows: a .jsonl, .json, .csv, .tsv or .parquet file; the first four also .gz, .bz2, .xz or .zst. Or a
    pattern such as `parts/train-*.csv`, a folder of such files, a hub split as `owner/name:split`, or a list of
    these."""

    validation: str | list[str] | None = None
    """Rows for choosing the best state, given as `data.train`; carved out of the training rows if not given."""

    test: str | list[str] | None = None
    """Rows for the final report only, given as `data.train`."""

    encoding: str | None = None
    """Encoding of the files as Python names it, such as `cp1252` or `latin-1`; UTF-8, or UTF-16 by its mark or its
    zero bytes, if not given."""

    delimiter: str | None = None
    """What parts the cells of a .csv file: one character, or `tab`; comma, semicolon, tab or bar, as its first lines
    have it, if not given. A .tsv file for which it is given is read as a .csv file is, with quotes."""

    bad_rows: Literal["refuse", "skip"] = "refuse"
    """What to do with rows that cannot be used. `refuse` names them all and trains nothing. `skip` leaves them out,
    says how many, and writes each with its reason to `skipped_rows.jsonl` in the output folder."""

    columns: dict[str, str] = Field(default={})
    """Our column to the file's column, where they differ: `{text: sentence, label: target}`."""

    label_texts: dict[str, str] = Field(default={})
    """Label to the words that describe it; made from the label's name if not given."""

    template: str | None = None
    """Words around the text, such as `Review: {text} Sentiment:`; the text alone if not given. Fields are {text}; of
    pairs {text_a} and {text_b}; {choice}; {span}; {head} and {tail}. {mask} is the mask token, which stands behind the
    words if it is not named. `task`: those of the known task, with label words that go with them, or of the kind of
    your own rows. Where the whole is too long, the text is cut, and never these words."""

    chat: bool = False
    """Whether the words stand in a user's message of the tokenizer's chat template, and the label is the answer."""

    demonstrations: NonNegativeInt | list[dict[str, str]] = 0
    """Labelled rows that stand before the text, with the same words (in-context learning). A number: so many training
    rows, drawn by the data's seed, from all classes alike. Or the rows, as `{text: a fine film, label: positive}`. Of
    those that do not fit with a text as many as do; a text is never among its own. The artifact has these rows."""

    class_weights: Literal["none", "balanced"] | dict[str, PositiveFloat] = "none"
    """How much a row counts in the task's loss, by its class (of tags, a word): all alike, `balanced`, or a weight for
    some classes, as `{spam: 4}`. `balanced`: classes of few training rows count as much as those of many."""

    few_shot: FewShotSettings = FewShotSettings()
    """Sampling of the training rows."""

    unlabelled: str | list[str] | None = None
    """Texts without labels, for `objective.label_form`. `rest`: the training rows that the few-shot sample and the
    held-out part leave over, without their labels. Or rows given as `data.train`, also a .txt file with a text a line.
    `transductive`: the texts of the test rows, which results then say."""

    unlabelled_rows: PositiveInt | None = None
    """Most of these texts that are used, drawn by the data's seed; all if not given."""

    unlabelled_batch: PositiveInt = 64
    """Texts without labels per update, over all ranks."""

    unlabelled_filter: bool = True
    """Whether strangers are left out, by the cosine of their states: texts that no labelled row, held-out row or label
    text is like. Nine of ten held-out rows are as like a labelled one as a text must be."""

    validation_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training rows held out when there is no validation file and no few-shot size; with one,
    as many rows are held out as are trained on."""

    seed: AnyInt | None = None
    """Seed of the few-shot sample and of the held-out part; `seed` if not given."""

    batch_size: PositiveInt = 8
    """Examples per update, over all ranks."""

    micro_batch_size: PositiveInt | None = None
    """Examples per rank per forward; the whole share of a rank if not given."""

    @field_validator("train", "validation", "test", "unlabelled")
    @classmethod
    def _some_source(cls, source: str | list[str] | None, info: ValidationInfo) -> str | list[str] | None:
        if source in ([], "") or (isinstance(source, list) and "" in source):
            raise ValueError(f"data.{info.field_name} is {source!r}, but must name a file. Give one, or leave it out.")
        return source

    @field_validator("template")
    @classmethod
    def _breaks_lines(cls, template: str | None) -> str | None:
        """A line break may be typed as it is in a shell."""
        return None if template is None else template.replace("\\n", "\n")

    @field_validator("encoding")
    @classmethod
    def _encoding_known(cls, encoding: str | None) -> str | None:
        if encoding is None:
            return None
        try:
            known = "a".encode(encoding).decode(encoding) == "a"
        except (LookupError, ValueError):
            known = False
        if not known:
            raise ValueError(
                f"data.encoding is {encoding!r}, but Python knows no such encoding of text. Use utf-8, utf-16, cp1252 "
                "or latin-1, or leave it out."
            )
        return encoding

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, delimiter: str | None) -> str | None:
        delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter or "", delimiter)
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n' or delimiter.isalnum()):
            raise ValueError(
                f"data.delimiter is {delimiter!r}, but must be tab or one character that is no letter, digit or quote. "
                "Leave it out to have it found."
            )
        return delimiter

    @model_validator(mode="after")
    def _words_stand_around_something(self) -> "DataSettings":
        if self.template is None:
            for name in ("chat", "demonstrations"):
                if value := getattr(self, name):
                    raise ValueError(
                        f"data.{name} is {str(value).lower()}, but data.template is not given, so no words stand "
                        "around a text. Give data.template, or set it to task."
                    )
        elif self.template != "task":
            parts_of(self.template)
        if not isinstance(self.demonstrations, int):
            check_demonstrations(self.demonstrations)
        return self

    @field_validator("class_weights", mode="before")
    @classmethod
    def _class_names(cls, weights: Any) -> Any:
        """Classes may be named by numbers, which YAML reads as such."""
        if not isinstance(weights, Mapping):
            return weights
        return {str(key) if type(key) is int else key: weight for key, weight in weights.items()}
