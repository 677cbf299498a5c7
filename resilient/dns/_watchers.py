"""Names that are watched: who is told of changes, and when each is asked for again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import TypeAlias

from resilient._dataclass import dataclass
from resilient._logs import Line
from resilient.core.dns import Change, Failed, Family, Found, Result
from resilient.core.dns_pace import Heard, hear

from ._otel import count_change

__all__ = ["WATCH_FLOOR_S", "Callback", "Watched", "log_change", "notify"]

logger = logging.getLogger("resilient.dns")

Callback: TypeAlias = Callable[[Change], object]
Key: TypeAlias = tuple[str, Family]

#: a watched name isn't asked more often than this, whatever its TTL
WATCH_FLOOR_S = 1.0
#: a watched name without any address is asked this often, for so long; both in seconds
LOST_S = 0.3
LOST_FOR_S = 30.0


@dataclass(slots=True)
class _Watch:
    """One name.  `lost_at`: since when it has no address at all; `heard`: who answers, `spare_s`:
    the least between two refreshes, whatever its TTL."""

    callbacks: list[Callback] = field(default_factory=list)
    lost_at: float | None = None
    heard: Heard | None = None
    spare_s: float = 0.0


class Watched:
    """The watched names of one resolver."""

    def __init__(self) -> None:
        self._watches: dict[Key, _Watch] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._watches

    def add(self, key: Key, callback: Callback) -> None:
        """Tell `callback` of changes from now on."""
        self._watches.setdefault(key, _Watch()).callbacks.append(callback)

    def remove(self, key: Key, callback: Callback) -> bool:
        """The end of `add`; whether nobody watches the name any more."""
        watch = self._watches.get(key)
        if watch is None:
            return False
        if callback in watch.callbacks:
            watch.callbacks.remove(callback)
        if watch.callbacks:
            return False
        del self._watches[key]
        return True

    def clear(self) -> None:
        """Nothing is watched any more."""
        self._watches.clear()

    def calls(self, changes: Iterable[tuple[Key, Change]]) -> list[tuple[Callback, Change]]:
        """Whom to tell of what."""
        return [
            (callback, change)
            for key, change in changes
            if key in self._watches
            for callback in self._watches[key].callbacks
        ]

    def take_in(self, key: Key, result: Result, now: float) -> None:
        """Note what an answer from outside tells of who gave it."""
        watch = self._watches.get(key)
        if watch is None:
            return
        if isinstance(result, Found):
            watch.heard = hear(watch.heard, result.chain, result.ttl_s, now)
        elif isinstance(result, Failed):
            watch.heard = None

    def heard(self, key: Key) -> Heard | None:
        """Who gives the answers; None: nobody knows, or the last one failed."""
        watch = self._watches.get(key)
        return watch.heard if watch is not None else None

    def spare(self, key: Key, least_s: float) -> None:
        """Refresh it no oftener from here on, whatever its TTL; 0: as that says."""
        watch = self._watches.get(key)
        if watch is not None:
            watch.spare_s = least_s

    def refresh_at(self, key: Key, known: bool, due: float, now: float) -> float:
        """When to refresh what its TTL would have at `due`; soon while there is no address."""
        watch = self._watches[key]
        if known:
            watch.lost_at = None
            return max(due, now + WATCH_FLOOR_S, now + watch.spare_s)
        if watch.lost_at is None:
            watch.lost_at = now
        return now + (LOST_S if now - watch.lost_at < LOST_FOR_S else WATCH_FLOOR_S)


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
