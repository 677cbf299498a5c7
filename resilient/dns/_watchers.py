"""Who is told of changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from resilient._logs import Line
from resilient.core.dns import Change, Family

from ._otel import count_change

__all__ = ["Callback", "log_change", "notify"]

logger = logging.getLogger("resilient.dns")

Callback: TypeAlias = Callable[[Change], object]


def log_change(family: Family, change: Change) -> None:
    """One line for a name that means something else."""
    old = change.old
    assert old is not None
    line = Line(
        event="dns.changed",
        name=change.name,
        family=family,
        mode=change.mode,
        old_chain=">".join(old.chain),
        new_chain=">".join(change.new.chain),
        old_addresses=",".join(sorted(old.addresses)),
        new_addresses=",".join(sorted(change.new.addresses)),
        removed=",".join(sorted(change.removed)),
    )
    logger.info("%s", line)
    count_change(change.name)


def notify(calls: list[tuple[Callback, Change]]) -> None:
    """Run callbacks; one that raises is logged and takes nothing from the others."""
    for callback, change in calls:
        try:
            callback(change)
        except Exception:
            logger.exception("%s", Line(event="dns.callback_failed", name=change.name))
