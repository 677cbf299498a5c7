"""Bare psycopg_pool under asyncio, as it comes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from psycopg_pool import AsyncConnectionPool

from ..target import Target
from ..work import AsyncAsk, Row

T = TypeVar("T")


class Client:
    """`async with pool.connection()`."""

    asynchronous = True
    log = ("psycopg.pool", logging.WARNING)

    def __init__(self, target: Target) -> None:
        conninfo = target.conninfo() if target.is_name else target.writer_conninfo()
        size = target.size
        self._pool = AsyncConnectionPool(conninfo, min_size=size, max_size=size, open=False)

    async def open(self) -> None:
        await self._pool.open(wait=True, timeout=20)

    async def close(self) -> None:
        await self._pool.close(timeout=1)

    async def block(self, steps: Callable[[AsyncAsk], Awaitable[T]]) -> T:
        async with self._pool.connection() as conn:

            async def ask(statement: str, values: Sequence[object]) -> Row:
                return await (await conn.execute(statement, values)).fetchone() or ()

            return await steps(ask)
