"""Sessions beside the pool's own: listeners and locks.  They end with the pool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import cached_property
from typing import Any
from weakref import WeakSet

import psycopg

from ..session.keeper import link_of
from .holding import Key, Told
from .listening import Gap, listen, listen_async
from .lock import Lock
from .lock_async import AsyncLock

CLOSED = "the pool was closed"


class Sessions:
    """The sessions that a pool has made beside its own."""

    @cached_property
    def _listening(self) -> WeakSet[Any]:
        return WeakSet()

    @cached_property
    def _deaf(self) -> set[str]:
        """The channels that a pooler may keep from their listener, as was said."""
        return set()

    @cached_property
    def _locks(self) -> set[Any]:
        """Those that wait for a lock, and those that hold one."""
        return set()

    def _end_listeners(self) -> None:
        """The pool is closed: they are woken, and end."""
        for conn in list(self._listening):
            link = link_of(conn)
            if link is not None:
                link.abort(CLOSED)


# Made from `AsyncApart` by `make generate`: change that one.
class Apart(Sessions):
    """Of a thread pool."""

    def listen(
        self, *channels: str, gap_first: bool = False, session_pooler: bool = False
    ) -> Iterator[psycopg.Notify | Gap]:
        """Notifications on these channels: psycopg's `Notify`, and a `Gap` where some may be
        missing, after it listens again.  It has a session of its own, to the writer, for as long
        as it is iterated; it ends when the pool is closed.  `gap_first`: a `Gap` also says that
        it listens now, for who has to look at the data from then on.  `session_pooler`: a pooler
        is in between, and keeps one session for each client; otherwise one is warned of, once.
        Raises psycopg's errors but those of a session that ends or can't be had, which it goes on
        from.
        """
        return listen(self, channels, gap_first, session_pooler)

    def lock(
        self,
        key: Key,
        *,
        timeout: float | None = None,
        session_pooler: bool = False,
        on_lost: Told | None = None,
    ) -> Lock:
        """An advisory lock in a session of its own, for a `with` block.

        `key`: a text (`hashtextextended(key, 0)`) or a number of 64 bits.  `timeout`: how long to
        wait for it, in seconds; default: as long as it takes; 0: it isn't waited for.
        `session_pooler`: a pooler is in between, and keeps one session for each client.
        `on_lost`: called, in a thread, with a `LockLost` when it is gone.

        It is never taken again in silence.  There is no mutual exclusion across failovers: give
        `lock.token` to whatever is written to, and let that refuse smaller ones.
        """
        return Lock(self, key, timeout, session_pooler, on_lost)

    def _end_apart(self) -> None:
        self._end_listeners()
        for lock in list(self._locks):
            lock._abandon(CLOSED)


class AsyncApart(Sessions):
    """Of an asyncio pool."""

    def listen(
        self, *channels: str, gap_first: bool = False, session_pooler: bool = False
    ) -> AsyncIterator[psycopg.Notify | Gap]:
        """Notifications on these channels: psycopg's `Notify`, and a `Gap` where some may be
        missing, after it listens again.  It has a session of its own, to the writer, for as long
        as it is iterated; it ends when the pool is closed.  `gap_first`: a `Gap` also says that
        it listens now, for who has to look at the data from then on.  `session_pooler`: a pooler
        is in between, and keeps one session for each client; otherwise one is warned of, once.
        Raises psycopg's errors but those of a session that ends or can't be had, which it goes on
        from.
        """
        return listen_async(self, channels, gap_first, session_pooler)

    def lock(
        self,
        key: Key,
        *,
        timeout: float | None = None,
        session_pooler: bool = False,
        on_lost: Told | None = None,
    ) -> AsyncLock:
        """An advisory lock in a session of its own, for an `async with` block.

        `key`: a text (`hashtextextended(key, 0)`) or a number of 64 bits.  `timeout`: how long to
        wait for it, in seconds; default: as long as it takes; 0: it isn't waited for.
        `session_pooler`: a pooler is in between, and keeps one session for each client.
        `on_lost`: called, on the loop, with a `LockLost` when it is gone.

        It is never taken again in silence.  There is no mutual exclusion across failovers: give
        `lock.token` to whatever is written to, and let that refuse smaller ones.
        """
        return AsyncLock(self, key, timeout, session_pooler, on_lost)

    async def _end_apart(self) -> None:
        self._end_listeners()
        for lock in list(self._locks):
            await lock._abandoned(CLOSED)
