"""Maintenance tasks of the pools: what a worker does so that nobody else has to wait for it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import psycopg

from .._psycopg import AddConnection, AsyncAddConnection, AsyncMaintenanceTask, MaintenanceTask
from ..replay.catalogue import Asked, only_reading
from .borrowing import spare


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

    def __init__(self, pool: Any, conns: list[Any], replace: bool = True) -> None:
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

    def _run(self, pool: Any) -> None:
        for conn in self.conns:
            pool._close_connection(conn)
            if self.replace:
                pool.run_task(AddConnection(pool))


# Made from `AsyncArrange` by `make generate`: change that one.
class Arrange(MaintenanceTask):
    """Open pools for new replicas, close those of endpoints that are replicas no more."""

    def _run(self, pool: Any) -> None:
        pool._arrange_replicas()


class AsyncClosing(AsyncMaintenanceTask):
    """A task that holds connections: it closes them when the pool was closed meanwhile."""

    def __init__(self, pool: Any, conns: list[Any]) -> None:
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

    def __init__(self, pool: Any, conns: list[Any], replace: bool = True) -> None:
        super().__init__(pool, conns)
        self.replace = replace

    async def _run(self, pool: Any) -> None:
        for conn in self.conns:
            await pool._close_connection(conn)
            if self.replace:
                pool.run_task(AsyncAddConnection(pool))


class AsyncPutBack(AsyncClosing):
    """Return a connection on a worker, which nobody cancels."""

    def __init__(self, pool: Any, conn: Any, checked_in: bool) -> None:
        super().__init__(pool, [conn])
        self.checked_in = checked_in

    async def _run(self, pool: Any) -> None:
        if self.checked_in:
            await pool._add_now(self.conns[0])
        else:
            await pool._put_now(self.conns[0])


class AsyncArrange(AsyncMaintenanceTask):
    """Open pools for new replicas, close those of endpoints that are replicas no more."""

    async def _run(self, pool: Any) -> None:
        await pool._arrange_replicas()


# Made from `AsyncRenew` by `make generate`: change that one.
class Renew(MaintenanceTask):
    """Ask the functions that give the credentials again, and try what they say at once."""

    def _run(self, pool: Any) -> None:
        pool._core.attach(pool._resolve_conninfo(), pool._resolve_kwargs())
        for task in list(pool._core.parked):
            pool.run_task(task)


class AsyncRenew(AsyncMaintenanceTask):
    """Ask the functions that give the credentials again, and try what they say at once."""

    async def _run(self, pool: Any) -> None:
        pool._core.attach(await pool._resolve_conninfo(), await pool._resolve_kwargs())
        for task in list(pool._core.parked):
            pool.run_task(task)


class LookUp(MaintenanceTask):
    """Ask a catalogue whether statements can only read, on a connection that can be spared."""

    def __init__(self, pool: Any, reads: list[Asked], idle: int) -> None:
        super().__init__(pool)
        self.reads = reads
        self.idle = idle

    def _run(self, pool: Any) -> None:
        with pool._lock:
            conn: Any = spare(pool, self.idle)
        if conn is None:
            return
        try:
            with suppress(psycopg.Error):  # it is found gone, and replaced
                found = conn.wait(only_reading(conn.pgconn, self.reads))
                pool._core.known.learnt(found, set(self.reads) - set(found))
        finally:
            with pool._lock:
                if pool._sound(conn):
                    pool._add_to_pool(conn)


class AsyncLookUp(AsyncMaintenanceTask):
    """Ask a catalogue whether statements can only read, on a connection that can be spared."""

    def __init__(self, pool: Any, reads: list[Asked], idle: int) -> None:
        super().__init__(pool)
        self.reads = reads
        self.idle = idle

    async def _run(self, pool: Any) -> None:
        conn: Any = spare(pool, self.idle)
        if conn is None:
            return
        try:
            with suppress(psycopg.Error):  # it is found gone, and replaced
                found = await conn.wait(only_reading(conn.pgconn, self.reads))
                pool._core.known.learnt(found, set(self.reads) - set(found))
        finally:
            if pool._sound(conn):
                await pool._add_to_pool(conn)


def renew(pool: Any) -> None:
    """Have a worker of the pool do it.  Any thread."""
    loop = getattr(pool, "_loop", None)
    if loop is None:
        pool.run_task(Renew(pool))
        return
    with suppress(RuntimeError):  # the loop was closed before the pool
        loop.call_soon_threadsafe(lambda: pool.run_task(AsyncRenew(pool)))
