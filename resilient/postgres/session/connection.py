"""The hooks between a caller's connection class and psycopg's.

They stand *behind* whatever class a pool was given, directly before psycopg's own: a user's
`transaction`, `wait` or `execute` runs first, and its `super()` comes here.  Each bears the name
that it has in psycopg.  What they do is others' work; the attribute `_resilient` is all that they
add.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import GeneratorType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import errors as e
from psycopg import pq, waiting
from psycopg.abc import RV, PQGen

from .._psycopg import BaseConnection
from ..replay.recorder import STEPS
from .beside import beside
from .cursor import recorded
from .detour import Detour, Fresh
from .dial import current_dial
from .keeper import place_of_broken
from .pipeline import AsyncPipeline, Pipeline, commit_between
from .transaction import AsyncTransaction, Transaction
from .waiting import (
    INTERVAL_S,
    READY,
    abandon,
    failed,
    first_step,
    hear_out,
    stop,
    stop_async,
    take,
    take_async,
    until_detour,
)

if TYPE_CHECKING:
    from psycopg.abc import PQGenConn, QueryNoTemplate

    from .host import Gen
    from .keeper import Keeper, KeptConnection

    Base = KeptConnection
else:
    Base = BaseConnection[Any]

_BAD = pq.ConnStatus.BAD
_IDLE = pq.TransactionStatus.IDLE
_COMMITS, _ROLLBACKS = ("COMMIT", b"COMMIT"), ("ROLLBACK", b"ROLLBACK")


class Hooks(Base):
    """What sync and async connections have alike."""

    _resilient: Keeper

    def __init__(self, pgconn: pq.abc.PGconn, *args: Any, **kwargs: Any) -> None:
        super().__init__(pgconn, *args, **kwargs)
        self._resilient = beside(self)

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Self]:
        dial = current_dial.get()
        gen = super()._connect_gen(conninfo)
        if dial is None:
            return (yield from gen)
        conn = yield from dial.guard(gen)
        try:
            yield from dial.admit(conn.pgconn)
        except BaseException:
            conn.pgconn.finish()
            raise
        conn._resilient.wire.attach(dial.link)
        return conn

    def _check_connection_ok(self) -> None:
        if self._resilient.recorder is None or self._closed:
            super()._check_connection_ok()

    def _exec_command(self, command: QueryNoTemplate, *args: Any, **kwargs: Any) -> Gen:
        keeper = self._resilient
        recorder = keeper.recorder
        if command == b"DEALLOCATE ALL":
            keeper.wire.forget_names()
        if recorder is None:
            if command in _COMMITS and self._pipeline is None:
                return keeper.committer.commit_unrecorded()
            if command in _ROLLBACKS:
                return keeper.committer.roll_back()
            if self._pipeline is None and command.__class__ is bytes and not (args or kwargs):
                return keeper.host.command(command)
            return super()._exec_command(command, *args, **kwargs)
        if command == b"COMMIT":
            if self._pipeline is not None:
                return commit_between(self, recorder)
            return recorder.committer.commit()
        if not isinstance(command, bytes):
            return recorder.two_phase(super()._exec_command(command, *args, **kwargs))
        if self._pipeline is not None:
            recorder.queued(command)
            if command == b"ROLLBACK":
                return recorder.committer.roll_back()
        elif command == b"ROLLBACK":
            return recorder.roll_back()
        elif command.startswith(STEPS):
            return recorder.step(command)
        return super()._exec_command(command, *args, **kwargs)

    def _commit_gen(self) -> Gen:
        recorder = self._resilient.recorder
        if (
            recorder is None
            or self._pipeline is not None
            or self._num_transactions
            or self._tpc
            or self.pgconn.transaction_status == _IDLE
        ):
            return super()._commit_gen()
        return recorder.committer.commit_whole()

    def _check_intrans_gen(self, attribute: str) -> Gen:
        recorder = self._resilient.recorder
        lost = self.pgconn.status == _BAD and not self._closed
        if lost and recorder is not None and not recorder.journal.entries:
            return  # no transaction is in the way: none is to be done again
        yield from super()._check_intrans_gen(attribute)

    def _deallocate(self, name: bytes | None) -> Gen:
        try:
            return (yield from super()._deallocate(name))
        except e.OperationalError:
            # A session that is gone has no prepared statements; the next use finds it gone.
            if self._resilient.recorder is None or self.pgconn.status != _BAD:
                raise

    def _start_query(self) -> Gen:
        keeper = self._resilient
        recorder, piped = keeper.recorder, self._pipeline is not None
        if recorder is not None:
            return recorder.start(super()._start_query, piped)
        if not piped and keeper.for_reading:
            return keeper.start_reading(super()._start_query)
        keeper.wire.rowwise |= not piped  # who begins a statement so may stream
        return super()._start_query()


def nothing_to_commit(conn: HookedConnection | HookedAsyncConnection) -> bool:
    """Is `commit` done before it begins?  Not while somebody is at work on the connection."""
    return (
        conn.pgconn.transaction_status == _IDLE
        and not (conn._num_transactions or conn._tpc)
        and not conn.lock.locked()
    )


# What `super()` finds: it would look it up anew for every statement.
_cursor: Any = psycopg.Connection.cursor
_async_cursor: Any = psycopg.AsyncConnection.cursor


# Made from `HookedAsyncConnection` by `make generate`: change that one.
class HookedConnection(Hooks, psycopg.Connection[Any]):
    """For threads."""

    if not TYPE_CHECKING:

        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            cur = _cursor(self, *args, **kwargs)
            known = self._resilient.cursors.get(cur.__class__)
            if known is None:
                return recorded(self._resilient, cur)
            if known is not cur.__class__:
                cur.__class__ = known
            return cur

    def wait(
        self, gen: PQGen[RV], interval: float = INTERVAL_S, timeout: float | None = None
    ) -> RV:
        keeper = self._resilient
        judge = keeper.judge
        judge.dealt = False
        steps: Any = gen
        judge.parts = gen is judge.whole
        if judge.parts:
            judge.whole, judge.stopped = None, False
        elif judge.recording or gen.__class__ is not GeneratorType:  # one of C is no such
            steps = until_detour(judge, gen)
        try:
            fd = self.pgconn.socket
        except e.OperationalError as exc:
            judge.parts = False
            if self._closed:  # by its user: there is nothing to find out
                raise
            fd, steps = -1, first_step(judge, gen, exc)
        fresh: Fresh | None = None
        while True:
            try:
                found: Any = waiting.wait(steps, fd, interval, timeout)
            except (KeyboardInterrupt, SystemExit):
                stop(self, keeper, steps, gen, fresh)
                raise
            except Exception as exc:
                failed(keeper, steps, exc)
                found = hear_out(keeper, gen)
            if found.__class__ is not Detour:
                return found  # type: ignore[no-any-return]
            if found.rest is not None:
                gen = found.rest
                steps = until_detour(judge, gen)
                continue
            try:
                fd = take(self, found, fd)
            except BaseException:
                abandon(keeper, gen, fresh)
                raise
            fresh = found.fresh or fresh
            judge.dealt = False
            steps = until_detour(judge, gen, READY)

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """As psycopg's; the block survives its server."""
        recorder = self._resilient.recorder
        if self._pipeline is None and recorder is not None and not recorder.wire.in_block:
            with self.lock:
                self.wait(recorder.meet_first())
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

    def commit(self) -> None:
        """As psycopg's."""
        if not nothing_to_commit(self):
            super().commit()

    def close(self) -> None:
        """As psycopg's; where that returns it to its pool, also one that has ended broken."""
        pool = place_of_broken(self)
        if pool is not None:
            pool.putconn(self)
            self._pool = None
        super().close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        recorder = self._resilient.recorder
        broken = self.pgconn.status == _BAD
        if broken and exc_type is None and recorder is not None and recorder.stranded:
            self.commit()
        super().__exit__(exc_type, exc_val, exc_tb)


class HookedAsyncConnection(Hooks, psycopg.AsyncConnection[Any]):
    """For asyncio."""

    if not TYPE_CHECKING:

        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            cur = _async_cursor(self, *args, **kwargs)
            known = self._resilient.cursors.get(cur.__class__)
            if known is None:
                return recorded(self._resilient, cur)
            if known is not cur.__class__:
                cur.__class__ = known
            return cur

    async def wait(
        self, gen: PQGen[RV], interval: float = INTERVAL_S, timeout: float | None = None
    ) -> RV:
        keeper = self._resilient
        judge = keeper.judge
        judge.dealt = False
        steps: Any = gen
        judge.parts = gen is judge.whole
        if judge.parts:
            judge.whole, judge.stopped = None, False
        elif judge.recording or gen.__class__ is not GeneratorType:  # one of C is no such
            steps = until_detour(judge, gen)
        try:
            fd = self.pgconn.socket
        except e.OperationalError as exc:
            judge.parts = False
            if self._closed:  # by its user: there is nothing to find out
                raise
            fd, steps = -1, first_step(judge, gen, exc)
        fresh: Fresh | None = None
        while True:
            try:
                found: Any = await waiting.wait_async(steps, fd, interval, timeout)
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
                await stop_async(self, keeper, steps, gen, fresh)
                raise
            except Exception as exc:
                failed(keeper, steps, exc)
                found = hear_out(keeper, gen)
            if found.__class__ is not Detour:
                return found  # type: ignore[no-any-return]
            if found.rest is not None:
                gen = found.rest
                steps = until_detour(judge, gen)
                continue
            try:
                fd = await take_async(self, found, fd)
            except BaseException:
                abandon(keeper, gen, fresh)
                raise
            fresh = found.fresh or fresh
            judge.dealt = False
            steps = until_detour(judge, gen, READY)

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[AsyncPipeline]:
        """As psycopg's; the block survives its server."""
        recorder = self._resilient.recorder
        if self._pipeline is None and recorder is not None and not recorder.wire.in_block:
            async with self.lock:
                await self.wait(recorder.meet_first())
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

    async def commit(self) -> None:
        """As psycopg's."""
        if not nothing_to_commit(self):
            await super().commit()

    async def close(self) -> None:
        """As psycopg's; where that returns it to its pool, also one that has ended broken."""
        pool = place_of_broken(self)
        if pool is not None:
            await pool.putconn(self)
            self._pool = None
        await super().close()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        recorder = self._resilient.recorder
        broken = self.pgconn.status == _BAD
        if broken and exc_type is None and recorder is not None and recorder.stranded:
            await self.commit()
        await super().__aexit__(exc_type, exc_val, exc_tb)
