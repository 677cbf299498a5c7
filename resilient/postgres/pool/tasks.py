"""Maintenance tasks of the pools: what a worker does so that nobody else has to wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakMethod

from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from .._psycopg import AddConnection, AsyncAddConnection, AsyncMaintenanceTask, MaintenanceTask


class Ending:
    """A worker's queue: who takes the next task, and was cancelled meanwhile, ends."""

    def __init__(self, queue: Any) -> None:
        self.tasks = queue

    async def get(self) -> Any:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        return await self.tasks.get()


class Discard(MaintenanceTask):
    """Close connections that are ruled out, on a worker, and have them replaced."""

    def __init__(
        self, pool: ConnectionPool[Any], conns: list[Connection[Any]], replace: bool = True
    ) -> None:
        super().__init__(pool)
        self.conns = conns
        self.replace = replace

    def run(self) -> None:
        pool = self.pool()
        if pool is not None and not pool.closed:
            super().run()
            return
        for conn in self.conns:  # the pool was closed meanwhile
            conn._pool = None
            conn.close()

    def _run(self, pool: ConnectionPool[Any]) -> None:
        for conn in self.conns:
            pool._close_connection(conn)
            if self.replace:
                pool.run_task(AddConnection(pool))


# Made from `AsyncWork` by `make generate`: change that one.
class Work(MaintenanceTask):
    """One of the pool's own methods, on a worker."""

    def __init__(self, pool: ConnectionPool[Any], method: Callable[..., None], *args: Any) -> None:
        super().__init__(pool)
        self._method = WeakMethod(method)
        self._args = args

    def _run(self, pool: ConnectionPool[Any]) -> None:
        if (method := self._method()) is not None:
            method(*self._args)


class AsyncClosing(AsyncMaintenanceTask):
    """A task that holds connections: it closes them when the pool was closed meanwhile."""

    def __init__(self, pool: AsyncConnectionPool[Any], conns: list[AsyncConnection[Any]]) -> None:
        super().__init__(pool)
        self.conns = conns

    async def run(self) -> None:
        pool = self.pool()
        if pool is not None and not pool.closed:
            await super().run()
            return
        for conn in self.conns:
            conn._pool = None
            await conn.close()


class AsyncDiscard(AsyncClosing):
    """Close connections that are ruled out, on a worker, and have them replaced."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Any],
        conns: list[AsyncConnection[Any]],
        replace: bool = True,
    ) -> None:
        super().__init__(pool, conns)
        self.replace = replace

    async def _run(self, pool: AsyncConnectionPool[Any]) -> None:
        for conn in self.conns:
            await pool._close_connection(conn)
            if self.replace:
                pool.run_task(AsyncAddConnection(pool))


class AsyncPutBack(AsyncClosing):
    """Return a connection on a worker, which nobody cancels; `put`: the pool's method for it."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Any],
        conn: AsyncConnection[Any],
        put: Callable[[Any], Awaitable[None]],
    ) -> None:
        super().__init__(pool, [conn])
        self._method = WeakMethod(put)

    async def _run(self, pool: AsyncConnectionPool[Any]) -> None:
        if (put := self._method()) is not None:
            await put(self.conns[0])


class AsyncWork(AsyncMaintenanceTask):
    """One of the pool's own methods, on a worker."""

    def __init__(
        self, pool: AsyncConnectionPool[Any], method: Callable[..., Awaitable[None]], *args: Any
    ) -> None:
        super().__init__(pool)
        self._method = WeakMethod(method)
        self._args = args

    async def _run(self, pool: AsyncConnectionPool[Any]) -> None:
        if (method := self._method()) is not None:
            await method(*self._args)
