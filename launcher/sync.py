"""Delivers what MLflow missed of every run below a folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

from infoprompt.config import ConfigError
from infoprompt.tracking import deliver
from infoprompt.tracking.spool import LEDGER_NAME


def sync_folder(folder: Path, uri: str | None, say: Callable[[str], None]) -> Iterator[bool]:
    """Deliver each run below `folder`, comparisons, trials and earlier runs included; yields whether all arrived.

    Raises:
        ConfigError: no run was recorded there.
    """
    ledgers = sorted(folder.rglob(LEDGER_NAME))
    if not ledgers:
        raise ConfigError(
            f"{folder} has no {LEDGER_NAME}, here or below: no run was recorded there. Give the run.output_dir of "
            "a run with tracking.enabled=true."
        )
    for ledger in ledgers:
        report = deliver(ledger.parent, uri)
        sent = f"{report.records_sent} records and {report.artifacts_sent} artifacts sent to {report.uri}"
        if report.error is None:
            say(f"{ledger.parent}: {sent}, nothing left")
        else:
            left = f"{report.records_left} records and {report.artifacts_left} artifacts left"
            say(f"{ledger.parent}: {sent}, {left}: {report.error}")
        yield report.error is None
