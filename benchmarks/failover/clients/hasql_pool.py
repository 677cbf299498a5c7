"""hasql over asyncpg: a pool per host, and a task that looks who the master is."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from hasql.driver.asyncpg import PoolManager

from ..target import Target
from ..work import AsyncAsk
from .asyncpg_pool import asker

T = TypeVar("T")
#: looks ten times a second instead of once, gives a look 1 s instead of 30, and a query 2 s
TUNED: dict[str, Any] = {"refresh_delay": 0.1, "refresh_timeout": 1.0, "acquire_timeout": 2.0}


class Client:
    """`async with pool.acquire_master()`, and a transaction."""

    asynchronous = True
    log = ("hasql", logging.WARNING)

    def __init__(self, target: Target, *, tuned: bool = False) -> None:
        self._target = target
        self._options = TUNED if tuned else {}
        self._pool_options: dict[str, Any] = {"min_size": target.size, "max_size": target.size}
        if tuned:
            self._pool_options |= {"timeout": 2.0, "command_timeout": 2.0}

    async def open(self) -> None:
        manager: Any = PoolManager  # untyped
        self._pool = manager(
            self._target.url(), pool_factory_kwargs=self._pool_options, **self._options
        )
        await self._pool.ready(masters_count=1, replicas_count=0)

    async def close(self) -> None:
        await self._pool.terminate()

    async def block(self, steps: Callable[[AsyncAsk], Awaitable[T]]) -> T:
        async with self._pool.acquire_master() as conn, conn.transaction():
            return await steps(asker(conn))
