"""The sessions that a pool has made beside its own: listeners, and those that hold a lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from .._psycopg import BaseConnection
from ..session.keeper import link_of

CLOSED = "the pool was closed"


class Sessions:
    """Of one pool; they end with it.

    `deaf`: the channels that a pooler may keep from their listener, as was said.  `locks`: what
    ends those that wait for a lock, and those that hold one, when it is told why.
    """

    def __init__(self) -> None:
        self.listening: WeakSet[BaseConnection[Any]] = WeakSet()
        self.deaf: set[str] = set()
        self.locks: set[Callable[[str], Any]] = set()

    def forget(self) -> None:
        """In a forked child: they are the parent's."""
        self.listening = WeakSet()
        self.locks = set()

    def warns_of(self, channels: tuple[str, ...]) -> bool:
        """A pooler may keep these from their listener: is it to be said?  Once."""
        news = not self.deaf.issuperset(channels)
        self.deaf.update(channels)
        return news

    def end_listeners(self) -> None:
        """The pool is closed: they are woken, and end."""
        for conn in list(self.listening):
            link = link_of(conn)
            if link is not None:
                link.abort(CLOSED)
