"""The statements of a checkout: recorded, BEGIN merged with the first, failures recovered.

Everything is a generator for psycopg's `Connection.wait`, sync and async alike.  A statement
in a block is sent so:

    BEGIN · statement · rider        one message; the rider until the block has written
    statement · rider
    statement
    COMMIT                           `committing`
"""

# long: every statement passes here, and a call costs a fifth of a microsecond
from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any

from psycopg import errors as e
from psycopg import pq
from psycopg.adapt import Transformer
from psycopg.pq.abc import PGresult

from ...core.reaction import Action, Sent
from .._psycopg import PostgresClientQuery, PostgresQuery
from ..session.connection import ended
from .catalogue import Asked
from .journal import Entry, Journal, kept
from .message import MessageMixin
from .proofs import Gen
from .replayer import UNRECORDED
from .statements import KNOWN, Traits, traits

_IDLE = pq.TransactionStatus.IDLE
_INTRANS = pq.TransactionStatus.INTRANS
_UNKNOWN = pq.TransactionStatus.UNKNOWN
_BAD = pq.ConnStatus.BAD
_FATAL = pq.ExecStatus.FATAL_ERROR
_BINARY = pq.Format.BINARY
_FORMATS = (pq.Format.TEXT, pq.Format.BINARY)
#: codes that say of a statement in autocommit that it did nothing
UNDONE = frozenset({"25006", "57P05"})
_STEPS = (b"BEGIN", b"SAVEPOINT ", b"RELEASE ", b"ROLLBACK TO ")


class ContinuityMixin(MessageMixin):
    """A connection whose transactions survive their server."""

    #: the statement under way is one whose BEGIN is `perform`'s to send
    _may_defer = False
    #: what failed had been answered before
    _answered_before = False
    #: the text of the statement that is started, where its cursor tells
    _noted: bytes | None = None
    #: it is recorded when it is put into its pipeline
    _remembers = False

    def _check_connection_ok(self) -> None:
        if self._journal is None or self._closed:
            super()._check_connection_ok()

    # -- transaction control

    def _exec_command(self, command: Any, *args: Any, **kwargs: Any) -> Gen:
        journal = self._journal
        if journal is not None and command == b"COMMIT":
            return self._commit() if self._pipeline is None else self._commit_in_pipeline()
        if command == b"DEALLOCATE ALL":
            self._forget_names()
        if journal is None:
            return super()._exec_command(command, *args, **kwargs)
        if not isinstance(command, bytes):  # PREPARE TRANSACTION, and what follows it
            journal.hazard = journal.hazard or "a two-phase transaction"
            return self._two_phase(journal, super()._exec_command(command, *args, **kwargs))
        if self._pipeline is not None:
            self._queued(journal, command)
            return super()._exec_command(command, *args, **kwargs)
        if command == b"ROLLBACK":
            return self._roll_back(journal)
        if command.startswith(_STEPS):
            return self._step(journal, command)
        return super()._exec_command(command, *args, **kwargs)

    def _two_phase(self, journal: Journal, gen: Gen) -> Gen:
        result = yield from gen
        if not self._in_block:
            journal.reset()
        return result

    def _commit_in_pipeline(self) -> Gen:
        """COMMIT is never one of many in flight: what became of it must be known."""
        pipeline = self._pipeline
        assert pipeline is not None
        yield from pipeline._sync_gen()
        self.pgconn.exit_pipeline_mode()
        self._pipeline = None
        try:
            yield from self._commit()
        finally:
            self._pipeline = pipeline
            pipeline.pgconn = self.pgconn
            if self.pgconn.status != _BAD:
                self.pgconn.enter_pipeline_mode()

    @staticmethod
    def _queued(journal: Journal, command: bytes) -> None:
        """A command was put into a pipeline."""
        if command == b"ROLLBACK":
            journal.reset()
        elif command.startswith(_STEPS):
            journal.command(command)

    def _roll_back(self, journal: Journal) -> Gen:
        journal.reset()
        try:
            return (yield from super()._exec_command(b"ROLLBACK"))
        except e.OperationalError:
            if not self._lost:
                raise
            return None  # the server has done it, with the session

    def _step(self, journal: Journal, command: bytes) -> Gen:
        """BEGIN, SAVEPOINT and their like."""
        while True:
            try:
                if command.startswith(b"BEGIN"):
                    yield from self._meet()
                result = yield from self._plain_command(command)
                break
            except e.Error as failure:
                exc = self._heard(failure)
                sent = Sent.NOTHING if command.startswith(b"BEGIN") else Sent.BLOCK
                if not (yield from self._recover(exc, sent)):
                    raise exc from None
        journal.command(command)
        return result

    def _deallocate(self, name: bytes | None) -> Gen:
        try:
            return (yield from super()._deallocate(name))
        except e.OperationalError:
            # A session that is gone has no prepared statements; the next use finds it gone.
            if self._journal is None or self.pgconn.status != _BAD:
                raise

    def _start_query(self) -> Gen:
        journal = self._journal
        if self._read_only_before is not None and self._pipeline is None:
            return self._start_reading(journal)
        if journal is None:
            return super()._start_query()
        if self._may_defer:  # BEGIN is `perform`'s
            return iter(())  # type: ignore[return-value]
        return self._start_unrecorded(journal)

    def _start_reading(self, journal: Journal | None) -> Gen:
        if not self._may_defer:
            yield from self._tell_read_only()
            if journal is not None:
                yield from self._start_unrecorded(journal)
            else:
                yield from super()._start_query()

    def _start_unrecorded(self, journal: Journal) -> Gen:
        """COPY, stream(), a server-side cursor, one that isn't ours: seen to start, not recorded.
        Ours in a pipeline are recorded when they are queued."""
        yield from super()._start_query()
        if not self._remembers:
            journal.hazard = journal.hazard or UNRECORDED
            if self._noted is not None:
                journal.passed.add((self._noted, None))
            else:
                journal.unseen = True
        journal.blind = True

    # -- statements

    @property
    def _in_block(self) -> bool:
        return self.pgconn.transaction_status != _IDLE

    def _begin(self) -> bytes:
        """BEGIN, when the next statement needs one before it."""
        if self._autocommit or self.pgconn.transaction_status != _IDLE:
            return b""
        return self._begin_statement or self._get_tx_start_command()

    # long: every statement passes here, and a call costs a fifth of a microsecond
    def perform(  # noqa: PLR0912, PLR0915
        self, cur: Any, query: Any, params: Any, prepare: bool | None, binary: bool | None
    ) -> Gen:
        """psycopg's `_execute_gen`: one statement, until it is answered or must fail."""
        if cur._closed:
            raise e.InterfaceError("the cursor is closed")
        journal: Any = self._journal
        cur._reset()
        if not cur._last_query or cur._last_query is not query:
            cur._last_query = None
            cur._tx = Transformer(cur)
        pgq = cur._query = cur._convert_query(query, params)
        if pgq.params:
            pgq.params = kept(pgq.params)
        what = KNOWN.get(pgq.query) or traits(pgq.query)
        if cur._query_cls is not PostgresQuery:
            what = _of_client(cur, what)
        fmt = cur.format if binary is None else _FORMATS[binary]
        entry = None
        wrapped = False
        self._sync_rep_warned = False
        while not (what.ends and self._in_block):
            if journal.kept is not None:
                from .keeping import behind  # nobody else needs it

                yield from behind(self, journal, pgq)
            status = self.pgconn.transaction_status
            begin = rider = b""
            try:
                if status == _IDLE:
                    if not self._autocommit:
                        begin = self._begin_statement or self._get_tx_start_command()
                        if self._link is not None and self._link.witness is None:
                            yield from self._meet()
                        if not what.merges:
                            yield from self._step(journal, begin)
                            begin, status = b"", _INTRANS
                    else:
                        if self._read_only_before is not None:
                            yield from self._tell_read_only()
                        if self._wraps and _wrappable(what) and self._read_only_before is None:
                            begin, wrapped = b"BEGIN", True
                            if self._link is not None and self._link.witness is None:
                                yield from self._meet()
                        elif what.calls or not what.reads:
                            status = self._status_heard()
                if begin or status != _IDLE or what.session:
                    entry = entry_of(cur, pgq, fmt)
                    if what.rides and not self._read_only:
                        rider = self._late_rider(journal) if journal.written else self._ride
                if begin or rider:
                    yield from self._merged(cur, entry, prepare, begin, rider)
                else:
                    yield from cur.plainly(pgq, prepare=prepare, binary=fmt == _BINARY)
            except e.Error as failure:
                exc = self._heard(failure)
                entry = entry or entry_of(cur, pgq, fmt)
                self._begun(journal, begin)
                sent = self._sent(bool(begin), status, what)
                if begin and self._unbegun and ended(exc):
                    sent = Sent.NOTHING
                if self._own(exc, sent):
                    if ended(exc):
                        self._end_with(exc)
                    elif wrapped:
                        yield from self._roll_back(journal)
                    else:
                        yield from self._refused(journal, entry, exc, begin)
                    raise exc.with_traceback(None) from None
                if status != _UNKNOWN and sent in (Sent.BLOCK, Sent.READ):
                    self._strike(entry.query, exc)
                asked = (entry.query, entry.types)
                if not (yield from self._deal_with(exc, sent, entry.shown, asked)):
                    if not self._lost:
                        yield from self._refused(journal, entry, exc, begin)
                    raise exc.with_traceback(None) from None
                continue
            if begin:
                journal.entries.append(begun_by(begin))
            if wrapped and entry is not None:
                entry.waiting = True  # its caller has seen nothing of it yet
            if self._sync_rep_warned:
                raise self._unconfirmed()
            after = self.pgconn.transaction_status
            if entry is None and after == _IDLE and not what.special:
                journal.reset()
                if not what.plain:
                    journal.earlier.add((pgq.query, pgq.types))
            elif entry is None or what.special or after != _INTRANS:
                entry = entry or entry_of(cur, pgq, fmt)
                inside = bool(begin) or status != _IDLE
                self._answered(what, entry, cur._results, bool(rider), inside)
            else:
                if not rider and what.writes and journal.written is None:
                    journal.blind = True
                journal.add(entry, cur._results)
            if self._spoilt is not None:
                yield from self._without_rider()
            break
        else:
            yield from self._commit_by_hand(cur)
        if wrapped and entry is not None:
            yield from self._commit_wrapped(cur, entry)
        cur._last_query = query
        if self._prepared._to_flush:
            yield from self._prepared.maintain_gen(self)

    def _without_rider(self) -> Gen:
        """The query of ours has failed, which a transaction doesn't survive: it is done again."""
        assert self._spoilt is not None
        exc, self._spoilt = self._spoilt, None
        self._ours_failed(exc)
        yield from self._redo(exc)

    def _commit_wrapped(self, cur: Any, entry: Entry) -> Gen:
        """A write in autocommit was answered, and its COMMIT is ours.  Its caller hasn't seen
        anything: what it gave when it was done again is its result."""
        answered = cur._results
        yield from self._commit()
        results = entry.results
        if results is None or results is answered:
            return
        for result in results:
            if result.status == _FATAL:  # and COMMIT has rolled it back
                raise e.error_from_result(result, encoding=self.pgconn._encoding)
        cur._set_results(results)

    def _status_heard(self) -> int:
        """The status before a write of its own is sent: one that goes to a session that has
        ended already was never sent."""
        with suppress(e.OperationalError):  # the status tells
            self._hear_end()
        return self.pgconn.transaction_status

    def _commit_by_hand(self, cur: Any) -> Gen:
        """`execute("COMMIT")`: the same care, and a result for the cursor."""
        result = yield from self._commit()
        if result is None:
            result = self.pgconn.make_empty_result(pq.ExecStatus.COMMAND_OK)
        cur._set_results([result])

    def _own(self, exc: e.Error, sent: Sent) -> bool:
        """Is it the application's own error?  Also when the session ended behind it."""
        return self._reaction(exc, sent).action in (Action.SURFACE, Action.RERUN)

    def _sent(self, begins: bool, status: int, what: Traits) -> Sent:
        """What a failure of a statement that was sent in this status leaves open."""
        if status == _UNKNOWN:  # the session had gone before
            return Sent.BLOCK if begins or not self._autocommit else Sent.NOTHING
        if what.control:  # it may have ended the transaction before its answer was lost
            return Sent.AUTOCOMMIT
        if begins or status != _IDLE:
            return Sent.BLOCK
        return Sent.READ if what.reads or self._read_only else Sent.AUTOCOMMIT

    def _deal_with(self, exc: e.Error, sent: Sent, shown: str, asked: Asked | None = None) -> Gen:
        """True: the statement may be sent again.  False: the failure is the caller's to see.
        Raises when neither can be."""
        reaction = self._reaction(exc, sent)
        if reaction.action is Action.REPREPARE:
            return (yield from self._prepare_anew(exc, asked))
        if reaction.action is Action.RESOLVE:
            late, self._answered_before = self._answered_before, False
            if reaction.stops and not late and (yield from self._stopped(exc)):
                return False
            self._core.note(self, exc)
            raise self._unknown(
                str(exc),
                details={
                    "statement": shown,
                    "resolver": "a statement in autocommit mode is a transaction of its own,"
                    " and nothing marks it; in a block it could be resolved",
                },
            ) from exc
        nothing_done = reaction.action is not Action.ELSEWHERE or exc.sqlstate in UNDONE
        proved = sent is not Sent.READ or nothing_done
        return (yield from self._recover(exc, sent, asked, proved))

    def _prepare_anew(self, exc: e.Error, asked: Asked | None) -> Gen:
        """Forget the session's prepared statements.  False: this one wasn't, so it was another
        one's name, or a function's own error."""
        if asked not in self._prepared._names or exc.diag.context:
            return False
        self._prepared.clear()
        yield from self._prepared.maintain_gen(self)
        return True

    def _stopped(self, exc: e.Error) -> Gen:
        """Was it this session alone that ended, and does its server go on as it was?"""
        fresh = yield from self._revisited()
        meant = self._meant_us(fresh)
        if meant:
            self._obey(exc, fresh)
        elif fresh is not None:
            fresh.pgconn.finish()
        return meant

    def _begun(self, journal: Journal, begin: bytes) -> None:
        """The BEGIN that travelled with a statement has arrived."""
        if begin and self.pgconn.transaction_status not in (_IDLE, pq.TransactionStatus.UNKNOWN):
            journal.command(begin)

    def _refused(self, journal: Journal, entry: Entry, exc: e.Error, begin: bytes) -> Gen:
        """The application's own error: part of the block, which may go on behind a savepoint.
        So the block has to stand when the error is raised, whatever happened behind it."""
        result = exc.pgresult
        if result is None or not self._in_block:
            return
        lost = self._lost
        if lost and begin:
            journal.command(begin)
        journal.add(entry, [result])
        if lost and not self._unreplayable():
            yield from self._reestablish(exc, self._deadline_at())

    def _answered(
        self, what: Traits, entry: Entry, results: list[PGresult], rode: bool, inside: bool
    ) -> None:
        """Record what was done, where that isn't just one more statement of a block."""
        journal = self._journal
        assert journal is not None
        if what.special:
            self._special(journal, what, entry)
        if not self._in_block or (not (inside or what.begins) and self._lost):
            if what.session:
                self._session.keep([entry])
            journal.reset()
            return
        if not rode and what.writes and journal.written is None:
            journal.blind = True
        journal.add(entry, results)

    def _special(self, journal: Journal, what: Traits, entry: Entry) -> None:
        """A statement that does more than most."""
        journal.sets |= what.session
        if what.hazard:
            journal.hazard = journal.hazard or what.hazard
            if what.lasting:
                self._session.hazard = self._session.hazard or what.hazard
        if what.forgets:
            self._forget_names()
        if what.discards and not self._in_block:
            self._session.clear()
        if what.undoes:
            journal.undo(entry.query)


def _wrappable(what: Traits) -> bool:
    """May it write, and may it stand in a block?  CALL, DO and utilities may not."""
    return what.rides and (what.calls or not what.reads) and not what.session


def _of_client(cur: Any, what: Traits) -> Traits:
    """A query whose parameters are merged on the client: its text may be anything, and goes by
    the simple protocol."""
    if not issubclass(cur._query_cls, PostgresClientQuery):
        return what
    return what._replace(merges=False, rides=False)


def entry_of(cur: Any, pgq: Any, fmt: pq.Format) -> Entry:
    """psycopg's query, to be recorded; its parameters were `kept`."""
    merged = cur._query_cls is not PostgresQuery and isinstance(pgq, PostgresClientQuery)
    return Entry(pgq.query, None if merged else pgq.params, pgq.types, pgq.formats, fmt)


@cache
def begun_by(begin: bytes) -> Entry:
    """The entry of a BEGIN that travelled with a statement: it has no result of its own."""
    return Entry(begin)
