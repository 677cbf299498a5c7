"""Waiting on a connection, and what happens when the caller stops waiting.

psycopg asks the server to cancel and then waits for it, 5 s each: on a server that hangs, a
cancelled task comes back after 10 s.  Here a cancellation takes `GRACE_S` at most: a healthy
server is asked and its answer awaited, so the connection stays clean; otherwise, and always
inside a COMMIT (cancelling a wait for synchronous replication reports success, manual
27.2.8), the connection is closed, so no reply of one query can reach another.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from psycopg import errors as e
from psycopg import pq, waiting
from psycopg.abc import RV, PQGen

from .connection import ResilientMixin

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


class SyncWait(ResilientMixin, SyncBase):
    """Mixed in front of a thread's connection class."""

    def wait(
        self, gen: PQGen[RV], interval: float = INTERVAL_S, timeout: float | None = None
    ) -> RV:
        try:
            return waiting.wait(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except (KeyboardInterrupt, SystemExit):
            if self.pgconn.transaction_status == _ACTIVE:
                self._stop_query(gen)
            raise

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


class AsyncWait(ResilientMixin, AsyncBase):
    """Mixed in front of an asyncio connection class."""

    async def wait(
        self, gen: PQGen[RV], interval: float = INTERVAL_S, timeout: float | None = None
    ) -> RV:
        try:
            return await waiting.wait_async(
                gen, self.pgconn.socket, interval=interval, timeout=timeout
            )
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            if self.pgconn.transaction_status == _ACTIVE:
                await self._stop_query(gen)
            raise

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
