"""`conn.transaction()` on a connection whose session may change inside of it."""

from __future__ import annotations

from operator import attrgetter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import pq

_BAD = pq.ConnStatus.BAD


class Surviving:
    """Mixed in front of psycopg's transaction classes: the session is the connection's."""

    if not TYPE_CHECKING:
        pgconn = property(attrgetter("_conn.pgconn"), lambda tx, value: None)


# psycopg leaves a block in silence when its connection is broken.  But the last statement may
# have been answered before the connection ended: nobody has been told of a failure, and the
# block is still to be committed, on another session.


# Made from `AsyncTransaction` by `make generate`: change that one.
class Transaction(Surviving, psycopg.Transaction):
    __module__ = "psycopg"

    def __enter__(self) -> Self:
        conn: Any = self._conn
        recorder = conn._resilient.recorder
        if conn.pgconn.status == _BAD and recorder is not None and recorder.recoverable:
            with conn.lock:
                conn.wait(recorder.replayer.stand_again())
        return super().__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        conn: Any = self._conn
        recorder = conn._resilient.recorder
        broken = conn.pgconn.status == _BAD
        if broken and exc_type is None and recorder is not None and recorder.stranded:
            with conn.lock:
                return bool(conn.wait(self._exit_gen(None, None, None)))
        return super().__exit__(exc_type, exc_val, exc_tb)


class AsyncTransaction(Surviving, psycopg.AsyncTransaction):
    __module__ = "psycopg"

    async def __aenter__(self) -> Self:
        conn: Any = self._conn
        recorder = conn._resilient.recorder
        if conn.pgconn.status == _BAD and recorder is not None and recorder.recoverable:
            async with conn.lock:
                await conn.wait(recorder.replayer.stand_again())
        return await super().__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        conn: Any = self._conn
        recorder = conn._resilient.recorder
        broken = conn.pgconn.status == _BAD
        if broken and exc_type is None and recorder is not None and recorder.stranded:
            async with conn.lock:
                return bool(await conn.wait(self._exit_gen(None, None, None)))
        return await super().__aexit__(exc_type, exc_val, exc_tb)
