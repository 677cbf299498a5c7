"""Cursors that record what they execute, and outlive the session that they were made on."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import errors as e
from psycopg import pq
from psycopg._cursor_base import BaseCursor
from psycopg._pipeline_base import BasePipeline
from psycopg._server_cursor_base import ServerCursorMixin

from ..core.reaction import Sent
from .continuity import ContinuityMixin, entry_of
from .journal import Entry
from .pipeline import RecordingPipeline
from .recovery import Gen
from .statements import traits

_FATAL = pq.ExecStatus.FATAL_ERROR

if TYPE_CHECKING:
    CursorBase = BaseCursor[Any, Any]
    SyncBase = psycopg.Cursor[Any]
    AsyncBase = psycopg.AsyncCursor[Any]
else:
    CursorBase = SyncBase = AsyncBase = object


class Batch(BasePipeline):
    """The pipeline of one `executemany`, which remembers the answers in their order, up to
    `limit` of them."""

    def __init__(self, conn: Any, limit: int) -> None:
        super().__init__(conn)
        self.limit = limit
        self.entries: list[Entry] = []
        self.answers: list[Any] = []

    @property
    def over(self) -> bool:
        return len(self.entries) > self.limit

    def _process_results(self, queued: Any, results: Any) -> None:
        super()._process_results(queued, results)
        if queued is not None and not self.over:
            self.answers.append(results)

    def remember(self, entry: Entry) -> None:
        if not self.over:
            self.entries.append(entry)
        elif self.answers:
            self.answers.clear()


class RecordingCursor(CursorBase):
    """Mixed in front of a cursor class.  Its session is always the connection's."""

    __slots__ = ()

    if not TYPE_CHECKING:

        @property
        def _pgconn(self) -> Any:
            return self._conn.pgconn

        @_pgconn.setter
        def _pgconn(self, value: Any) -> None:
            pass

    @property
    def _recording(self) -> ContinuityMixin | None:
        conn = cast(ContinuityMixin, self._conn)
        return conn if conn._journal is not None and conn._pipeline is None else None

    def _execute_gen(
        self,
        query: Any,
        params: Any = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Gen:
        conn: Any = self._conn
        if conn._journal is None or conn._pipeline is not None:
            return super()._execute_gen(query, params, prepare=prepare, binary=binary)
        gen: Gen = conn.perform(self, query, params, prepare, binary)
        return gen

    def _start_query(self, query: Any = None) -> Gen:
        conn = cast(ContinuityMixin, self._conn)
        conn._remembers = isinstance(conn._pipeline, RecordingPipeline)
        try:
            yield from super()._start_query(query)
        finally:
            conn._remembers = False

    def _maybe_prepare_gen(
        self, pgq: Any, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Gen:
        batch = self._conn._pipeline
        if batch is not None and isinstance(batch, Batch | RecordingPipeline):
            fmt = self.format if binary is None else pq.Format(int(binary))
            batch.remember(entry_of(self, pgq, fmt))
        return super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)

    def _check_results(self, results: list[Any]) -> None:
        if len(results) > 1:  # its session may have ended behind the statement's own answer
            conn = cast(ContinuityMixin, self._conn)
            conn._answered_before = results[0].status != _FATAL
        super()._check_results(results)

    if TYPE_CHECKING:

        def plainly(self, pgq: Any, *, prepare: bool | None, binary: bool | None) -> Gen:
            """One statement, by psycopg alone: the base class's own `_maybe_prepare_gen`."""

    # -- executemany

    def _many_gen(self, conn: ContinuityMixin, query: Any, rows: list[Any], returning: bool) -> Gen:
        """A whole `executemany`: in a pipeline of its own, done again as a whole."""
        journal = conn._journal
        assert journal is not None
        while True:
            begin = conn._begin()
            if begin:
                yield from conn._step(journal, begin)
            inside = not conn._autocommit or conn._in_block
            batch = Batch(conn, journal.max_statements)
            try:
                yield from self._batch_gen(conn, batch, query, rows, returning)
            except e.Error as exc:
                if not conn._lost:
                    self._answered(conn, batch, exc)
                    raise
                sent = Sent.BLOCK if inside else Sent.AUTOCOMMIT
                yield from conn._deal_with(exc, sent, str(query))
                continue
            self._answered(conn, batch, None)
            return

    def _batch_gen(
        self, conn: ContinuityMixin, batch: Batch, query: Any, rows: list[Any], returning: bool
    ) -> Gen:
        failure: BaseException | None = None
        conn._pipeline = batch
        conn._may_defer = True  # BEGIN is not this one's to send
        try:
            yield from batch._enter_gen()
            try:
                yield from super()._executemany_gen_pipeline(query, rows, returning)
            except e.Error as exc:
                failure = exc
                if conn._lost:
                    raise
            try:
                yield from batch._exit_gen()
            except e.Error as exc:
                failure = failure or exc
            batch._exit(failure)
            if failure is not None:
                raise failure
        finally:
            conn._may_defer = False
            conn._pipeline = None

    @staticmethod
    def _answered(conn: ContinuityMixin, batch: Batch, exc: e.Error | None) -> None:
        journal = conn._journal
        assert journal is not None
        if not conn._in_block:
            journal.reset()
            return
        if batch.over:
            journal.over_statements()
        for entry, results in zip(batch.entries, batch.answers, strict=False):
            what = traits(entry.query)
            journal.hazard = journal.hazard or what.hazard
            journal.add(entry, results)
        done = len(batch.answers)
        if exc is not None and exc.pgresult is not None and done < len(batch.entries):
            journal.add(batch.entries[done], [exc.pgresult])
        if journal.written is None:
            journal.blind = True


class SyncRecording(RecordingCursor, SyncBase):
    __slots__ = ()

    def executemany(
        self, query: Any, params_seq: Iterable[Any], *, returning: bool = False
    ) -> None:
        conn = self._recording
        if conn is None:
            return super().executemany(query, params_seq, returning=returning)
        rows = list(params_seq)
        try:
            with self._conn.lock:
                self._conn.wait(self._many_gen(conn, query, rows, returning))
        except e._NO_TRACEBACK as ex:
            raise ex.with_traceback(None)  # noqa: B904
        return None


class AsyncRecording(RecordingCursor, AsyncBase):
    __slots__ = ()

    async def executemany(
        self, query: Any, params_seq: Iterable[Any], *, returning: bool = False
    ) -> None:
        conn = self._recording
        if conn is None:
            return await super().executemany(query, params_seq, returning=returning)
        rows = list(params_seq)
        try:
            async with self._conn.lock:
                await self._conn.wait(self._many_gen(conn, query, rows, returning))
        except e._NO_TRACEBACK as ex:
            raise ex.with_traceback(None)  # noqa: B904
        return None


@cache
def recording(base: Any) -> Any:
    """`base` with the recording mixin in front; factories that are no such class as they are:
    what they execute is not replayed."""
    if not isinstance(base, type) or issubclass(base, RecordingCursor | ServerCursorMixin):
        return base
    if issubclass(base, psycopg.AsyncCursor):
        mixin: type[Any] = AsyncRecording
    elif issubclass(base, psycopg.Cursor):
        mixin = SyncRecording
    else:
        return base
    names = {name: getattr(base, name) for name in ("__module__", "__doc__", "__qualname__")}
    plainly = {"plainly": base._maybe_prepare_gen}  # `super()` looks it up along the classes
    return type(base.__name__, (mixin, base), {**names, **plainly, "__slots__": ()})
