"""Cursors that record what they execute, and outlive the session that they were made on.

As on connections, the hooks stand behind a user's class and before psycopg's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors as e
from psycopg import pq, sql

from .._psycopg import BaseCursor, ServerCursorMixin
from ..replay.journal import kept
from ..replay.recorder import Recorder, entry_of
from .classes import beneath, made_once
from .host import Gen
from .keeper import Keeper
from .many import many
from .pipeline import RecordingPipeline

_FORGETS = re.compile(rb"\b(?:DISCARD|DEALLOCATE)\b", re.I)
#: so many kinds of cursors a connection remembers
MOST_CLASSES = 8

_FATAL = pq.ExecStatus.FATAL_ERROR

if TYPE_CHECKING:
    CursorBase = BaseCursor[Any, Any]
    SyncBase = psycopg.Cursor[Any]
    AsyncBase = psycopg.AsyncCursor[Any]
else:
    CursorBase = SyncBase = AsyncBase = object


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


def recorder_of(cur: Any) -> Recorder | None:
    """Who records what this cursor's connection does now."""
    found: Recorder | None = cur._conn._resilient.recorder
    return found


class NotingCursor(CursorBase):
    """Mixed into a server-side cursor class: what it declares is known, not recorded."""

    __slots__ = ()

    def _start_query(self, query: Any = None) -> Gen:
        recorder = recorder_of(self)
        if recorder is not None:
            conn = self._conn
            recorder.noted = text_of(query, conn) if query is not None else b""
        try:
            yield from super()._start_query(query)
        finally:
            if recorder is not None:
                recorder.noted = None


class RecordingCursor(CursorBase):
    """Its session is always the connection's."""

    __slots__ = ()

    if not TYPE_CHECKING:

        @property
        def _pgconn(self) -> Any:
            return self._conn.pgconn

        @_pgconn.setter
        def _pgconn(self, value: Any) -> None:
            pass

    def _execute_gen(
        self,
        query: Any,
        params: Any = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Gen:
        conn: Any = self._conn
        keeper = conn._resilient
        recorder: Recorder | None = keeper.recorder
        if recorder is None or conn._pipeline is not None:
            if recorder is None and forgets(query):
                keeper.wire.forget_names()  # a `reset=`, perhaps
            return super()._execute_gen(query, params, prepare=prepare, binary=binary)
        return recorder.perform(self, query, params, prepare, binary)

    def _start_query(self, query: Any = None) -> Gen:
        recorder = recorder_of(self)
        if recorder is None:
            yield from super()._start_query(query)
            return
        recorder.remembers = isinstance(self._conn._pipeline, RecordingPipeline)
        if query is not None:
            recorder.noted = text_of(query, self._conn)
        try:
            yield from super()._start_query(query)
        finally:
            recorder.remembers = False
            recorder.noted = None

    def _start_copy_gen(self, statement: Any, params: Any = None) -> Gen:
        recorder = recorder_of(self)
        if recorder is not None:
            recorder.noted = text_of(statement, self._conn)
        try:
            return (yield from super()._start_copy_gen(statement, params))
        finally:
            if recorder is not None:
                recorder.noted = None

    def _maybe_prepare_gen(
        self, pgq: Any, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Gen:
        batch = self._conn._pipeline
        if batch is not None and isinstance(batch, RecordingPipeline):
            fmt = self.format if binary is None else pq.Format(int(binary))
            if pgq.params:
                pgq.params = kept(pgq.params)
            batch.remember(entry_of(self, pgq, fmt))
        return super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)

    def _check_results(self, results: list[Any]) -> None:
        if len(results) > 1 and (recorder := recorder_of(self)) is not None:
            # Its session may have ended behind the statement's own answer.
            recorder.answered_before = results[0].status != _FATAL
        super()._check_results(results)

    if TYPE_CHECKING:

        def _resilient(self, pgq: Any, *, prepare: bool | None, binary: bool | None) -> Gen:
            """One statement, by psycopg alone: the base class's own `_maybe_prepare_gen`."""
            raise NotImplementedError


class SyncRecording(RecordingCursor, SyncBase):
    __slots__ = ()

    def executemany(
        self, query: Any, params_seq: Iterable[Any], *, returning: bool = False
    ) -> None:
        recorder = recorder_of(self)
        if recorder is None or self._conn._pipeline is not None:
            return super().executemany(query, params_seq, returning=returning)
        rows = iter(params_seq)
        try:
            with self._conn.lock:
                self._conn.wait(many(self, recorder, query, rows, returning))
        except e._NO_TRACEBACK as ex:
            raise ex.with_traceback(None)  # noqa: B904
        return None


class AsyncRecording(RecordingCursor, AsyncBase):
    __slots__ = ()

    async def executemany(
        self, query: Any, params_seq: Iterable[Any], *, returning: bool = False
    ) -> None:
        recorder = recorder_of(self)
        if recorder is None or self._conn._pipeline is not None:
            return await super().executemany(query, params_seq, returning=returning)
        rows = iter(params_seq)
        try:
            async with self._conn.lock:
                await self._conn.wait(many(self, recorder, query, rows, returning))
        except e._NO_TRACEBACK as ex:
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
    return beneath(base, hooks, _resilient=base._maybe_prepare_gen)
