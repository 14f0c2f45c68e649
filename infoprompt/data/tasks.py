"""The table of known tasks: each is one row, and `data.task` names it."""

import difflib
from typing import Any

from infoprompt.config import ConfigError
from infoprompt.data.rows import Kind
from infoprompt.data.task import KINDS, Source, Task, words_of

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


def _row(name: str, classes: dict[str, str], kind: Kind, metrics: str, scale: Any = None, **source: Any) -> Task:
    """A row of the table.

    Args:
        name: also the folder's, if `source` names no other.
        classes: each class and the words that describe it.
        kind: what an example is.
        metrics: names with blanks between them, the main one first.
        scale: lowest and highest value of a regression.
        source: fields of `Source`; a string stands for a tuple of one.
    """
    columns = {ours: (name,) if isinstance(name, str) else name for ours, name in source.pop("columns", {}).items()}
    described = Source(**{"folder": name, **source}, columns=columns)
    return Task(name, tuple(classes), tuple(classes.values()), tuple(metrics.split()), kind, scale, described)


def _bio(types: dict[str, str]) -> dict[str, str]:
    """BIO tags of entity types in the order O, B-first, I-first, B-second ..."""
    tags = {"O": "no entity"}
    for label, words in types.items():
        tags |= {f"B-{label}": f"start of a {words}", f"I-{label}": f"rest of a {words}"}
    return tags


_BINARY = {"false": "no", "true": "yes"}
_BOOLS = {"False": "false", "True": "true", "0": "false", "1": "true"}
_ENTAILED = {"entailment": "yes", "not_entailment": "no"}
_NLI = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}
_NOT_ENTAILED = {"neutral": "not_entailment", "contradiction": "not_entailment"}
_FIRST_SECOND = {"text": "sentence1", "pair": "sentence2"}
_WNUT = {
    "corporation": "company",
    "creative-work": "creative work",
    "group": "group",
    "location": "place",
    "person": "person",
    "product": "product",
}
_CHEMICAL_DISEASE = {"Chemical": "chemical", "Disease": "disease"}
_STARS = {
    "very negative": "terrible",
    "negative": "bad",
    "neutral": "okay",
    "positive": "good",
    "very positive": "great",
}

_REVIEW = "Review: {text}\nSentiment:"
_POLARITY = {"negative": "negative", "positive": "positive"}
_FOLLOWS = "{text_a}\nQuestion: {text_b} True, yes or no?\nAnswer:"
_FOLLOWS_MAYBE = "{text_a}\nQuestion: {text_b} True, yes, no or maybe?\nAnswer:"
_SAME = "First: {text_a}\nSecond: {text_b}\nDo both mean the same, yes or no?\nAnswer:"

_ROWS = (
    # Shipped with the package
    _row("semeval2010_task8", _RELATIONS, "relation", "semeval2010_macro_f1 accuracy"),
    _row(
        "banking77",
        {label: words_of(label) for label in _INTENTS},
        "single",
        "accuracy macro_f1",
        template="Customer: {text}\nTopic:",
    ),
    # GLUE (Wang et al. 2018)
    _row(
        "sst2",
        {"negative": "terrible", "positive": "great"},
        "single",
        "accuracy",
        hub="nyu-mll/glue@sst2",
        columns={"text": "sentence"},
        labels={"0": "negative", "1": "positive"},
        template=_REVIEW,
        template_words=_POLARITY,
    ),
    _row(
        "cola",
        {"unacceptable": "incorrect", "acceptable": "correct"},
        "single",
        "matthews accuracy",
        hub="nyu-mll/glue@cola",
        columns={"text": "sentence"},
        labels={"0": "unacceptable", "1": "acceptable"},
        template="Sentence: {text}\nThe grammar is",
    ),
    _row(
        "mrpc",
        {"not_equivalent": "no", "equivalent": "yes"},
        "pair",
        "accuracy f1",
        hub="nyu-mll/glue@mrpc",
        hub_test="test",
        columns={"text": ("sentence1", "#1 String"), "pair": ("sentence2", "#2 String"), "label": "Quality"},
        labels={"0": "not_equivalent", "1": "equivalent"},
        template=_SAME,
    ),
    _row(
        "qqp",
        {"not_duplicate": "no", "duplicate": "yes"},
        "pair",
        "accuracy f1",
        hub="nyu-mll/glue@qqp",
        columns={"text": "question1", "pair": "question2", "label": "is_duplicate"},
        labels={"0": "not_duplicate", "1": "duplicate"},
        template=_SAME,
    ),
    _row(
        "stsb",
        {},
        "regression",
        "pearson spearman",
        scale=(0.0, 5.0),
        hub="nyu-mll/glue@stsb",
        columns={**_FIRST_SECOND, "value": ("label", "score")},
    ),
    _row(
        "mnli",
        _NLI,
        "pair",
        "accuracy",
        hub="nyu-mll/glue@mnli",
        hub_validation="validation_matched",
        columns={"text": ("premise", "sentence1"), "pair": ("hypothesis", "sentence2"), "label": "gold_label"},
        template=_FOLLOWS_MAYBE,
    ),
    _row(
        "qnli",
        _ENTAILED,
        "pair",
        "accuracy",
        hub="nyu-mll/glue@qnli",
        columns={"text": "question", "pair": "sentence"},
        template="Question: {text_a}\nText: {text_b}\nDoes the text answer the question, yes or no?\nAnswer:",
    ),
    _row(
        "rte",
        _ENTAILED,
        "pair",
        "accuracy",
        hub="nyu-mll/glue@rte",
        columns={"text": ("sentence1", "premise"), "pair": ("sentence2", "hypothesis")},
        template=_FOLLOWS,
    ),
    _row(
        "wnli",
        {"not_entailment": "no", "entailment": "yes"},
        "pair",
        "accuracy",
        hub="nyu-mll/glue@wnli",
        columns=_FIRST_SECOND,
        labels={"0": "not_entailment", "1": "entailment"},
        template=_FOLLOWS,
    ),
    # SuperGLUE (Wang et al. 2019), which has RTE too
    _row(
        "boolq",
        _BINARY,
        "pair",
        "accuracy",
        hub="aps/super_glue@boolq",
        columns={"text": "passage", "pair": "question"},
        labels=_BOOLS,
        template="{text_a}\nQuestion: {text_b}?\nAnswer:",
    ),
    _row(
        "cb",
        {"entailment": "yes", "contradiction": "no", "neutral": "maybe"},
        "pair",
        "accuracy macro_f1",
        hub="aps/super_glue@cb",
        columns={"text": "premise", "pair": "hypothesis"},
        template=_FOLLOWS_MAYBE,
    ),
    _row(
        "copa",
        {"choice1": "first", "choice2": "second"},
        "choice",
        "accuracy",
        hub="aps/super_glue@copa",
        form="copa",
        template="{text} {choice}",
    ),
    _row("multirc", _BINARY, "pair", "f1 accuracy", hub="aps/super_glue@multirc", labels=_BOOLS, form="multirc"),
    _row("record", _BINARY, "answer", "answer_f1 exact_match", hub="aps/super_glue@record", form="record"),
    _row("wic", _BINARY, "pair", "accuracy", hub="aps/super_glue@wic", labels=_BOOLS, form="wic"),
    _row("wsc", _BINARY, "relation", "accuracy", hub="aps/super_glue@wsc", labels=_BOOLS, form="wsc"),
    # Diagnostics of GLUE and SuperGLUE, which are only tested on
    _row(
        "ax",
        _NLI,
        "pair",
        "matthews accuracy",
        tests=("mnli",),
        columns={
            "text": ("premise", "sentence1", "Premise"),
            "pair": ("hypothesis", "sentence2", "Hypothesis"),
            "label": "Label",
        },
    ),
    _row(
        "axb",
        _ENTAILED,
        "pair",
        "matthews accuracy",
        hub="aps/super_glue@axb",
        hub_test="test",
        tests=("rte", "mnli"),
        merged=_NOT_ENTAILED,
        columns=_FIRST_SECOND,
    ),
    _row(
        "axg",
        _ENTAILED,
        "pair",
        "accuracy gender_parity",
        hub="aps/super_glue@axg",
        hub_test="test",
        tests=("rte", "mnli"),
        merged=_NOT_ENTAILED,
        columns={"text": "premise", "pair": "hypothesis"},
    ),
    # Others
    _row("sick", _NLI, "pair", "accuracy", template=_FOLLOWS_MAYBE),
    _row(
        "ag_news",
        {"World": "world", "Sports": "sports", "Business": "business", "Sci/Tech": "technology"},
        "single",
        "accuracy",
        hub="fancyzhx/ag_news",
        hub_validation=None,
        hub_test="test",
        template="News: {text}\nTopic:",
    ),
    _row(
        "mr",
        {"negative": "terrible", "positive": "great"},
        "single",
        "accuracy",
        hub="cornell-movie-review-data/rotten_tomatoes",
        hub_test="test",
        labels={"neg": "negative", "pos": "positive"},
        template=_REVIEW,
        template_words=_POLARITY,
    ),
    _row(
        "sst5",
        _STARS,
        "single",
        "accuracy",
        hub="SetFit/sst5",
        hub_test="test",
        labels={str(number): label for number, label in enumerate(_STARS)},
        template=_REVIEW,
    ),
    # Entities: every word tagged, or one given span at a time (InfoPrompt's setting)
    _row("wnut17", _bio(_WNUT), "tags", "entity_f1 accuracy"),
    _row("wnut17_spans", _WNUT, "span", "macro_f1 accuracy", folder="wnut17", form="spans_of_tags"),
    _row("bc5cdr", _bio(_CHEMICAL_DISEASE), "tags", "entity_f1 accuracy"),
    _row("bc5cdr_spans", _CHEMICAL_DISEASE, "span", "macro_f1 accuracy", folder="bc5cdr", form="spans_of_tags"),
    # Licensed by the LDC: by path alone, with the types that the training rows have
    _row("ace_entities", {}, "span", "macro_f1 accuracy", folder="ace2005", form="ace_entities"),
    _row("ace_relations", {}, "relation", "macro_f1 accuracy", folder="ace2005", form="ace_relations"),
)

TASKS: dict[str, Task] = {task.name: task for task in _ROWS}


def known_task(name: str) -> Task:
    """The task of that name; raises ConfigError."""
    if name not in TASKS:
        near = difflib.get_close_matches(name, (*TASKS, *KINDS), n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(TASKS)}."
        raise ConfigError(
            f"data.task is {name}, which is not a known task. {hint} For data of your own, give data.train, and leave "
            f"data.task out or make it a kind of task: {', '.join(KINDS)}."
        )
    return TASKS[name]
