"""Several things in one message: BEGIN, a statement of the caller's, and the rider behind it.

libpq's pipeline mode (manual 34.5) carries them, between psycopg's own uses of the session;
the statement's part is what psycopg sends outside of a pipeline.
"""

from __future__ import annotations

import time
from typing import Any

from psycopg import errors as e
from psycopg import generators, pq
from psycopg.generators import execute, fetch_many
from psycopg.pq.abc import PGresult

from .._psycopg import Prepare
from ..commit.committer import CommitMixin
from ..commit.facts import FLUSHED, RIDER, RIDER_NAME
from .journal import Journal
from .proofs import Gen

#: a transaction that is still open after this many seconds asks whether it is flushed: by
#: then the WAL writer has been at it (`wal_writer_delay`, manual 20.5)
FLUSH_ASK_S = 0.25

#: a session has so many prepared questions, one for each statement that they follow; of a
#: statement they show so many bytes
MOST_RIDERS, TAG_BYTES = 64, 400

_BAD = pq.ConnStatus.BAD
_TUPLES = pq.ExecStatus.TUPLES_OK
_COMMAND = pq.ExecStatus.COMMAND_OK
_FATAL = pq.ExecStatus.FATAL_ERROR
_SYNC = pq.ExecStatus.PIPELINE_SYNC


class MessageMixin(CommitMixin):
    """Sends what `continuity` decides."""

    #: the failure of a query of ours behind a statement that was answered
    _spoilt: e.Error | None = None

    def _late_rider(self, journal: Journal) -> bytes:
        """The query of ours that follows a statement of a block that has written, if any."""
        now = time.monotonic()
        if not self._ride or now - journal.marked_at < FLUSH_ASK_S or self._flushed(journal):
            return b""
        journal.marked_at = now
        return FLUSHED

    def _flushed(self, journal: Journal) -> bool:
        seen, mark = self._witness(), journal.mark
        return seen is None or mark is None or seen.flushed.lsn >= mark.lsn

    # long: every block passes here, a call saved is a microsecond
    def _merged(  # noqa: PLR0912
        self, cur: Any, entry: Any, prepare: bool | None, begin: bytes, rider: bytes
    ) -> Gen:
        """Send it, and read all of the answers.  `entry` stands for psycopg's query."""
        pgconn = self.pgconn
        prep, name = self._prepared.get(entry, prepare)
        pgconn.enter_pipeline_mode()
        try:
            if begin:
                pgconn.send_query_params(begin, None)
            if prep is Prepare.NO:
                entry.send_params(pgconn)
            else:
                if prep is Prepare.SHOULD:
                    pgconn.send_prepare(name, entry.query, param_types=entry.types)
                pgconn.send_query_prepared(
                    name, entry.params, param_formats=entry.formats, result_format=entry.fmt
                )
            before = (1 if begin else 0) + (prep is Prepare.SHOULD)
            prepares = self._send_rider(rider, entry.query) if rider else b""
            pgconn.pipeline_sync()
        except e.Error:
            yield from self._leave_message()
            raise
        key = self._prepared.maybe_add_to_cache(entry, prep, name)
        answers: list[list[PGresult]] = []
        error = spoilt = None
        try:
            results = yield from execute(pgconn)
            while results and (status := results[0].status) != _SYNC:
                if status == _FATAL:
                    if len(answers) <= before:
                        error = error or results[0]
                    else:
                        spoilt = results[0]
                answers.append(results)
                results = yield from fetch_many(pgconn)
            pgconn.exit_pipeline_mode()  # an error where the session is gone
        except e.OperationalError:
            # What stands behind the statement's own answer says nothing about it.
            if (error is None and spoilt is None) or len(answers) <= before:
                self._unbegun = bool(begin) and not answers
                raise
        results = answers[before]
        if rider:
            self._heard_rider(answers[before + 1 :], prepares, entry.query)
        if key is not None:
            self._prepared.validate(key, prep, name, results)
        if error is not None:
            self._unbegun = bool(begin) and error is answers[0][0]
            raise e.error_from_result(error, encoding=pgconn._encoding)
        cur._check_results(results)
        cur._set_results(results)
        if spoilt is not None and pgconn.status != _BAD:
            # Ours has failed behind it, and with it the transaction: nobody's business.
            self._spoilt = e.error_from_result(spoilt, encoding=pgconn._encoding)

    def _heard_rider(self, answers: list[list[PGresult]], prepares: bytes, query: bytes) -> None:
        if prepares and answers and answers[0][0].status == _COMMAND:
            self._own_names[query] = prepares
        result = answers[-1][0] if answers else None
        if result is not None and result.status == _TUPLES:
            self._read_rider(result)
        elif self._journal is not None and self._journal.written is None:
            self._journal.blind = True

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

    def _send_rider(self, rider: bytes, query: bytes) -> bytes:
        """Behind `query`, which it carries in a comment: while the session idles in its
        transaction, pg_stat_activity shows what was sent last."""
        if rider is not RIDER or (
            query not in self._own_names and len(self._own_names) >= MOST_RIDERS
        ):
            self.pgconn.send_query_params(tagged(rider, query), None)
            return b""
        if query in self._own_names:
            return self._send_own(query, rider)
        return self._send_own(query, tagged(rider, query), kind=RIDER_NAME)


def tagged(rider: bytes, query: bytes) -> bytes:
    """Ours, with the caller's statement before it for who looks at sessions."""
    text = query[:TAG_BYTES].decode("ascii", "replace").replace("\ufffd", "?")
    text = text.replace("/*", "/ *").replace("*/", "* /").replace("\0", "")
    return b"/* %s */ %s" % (text.encode(), rider)
