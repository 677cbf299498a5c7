"""SQLAlchemy's own pool with pool_pre_ping, which its documentation recommends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import psycopg
from sqlalchemy import create_engine

from ..target import TUNED, Target
from ..work import Ask

T = TypeVar("T")


class Client:
    """`with engine.begin()`."""

    asynchronous = False
    log = ("sqlalchemy.pool", logging.WARNING)

    def __init__(self, target: Target, *, tuned: bool = False) -> None:
        several = not target.is_name or tuned
        conninfo = (target.writer_conninfo if several else target.conninfo)(
            **(TUNED if tuned else {})
        )
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(conninfo),
            pool_pre_ping=True,
            pool_size=target.size,
            max_overflow=0,
        )

    def open(self) -> None:
        self._engine.connect().close()

    def close(self) -> None:
        self._engine.dispose()

    def block(self, steps: Callable[[Ask], T]) -> T:
        with self._engine.begin() as conn:
            return steps(
                lambda statement, values: conn.exec_driver_sql(statement, tuple(values)).one()
            )
