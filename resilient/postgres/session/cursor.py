"""Cursors that record what they execute, and outlive the session that they were made on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import errors as e
from psycopg import pq, sql

from ...core.reaction import Sent
from .._psycopg import BaseCursor, BasePipeline, ServerCursorMixin
from ..replay.journal import Entry, kept
from ..replay.proofs import Gen
from ..replay.recorder import ContinuityMixin, entry_of
from ..replay.statements import traits
from .classes import beneath, made_once
from .connection import ended
from .pipeline import RecordingPipeline, keep_farewell

_FORGETS = re.compile(rb"\b(?:DISCARD|DEALLOCATE)\b", re.I)
_FATAL = pq.ExecStatus.FATAL_ERROR

if TYPE_CHECKING:
    CursorBase = BaseCursor[Any, Any]
    SyncBase = psycopg.Cursor[Any]
    AsyncBase = psycopg.AsyncCursor[Any]
else:
    CursorBase = SyncBase = AsyncBase = object


class Batch(BasePipeline):
    """The pipeline of one `executemany`, which remembers the statements and their answers in their
    order, up to `limit` of them."""

    def __init__(self, conn: Any, limit: int, again: list[Entry]) -> None:
        super().__init__(conn)
        self.limit = limit
        #: sent before, in another session
        self.again = again
        self.entries: list[Entry] = []
        self.answers: list[Any] = []

    @property
    def over(self) -> bool:
        return len(self.entries) > self.limit

    def _process_results(self, queued: Any, results: Any) -> None:
        try:
            super()._process_results(queued, results)
        except e.Error as exc:
            keep_farewell(self._conn, exc)
            raise
        if queued is not None and not self.over:
            self.answers.append(results)

    def remember(self, entry: Entry) -> None:
        if not self.over:
            self.entries.append(entry)
        elif self.answers:
            self.answers.clear()


def text_of(query: Any, conn: Any) -> bytes | None:
    """The text of a statement that isn't recorded; None for one that only psycopg understands."""
    if isinstance(query, str):
        return query.encode()
    if isinstance(query, sql.Composable):
        return query.as_bytes(conn)
    return query if isinstance(query, bytes) else None


def forgets(query: Any) -> bool:
    """May the session's prepared statements be gone after it?"""
    text = query if isinstance(query, bytes) else str(query).encode()
    return bool(_FORGETS.search(text))


class NotingCursor(CursorBase):
    """Mixed into a server-side cursor class: what it declares is known, not recorded."""

    __slots__ = ()

    def _start_query(self, query: Any = None) -> Gen:
        conn = cast(ContinuityMixin, self._conn)
        conn._noted = text_of(query, conn) if query is not None else b""
        try:
            yield from super()._start_query(query)
        finally:
            conn._noted = None


class RecordingCursor(CursorBase):
    """Mixed into a cursor class.  Its session is always the connection's."""

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
            if conn._journal is None and forgets(query):
                conn._forget_names()  # a `reset=`, perhaps
            return super()._execute_gen(query, params, prepare=prepare, binary=binary)
        gen: Gen = conn.perform(self, query, params, prepare, binary)
        return gen

    def _start_query(self, query: Any = None) -> Gen:
        conn = cast(ContinuityMixin, self._conn)
        conn._remembers = isinstance(conn._pipeline, RecordingPipeline)
        if query is not None:
            conn._noted = text_of(query, conn)
        try:
            yield from super()._start_query(query)
        finally:
            conn._remembers = False
            conn._noted = None

    def _start_copy_gen(self, statement: Any, params: Any = None) -> Gen:
        conn = cast(ContinuityMixin, self._conn)
        conn._noted = text_of(statement, conn)
        try:
            return (yield from super()._start_copy_gen(statement, params))
        finally:
            conn._noted = None

    def _maybe_prepare_gen(
        self, pgq: Any, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Gen:
        batch = self._conn._pipeline
        if batch is not None and isinstance(batch, Batch | RecordingPipeline):
            fmt = self.format if binary is None else pq.Format(int(binary))
            if pgq.params:
                pgq.params = kept(pgq.params)
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

    def _many_gen(
        self, conn: ContinuityMixin, query: Any, rows: Iterator[Any], returning: bool
    ) -> Gen:
        """A whole `executemany`: in a pipeline of its own, done again as a whole.  Its rows are
        taken one by one, as psycopg takes them; those that were sent are kept as they were."""
        journal = conn._journal
        assert journal is not None
        if conn._read_only_before is not None:
            yield from conn._tell_read_only()
        again: list[Entry] = []
        while True:
            begin = conn._begin()
            if begin:
                yield from conn._step(journal, begin)
            inside = not conn._autocommit or conn._in_block
            batch = Batch(conn, journal.max_statements, again)
            try:
                yield from self._batch_gen(conn, batch, query, rows, returning)
            except e.Error as failure:
                exc = conn._heard(failure)
                again = batch.entries
                if not conn._lost or conn.own_failure(exc):
                    self._answered(conn, batch, exc)
                    if ended(exc):
                        conn._end_with(exc)
                    raise exc from None
                if batch.over:
                    journal.over_statements()
                for entry in again[len(batch.answers) :][:1]:  # the one that was under way
                    conn._strike(entry.query, exc)
                sent = Sent.BLOCK if inside else Sent.AUTOCOMMIT
                if not (yield from conn._deal_with(exc, sent, str(query))):
                    raise exc from None
                continue
            self._answered(conn, batch, None)
            return

    def _batch_gen(
        self,
        conn: ContinuityMixin,
        batch: Batch,
        query: Any,
        rows: Iterator[Any],
        returning: bool,
    ) -> Gen:
        failure: BaseException | None = None
        conn._pipeline = batch
        conn._may_defer = True  # BEGIN is not this one's to send
        try:
            yield from batch._enter_gen()
            try:
                yield from self._rows_gen(conn, batch, query, rows, returning)
            except Exception as exc:  # also the caller's own, whose rows these are
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

    def _rows_gen(
        self,
        conn: ContinuityMixin,
        batch: Batch,
        query: Any,
        rows: Iterator[Any],
        returning: bool,
    ) -> Gen:
        """psycopg's `_executemany_gen_pipeline`, from rows that were sent before and the rest."""
        yield from self._start_query(query)
        if not returning:
            self._rowcount = 0
        self._execmany_returning = returning
        pgq: Any = None
        for entry in batch.again:
            if pgq is None:
                pgq = self._query_cls(self._tx)
            pgq.query, pgq.params = entry.query, entry.params
            pgq.types, pgq.formats = entry.types, entry.formats
            yield from self._maybe_prepare_gen(pgq, prepare=True)
            yield from batch._communicate_gen()
        fresh = True
        for params in rows:
            if fresh:
                pgq = self._convert_query(query, params)
                self._query, fresh = pgq, False
            else:
                pgq.dump(params)
            yield from self._maybe_prepare_gen(pgq, prepare=True)
            yield from batch._communicate_gen()
        self._last_query = query
        if returning:
            yield from batch._fetch_gen(flush=True)
        yield from conn._prepared.maintain_gen(conn)

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
        rows = iter(params_seq)
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
        rows = iter(params_seq)
        try:
            async with self._conn.lock:
                await self._conn.wait(self._many_gen(conn, query, rows, returning))
        except e._NO_TRACEBACK as ex:
            raise ex.with_traceback(None)  # noqa: B904
        return None


def recording(base: Any) -> Any:
    """A class like `base` whose statements are recorded; factories that are no such class as they
    are: what they execute is not replayed."""
    if not isinstance(base, type) or issubclass(base, RecordingCursor | NotingCursor):
        return base
    return made_once(base, _recording)


def _recording(base: type[Any]) -> type[Any]:
    if issubclass(base, ServerCursorMixin):
        return beneath(base, NotingCursor)
    if issubclass(base, psycopg.AsyncCursor):
        mixin: type[Any] = AsyncRecording
    elif issubclass(base, psycopg.Cursor):
        mixin = SyncRecording
    else:
        return base
    # `super()` would look it up along the classes
    return beneath(base, mixin, plainly=base._maybe_prepare_gen)
