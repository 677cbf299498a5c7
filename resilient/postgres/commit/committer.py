"""COMMIT: sent once; when its reply is lost, `resolver` finds out what became of it.

What is gathered for that before the COMMIT is the journal's mark (`COMMIT_RESOLVER=lsn`), or a
token that is written with it (`ledger`).  Where nothing is recorded, nothing can be found out:
the same COMMIT, and the same word of what isn't known.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psycopg import errors as e
from psycopg import generators, pq
from psycopg.pq.abc import PGresult

from ...core.outcome import Incarnation, Written
from ...core.reaction import Sent
from ...core.sqlstates import Says, says
from ..errors import ended, explained
from ..replay.catalogue import only_reading
from ..replay.statements import traits
from ..session.answers import answered
from ..session.detour import Detour
from . import ledger
from .facts import flushed_in, incarnation_of

if TYPE_CHECKING:
    from ...core.reach import Asked
    from ..session.host import Gen
    from .resolver import Resolver

#: columns of the piggybacked query; behind a pooler there are more
PLAIN_FIELDS = 3
_READ_ONLY = re.compile(rb"\bREAD\s+ONLY\b", re.I)

_BAD = pq.ConnStatus.BAD
_INTRANS = pq.TransactionStatus.INTRANS
_TUPLES = pq.ExecStatus.TUPLES_OK
_COMMAND = pq.ExecStatus.COMMAND_OK


class Committer:
    """The end of a transaction.

    `mode`: the setting COMMIT_RESOLVER.  `token_alone`: the last token was written although the
    transaction had no id.  `tokenless`: this COMMIT goes without one.  `piggybacked`: the
    question has followed a statement that had written nothing.
    """

    __slots__ = (
        "host",
        "journal",
        "judge",
        "mode",
        "piggybacked",
        "replayer",
        "resolver",
        "session",
        "token_alone",
        "tokenless",
        "wire",
    )

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.replayer = resolver.replayer
        self.judge = resolver.judge
        self.host = resolver.host
        self.wire = resolver.wire
        self.journal = resolver.journal
        self.session = resolver.session
        self.mode = "off"
        self.token_alone = False
        self.tokenless = False
        self.piggybacked = False

    def resolves_by(self, mode: str) -> bool:
        """The setting COMMIT_RESOLVER is so.  Is the server asked?"""
        self.mode = mode
        asks = mode != "off"
        self.replayer.ask(asks)
        return asks

    def commit_whole(self) -> Gen:
        """`commit`, for who waits on this very generator (see `Judge.whole`)."""
        gen = self.commit()
        judge, journal = self.judge, self.journal
        judge.parts = False
        asks = journal.blind and journal.written is None
        judge.whole = None if asks or self.mode != "lsn" else gen
        return gen

    # long: every block passes here, and a call costs a fifth of a microsecond
    def commit(self, failed: tuple[e.Error, bool] | None = None) -> Gen:
        """COMMIT of a recorded transaction; returns once it is durable, or raises.  `failed`: it
        has, by this, and whether it had been sent."""
        journal, wire, judge = self.journal, self.wire, self.judge
        parts, judge.parts = judge.parts, False
        result = None
        while True:
            if failed is not None:
                again, failed = self._fails(*failed), None
                if not (yield from again):
                    break
            sent = False
            try:
                if not journal.fresh:
                    wire.hear_end()
                if journal.blind and journal.written is None and self.resolver.marks:
                    yield from self._ask_alone()
                # From here on its answer is waited for, unless it can't count.
                wire.committing = True
                link = wire.link
                cut = link is not None and link.evicted and link.aborted
                if cut or wire.pgconn.status == _BAD:
                    wire.committing = False
                    raise self._cut()
                sent = True
                result = yield from self._send()
            except ledger.Refused as refused:
                yield from self._without_token(refused)
                continue
            except e.Error as failure:
                failed = failure, sent
                if parts and not judge.stopped:
                    rest = self.commit(failed)
                    failed = None  # a failure whose own frame holds it stays for long
                    return Detour(rest=rest)
                continue
            break
        self.tokenless = False
        asked = self._to_look_up() if self.token_alone or self.piggybacked else ()
        if journal.sets:
            self.session.keep(journal.settings())
        journal.reset()
        if asked:
            yield from self._find_out(asked)
        return result

    def _fails(self, failure: e.Error, sent: bool) -> Gen:
        """What is to be done about it.  False: it is committed; True: not yet."""
        judge = self.judge
        exc = judge.heard(failure)
        if judge.surfaces(exc, Sent.COMMIT if sent else Sent.BLOCK):
            judge.give_up()
            if not self.journal.failed:
                self.journal.reset()  # the server refused it: the application's own
            raise exc from None
        if sent:
            return not (yield from self.resolver.lost(exc))
        if not (yield from self.replayer.recover(exc, Sent.BLOCK)):
            raise exc from None
        return True

    def commit_unrecorded(self) -> Gen:
        """COMMIT of what nobody has recorded: done, refused, or unknown."""
        wire = self.wire
        # What the server said before we ask: a session that has ended takes no COMMIT, and
        # then it is certain that nothing was committed.
        while wire.link is not None and wire.link.readable(0):
            wire.pgconn.consume_input()
        wire.committing = True
        try:
            result = yield from self._answer()
        except e.OperationalError as exc:
            refused = says(exc.sqlstate, Says.NOT_COMMITTED) and ended(exc)
            if refused or wire.pgconn.status != _BAD:
                raise
            raise self.judge.unknown(str(exc)) from exc
        finally:
            wire.committing = False
        if why := self._void():
            raise self.judge.unknown(why)
        return result

    def roll_back(self) -> Gen:
        """ROLLBACK.  A server that is gone isn't waited for: closing rolls back as well."""
        link = self.wire.link
        if link is None:
            return (yield from self.host.command(b"ROLLBACK"))
        if link.evicted:
            self.wire.pgconn.finish()
            raise e.OperationalError(f"rolled back by closing: {link.endpoint} {link.evicted}")
        link.expendable = True
        try:
            return (yield from self.host.command(b"ROLLBACK"))
        finally:
            link.expendable = False

    def _void(self) -> str:
        """Why an answer is no acknowledgement: its socket was shut down because a higher timeline
        was seen, and what was still in its buffer doesn't count."""
        link = self.wire.link
        return link.evicted if link and link.aborted and not self.host.read_only else ""

    def _answer(self) -> Gen:
        """Send COMMIT; its first answer decides.

        A server that has committed may still serve a termination before it is ready again
        (the log line of a slow statement is such a place): what follows the first answer
        says nothing about the COMMIT.
        """
        pgconn = self.wire.pgconn
        if pgconn.status == _BAD and (self.host.closed or not self.judge.recording):
            raise e.OperationalError("the connection is closed")
        pgconn.send_query(b"COMMIT")
        return self._first((yield from answered(pgconn)))

    def _first(self, results: list[PGresult]) -> PGresult:
        """The answer to COMMIT."""
        if not results:
            raise e.InternalError("no answer to COMMIT")
        first = results[0]
        if first.status != _COMMAND:
            raise self.wire.error(first)
        return first

    def _cut(self) -> e.OperationalError:
        """A session that was lost or cut before takes no COMMIT."""
        link = self.wire.link
        if link is not None and link.aborted:
            return e.OperationalError(f"not committed there: {link.evicted}")
        return e.OperationalError("the connection was lost before COMMIT")

    def _send(self) -> Gen:
        """COMMIT, and its answer, which counts."""
        wire, resolver, written = self.wire, self.resolver, self.journal.written
        pgconn = wire.pgconn
        if written is not None and pgconn.transaction_status != _INTRANS:
            written = None
        wire.sync_rep_warned = self.token_alone = False
        resolver.token = b""
        resolver.backend_pid = pgconn.backend_pid
        try:
            if self.mode != "lsn" and self._writes_token(written):
                self.token_alone = written is None
                resolver.token = ledger.new_token()
                answers = yield from ledger.commit(wire, resolver.token, self.named)
                resolver.token = b""
                result = ledger.answer_of(wire, answers)
            else:  # as `_answer`
                pgconn.send_query(b"COMMIT")
                results = yield from answered(pgconn)
                result = self._first(results)
        finally:
            wire.committing = False
        link = wire.link
        if link is not None and link.evicted and link.aborted and (why := self._void()):
            raise e.OperationalError(why)
        if wire.sync_rep_warned:
            raise self.judge.unconfirmed()
        if written is not None and (seen := wire.facts) is not None:
            flushed_in(written[2], seen).acknowledged(written)
        return result

    # -- the question that a lost COMMIT is resolved by

    @property
    def named(self) -> bool:
        """May something of ours be prepared?"""
        return self.host.prepares and self.judge.pool.known.names_last

    def _ask_alone(self) -> Gen:
        """The piggybacked query on its own: the last statement couldn't take it along."""
        wire = self.wire
        pgconn = wire.pgconn
        if pgconn.transaction_status != _INTRANS:
            return
        pgconn.send_query(wire.question)
        (result,) = yield from generators.execute(pgconn)
        if result.status == _TUPLES:
            self.read_piggyback(result)
        elif pgconn.status == _BAD:
            raise e.OperationalError("the connection was lost")
        else:
            exc = wire.error(result)
            self.ours_failed(exc)
            wire.silence()
            yield from self.replayer.redo(exc)

    def ours_failed(self, exc: e.Error) -> None:
        """A statement of ours was refused."""
        if says(exc.sqlstate, Says.FORGOTTEN):
            self.wire.forget_names()
            self.judge.pool.known.names_fail(exc)
        else:
            self.wire.stop_piggybacks()

    def read_piggyback(self, result: PGresult) -> None:
        """What the piggybacked query tells: id and position, and how far the server has flushed."""
        seen = self.wire.facts
        if seen is None:
            return
        get, journal = result.get_value, self.journal
        home, known = seen.incarnation, seen.flushed
        if self.wire.pooled:
            home = _pooled_home(result) or (journal.written or (b"", b"", home))[2]
            known = flushed_in(home, seen)
        flushed = get(0, 2)
        if flushed is not None:
            known.latest = flushed
        if journal.written is None:
            xid = get(0, 0)
            if xid and (position := get(0, 1)):
                journal.wrote((xid, position, home))
            else:
                journal.wrote(None)
                self.piggybacked = self.piggybacked or not xid

    # -- the token

    def _writes_token(self, written: Written | None) -> bool:
        """Does a token go with this COMMIT?  Where the ledger is, with each that isn't proved to
        have only read."""
        mode = self.mode
        if mode not in ("auto", "ledger"):
            return False
        seen = self.wire.facts
        there = seen is not None and seen.ledger is True
        if mode == "auto" and not (there and self.judge.pool.known.ledger_works):
            return False
        if written is None and seen is not None and not there:
            return False
        if self.tokenless or self.wire.pgconn.transaction_status != _INTRANS:
            return False
        return written is not None or self._may_have_told()

    def _may_have_told(self) -> bool:
        """It has no id; may it have done what leaves none, where it could write a token?"""
        journal = self.journal
        if self.host.read_only or any(_READ_ONLY.search(entry.query) for entry in journal.entries):
            return False
        proved = self.judge.pool.known.proved
        return journal.unseen or any(
            asked not in proved and not traits(asked[0]).plain for asked in journal.asked()
        )

    def _without_token(self, refused: ledger.Refused) -> Gen:
        """The ledger took no token: the transaction is done again, to be committed without."""
        error = refused.error
        if says(error.sqlstate, Says.FORGOTTEN):
            self.ours_failed(error)
            yield from self.replayer.redo(error)
            return
        if says(error.sqlstate, Says.UNUSABLE):
            if self.mode == "ledger":
                raise explained(
                    error,
                    f"RESILIENT_COMMIT_RESOLVER=ledger writes to {ledger.TABLE} with each COMMIT:"
                    f" GRANT INSERT ON {ledger.TABLE}, USAGE ON SCHEMA resilient, or set it to"
                    " auto; see `resilient install-ledger`",
                )
            self.judge.pool.known.ledger_fails(error)
        self.tokenless = True
        yield from self.replayer.redo(error)

    def _to_look_up(self) -> list[Asked]:
        """The question has followed these in vain, or a token was written for them; and would
        again, unless somebody finds out that they can only read."""
        self.piggybacked = False
        known, asked = self.judge.pool.known, self.journal.asked()
        if self.token_alone:
            return known.unproved(each for each in asked if not traits(each[0]).plain)
        return known.followed(each for each in asked if traits(each[0]).reads)

    def _find_out(self, asked: list[Asked]) -> Gen:
        """The catalogue is asked about these: by a worker, where a connection can be spared, or by
        their caller, whom that costs less than the tokens do, or so many questions."""
        pool = self.judge.pool
        idle = pool.known.worth(asked[0])
        if not (idle and pool.look_up(asked, idle)) and (self.token_alone or not idle):
            yield from self._look_up(asked[0])

    def _look_up(self, asked: Asked) -> Gen:
        if self.wire.pgconn.status == _BAD:
            return
        try:
            found = yield from only_reading(self.wire.pgconn, [asked])
        except e.OperationalError:
            return  # the next use finds the session gone
        self.judge.pool.known.learnt(found, {asked}.difference(found))


def _pooled_home(result: PGresult) -> Incarnation | None:
    """The server that has this transaction, behind a pooler; None: this wasn't asked, because the
    transaction has been asked before."""
    values = [result.get_value(0, column) for column in range(PLAIN_FIELDS, result.nfields)]
    row = [None if value is None else value.decode() for value in values]
    return incarnation_of(row) if row else None
