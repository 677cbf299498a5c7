"""A new session that is refused by whoever prepares it, and would be again.

psycopg_pool tries again in silence, and who waits is told of a timeout.  Frameworks whose own
connections fail at once let their callers know (`fail_waiting`).
"""

from __future__ import annotations

from typing import Any

import psycopg

from ...errors import ResilientError


def stays(exc: BaseException | None) -> bool:
    """Would another session fare no better?  A mistake in a handler, or in what it says."""
    mistakes = (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError)
    passing = (psycopg.Error, ResilientError, OSError)
    return isinstance(exc, mistakes) or not isinstance(exc, passing)


def fail_waiting(pool: Any, exc: Exception) -> None:
    """Whoever waits for a connection of a thread pool gets this error instead."""
    with pool._lock:
        while pool._waiting:
            pool._waiting.popleft().fail(exc)


async def fail_waiting_later(pool: Any, exc: Exception) -> None:
    """The same of an asyncio pool."""
    async with pool._lock:
        while pool._waiting:
            await pool._waiting.popleft().fail(exc)
