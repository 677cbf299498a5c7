"""Cursors that record what they execute, and outlive the session that they were made on.

As on connections, the hooks stand behind a user's class and before psycopg's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import errors as e
from psycopg import pq, sql
from psycopg.adapt import Transformer
from psycopg.pq.abc import PGconn, PGresult

from .._psycopg import NO_TRACEBACK, BaseConnection, BaseCursor, PostgresQuery, ServerCursorMixin
from ..replay.entry import kept
from ..replay.journal import entry_of
from .answers import answered
from .classes import beneath, made_once
from .host import name_of
from .many import many, unrecorded
from .pipeline import DONE, RecordingPipeline

if TYPE_CHECKING:
    from psycopg.abc import Params, Query

    from ..replay.recorder import Recorder
    from .host import Gen, RecordedCursor
    from .keeper import Keeper, KeptConnection

    Cursor = RecordedCursor[KeptConnection]

_FORGETS = re.compile(rb"\b(?:DISCARD|DEALLOCATE)\b", re.I)
#: so many kinds of cursors a connection remembers
MOST_CLASSES = 8

_FATAL = pq.ExecStatus.FATAL_ERROR
_IDLE = pq.TransactionStatus.IDLE
_BINARY = pq.Format.BINARY
_FORMATS = (pq.Format.TEXT, pq.Format.BINARY)
#: libpq has pipelines, from version 14
_PIPELINES = psycopg.Pipeline.is_supported()

if TYPE_CHECKING:
    CursorBase = RecordedCursor[KeptConnection]
    SyncBase = psycopg.Cursor[Any]
    AsyncBase = psycopg.AsyncCursor[Any]
else:
    CursorBase = SyncBase = AsyncBase = object


def text_of(query: Query, conn: KeptConnection) -> bytes | None:
    """The text of a statement that isn't recorded; None for one that only psycopg understands."""
    if isinstance(query, str):
        return query.encode()
    if isinstance(query, sql.Composable):
        return query.as_bytes(conn)
    return query if isinstance(query, bytes) else None


def forgets(query: Query) -> bool:
    """May the session's prepared statements be gone after it?"""
    text = query if isinstance(query, bytes) else str(query).encode()
    return bool(_FORGETS.search(text))


def recorder_of(cur: Cursor) -> Recorder | None:
    """Who records what this cursor's connection does now."""
    return cur._conn._resilient.recorder


# What `super()` finds: it would look it up anew for every statement.
_check_results = BaseCursor._check_results
#: and what begins a transaction, where that needs no recorder
_start_query = BaseConnection._start_query


def later(pgconn: PGconn, name: bytes, pgq: PostgresQuery, fmt: pq.Format) -> Callable[[], None]:
    """What sends it, by its name or as it is, when it is called."""
    if name:
        return partial(
            pgconn.send_query_prepared,
            *(name, pgq.params),
            param_formats=pgq.formats,
            result_format=fmt,
        )
    return partial(
        pgconn.send_query_params,
        *(pgq.query, pgq.params),
        param_types=pgq.types,
        param_formats=pgq.formats,
        result_format=fmt,
    )


class NotingCursor(CursorBase):
    """Mixed into a server-side cursor class: what it declares is known, not recorded."""

    __slots__ = ()

    def _start_query(self, query: Query | None = None) -> Gen:
        recorder = recorder_of(self)
        if recorder is not None:
            conn = self._conn
            recorder.notes(text_of(query, conn) if query is not None else b"")
        try:
            yield from super()._start_query(query)
        finally:
            if recorder is not None:
                recorder.notes(None)


class RecordingCursor(CursorBase):
    """Its session is always the connection's."""

    __slots__ = ()

    if not TYPE_CHECKING:
        _pgconn = property(attrgetter("_conn.pgconn"), lambda cur, value: None)

    def _execute_gen(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Gen:
        conn = self._conn
        keeper = conn._resilient
        recorder = keeper.recorder
        if recorder is None or conn._pipeline is not None:
            if recorder is None:
                if keeper.wire.names and forgets(query):
                    keeper.wire.forget_names()  # a `reset=`, perhaps
                if conn._pipeline is None:
                    return self._unrecorded(query, params, prepare, binary)
            pipeline = conn._pipeline
            if isinstance(pipeline, RecordingPipeline):
                return self._in_pipeline(pipeline, query, params, prepare, binary)
            return super()._execute_gen(query, params, prepare=prepare, binary=binary)
        return recorder.perform(self, query, params, prepare, binary)

    def _unrecorded(
        self,
        query: Query,
        params: Params | None,
        prepare: bool | None,
        binary: bool | None,
    ) -> Gen:
        """psycopg's `_execute_gen`, outside of a pipeline."""
        if self._closed:
            raise e.InterfaceError("the cursor is closed")
        conn = self._conn
        self._reset()
        if not self._last_query or self._last_query is not query:
            self._last_query = None
            self._tx = Transformer(self)
        if conn._resilient.for_reading:
            yield from conn._start_query()
        elif not conn._autocommit and conn.pgconn.transaction_status == _IDLE:
            yield from _start_query(conn)
        pgq = self._convert_query(query, params)
        fmt = self.format if binary is None else _FORMATS[binary]
        yield from self._resilient(pgq, prepare, fmt)
        self._last_query = query
        if conn._prepared._to_flush:
            yield from conn._prepared.maintain_gen(conn)

    def _in_pipeline(
        self,
        pipeline: RecordingPipeline,
        query: Query,
        params: Params | None,
        prepare: bool | None,
        binary: bool | None,
    ) -> Gen:
        """psycopg's `_execute_gen` inside of a pipeline: what is recorded is when it is queued."""
        if self._closed:
            raise e.InterfaceError("the cursor is closed")
        conn = self._conn
        manager = conn._prepared
        self._reset()
        if not self._last_query or self._last_query is not query:
            self._last_query = None
            self._tx = Transformer(self)
        if not conn._autocommit and conn.pgconn.transaction_status == _IDLE:
            yield from _start_query(conn)
        pgq = self._convert_query(query, params)
        fmt = self.format if binary is None else _FORMATS[binary]
        if conn._resilient.recorder is not None:
            if pgq.params:
                pgq.params = kept(pgq.params)
            pipeline.remember(entry_of(self, pgq, fmt))
        known = pgq.__class__ is PostgresQuery
        name = name_of(manager, pgq, prepare) if known else None
        if name is None:
            yield from self._by_psycopg(pgq, prepare=prepare, binary=binary)
        else:
            if not name:
                self._query = pgq
            send = later(conn.pgconn, name, pgq, fmt)
            pipeline.command_queue.append(send)
            pipeline.result_queue.append((self, None))
        yield from pipeline._communicate_gen()
        self._last_query = query
        if manager._to_flush:
            yield from manager.maintain_gen(conn)

    def _start_query(self, query: Query | None = None) -> Gen:
        recorder = recorder_of(self)
        if recorder is None:
            yield from super()._start_query(query)
            return
        text = text_of(query, self._conn) if query is not None else recorder.noted
        recorder.notes(text, isinstance(self._conn._pipeline, RecordingPipeline))
        try:
            yield from super()._start_query(query)
        finally:
            recorder.notes(None)

    def _stream_send_gen(self, *args: Any, **kwargs: Any) -> Gen:
        try:
            yield from super()._stream_send_gen(*args, **kwargs)
        finally:  # also where it is cancelled; of the session that has it by now
            self._conn._resilient.wire.streams()

    def _start_copy_gen(self, statement: Query, params: Params | None = None) -> Gen:
        recorder = recorder_of(self)
        if recorder is not None:
            recorder.notes(text_of(statement, self._conn))
        try:
            return (yield from super()._start_copy_gen(statement, params))
        finally:
            if recorder is not None:
                recorder.notes(None)

    def _maybe_prepare_gen(
        self, pgq: PostgresQuery, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Gen:
        conn = self._conn
        batch = conn._pipeline
        recorded = batch is not None and conn._resilient.recorder is not None
        if recorded and isinstance(batch, RecordingPipeline):
            fmt = self.format if binary is None else pq.Format(int(binary))
            if pgq.params:
                pgq.params = kept(pgq.params)
            batch.remember(entry_of(self, pgq, fmt))
        return super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)

    def _check_results(self, results: list[PGresult]) -> None:
        if len(results) > 1 and (recorder := recorder_of(self)) is not None:
            # Its session may have ended behind the statement's own answer.
            recorder.answered_before = results[0].status != _FATAL
        _check_results(self, results)

    def _resilient(self, pgq: PostgresQuery, prepare: bool | None, fmt: pq.Format) -> Gen:
        """One statement, outside of a pipeline: psycopg's `_maybe_prepare_gen`.  What isn't to be
        prepared just now goes there without its detours."""
        conn = self._conn
        known = pgq.__class__ is PostgresQuery and conn._pipeline is None
        name = name_of(conn._prepared, pgq, prepare) if known else None
        if name is None:
            yield from self._by_psycopg(pgq, prepare=prepare, binary=fmt == _BINARY)
            return
        pgconn = conn.pgconn
        if name:
            pgconn.send_query_prepared(
                name, pgq.params, param_formats=pgq.formats, result_format=fmt
            )
        else:
            self._query = pgq
            if pgq.params or fmt == _BINARY:
                pgconn.send_query_params(
                    pgq.query,
                    pgq.params,
                    param_types=pgq.types,
                    param_formats=pgq.formats,
                    result_format=fmt,
                )
            else:
                pgconn.send_query(pgq.query)
        results = yield from answered(pgconn)
        if len(results) != 1 or results[0].status not in DONE:
            self._check_results(results)
        self._set_results(results)


class SyncRecording(RecordingCursor, SyncBase):
    __slots__ = ()

    def executemany(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        conn = cast("psycopg.Connection[Any]", self._conn)
        if conn._pipeline is not None or not _PIPELINES:
            return super().executemany(query, params_seq, returning=returning)
        recorder, rows = recorder_of(self), iter(params_seq)
        try:
            with conn.lock:
                if recorder is None:
                    conn.wait(unrecorded(self, query, rows, returning))
                else:
                    conn.wait(many(self, recorder, query, rows, returning))
        except NO_TRACEBACK as ex:
            raise ex.with_traceback(None)  # noqa: B904
        return None


class AsyncRecording(RecordingCursor, AsyncBase):
    __slots__ = ()

    async def executemany(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        conn = cast("psycopg.AsyncConnection[Any]", self._conn)
        if conn._pipeline is not None or not _PIPELINES:
            return await super().executemany(query, params_seq, returning=returning)
        recorder, rows = recorder_of(self), iter(params_seq)
        try:
            async with conn.lock:
                if recorder is None:
                    await conn.wait(unrecorded(self, query, rows, returning))
                else:
                    await conn.wait(many(self, recorder, query, rows, returning))
        except NO_TRACEBACK as ex:
            raise ex.with_traceback(None)  # noqa: B904
        return None


def recorded(keeper: Keeper, cur: Any) -> Any:
    """The cursor, of a class that records."""
    made, classes = type(cur), keeper.cursors
    known = classes.get(made)
    if known is None:
        if len(classes) >= MOST_CLASSES:  # never the same: start over
            classes.clear()
        known = classes[made] = recording(made)
    if known is not made:
        cur.__class__ = known
    return cur


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
        hooks: type[Any] = AsyncRecording
    elif issubclass(base, psycopg.Cursor):
        hooks = SyncRecording
    else:
        return base
    # `super()` would look it up along the classes
    return beneath(base, hooks, _by_psycopg=base._maybe_prepare_gen)
