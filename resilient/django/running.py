"""Transactions that are run again as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from django.db import DEFAULT_DB_ALIAS, Error, connections, transaction

from ..postgres.pool.attempts import Attempts

T = TypeVar("T")


def run(
    fn: Callable[..., T],
    /,
    *args: Any,
    using: str = DEFAULT_DB_ALIAS,
    timeout: float | None = None,
    **kwargs: Any,
) -> T:
    """`fn(*args, **kwargs)` in `transaction.atomic(using, durable=True)`, run again as a whole on a
    failover that couldn't be hidden, a serialization failure or a deadlock.

    `timeout`: seconds, default `DEADLINE_S`.  Raises what `fn` raises; an outcome that nobody knows
    (`CommitOutcomeUnknown`, the cause of Django's OperationalError) is never run again by guess.
    `on_commit` handlers of an attempt that failed aren't called.
    """
    wrapper: Any = connections[using]
    wrapper.ensure_connection()
    attempts = Attempts(wrapper.pool._core, timeout)
    last: BaseException | None = None
    while True:
        wrapper.ensure_connection()
        conn = wrapper.connection
        try:
            attempts.begins(conn)
        except psycopg.Error:
            assert last is not None
            raise last from last.__cause__
        try:
            with transaction.atomic(using, durable=True):
                return fn(*args, **kwargs)
        except Error as exc:
            cause = exc.__cause__
            if not isinstance(cause, psycopg.Error):
                raise
            attempts.failed(conn, cause)
            if not attempts.again(cause):
                raise
            last = exc
            wrapper.close_if_unusable_or_obsolete()
        time.sleep(attempts.pause_s)
