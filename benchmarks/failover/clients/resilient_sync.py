"""Ours, with nothing set but where the database is (and what the entry sets)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from resilient.postgres import ConnectionPool
from resilient.settings import Settings

from ..target import Target
from ..work import Ask

T = TypeVar("T")


class Client:
    """`with pool.connection()`, and `pool.run`."""

    asynchronous = False
    log = ("resilient.monitor", logging.INFO)

    def __init__(self, target: Target, **settings: Any) -> None:
        self._pool = ConnectionPool(
            target.conninfo(),
            min_size=target.size,
            max_size=target.size,
            open=False,
            settings=Settings(**settings),
        )

    def open(self) -> None:
        self._pool.open(wait=True, timeout=20)

    def close(self) -> None:
        self._pool.close(timeout=1)

    def block(self, steps: Callable[[Ask], T]) -> T:
        with self._pool.connection() as conn:
            return steps(_ask(conn))

    def run(self, steps: Callable[[Ask], T]) -> T:
        return self._pool.run(lambda conn: steps(_ask(conn)))


def _ask(conn: Any) -> Ask:
    return lambda statement, values: conn.execute(statement, values).fetchone() or ()
