"""Several things in one message: BEGIN, a statement of the caller's, and a piggybacked query.

libpq's pipeline mode (manual 34.5) carries them, between psycopg's own uses of the session;
the statement's part is what psycopg sends outside of a pipeline.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from psycopg import errors as e
from psycopg import generators, pq
from psycopg.pq.abc import PGresult

from .._psycopg import BaseCursor, PostgresClientQuery, PostgresQuery, Prepare
from ..commit.facts import FLUSHED, PIGGYBACK, PIGGYBACK_NAME
from ..session.answers import answer_all

if TYPE_CHECKING:
    from ..commit.committer import Committer
    from ..session.host import Gen
    from .entry import Entry

#: a transaction that is still open after this many seconds asks whether it is flushed: by
#: then the WAL writer has been at it (`wal_writer_delay`, manual 20.5)
FLUSH_ASK_S = 0.25

#: a session has so many prepared questions, one for each statement that they follow; of a
#: statement they show so many bytes
MOST_PIGGYBACKS, TAG_BYTES = 64, 400

_BAD = pq.ConnStatus.BAD
_TUPLES = pq.ExecStatus.TUPLES_OK
_COMMAND = pq.ExecStatus.COMMAND_OK
_FATAL = pq.ExecStatus.FATAL_ERROR
_DONE = frozenset((_COMMAND, _TUPLES))
_SYNC = pq.ExecStatus.PIPELINE_SYNC
_YES, _NO, _SHOULD = Prepare.YES, Prepare.NO, Prepare.SHOULD


class Sender:
    """Sends what the recorder decides.  `spoilt`: the failure of a query of ours behind a
    statement that was answered."""

    __slots__ = ("committer", "host", "journal", "spoilt", "wire")

    def __init__(self, committer: Committer) -> None:
        self.committer = committer
        self.host = committer.host
        self.wire = committer.wire
        self.journal = committer.journal
        self.spoilt: e.Error | None = None

    def late_piggyback(self) -> bytes:
        """The query of ours that follows a statement of a block that has written, if any."""
        journal, wire = self.journal, self.wire
        now = time.monotonic()
        if not wire.piggyback or now - journal.marked_at < FLUSH_ASK_S:
            return b""
        seen, mark = wire.facts, journal.mark
        if seen is None or mark is None or seen.flushed.lsn >= mark.lsn:
            return b""
        journal.asks_flushed(now)
        return FLUSHED

    # long: every block passes here, a call saved is a microsecond
    def send(  # noqa: PLR0912, PLR0915
        self,
        cur: BaseCursor[Any, Any],
        entry: Entry,
        prepare: bool | None,
        begin: bytes,
        piggyback: bytes,
    ) -> Gen:
        """Send it, and read all of the answers.  `entry` stands for psycopg's query."""
        wire = self.wire
        pgconn = wire.pgconn
        # What has its parameters in its text is a new one each time: nothing for it is prepared.
        new = cur._query_cls is not PostgresQuery and issubclass(
            cur._query_cls, PostgresClientQuery
        )
        query = entry.query
        prep, name = self.host.prepare(entry, False if new else prepare)
        if wire.rowwise:
            wire.read_whole()
        pgconn.enter_pipeline_mode()
        try:
            if begin:
                pgconn.send_query_params(begin, None)
            before = 1 if begin else 0
            if prep is None or prep is _NO:
                pgconn.send_query_params(
                    query,
                    entry.params,
                    param_types=entry.types,
                    param_formats=entry.formats,
                    result_format=entry.fmt,
                )
            else:
                if prep is _SHOULD:
                    pgconn.send_prepare(name, query, param_types=entry.types)
                    before += 1
                pgconn.send_query_prepared(
                    name, entry.params, param_formats=entry.formats, result_format=entry.fmt
                )
            prepares = b""
            if piggyback is PIGGYBACK and query in wire.names:
                pgconn.send_query_prepared(wire.names[query], None)
            elif piggyback:
                prepares = self._send_piggyback(piggyback, query, new)
            pgconn.pipeline_sync()
        except e.Error:
            yield from self._leave()
            raise
        answers: list[list[PGresult]] = []
        try:
            yield from answer_all(pgconn, answers)
            pgconn.exit_pipeline_mode()  # an error where the session is gone
        except e.OperationalError:
            # What stands behind the statement's own answer says nothing about it.
            if len(answers) <= before or not any(map(_failed, answers)):
                wire.unbegun = bool(begin) and not answers
                raise
        results = answers[before]
        spoilt = None
        if piggyback:
            whole = not prepares and len(answers) == before + 2
            if whole and (answer := answers[-1][0]).status == _TUPLES:
                self.committer.read_piggyback(answer)
            else:
                self._heard_piggyback(answers[before + 1 :], prepares, query)
                spoilt = next(filter(_failed, reversed(answers[before + 1 :])), None)
        if prep is not None and prep is not _YES:
            self.host.prepared(entry, prep, name, results)
        # One that is done says that what was sent before it is.
        if len(results) != 1 or results[0].status not in _DONE:
            failed = next(filter(_failed, answers[: before + 1]), None)
            if failed is not None:
                wire.unbegun = bool(begin) and failed is answers[0]
                raise wire.error(failed[0])
            cur._check_results(results)
        cur._set_results(results)
        if spoilt is not None and pgconn.status != _BAD:
            # Ours has failed behind it, and with it the transaction: nobody's business.
            self.spoilt = wire.error(spoilt[0])

    def _heard_piggyback(
        self, answers: list[list[PGresult]], prepares: bytes, query: bytes
    ) -> None:
        if prepares and answers and answers[0][0].status == _COMMAND:
            self.wire.names[query] = prepares
        result = answers[-1][0] if answers else None
        if result is not None and result.status == _TUPLES:
            self.committer.read_piggyback(result)
        else:
            self.journal.unanswered()

    def _leave(self) -> Gen:
        """libpq refused a part of the message: what stands before it is sent and read."""
        pgconn = self.wire.pgconn
        if pgconn.status == _BAD:
            return
        pgconn.pipeline_sync()
        yield from generators.send(pgconn)
        while True:
            results = yield from generators.fetch_many(pgconn)
            if results and results[0].status == _SYNC:
                break
        pgconn.exit_pipeline_mode()

    def _send_piggyback(self, piggyback: bytes, query: bytes, new: bool) -> bytes:
        """Behind `query`, which it carries in a comment: while the session idles in its
        transaction, pg_stat_activity shows what was sent last."""
        wire = self.wire
        known = query in wire.names
        full = len(wire.names) >= MOST_PIGGYBACKS
        if piggyback is not PIGGYBACK or new or (full and not known):
            wire.pgconn.send_query_params(tagged(piggyback, query), None)
            return b""
        text = piggyback if known else tagged(piggyback, query)
        return wire.send_own(query, text, named=self.committer.named, kind=PIGGYBACK_NAME)


def _failed(results: list[PGresult]) -> bool:
    return results[0].status == _FATAL


def tagged(piggyback: bytes, query: bytes) -> bytes:
    """Ours, with the caller's statement before it for who looks at sessions."""
    return _tagged(piggyback, query[:TAG_BYTES])


@lru_cache(maxsize=512)
def _tagged(piggyback: bytes, shown: bytes) -> bytes:
    text = shown.decode("ascii", "replace").replace("\ufffd", "?")
    text = text.replace("/*", "/ *").replace("*/", "* /").replace("\0", "")
    return b"/* %s */ %s" % (text.encode(), piggyback)
