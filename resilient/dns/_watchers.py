"""Who is told of changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from resilient.core.dns import Change

__all__ = ["Callback", "notify"]

logger = logging.getLogger("resilient.dns")

Callback: TypeAlias = Callable[[Change], object]


def notify(calls: list[tuple[Callback, Change]]) -> None:
    """Run callbacks; one that raises is logged and takes nothing from the others."""
    for callback, change in calls:
        try:
            callback(change)
        except Exception:
            logger.exception("event=dns.callback_failed name=%s", change.name)
