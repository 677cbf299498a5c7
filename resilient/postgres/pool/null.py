"""The Null pools: no connection is kept, every checkout dials.

psycopg_pool dials under the pool's lock; here a checkout only reserves its place there, so
that callers don't wait in series for a server that is silent, and dials with its deadline.
"""

from __future__ import annotations

from typing import cast

import psycopg
import psycopg_pool

from .._psycopg import ACT, CT, AddConnection, AsyncAddConnection
from .aio import AsyncResilientPool
from .deadline import deadline_in, remaining
from .shell import Slot
from .sync import ResilientPool


# Made from `AsyncResilientNullPool` by `make generate`: change that one.
class ResilientNullPool(ResilientPool[CT], psycopg_pool.NullConnectionPool[CT]):
    """Each checkout dials for itself, until its deadline."""

    _keeps_idle = False

    def _get_ready_connection(self, timeout: float | None) -> CT | None:
        # Under the pool's lock: only reserve; what is dialled is dialled outside of it.
        if (timeout is None or timeout > 0) and (
            self.max_size == 0 or self._nconns < self.max_size
        ):
            self._nconns += 1
            return cast(CT, Slot())
        return super()._get_ready_connection(timeout)

    def _getconn_unchecked(self, timeout: float) -> CT:
        deadline_at = deadline_in(timeout)
        conn = super()._getconn_unchecked(timeout)
        if not isinstance(conn, Slot):
            return conn
        try:
            conn = self._connect(max(remaining(deadline_at), 0.001))
        except BaseException as exc:
            self._give_back_slot()
            if isinstance(exc, psycopg.errors.ConnectionTimeout):
                raise psycopg_pool.PoolTimeout(str(exc)) from exc
            raise
        conn._pool = self
        return conn

    def _give_back_slot(self) -> None:
        """A slot is free again; somebody may have queued for it meanwhile."""
        with self._lock:
            waiting = bool(self._waiting)
            if not waiting:
                self._nconns -= 1
        if waiting:
            self.run_task(AddConnection(self))


class AsyncResilientNullPool(AsyncResilientPool[ACT], psycopg_pool.AsyncNullConnectionPool[ACT]):
    """Each checkout dials for itself, until its deadline."""

    _keeps_idle = False

    async def _get_ready_connection(self, timeout: float | None) -> ACT | None:
        # Under the pool's lock: only reserve; what is dialled is dialled outside of it.
        if (timeout is None or timeout > 0) and (
            self.max_size == 0 or self._nconns < self.max_size
        ):
            self._nconns += 1
            return cast(ACT, Slot())
        return await super()._get_ready_connection(timeout)

    async def _getconn_unchecked(self, timeout: float) -> ACT:
        deadline_at = deadline_in(timeout)
        conn = await super()._getconn_unchecked(timeout)
        if not isinstance(conn, Slot):
            return conn
        try:
            conn = await self._connect(max(remaining(deadline_at), 0.001))
        except BaseException as exc:
            await self._give_back_slot()
            if isinstance(exc, psycopg.errors.ConnectionTimeout):
                raise psycopg_pool.PoolTimeout(str(exc)) from exc
            raise
        conn._pool = self
        return conn

    async def _give_back_slot(self) -> None:
        """A slot is free again; somebody may have queued for it meanwhile."""
        async with self._lock:
            waiting = bool(self._waiting)
            if not waiting:
                self._nconns -= 1
        if waiting:
            self.run_task(AsyncAddConnection(self))
