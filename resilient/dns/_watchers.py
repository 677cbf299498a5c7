"""Who is told of changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from resilient.core.dns import Change, Family

__all__ = ["Callback", "log_change", "notify"]

logger = logging.getLogger("resilient.dns")

Callback: TypeAlias = Callable[[Change], object]


def log_change(family: Family, change: Change) -> None:
    """One line for a name that means something else."""
    old = change.old
    assert old is not None
    logger.info(
        "event=dns.changed name=%s family=%s mode=%s old_chain=%s new_chain=%s"
        " old_addresses=%s new_addresses=%s removed=%s",
        change.name,
        family,
        change.mode,
        ">".join(old.chain),
        ">".join(change.new.chain),
        ",".join(sorted(old.addresses)),
        ",".join(sorted(change.new.addresses)),
        ",".join(sorted(change.removed)),
    )


def notify(calls: list[tuple[Callback, Change]]) -> None:
    """Run callbacks; one that raises is logged and takes nothing from the others."""
    for callback, change in calls:
        try:
            callback(change)
        except Exception:
            logger.exception("event=dns.callback_failed name=%s", change.name)
