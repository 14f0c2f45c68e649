"""What a task is: its classes, how they are described and how they are scored. A known task is a row in `TASKS`."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.rows import Example

TaskKind = Literal["single", "pair", "relation"]


@dataclass(frozen=True)
class Task:
    """A classification task."""

    name: str
    labels: tuple[str, ...]
    """Class names in id order."""
    label_texts: tuple[str, ...]
    """Words that describe each class, in the same order."""
    metrics: tuple[str, ...]
    """Names in `metrics.METRICS`; the first is the main one."""
    kind: TaskKind
    """One text, a pair of texts, or a text with two marked entities."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    def ids(self, examples: Sequence[Example]) -> list[int]:
        """Class index of each labelled example; -1 for an unlabelled one."""
        index = {label: number for number, label in enumerate(self.labels)}
        return [-1 if example.label is None else index[example.label] for example in examples]


def _is_whole_number(label: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", label) is not None


def words_of(label: str) -> str:
    """A label's name as words: `Refund_not_showing_up` and `RefundNotShowingUp` as `refund not showing up`."""
    if _is_whole_number(label):
        return label
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    return " ".join(re.sub(r"[_\-/]+", " ", split).lower().split()) or label


# Both directions of a relation share its two nouns, so the rest of the words must tell them apart: label words are
# averaged, which keeps no order.
_RELATIONS = {
    "Cause-Effect(e1,e2)": "cause that leads to an effect",
    "Cause-Effect(e2,e1)": "effect resulting from its cause",
    "Instrument-Agency(e1,e2)": "instrument used by an agent",
    "Instrument-Agency(e2,e1)": "agent operating with an instrument",
    "Product-Producer(e1,e2)": "product made by its producer",
    "Product-Producer(e2,e1)": "producer who creates a product",
    "Content-Container(e1,e2)": "content kept inside a container",
    "Content-Container(e2,e1)": "container filled with content",
    "Entity-Origin(e1,e2)": "entity coming from its origin",
    "Entity-Origin(e2,e1)": "origin giving rise to an entity",
    "Entity-Destination(e1,e2)": "entity moved into its destination",
    "Entity-Destination(e2,e1)": "destination receiving an entity",
    "Component-Whole(e1,e2)": "component being part of a whole",
    "Component-Whole(e2,e1)": "whole that has a component",
    "Member-Collection(e1,e2)": "member belonging to a collection",
    "Member-Collection(e2,e1)": "collection consisting of members",
    "Message-Topic(e1,e2)": "message about a topic",
    "Message-Topic(e2,e1)": "topic discussed in a message",
    "Other": "some other relation",
}

_INTENTS = tuple(
    """
    card_arrival card_linking exchange_rate card_payment_wrong_exchange_rate extra_charge_on_statement
    pending_cash_withdrawal fiat_currency_support card_delivery_estimate automatic_top_up card_not_working
    exchange_via_app lost_or_stolen_card age_limit pin_blocked contactless_not_working
    top_up_by_bank_transfer_charge pending_top_up cancel_transfer top_up_limits wrong_amount_of_cash_received
    card_payment_fee_charged transfer_not_received_by_recipient supported_cards_and_currencies
    getting_virtual_card card_acceptance top_up_reverted balance_not_updated_after_cheque_or_cash_deposit
    card_payment_not_recognised edit_personal_details why_verify_identity unable_to_verify_identity
    get_physical_card visa_or_mastercard topping_up_by_card disposable_card_limits compromised_card atm_support
    direct_debit_payment_not_recognised passcode_forgotten declined_cash_withdrawal pending_card_payment
    lost_or_stolen_phone request_refund declined_transfer Refund_not_showing_up declined_card_payment
    pending_transfer terminate_account card_swallowed transaction_charged_twice verify_source_of_funds
    transfer_timing reverted_card_payment? change_pin beneficiary_not_allowed transfer_fee_charged
    receiving_money failed_transfer transfer_into_account verify_top_up getting_spare_card
    top_up_by_cash_or_cheque order_physical_card virtual_card_not_working
    wrong_exchange_rate_for_cash_withdrawal get_disposable_virtual_card top_up_failed
    balance_not_updated_after_bank_transfer cash_withdrawal_not_recognised exchange_charge top_up_by_card_charge
    activate_my_card cash_withdrawal_charge card_about_to_expire apple_pay_or_google_pay verify_my_identity
    country_support
    """.split()
)

TASKS: dict[str, Task] = {
    "semeval2010_task8": Task(
        name="semeval2010_task8",
        labels=tuple(_RELATIONS),
        label_texts=tuple(_RELATIONS.values()),
        metrics=("semeval2010_macro_f1", "accuracy"),
        kind="relation",
    ),
    "banking77": Task(
        name="banking77",
        labels=_INTENTS,
        label_texts=tuple(words_of(label) for label in _INTENTS),
        metrics=("accuracy", "macro_f1"),
        kind="single",
    ),
}

_SETS = Path(__file__).with_name("sets")


def bundled_file(name: str, part: str) -> str | None:
    """Path of a part (`train`, `test`) of a task that comes with the package; None where there is none."""
    path = _SETS / name / f"{part}.jsonl.gz"
    return str(path) if path.is_file() else None


def known_task(name: str) -> Task:
    """The task of that name; raises ConfigError."""
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(TASKS)}."
        raise ConfigError(
            f"data.task is {name}, which is not a known task. {hint} For data of your own, leave data.task out "
            "and give data.train."
        )
    return TASKS[name]


def infer_task(examples: Sequence[Example], settings: DataSettings) -> Task:
    """The task that labelled rows and `data.task` describe.

    A task known by name has its own classes. Otherwise these are the labels of `examples`, sorted (as numbers where all
    are), and the kind follows from the columns. `data.label_texts` replaces the words of the classes it names.

    Raises:
        ConfigError: an unknown task, label or mixture of kinds, or a single class.
    """
    kind = _kind_of(examples)
    if settings.task is not None:
        task = known_task(settings.task)
        if task.kind != kind:
            raise ConfigError(
                f"data.task is {task.name}, whose rows are of the kind {task.kind}, but those of {settings.train} are "
                f"of the kind {kind}. Leave data.task out, or name the right columns by data.columns."
            )
    else:
        labels = _sorted_labels({example.label for example in examples if example.label is not None})
        texts = tuple(words_of(label) for label in labels)
        task = Task(_name_of(settings.train), labels, texts, ("accuracy", "macro_f1"), kind)
    if task.num_classes < 2:
        raise ConfigError(
            f"Every row of {settings.train} has the label {task.labels[0]}, but a classifier needs at least 2 classes. "
            "Check data.columns.label."
        )
    return with_label_texts(task, settings.label_texts)


def with_label_texts(task: Task, texts: Mapping[str, str]) -> Task:
    """The task with the words of some classes replaced; raises ConfigError for a class it does not have."""
    for label, text in texts.items():
        if label not in task.labels:
            near = difflib.get_close_matches(label, task.labels, n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]}?" if near else f"The labels are {', '.join(task.labels)}."
            raise ConfigError(f"data.label_texts names {label}, which is not a label of {task.name}. {hint}")
        if not text.strip():
            raise ConfigError(f"data.label_texts of {label} is empty. Give words that describe it, or leave it out.")
    described = zip(task.labels, task.label_texts, strict=True)
    return replace(task, label_texts=tuple(texts.get(label, text) for label, text in described))


def _kind_of(examples: Sequence[Example]) -> TaskKind:
    kinds = sorted({example.kind for example in examples})
    if len(kinds) != 1:
        raise ConfigError(f"The training rows are of different kinds ({' and '.join(kinds)}), but must all be of one.")
    return cast(TaskKind, kinds[0])


def _sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    labels = sorted(labels)
    return tuple(sorted(labels, key=int) if all(map(_is_whole_number, labels)) else labels)


def _name_of(source: str | None) -> str:
    """`reviews` for /data/reviews.csv, for /data/reviews/train.csv and for owner/reviews:train."""
    names = [re.split(r"[.@:]", part, maxsplit=1)[0] for part in Path(source or "task").parts]
    if len(names) > 1 and re.fullmatch(r"train\w*", names[-1], re.IGNORECASE) and re.search(r"\w", names[-2]):
        return names[-2]
    return names[-1] or "task"
