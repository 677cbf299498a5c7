"""`pool.lock` for asyncio: an advisory lock whose holder is told when it is gone."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Self

import psycopg
import psycopg_pool

from ..errors import LockLost
from ..session.keeper import close
from .holding import Grant, Held, Hold, acquire


class AsyncLock(Held):
    """What `pool.lock(key)` of an asyncio pool gives: a context manager, for one use.

    At the end of its block `LockLost` is raised if the lock was gone before.
    """

    _task: asyncio.Task[None] | None = None

    async def acquire(self) -> Self:
        """Wait for the lock.  Raises psycopg's `LockNotAvailable` when somebody else has it for the
        whole `timeout`, `PoolTimeout` where no session can be had."""
        until = self._start()
        self._core.sessions.locks.add(self._abandoned)
        try:
            conn, grant = await self._waited(until)
        except BaseException:
            self._core.sessions.locks.discard(self._abandoned)
            raise
        hold = self._got(conn, grant)
        self._wake, self._news = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._watch(hold), name="resilient-lock")
        return self

    async def _waited(self, until: float) -> tuple[Any, Grant]:
        pool, core = self._pool, self._core
        if core.reopen:
            core.reopened()
            await pool.open()
        if pool.closed:
            raise psycopg_pool.PoolClosed("the pool isn't open")
        while True:
            conn = await pool._connect(self._connecting_s(until))
            try:
                self._met(conn)
                await conn.set_autocommit(True)
                left_s = self._left_s(until)
                return conn, await conn.wait(acquire(conn.pgconn, self.key, left_s, self._pooler))
            except psycopg.OperationalError as exc:
                again = self._again(conn, until)
                close(conn)
                if not again:
                    raise
                core.note(conn, exc)
            except BaseException:
                close(conn)
                raise

    async def _watch(self, hold: Hold) -> None:
        loop, fileno, steps = asyncio.get_running_loop(), hold.conn.pgconn.socket, hold.steps()
        loop.add_reader(fileno, self._wake.set)
        try:
            while True:
                self._wake.clear()
                wait_s = next(steps, None)
                self._tell_holder()
                if wait_s is None:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
        finally:
            loop.remove_reader(fileno)
            hold.end()
            self._core.sessions.locks.discard(self._abandoned)
            self._tell_holder()
            self._ended(hold)

    def _tell_holder(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def check(self) -> None:
        """Ask the server, in one round trip, on the session that holds the lock.  Raises `LockLost`
        when it is gone."""
        self._raise_if_lost()
        hold = self._held
        ticket = hold.ask()
        self._wake.set()
        while not hold.settled(ticket):
            await self._news.wait()
        self._raise_if_lost()

    async def wait_lost(self) -> bool:
        """Wait until it is gone, or given back: is it lost?"""
        hold = self._held
        while not hold.over:
            await self._news.wait()
        return self.lost

    async def release(self) -> None:
        """Give it back.  Raises `LockLost` if it was gone before."""
        hold = self._held
        if not self.lost and not hold.over:
            hold.leaving = True
            self._wake.set()
            assert self._task is not None
            await asyncio.wait([self._task])  # it ends by itself where one doesn't wait for it
        self._raise_if_lost()

    async def _abandoned(self, why: str) -> None:
        """The pool is closed."""
        self._abandon(why)
        if self._task is not None and self._task is not asyncio.current_task():
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        return await self.acquire()

    async def __aexit__(
        self, kind: object, failure: BaseException | None, traceback: object
    ) -> None:
        try:
            await self.release()
        except LockLost:
            if failure is None:
                raise
