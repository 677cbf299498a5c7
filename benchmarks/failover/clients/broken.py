"""A client that lies, so that the judge can be seen to find it out.

Every so often it commits one of the sins of its list, in turn.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg

from ..target import Target
from ..work import APPEND, INSERT, Ask

T = TypeVar("T")
#: each is (what it does, the columns of the verdict that must show it)
SINS = {
    "ack without commit": ("lost",),
    "write twice": ("duplicated",),
    "deny what was done": ("ghosts",),
    "half a transaction": ("torn",),
    "read from a cache": ("unseen",),
    "read what was rolled back": ("forked", "backwards"),
    "write what nobody asked for": ("strangers",),
}
EVERY = 3


class Denied(Exception):
    """The write was done; the caller is told this."""


class Client:
    """One connection per thread, autocommit off, and no conscience."""

    asynchronous = False
    log = ("broken", logging.WARNING)

    def __init__(self, target: Target, *, sins: Sequence[str] = tuple(SINS)) -> None:
        self._target = target
        self._sins = itertools.cycle(sins)
        self._count = itertools.count(1)
        self._lock = threading.Lock()
        self._mine = threading.local()
        self._cache: dict[object, Sequence[Any]] = {}

    def open(self) -> None:
        psycopg.connect(self._target.writer_conninfo()).close()

    def close(self) -> None:
        """Whatever is open may stay so."""

    def block(self, steps: Callable[[Ask], T]) -> T:
        with self._lock:
            sinful = next(self._count) % EVERY == 0
            sin = next(self._sins) if sinful else ""
        conn = getattr(self._mine, "conn", None)
        if conn is None or conn.broken:
            conn = self._mine.conn = psycopg.connect(self._target.writer_conninfo())
        try:
            result = steps(self._asker(conn, sin))
            if sin == "ack without commit":
                conn.rollback()
            conn.commit()
        except BaseException:
            with contextlib.suppress(psycopg.Error):
                conn.rollback()
            raise
        if sin == "deny what was done":
            raise Denied
        return result

    def _asker(self, conn: psycopg.Connection[Any], sin: str) -> Ask:
        def ask(statement: str, values: Sequence[object]) -> Sequence[Any]:
            if sin == "half a transaction" and statement is APPEND:
                return values
            row: Sequence[Any] = conn.execute(statement, values).fetchone() or ()
            if statement is INSERT:
                if sin == "write twice":
                    conn.execute(statement, values)
                elif sin == "write what nobody asked for":
                    conn.execute(statement, [-int(str(values[0]))])
            elif "SELECT items" in statement:
                if sin == "read what was rolled back":
                    return [[*row[0], -1]]
                if sin == "read from a cache":
                    return self._cache.get(values[0], row)
                self._cache.setdefault(values[0], row)
            return row

        return ask
