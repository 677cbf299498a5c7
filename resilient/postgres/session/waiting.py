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
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from psycopg import errors as e
from psycopg import pq, waiting
from psycopg.abc import RV, PQGen

from ..replay.recorder import ContinuityMixin
from ..replay.replayer import Detour
from .connection import INTERVAL_S
from .cursor import recording
from .pipeline import AsyncPipeline, Pipeline
from .transaction import AsyncTransaction, Transaction

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection

    SyncBase = Connection[Any]
    AsyncBase = AsyncConnection[Any]
else:
    SyncBase = AsyncBase = object

GRACE_S = 0.3

#: so many kinds of cursors a connection remembers
MOST_CLASSES = 8
#: ready to be read and written, as psycopg's loop would say
READY = waiting.Ready.RW
#: reads until a socket at its end counts as endless
MOST_READS = 10_000
#: generators whose first step on a lost session leads to its recovery
RECOVERING = frozenset(
    {"perform", "_many_gen", "_commit_gen", "_exit_gen", "_meet_first", "_stand_again"}
)

_ACTIVE = pq.TransactionStatus.ACTIVE
_BAD = pq.ConnStatus.BAD


class _Shared(ContinuityMixin):
    """What the sync and the async connection do alike."""

    #: those of the cursors that it has made, and what became of them: they live as long as it
    _cursor_classes: dict[type[Any], type[Any]] = {}  # noqa: RUF012  # replaced, never changed

    if not TYPE_CHECKING:

        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            """As psycopg's; what it executes is recorded."""
            cur = self._plain_cursor(*args, **kwargs)
            made = type(cur)
            known = self._cursor_classes.get(made)
            if known is None:
                known = self._new_cursor_class(made)
            if known is not made:
                cur.__class__ = known
            return cur

        def _new_cursor_class(self, made: Any) -> Any:
            if len(self._cursor_classes) >= MOST_CLASSES:  # never the same: start over
                self._cursor_classes = {}
            known = recording(made)
            self._cursor_classes = {**self._cursor_classes, made: known}
            return known

    def _place_of_broken(self) -> Any:
        """The pool whose place this connection takes, that has ended broken, and to which `close`
        is to return it; psycopg's does nothing with such a connection, and the place is lost."""
        pool: Any = getattr(self, "_pool", None)
        returns = self.pgconn.status == _BAD and getattr(pool, "close_returns", False)
        return pool if returns and not self._closed else None

    def _no_descriptor(self, gen: Any, exc: Exception) -> int:
        """A session that is gone has none to wait on; our own generators find that out by
        themselves, before they wait, and recover."""
        recovers = self._journal is not None and self._pipeline is None and not self._closed
        if recovers and gen.__name__ in RECOVERING:
            return -1
        self.tell_why(exc)
        raise exc

    @staticmethod
    def _stuck(gen: Any, exc: Exception) -> bool:
        """psycopg's loop found the socket at its end and left the generator where it was."""
        ended = isinstance(exc, e.OperationalError) and exc.sqlstate is None
        return ended and getattr(gen, "gi_frame", None) is not None

    def _hear_out(self, gen: Any) -> Detour:
        """Let it read what is left, and the end: nothing of that has to be waited for.

        A statement's answer may be among it, and a failure is then libpq's, raised where it
        can be dealt with.  Raises `StopIteration` with the generator's value.
        """
        try:
            for _ in range(MOST_READS):
                gen.send(READY)
                detour = self._detour_due()
                if detour is not None:
                    return detour
            self.pgconn.finish()
            raise e.OperationalError("the connection socket is closed")
        except e.OperationalError as exc:
            self._failed(gen, exc)
            raise

    def _failed(self, gen: Any, exc: Exception) -> None:
        """What a generator has raised goes to the caller."""
        self.tell_why(exc, getattr(gen, "__name__", "") in RECOVERING)

    def _abandon(self, gen: Any) -> None:
        """The caller stopped waiting in the middle of a recovery."""
        self.pgconn.finish()
        with suppress(RuntimeError):  # psycopg's pipelines want to read on when closed
            gen.close()

    def _detour_due(self) -> Detour | None:
        """The detour that a generator has just asked for."""
        detour = self._detour
        if detour is None or detour.taken:
            return None
        detour.taken = True
        return detour


class SyncWait(_Shared, SyncBase):
    """Mixed in front of a thread's connection class."""

    def wait(
        self, gen: PQGen[RV], interval: float = INTERVAL_S, timeout: float | None = None
    ) -> RV:
        try:
            fd = self.pgconn.socket
        except e.OperationalError as exc:
            fd = self._no_descriptor(gen, exc)
        while True:
            try:
                return waiting.wait(gen, fd, interval=interval, timeout=timeout)
            except (KeyboardInterrupt, SystemExit):
                if self.pgconn.transaction_status == _ACTIVE:
                    self._stop_query(gen)
                raise
            except Exception as exc:
                detour = self._detour_due()
                if detour is None and not self._stuck(gen, exc):
                    self._failed(gen, exc)
                    raise
            if detour is None:
                try:
                    detour = self._hear_out(gen)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
            try:
                fd = self._take(detour, fd)
            except BaseException:
                self._abandon(gen)
                raise

    def _take(self, detour: Detour, fd: int) -> int:
        if detour.pause_s:
            time.sleep(detour.pause_s)
            return fd
        try:
            left_s = max(detour.deadline_at - time.monotonic(), 0.001)
            detour.fresh = self._pool.renewed(self, left_s, detour.at)  # type: ignore[union-attr]
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
    def pipeline(self) -> Iterator[Pipeline]:
        """As psycopg's; the block survives its server."""
        if self._pipeline is None and not self._in_block and self._journal is not None:
            with self.lock:
                self.wait(self._meet_first())
        with self.lock:
            self._check_connection_ok()
            if (pipeline := self._pipeline) is None:
                pipeline = self._pipeline = Pipeline(self)
        try:
            with pipeline:
                yield pipeline  # type: ignore[misc]
        finally:
            if pipeline.level == 0:
                with self.lock:
                    self._pipeline = None

    def close(self) -> None:
        """As psycopg's; where that returns it to its pool, also one that has ended broken."""
        pool = self._place_of_broken()
        if pool is not None:
            pool.putconn(self)
            self._pool, self._closed = None, True
        super().close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if exc_type is None and self.stranded:
            self.commit()
        super().__exit__(exc_type, exc_val, exc_tb)

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


class AsyncWait(_Shared, AsyncBase):
    """Mixed in front of an asyncio connection class."""

    async def wait(
        self, gen: PQGen[RV], interval: float = INTERVAL_S, timeout: float | None = None
    ) -> RV:
        try:
            fd = self.pgconn.socket
        except e.OperationalError as exc:
            fd = self._no_descriptor(gen, exc)
        while True:
            try:
                return await waiting.wait_async(gen, fd, interval=interval, timeout=timeout)
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
                if self.pgconn.transaction_status == _ACTIVE:
                    await self._stop_query(gen)
                raise
            except Exception as exc:
                detour = self._detour_due()
                if detour is None and not self._stuck(gen, exc):
                    self._failed(gen, exc)
                    raise
            if detour is None:
                try:
                    detour = self._hear_out(gen)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
            try:
                fd = await self._take(detour, fd)
            except BaseException:
                self._abandon(gen)
                raise

    async def _take(self, detour: Detour, fd: int) -> int:
        if detour.pause_s:
            await asyncio.sleep(detour.pause_s)
            return fd
        try:
            left_s = max(detour.deadline_at - time.monotonic(), 0.001)
            pool: Any = self._pool
            detour.fresh = await pool.renewed(self, left_s, detour.at)
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
    async def pipeline(self) -> AsyncIterator[AsyncPipeline]:
        """As psycopg's; the block survives its server."""
        if self._pipeline is None and not self._in_block and self._journal is not None:
            async with self.lock:
                await self.wait(self._meet_first())
        async with self.lock:
            self._check_connection_ok()
            if (pipeline := self._pipeline) is None:
                pipeline = self._pipeline = AsyncPipeline(self)
        try:
            async with pipeline:
                yield pipeline  # type: ignore[misc]
        finally:
            if pipeline.level == 0:
                async with self.lock:
                    self._pipeline = None

    async def close(self) -> None:
        """As psycopg's; where that returns it to its pool, also one that has ended broken."""
        pool = self._place_of_broken()
        if pool is not None:
            await pool.putconn(self)
            self._pool, self._closed = None, True
        await super().close()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if exc_type is None and self.stranded:
            await self.commit()
        await super().__aexit__(exc_type, exc_val, exc_tb)

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
