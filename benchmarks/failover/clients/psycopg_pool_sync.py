"""Bare psycopg_pool: as it comes, with its connection check, or with libpq tuned."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from psycopg_pool import ConnectionPool

from ..target import TUNED, Target
from ..work import Ask

T = TypeVar("T")


class Client:
    """`with pool.connection()`."""

    asynchronous = False
    log = ("psycopg.pool", logging.WARNING)

    def __init__(self, target: Target, *, check: bool = False, tuned: bool = False) -> None:
        several = not target.is_name or tuned
        conninfo = (target.writer_conninfo if several else target.conninfo)(
            **(TUNED if tuned else {})
        )
        self._pool = ConnectionPool(
            conninfo,
            min_size=target.size,
            max_size=target.size,
            check=ConnectionPool.check_connection if check else None,
            open=False,
        )

    def open(self) -> None:
        self._pool.open(wait=True, timeout=20)

    def close(self) -> None:
        self._pool.close(timeout=1)

    def block(self, steps: Callable[[Ask], T]) -> T:
        with self._pool.connection() as conn:
            return steps(lambda statement, values: conn.execute(statement, values).fetchone() or ())
