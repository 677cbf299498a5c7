"""The statements of a checkout: recorded, BEGIN merged with the first, failures recovered.

Everything is a generator for psycopg's `Connection.wait`, sync and async alike.  A statement
in a block is sent so:

    BEGIN · statement · piggyback    one message; the piggyback until the block has written
    statement · piggyback
    statement
    COMMIT                           `commit.committer`
"""

# long: every statement passes here, and a call costs a fifth of a microsecond
from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any

from psycopg import errors as e
from psycopg import pq
from psycopg.adapt import Transformer
from psycopg.pq.abc import PGresult

from ...core.reaction import Action, Sent
from ...core.sqlstates import Says, says
from .._psycopg import PostgresClientQuery, PostgresQuery
from ..errors import ended
from ..session.detour import Detour
from .entry import Entry, kept
from .journal import entry_of
from .message import FLUSH_ASK_S, Sender
from .statements import KNOWN, traits

if TYPE_CHECKING:
    from psycopg.abc import Params, Query

    from ...core.reach import Asked
    from ..commit.committer import Committer
    from ..commit.knowledge import Knowledge
    from ..session.host import Gen, RecordedCursor
    from .statements import Traits

_IDLE = pq.TransactionStatus.IDLE
_INTRANS = pq.TransactionStatus.INTRANS
_UNKNOWN = pq.TransactionStatus.UNKNOWN
_FATAL = pq.ExecStatus.FATAL_ERROR
_BINARY = pq.Format.BINARY
_FORMATS = (pq.Format.TEXT, pq.Format.BINARY)
#: a statement that failed: by what, with which BEGIN, in which status, as what it is recorded, and
#: whether that BEGIN is ours
Failed = tuple[e.Error, bytes, int, Entry | None, bool]
STEPS = (b"BEGIN", b"SAVEPOINT ", b"RELEASE ", b"ROLLBACK TO ")


class Recorder:
    """Records what a caller does with a connection, so that it survives its server.

    `for_reading`: it was lent for that, and an autocommit session is told so.  `answered_before`:
    what failed had been answered before.  `noted`: the text of the statement that is started, where
    its cursor tells.  `remembers`: it is recorded when it is put into its pipeline.  `deferring`:
    its BEGIN isn't its own to send.  `known`: what its pool has learnt.  `wraps`: a write in
    autocommit travels in a block (RESILIENT_AUTOCOMMIT=block).
    """

    __slots__ = (
        "answered_before",
        "committer",
        "deferring",
        "for_reading",
        "host",
        "journal",
        "judge",
        "known",
        "noted",
        "remembers",
        "replayer",
        "sender",
        "session",
        "wire",
        "wraps",
    )

    def __init__(self, committer: Committer, known: Knowledge, wraps: bool) -> None:
        self.committer = committer
        self.sender = Sender(committer)
        self.replayer = committer.replayer
        self.judge = committer.judge
        self.host = committer.host
        self.wire = committer.wire
        self.journal = committer.journal
        self.session = committer.session
        self.known = known
        self.for_reading = False
        self.answered_before = False
        self.noted: bytes | None = None
        self.remembers = self.deferring = False
        self.wraps = wraps

    @property
    def stranded(self) -> bool:
        """The session is gone, a transaction is open, and nobody was told that it failed."""
        journal = self.journal
        gone = self.wire.pgconn.status == pq.ConnStatus.BAD and not self.host.closed
        return gone and bool(journal.entries) and not journal.failed

    @property
    def recoverable(self) -> bool:
        """Need a lost session be nobody's end?"""
        return not self.journal.failed and not self.host.closed

    def reads(self, for_reading: bool) -> None:
        """It is lent for that; or was."""
        self.for_reading = for_reading

    def tell_read_only(self) -> Gen:
        """Lent for reading: the server hears of it, where BEGIN doesn't say so."""
        if self.for_reading:
            yield from self.wire.tell_read_only(self.host.autocommit)

    def meet_first(self) -> Gen:
        """The server is asked, and told, what it has to before anything is sent to it."""
        return self.replayer.meet_first(self.tell_read_only)

    # -- transaction control

    def two_phase(self, gen: Gen) -> Gen:
        """PREPARE TRANSACTION, and what follows it."""
        self.journal.rule_out("a two-phase transaction")
        result = yield from gen
        if not self.wire.in_block:
            self.journal.reset()
        return result

    def queued(self, command: bytes) -> None:
        """A command was put into a pipeline."""
        if command == b"ROLLBACK":
            self.journal.reset()
        elif command.startswith(STEPS):
            self.journal.command(command)

    def roll_back(self) -> Gen:
        self.journal.reset()
        try:
            return (yield from self.committer.roll_back())
        except e.OperationalError:
            if not self.wire.lost:
                raise
            return None  # the server has done it, with the session

    def step(self, command: bytes) -> Gen:
        """BEGIN, SAVEPOINT and their like."""
        begins = command.startswith(b"BEGIN")
        while True:
            try:
                if begins and self.replayer.unmet:
                    yield from self.replayer.meet()
                result = yield from self.host.command(command)
                break
            except e.Error as failure:
                exc = self.judge.heard(failure)
                sent = Sent.NOTHING if begins else Sent.BLOCK
                if not (yield from self.replayer.recover(exc, sent)):
                    raise exc from None
        if begins and not self.journal.hazard:
            self.journal.begins(begun_by(command))
        else:
            self.journal.command(command)
        return result

    # -- statements that psycopg sends by itself

    def notes(self, text: bytes | None, remembers: bool = False) -> None:
        """One is started, and this is its text; None: nobody tells, or it is over."""
        self.noted, self.remembers = text, remembers

    def start(self, start: Callable[[], Gen], piped: bool) -> Gen:
        """A statement begins; `start` sends what psycopg sends before it."""
        if self.deferring:
            return iter(())  # type: ignore[return-value]
        return self._start_unrecorded(start, piped)

    def _start_unrecorded(self, start: Callable[[], Gen], piped: bool) -> Gen:
        """COPY, stream(), a server-side cursor, one that isn't ours: seen to start, not recorded.
        Ours in a pipeline are recorded when they are queued."""
        if not piped:
            yield from self.tell_read_only()
        yield from start()
        if self.remembers:
            self.journal.unanswered()
        else:
            if self.noted is None and not piped:  # a cursor that isn't ours may stream
                self.wire.streams()
            self.journal.passes(None if self.noted is None else (self.noted, None))

    # -- statements

    def _refuse(self, exc: Exception) -> Gen:
        """psycopg begins before it looks at the parameters: whatever they are, the transaction has
        begun, and a `transaction()` behind it is only a part of that one."""
        begin = self.host.begin() if self.wire.pgconn.transaction_status == _IDLE else b""
        if begin:
            yield from self.step(begin)
        raise exc

    def perform(
        self,
        cur: RecordedCursor[Any],
        query: Query,
        params: Params | None,
        prepare: bool | None,
        binary: bool | None,
    ) -> Gen:
        """psycopg's `_execute_gen`: one statement, until it is answered or must fail."""
        if cur._closed:
            raise e.InterfaceError("the cursor is closed")
        cur._reset()
        if not cur._last_query or cur._last_query is not query:
            cur._last_query = None
            cur._tx = Transformer(cur)
        try:
            pgq = cur._query = cur._convert_query(query, params)
        except Exception as exc:
            return self._refuse(exc)
        if pgq.params:
            pgq.params = kept(pgq.params)
        what = KNOWN.get(pgq.query) or traits(pgq.query)
        if cur._query_cls is not PostgresQuery:
            what = _of_client(cur, what, pgq.query)
        fmt = cur.format if binary is None else _FORMATS[binary]
        gen = self._attempts(cur, query, pgq, what, fmt, prepare)
        judge = self.judge
        judge.parts = False
        judge.whole = gen if what.merges and not self.wraps else None
        return gen

    # long: every statement passes here, and a call costs a fifth of a microsecond
    def _attempts(  # noqa: PLR0912, PLR0915, PLR0917
        self,
        cur: RecordedCursor[Any],
        query: Query,
        pgq: PostgresQuery,
        what: Traits,
        fmt: pq.Format,
        prepare: bool | None,
        failed: Failed | None = None,
    ) -> Gen:
        """Send it until it is answered or must fail.  `failed`: it has, before.  Where
        `Judge.parts` says so, this ends at a failure with what is to be gone on with."""
        journal, wire, host, judge = self.journal, self.wire, self.host, self.judge
        parts, judge.parts = judge.parts, False
        entry = None
        wrapped = reads = False
        wire.sync_rep_warned = False
        while not (what.ends and wire.in_block):
            if failed is not None:
                again, failed = self._fails(failed, cur, pgq, what, fmt), None
                entry, wrapped = yield from again
            if journal.kept is not None:
                from .keeping import behind  # nobody else needs it

                yield from behind(judge, pgq)
            status = wire.pgconn.transaction_status
            begin = piggyback = b""
            try:
                if status == _IDLE:
                    begin = host.begin()
                    if begin:
                        if self.replayer.unmet:
                            yield from self.replayer.meet()
                        if not what.merges:
                            yield from self.step(begin)
                            begin, status = b"", _INTRANS
                    else:
                        if self.for_reading:
                            yield from self.tell_read_only()
                        if self.wraps and not self.for_reading and _wrappable(what):
                            begin, wrapped = b"BEGIN", True
                            if self.replayer.unmet:
                                yield from self.replayer.meet()
                        elif what.calls or not what.reads:
                            status = self._status_heard()
                if begin or status != _IDLE or what.session:
                    entry = (
                        Entry(pgq.query, pgq.params, pgq.types, pgq.formats, fmt)
                        if pgq.__class__ is PostgresQuery
                        else entry_of(cur, pgq, fmt)
                    )
                    if what.piggybacks and wire.piggyback:
                        if journal.written is None:
                            reads = what.reads and (pgq.query, pgq.types) in self.known.proved
                            piggyback = b"" if reads or host.read_only else wire.piggyback
                        elif monotonic() - journal.marked_at >= FLUSH_ASK_S:
                            piggyback = b"" if host.read_only else self.sender.late_piggyback()
                if entry is not None and (begin or piggyback):
                    yield from self.sender.send(cur, entry, prepare, begin, piggyback)
                else:
                    yield from cur._resilient(pgq, prepare, fmt)
            except e.Error as failure:
                failed = (failure, begin, status, entry, wrapped)
                if parts and not judge.stopped:
                    rest = self._attempts(cur, query, pgq, what, fmt, prepare, failed)
                    failed = None  # a failure whose own frame holds it stays for long
                    return Detour(rest=rest)
                continue
            if begin:
                journal.begins(begun_by(begin))
            if wrapped and entry is not None:
                entry.waiting = True  # its caller has seen nothing of it yet
            if wire.sync_rep_warned:
                raise judge.unconfirmed()
            after = wire.pgconn.transaction_status
            if entry is None and after == _IDLE and not what.special:
                journal.reset()
                if not what.plain:
                    earlier = journal.earlier
                    earlier.add((pgq.query, pgq.types))
                    if len(earlier) > earlier.due:
                        earlier.fold()
            elif entry is None or what.special or after != _INTRANS:
                entry = entry or entry_of(cur, pgq, fmt)
                inside = bool(begin) or status != _IDLE
                self._answered(what, entry, cur._results, reads or bool(piggyback), inside)
            else:
                journal.add(entry, cur._results, not (piggyback or reads) and what.writes)
            break
        else:
            yield from self._commit_by_hand(cur)
        if self.sender.spoilt is not None:
            if parts and not judge.stopped:
                return Detour(rest=self._without_piggyback(cur, query))
            yield from self.without_piggyback()
        if wrapped and entry is not None:
            yield from self._commit_wrapped(cur, entry)
        cur._last_query = query
        return (yield from host.tidy())

    def _fails(
        self,
        failed: Failed,
        cur: RecordedCursor[Any],
        pgq: PostgresQuery,
        what: Traits,
        fmt: pq.Format,
    ) -> Gen:
        """What is to be done about it; returns where the statement is to be sent again."""
        failure, begin, status, entry, wrapped = failed
        wire = self.wire
        exc = self.judge.heard(failure)
        entry = entry or entry_of(cur, pgq, fmt)
        self._begun(begin)
        sent = self._sent(bool(begin), status, what)
        if begin and wire.unbegun and ended(exc):
            sent = Sent.NOTHING
        if self.judge.surfaces(exc, sent):
            if ended(exc):
                self.judge.end_with(exc)
            elif wrapped:
                yield from self.roll_back()
            else:
                yield from self._refused(entry, exc, begin)
            raise exc.with_traceback(None) from None
        if status != _UNKNOWN and sent in (Sent.BLOCK, Sent.READ):
            self.judge.strike(entry.query, exc)
        asked = (entry.query, entry.types)
        if not (yield from self.deal_with(exc, sent, entry.shown, asked)):
            if not wire.lost:
                yield from self._refused(entry, exc, begin)
            raise exc.with_traceback(None) from None
        return entry, wrapped

    def _without_piggyback(self, cur: RecordedCursor[Any], query: Query) -> Gen:
        """The end of a statement behind which ours has failed."""
        yield from self.without_piggyback()
        cur._last_query = query
        yield from self.host.tidy()

    def without_piggyback(self) -> Gen:
        """The query of ours has failed, which a transaction doesn't survive: it is done again."""
        exc, self.sender.spoilt = self.sender.spoilt, None
        assert exc is not None
        self.committer.ours_failed(exc)
        yield from self.replayer.redo(exc)

    def _commit_wrapped(self, cur: RecordedCursor[Any], entry: Entry) -> Gen:
        """A write in autocommit was answered, and its COMMIT is ours.  Its caller hasn't seen
        anything: what it gave when it was done again is its result."""
        answered = cur._results
        yield from self.committer.commit()
        results = entry.results
        if results is None or results is answered:
            return
        for result in results:
            if result.status == _FATAL:  # and COMMIT has rolled it back
                raise self.wire.error(result)
        cur._set_results(results)

    def _status_heard(self) -> int:
        """The status before a write of its own is sent: one that goes to a session that has
        ended already was never sent."""
        with suppress(e.OperationalError):  # the status tells
            self.wire.hear_end()
        return self.wire.pgconn.transaction_status

    def _commit_by_hand(self, cur: RecordedCursor[Any]) -> Gen:
        """`execute("COMMIT")`: the same care, and a result for the cursor."""
        result = yield from self.committer.commit()
        if result is None:
            result = self.wire.pgconn.make_empty_result(pq.ExecStatus.COMMAND_OK)
        cur._set_results([result])

    def _sent(self, begins: bool, status: int, what: Traits) -> Sent:
        """What a failure of a statement that was sent in this status leaves open."""
        if status == _UNKNOWN:  # the session had gone before
            return Sent.BLOCK if begins or not self.host.autocommit else Sent.NOTHING
        if what.control:  # it may have ended the transaction before its answer was lost
            return Sent.AUTOCOMMIT
        if begins or status != _IDLE:
            return Sent.BLOCK
        return Sent.READ if what.reads or self.host.read_only else Sent.AUTOCOMMIT

    def deal_with(self, exc: e.Error, sent: Sent, shown: str, asked: Asked | None = None) -> Gen:
        """True: the statement may be sent again.  False: the failure is the caller's to see.
        Raises when neither can be."""
        reaction = self.judge.reaction(exc, sent)
        if reaction.action is Action.REPREPARE:
            return (yield from self._prepare_anew(exc, asked))
        if reaction.action is Action.RESOLVE:
            late, self.answered_before = self.answered_before, False
            if reaction.stops and not late and (yield from self._stopped(exc)):
                return False
            self.judge.note(exc)
            raise self.judge.unknown(
                str(exc),
                details={
                    "statement": shown,
                    "resolver": "a statement in autocommit mode is a transaction of its own,"
                    " and nothing marks it; in a block it could be resolved",
                },
            ) from exc
        nothing_done = reaction.action is not Action.ELSEWHERE or says(
            exc.sqlstate, Says.DID_NOTHING
        )
        proved = sent is not Sent.READ or nothing_done
        return (yield from self.replayer.recover(exc, sent, asked, proved))

    def _prepare_anew(self, exc: e.Error, asked: Asked | None) -> Gen:
        """Forget the session's prepared statements.  False: this one wasn't, so it was another
        one's name, or a function's own error."""
        if exc.diag.context or not self.host.forget(asked):
            return False
        yield from self.host.tidy()
        return True

    def _stopped(self, exc: e.Error) -> Gen:
        """Was it this session alone that ended, and does its server go on as it was?"""
        fresh = yield from self.replayer.revisited()
        wire = None if fresh is None else fresh.wire
        meant = self.judge.meant_us(wire)
        if meant:
            self.judge.obey(exc, wire)
        elif fresh is not None:
            fresh.finish()
        return meant

    def _begun(self, begin: bytes) -> None:
        """The BEGIN that travelled with a statement has arrived."""
        if begin and self.wire.pgconn.transaction_status not in (_IDLE, _UNKNOWN):
            self.journal.command(begin)

    def _refused(self, entry: Entry, exc: e.Error, begin: bytes) -> Gen:
        """The application's own error: part of the block, which may go on behind a savepoint.
        So the block has to stand when the error is raised, whatever happened behind it."""
        result = exc.pgresult
        if result is None or not self.wire.in_block:
            return
        lost = self.wire.lost
        if lost and begin:
            self.journal.command(begin)
        self.journal.add(entry, [result])
        if lost and not self.judge.unreplayable():
            yield from self.replayer.reestablish(exc, self.replayer.deadline_at())

    def _answered(
        self, what: Traits, entry: Entry, results: list[PGresult], piggybacked: bool, inside: bool
    ) -> None:
        """Record what was done, where that isn't just one more statement of a block."""
        journal, wire = self.journal, self.wire
        if what.special:
            journal.does(what, entry.query)
            if what.lasting:
                self.session.rule_out(what.hazard)
            if what.forgets:
                wire.forget_names()
            if what.discards and not wire.in_block:
                self.session.clear()
        if not wire.in_block or (not (inside or what.begins) and wire.lost):
            if what.session:
                self.session.keep([entry])
            journal.reset()
            return
        journal.add(entry, results, not piggybacked and what.writes)


def _wrappable(what: Traits) -> bool:
    """May it write, and may it stand in a block?  CALL, DO and utilities may not."""
    return what.piggybacks and (what.calls or not what.reads) and not what.session


def _of_client(cur: RecordedCursor[Any], what: Traits, query: bytes) -> Traits:
    """A query whose parameters are merged on the client goes by the simple protocol: it may be
    several.  A text without a semicolon is one, and can travel with others, as psycopg's own
    pipelines send it; binary results are psycopg's to refuse."""
    if not issubclass(cur._query_cls, PostgresClientQuery):
        return what
    if b";" not in query and cur.format != _BINARY:
        return what
    return what._replace(merges=False, piggybacks=False)


@cache
def begun_by(begin: bytes) -> Entry:
    """The entry of a BEGIN that travelled with a statement: it has no result of its own."""
    return Entry(begin)
