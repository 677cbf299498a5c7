"""asyncpg's pool with several hosts: as it comes, or with its two timeouts set."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg

from ..target import Target
from ..work import AsyncAsk, Row, dollars

T = TypeVar("T")


class Client:
    """`async with pool.acquire()`, and a transaction."""

    asynchronous = True
    log = ("asyncpg", logging.WARNING)

    def __init__(self, target: Target, *, tuned: bool = False) -> None:
        self._target = target
        self._options: dict[str, Any] = {}
        if tuned:
            self._options = {"timeout": 2.0, "command_timeout": 2.0}
        if tuned or not target.is_name:
            self._options["target_session_attrs"] = "read-write"

    async def open(self) -> None:
        size = self._target.size
        self._pool = await asyncpg.create_pool(
            self._target.url(), min_size=size, max_size=size, **self._options
        )

    async def close(self) -> None:
        self._pool.terminate()

    async def block(self, steps: Callable[[AsyncAsk], Awaitable[T]]) -> T:
        async with self._pool.acquire() as conn, conn.transaction():
            return await steps(asker(conn))


def asker(conn: Any) -> AsyncAsk:
    """`ask` of an asyncpg connection."""

    async def ask(statement: str, values: Sequence[object]) -> Row:
        row: Row = await conn.fetchrow(dollars(statement), *values)
        return row

    return ask
