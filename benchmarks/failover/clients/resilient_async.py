"""Ours under asyncio, with nothing set but where the database is (and what the entry sets)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from resilient.postgres import AsyncConnectionPool
from resilient.settings import Settings

from ..target import Target
from ..work import AsyncAsk, Row

T = TypeVar("T")


class Client:
    """`async with pool.connection()`, and `await pool.run`."""

    asynchronous = True
    log = ("resilient.monitor", logging.INFO)

    def __init__(self, target: Target, **settings: Any) -> None:
        self._pool = AsyncConnectionPool(
            target.conninfo(),
            min_size=target.size,
            max_size=target.size,
            open=False,
            settings=Settings(**settings),
        )

    async def open(self) -> None:
        await self._pool.open(wait=True, timeout=20)

    async def close(self) -> None:
        await self._pool.close(timeout=1)

    async def block(self, steps: Callable[[AsyncAsk], Awaitable[T]]) -> T:
        async with self._pool.connection() as conn:
            return await steps(_ask(conn))

    async def run(self, steps: Callable[[AsyncAsk], Awaitable[T]]) -> T:
        async def call(conn: Any) -> T:
            return await steps(_ask(conn))

        return await self._pool.run(call)


def _ask(conn: Any) -> AsyncAsk:
    async def ask(statement: str, values: Sequence[object]) -> Row:
        return await (await conn.execute(statement, values)).fetchone() or ()

    return ask
