"""Several things in one message: BEGIN, a statement of the caller's, and the rider behind it.

libpq's pipeline mode (manual 34.5) carries them, between psycopg's own uses of the session;
the statement's part is what psycopg sends outside of a pipeline.
"""

from __future__ import annotations

import time
from typing import Any

from psycopg import errors as e
from psycopg import generators, pq
from psycopg._preparing import Prepare
from psycopg._queries import PostgresClientQuery

from .committing import CommitMixin
from .journal import Entry, Journal
from .recovery import Gen
from .statements import traits
from .witness import FLUSHED, RIDER, RIDER_NAME

#: a transaction that is still open after this many seconds asks whether it is flushed: by
#: then the WAL writer has been at it (`wal_writer_delay`, manual 20.5)
FLUSH_ASK_S = 0.25

_BAD = pq.ConnStatus.BAD
_TEXT = pq.Format.TEXT
_BINARY = pq.Format.BINARY
_TUPLES = pq.ExecStatus.TUPLES_OK
_COMMAND = pq.ExecStatus.COMMAND_OK
_FATAL = pq.ExecStatus.FATAL_ERROR
_SYNC = pq.ExecStatus.PIPELINE_SYNC


class Statement:
    """One execution of a cursor: psycopg's query, how it is sent, what its text tells."""

    __slots__ = ("_entry", "cur", "fmt", "merged_params", "pgq", "prepare", "what")

    def __init__(self, cur: Any, pgq: Any, prepare: bool | None, binary: bool | None) -> None:
        self.cur = cur
        self.pgq = pgq
        self.prepare = prepare
        self.fmt = cur.format if binary is None else (_BINARY if binary else _TEXT)
        self.what = traits(pgq.query)
        self.merged_params = isinstance(pgq, PostgresClientQuery)
        if self.merged_params:  # its text may be anything, and goes by the simple protocol
            self.what = self.what._replace(merges=False, rides=False)
        self._entry: Entry | None = None

    def entry(self) -> Entry:
        if self._entry is None:
            pgq = self.pgq
            params = None if self.merged_params else pgq.params
            self._entry = Entry(pgq.query, params, pgq.types, pgq.formats, self.fmt)
        return self._entry

    def plainly(self) -> Gen:
        """By psycopg alone."""
        gen: Gen = self.cur.plainly(self.pgq, self.prepare, self.fmt == _BINARY)
        return gen


class MessageMixin(CommitMixin):
    """Sends what `continuity` decides."""

    def _rider(self, journal: Journal) -> bytes:
        """The query of ours that follows a statement inside a block, if any."""
        link = self._link
        seen = link.witness if link is not None else None
        if not seen or not self._asks or self._read_only:
            return b""
        if journal.mark is None:
            return RIDER if seen.marks else b""  # type: ignore[attr-defined]
        now = time.monotonic()
        if now - journal.marked_at < FLUSH_ASK_S or self._flushed(journal):
            return b""
        journal.marked_at = now
        return FLUSHED

    def _flushed(self, journal: Journal) -> bool:
        seen = self._witness()
        return seen is None or journal.mark is None or seen.flushed.lsn >= journal.mark.lsn

    # long: every block passes here, a call saved is a microsecond
    def _merged(  # noqa: PLR0912
        self, statement: Statement, begin: bytes, rider: bytes
    ) -> Gen:
        """Send it, and read all of the answers."""
        pgconn, cur, pgq = self.pgconn, statement.cur, statement.pgq
        prep, name = cur._get_prepared(pgq, statement.prepare)
        cur._query = pgq
        pgconn.enter_pipeline_mode()
        try:
            if begin:
                pgconn.send_query_params(begin, None)
            if prep is Prepare.NO:
                pgconn.send_query_params(
                    pgq.query,
                    pgq.params,
                    param_types=pgq.types,
                    param_formats=pgq.formats,
                    result_format=statement.fmt,
                )
            else:
                if prep is Prepare.SHOULD:
                    pgconn.send_prepare(name, pgq.query, param_types=pgq.types)
                pgconn.send_query_prepared(
                    name, pgq.params, param_formats=pgq.formats, result_format=statement.fmt
                )
            prepares = self._send_rider(rider) if rider else False
            pgconn.pipeline_sync()
        except e.Error:
            yield from self._leave_message()
            raise
        key = self._prepared.maybe_add_to_cache(pgq, prep, name)
        yield from generators.send(pgconn)
        fetch = generators.fetch_many
        error = None
        for _ in range((1 if begin else 0) + (prep is Prepare.SHOULD)):
            (result,) = yield from fetch(pgconn)
            if result.status == _FATAL:
                error = error or result
        results = yield from fetch(pgconn)
        for result in results:
            if result.status == _FATAL:
                error = error or result
        try:
            if prepares:
                (result,) = yield from fetch(pgconn)
                self._rider_ready = result.status == _COMMAND
            if rider:
                (result,) = yield from fetch(pgconn)
                if result.status == _TUPLES:
                    self._read_rider(result)
                elif error is None:
                    error = result
            yield from fetch(pgconn)
            pgconn.exit_pipeline_mode()
        except e.OperationalError:
            if error is None:
                raise
        if key is not None:
            self._prepared.validate(key, prep, name, results)
        if error is not None:
            raise e.error_from_result(error, encoding=pgconn._encoding)
        cur._check_results(results)
        cur._set_results(results)

    def _leave_message(self) -> Gen:
        """libpq refused a part of the message: what stands before it is sent and read."""
        pgconn = self.pgconn
        if pgconn.status == _BAD:
            return
        pgconn.pipeline_sync()
        yield from generators.send(pgconn)
        while True:
            results = yield from generators.fetch_many(pgconn)
            if results and results[0].status == _SYNC:
                break
        pgconn.exit_pipeline_mode()

    def _send_rider(self, rider: bytes) -> bool:
        """True: it is prepared with this message."""
        if rider is not RIDER or self._prepared.prepare_threshold is None:
            # Behind a pooler, names are nobody's.
            self.pgconn.send_query_params(rider, None)
            return False
        if self._rider_ready:
            self.pgconn.send_query_prepared(RIDER_NAME, None)
            return False
        self.pgconn.send_prepare(RIDER_NAME, rider)
        self.pgconn.send_query_prepared(RIDER_NAME, None)
        return True
