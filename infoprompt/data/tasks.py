"""The table of known tasks: each is one row, and `data.task` names it."""

import difflib

from infoprompt.config import ConfigError
from infoprompt.data.task import Source, Task, TaskKind, words_of

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


def _row(
    name: str,
    classes: dict[str, str],
    kind: TaskKind,
    *metrics: str,
    source: Source | None = None,
) -> Task:
    """A row of the table; `classes` maps each class to the words that describe it."""
    return Task(name, tuple(classes), tuple(classes.values()), metrics, kind, source=source or Source(name))


_NO_YES = {"false": "no", "true": "yes"}
_ENTAILED_OR_NOT = {"entailment": "yes", "not_entailment": "no"}

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _row("semeval2010_task8", _RELATIONS, "relation", "semeval2010_macro_f1", "accuracy"),
        _row("banking77", {label: words_of(label) for label in _INTENTS}, "single", "accuracy", "macro_f1"),
        # GLUE
        _row(
            "sst2",
            {"negative": "terrible", "positive": "great"},
            "single",
            "accuracy",
            source=Source("sst2", hub="nyu-mll/glue@sst2", columns={"text": "sentence"}),
        ),
        _row(
            "cola",
            {"unacceptable": "incorrect", "acceptable": "correct"},
            "single",
            "matthews",
            "accuracy",
            source=Source("cola", hub="nyu-mll/glue@cola", columns={"text": "sentence"}),
        ),
        _row(
            "mrpc",
            {"not_equivalent": "no", "equivalent": "yes"},
            "pair",
            "accuracy",
            "f1",
            source=Source(
                "mrpc", hub="nyu-mll/glue@mrpc", hub_test=True, columns={"text": "sentence1", "pair": "sentence2"}
            ),
        ),
        _row(
            "rte",
            _ENTAILED_OR_NOT,
            "pair",
            "accuracy",
            source=Source("rte", hub="nyu-mll/glue@rte", columns={"text": "sentence1", "pair": "sentence2"}),
        ),
        # SuperGLUE
        _row(
            "cb",
            {"entailment": "yes", "contradiction": "no", "neutral": "maybe"},
            "pair",
            "accuracy",
            "macro_f1",
            source=Source("cb", hub="aps/super_glue@cb", columns={"text": "premise", "pair": "hypothesis"}),
        ),
    )
}


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
