"""Waiting on a connection: what happens when the caller stops waiting, and detours.

psycopg asks the server to cancel and then waits for it, 5 s each: on a server that hangs, a
cancelled task comes back after 10 s.  Here a cancellation takes `GRACE_S` at most: a healthy
server is asked and its answer awaited, so the connection stays clean; otherwise, and always
inside a COMMIT (cancelling a wait for synchronous replication reports success, manual
27.2.8), the connection is closed, so no reply of one query can reach another.

A generator that needs another session leaves psycopg's loop with a `Detour` (`recovery`); it
is driven on from where it stopped, on the descriptor of the new session.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from psycopg import errors as e
from psycopg import pq, waiting
from psycopg.abc import RV, PQGen

from .continuity import ContinuityMixin
from .cursor import recording
from .recovery import Detour
from .transaction import AsyncTransaction, Transaction

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection

    SyncBase = Connection[Any]
    AsyncBase = AsyncConnection[Any]
else:
    SyncBase = AsyncBase = object

GRACE_S = 0.3
#: how often a wait looks up from its socket (a Ctrl-C), in seconds; psycopg's own value
INTERVAL_S = 0.1

_ACTIVE = pq.TransactionStatus.ACTIVE
_OK = pq.ConnStatus.OK


class _Factories(ContinuityMixin):
    """Cursors of any class are made as recording ones."""

    if not TYPE_CHECKING:

        @property
        def cursor_factory(self) -> Any:
            return self._cursor_factory

        @cursor_factory.setter
        def cursor_factory(self, value: Any) -> None:
            self._cursor_factory = recording(value)

    def _descriptor(self) -> int:
        """To wait on; of a session that is gone there is none, and its generators say so."""
        try:
            return self.pgconn.socket
        except e.OperationalError:
            if self._journal is None:
                raise
            return -1

    def _detour_due(self) -> Detour | None:
        """The detour that a generator has just asked for."""
        detour = self._detour
        if detour is None or detour.taken:
            return None
        detour.taken = True
        return detour


class SyncWait(_Factories, SyncBase):
    """Mixed in front of a thread's connection class."""

    def wait(
        self, gen: PQGen[RV], interval: float = INTERVAL_S, timeout: float | None = None
    ) -> RV:
        fd = self._descriptor()
        while True:
            try:
                return waiting.wait(gen, fd, interval=interval, timeout=timeout)
            except (KeyboardInterrupt, SystemExit):
                if self.pgconn.transaction_status == _ACTIVE:
                    self._stop_query(gen)
                raise
            except Exception:
                detour = self._detour_due()
                if detour is None:
                    raise
            try:
                fd = self._take(detour, fd)
            except BaseException:
                gen.close()
                raise

    def _take(self, detour: Detour, fd: int) -> int:
        if detour.pause_s:
            time.sleep(detour.pause_s)
            return fd
        try:
            left_s = max(detour.deadline_at - time.monotonic(), 0.001)
            detour.fresh = self._pool.renewed(self, left_s)  # type: ignore[union-attr]
            return int(detour.fresh.pgconn.socket)
        except Exception as exc:
            detour.failure = exc
            return fd

    def _stop_query(self, gen: PQGen[Any]) -> None:
        if not self._may_cancel():
            self.pgconn.finish()
            return
        try:
            self.cancel_safe(timeout=GRACE_S)
            waiting.wait(gen, self.pgconn.socket, interval=INTERVAL_S, timeout=GRACE_S)
        except e.QueryCanceled:
            return  # as asked for: the connection is clean
        except Exception:
            self.pgconn.finish()
        except BaseException:
            self.pgconn.finish()
            raise

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[Transaction]:
        """As psycopg's; the block survives its server."""
        tx = Transaction(self, savepoint_name, force_rollback)
        if self._pipeline:
            with self.pipeline(), tx, self.pipeline():
                yield tx
        else:
            with tx:
                yield tx


class AsyncWait(_Factories, AsyncBase):
    """Mixed in front of an asyncio connection class."""

    async def wait(
        self, gen: PQGen[RV], interval: float = INTERVAL_S, timeout: float | None = None
    ) -> RV:
        fd = self._descriptor()
        while True:
            try:
                return await waiting.wait_async(gen, fd, interval=interval, timeout=timeout)
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
                if self.pgconn.transaction_status == _ACTIVE:
                    await self._stop_query(gen)
                raise
            except Exception:
                detour = self._detour_due()
                if detour is None:
                    raise
            try:
                fd = await self._take(detour, fd)
            except BaseException:
                gen.close()
                raise

    async def _take(self, detour: Detour, fd: int) -> int:
        if detour.pause_s:
            await asyncio.sleep(detour.pause_s)
            return fd
        try:
            left_s = max(detour.deadline_at - time.monotonic(), 0.001)
            detour.fresh = await self._pool.renewed(self, left_s)  # type: ignore[union-attr]
            return int(detour.fresh.pgconn.socket)
        except Exception as exc:
            detour.failure = exc
            return fd

    async def _stop_query(self, gen: PQGen[Any]) -> None:
        if not self._may_cancel():
            self.pgconn.finish()
            return
        try:
            await self.cancel_safe(timeout=GRACE_S)
            await waiting.wait_async(gen, self.pgconn.socket, interval=INTERVAL_S, timeout=GRACE_S)
        except e.QueryCanceled:
            return  # as asked for: the connection is clean
        except Exception:
            self.pgconn.finish()
        except BaseException:  # cancelled once more while cancelling
            self.pgconn.finish()
            raise

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[AsyncTransaction]:
        """As psycopg's; the block survives its server."""
        tx = AsyncTransaction(self, savepoint_name, force_rollback)
        if self._pipeline:
            async with self.pipeline(), tx, self.pipeline():
                yield tx
        else:
            async with tx:
                yield tx
