"""Sessions beside the pool's own: listeners and locks.  They end with the pool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import psycopg

from .holding import Key, Told
from .listening import Gap, listen, listen_async
from .lock import Lock
from .lock_async import AsyncLock
from .sessions import CLOSED

if TYPE_CHECKING:
    from .base import PoolCore


# Made from `AsyncApart` by `make generate`: change that one.
class Apart:
    """Of a thread pool."""

    _core: PoolCore

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
        return listen(self, self._core, channels, gap_first, session_pooler)

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
        return Lock(
            self,
            self._core,
            key,
            timeout=timeout,
            session_pooler=session_pooler,
            on_lost=on_lost,
        )

    def _end_apart(self) -> None:
        sessions = self._core.sessions
        sessions.end_listeners()
        for end in list(sessions.locks):
            end(CLOSED)


class AsyncApart:
    """Of an asyncio pool."""

    _core: PoolCore

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
        return listen_async(self, self._core, channels, gap_first, session_pooler)

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
        return AsyncLock(
            self,
            self._core,
            key,
            timeout=timeout,
            session_pooler=session_pooler,
            on_lost=on_lost,
        )

    async def _end_apart(self) -> None:
        sessions = self._core.sessions
        sessions.end_listeners()
        for end in list(sessions.locks):
            await end(CLOSED)
