"""COMMIT: sent once; when its reply is lost, `resolving` finds out what became of it.

What is gathered for that before the COMMIT is the journal's mark (`COMMIT_RESOLVER=lsn`), or a
token that is written with it (`ledger`).
"""

from __future__ import annotations

import re
import time
from typing import Any

from psycopg import errors as e
from psycopg import generators, pq
from psycopg.pq.abc import PGresult

from ...core.reaction import Action, Sent
from ..errors import explained
from ..replay.catalogue import Asked, reached
from ..replay.journal import Journal
from ..replay.proofs import Gen
from ..replay.statements import traits
from . import ledger
from .facts import RIDER, Written
from .resolving import ResolveMixin

#: the ledger's table can't be used by this role: no privilege, gone, not as it should be
UNUSABLE = frozenset({"42501", "42P01", "3F000", "42703", "42804"})
#: somebody has dropped what we had prepared, or a pooler has lent us another session
FORGOTTEN = frozenset({"26000", "42P05"})
_READ_ONLY = re.compile(rb"\bREAD\s+ONLY\b", re.I)

_BAD = pq.ConnStatus.BAD
_IDLE = pq.TransactionStatus.IDLE
_INTRANS = pq.TransactionStatus.INTRANS
_TUPLES = pq.ExecStatus.TUPLES_OK
_FATAL = pq.ExecStatus.FATAL_ERROR


class CommitMixin(ResolveMixin):
    """The end of a recorded transaction."""

    #: the last one was written although the transaction had no id
    _told = False
    #: this COMMIT goes without one
    _tokenless = False

    def _commit(self) -> Gen:
        """COMMIT of a recorded transaction; returns once it is durable, or raises."""
        journal = self._journal
        assert journal is not None
        result = None
        while True:
            sent = False
            try:
                if not journal.fresh:
                    self._hear_end()
                if journal.blind and journal.written is None and self._marks:
                    yield from self._ask_rider()
                self._announce()
                sent = True
                result = yield from self._send_commit(journal)
            except ledger.Refused as refused:
                yield from self._without_token(refused)
                continue
            except e.Error as failure:
                exc = self._heard(failure)
                found = self._reaction(exc, Sent.COMMIT if sent else Sent.BLOCK)
                if found.action in (Action.SURFACE, Action.RERUN):
                    self._give_up()
                    if not journal.failed:
                        journal.reset()  # the server refused it: the application's own
                    raise exc from None
                if not sent:
                    if not (yield from self._recover(exc, Sent.BLOCK)):
                        raise exc from None
                elif (yield from self._commit_lost(exc)):
                    break
                continue
            break
        self._tokenless = False
        told = journal.asked() if self._told and self._core.known.may_learn() else []
        self._committed(journal)
        if told and not self._session.settings and self.pgconn.status != _BAD:
            yield from self._learn(told)
        return result

    def _announce(self) -> None:
        """From here on a COMMIT is under way: its answer is waited for, unless it can't count.  A
        session that was lost or cut before takes none."""
        self._committing = True
        link = self._link
        if link is not None and link.aborted:
            self._committing = False
            raise e.OperationalError(f"not committed there: {link.condemned}")
        if self.pgconn.status == _BAD:
            self._committing = False
            raise e.OperationalError("the connection was lost before COMMIT")

    def _hear_end(self) -> None:
        """A session that has ended takes no COMMIT: then it is certain that there is none."""
        link = self._link
        while link is not None and link.readable(0):
            self._hear()

    def _hear(self) -> None:
        """Read what the server said unasked.  Raises when it ended the session."""
        pgconn = self.pgconn
        pgconn.consume_input()
        pgconn.is_busy()  # has it looked at
        if self._farewell is not None:
            pgconn.finish()  # the end of the stream may be on its way yet
            raise self._farewell
        if pgconn.status == _BAD:
            raise e.OperationalError("the server closed the connection")

    def _send_own(
        self,
        name: bytes,
        query: bytes,
        params: list[bytes] | None = None,
        types: Any = None,
        kind: bytes = b"",
    ) -> bytes:
        """Put a statement of ours into the message.  Not empty: it is prepared with it, and
        known by this name once that is answered; `kind`: what its name begins with there.  Behind
        a pooler, names are nobody's."""
        pgconn = self.pgconn
        pooled = self._link is not None and self._link.pooled
        named = self._prepared.prepare_threshold is not None and self._core.known.names_last
        if pooled or not named:
            pgconn.send_query_params(query, params, param_types=types)
            return b""
        known = self._own_names.get(name)
        if known is not None:
            pgconn.send_query_prepared(known, params)
            return b""
        known = b"%s_%d_%d" % (kind or name, self._forgotten, len(self._own_names))
        pgconn.send_prepare(known, query, param_types=types)
        pgconn.send_query_prepared(known, params)
        return known

    def _ask_rider(self) -> Gen:
        """The rider on its own: the last statement couldn't take it along."""
        if self.pgconn.transaction_status != _INTRANS:
            return
        self.pgconn.send_query(RIDER)
        (result,) = yield from generators.execute(self.pgconn)
        if result.status == _TUPLES:
            self._read_rider(result)
        elif self.pgconn.status == _BAD:
            raise e.OperationalError("the connection was lost")
        else:
            exc = e.error_from_result(result, encoding=self.pgconn._encoding)
            self._ours_failed(exc)
            self._ride, self._silenced = b"", True
            yield from self._redo(exc)

    def _ours_failed(self, exc: e.Error) -> None:
        """A statement of ours was refused."""
        if exc.sqlstate in FORGOTTEN:
            self._forget_names()
            self._core.known.names_fail(exc)
        else:
            self._ride = b""

    def _read_rider(self, result: PGresult) -> None:
        journal = self._journal
        seen: Any = self._link.witness if self._link is not None else None
        if journal is None or not seen:
            return
        get = result.get_value
        flushed = get(0, 2)
        if flushed is not None:
            seen.flushed.latest = flushed
        if journal.written is None:
            xid, position = get(0, 0), get(0, 1)
            if xid and position:
                journal.written = xid, position, seen.incarnation
                journal.marked = len(journal.entries) or 1  # 0 is the BEGIN that came with it
                journal.marked_at = time.monotonic()
            journal.blind = False

    def _send_commit(self, journal: Journal) -> Gen:
        pgconn, written = self.pgconn, journal.written
        if pgconn.transaction_status != _INTRANS:
            written = None
        self._committing = True
        self._sync_rep_warned = False
        self._token = b""
        self._told = False
        self._backend_pid = pgconn.backend_pid
        try:
            if self._writes_token(journal, written):
                self._told = written is None
                result = yield from ledger.commit(self, journal)
            else:
                result = yield from self._commit_answer()
        finally:
            self._committing = False
        link = self._link
        if link is not None and link.aborted and not self._read_only:
            # Its socket was shut down because a higher epoch was seen: what was still in its
            # buffer is no acknowledgement.
            raise e.OperationalError(link.condemned)
        if self._sync_rep_warned:
            raise self._unconfirmed()
        if written is not None and link is not None:
            link.witness.flushed.acknowledged(written)  # type: ignore[attr-defined]
        return result

    def _writes_token(self, journal: Journal, written: Written | None) -> bool:
        """Does a token go with this COMMIT?  Where the ledger is, with each that isn't proved to
        have only read."""
        seen = self._witness()
        if self._resolver == "auto":
            kept = seen is not None and seen.ledger is True and self._core.known.ledger_works
        else:
            kept = self._resolver == "ledger"
        if written is None and seen is not None and seen.ledger is not True:
            return False
        if not kept or self._tokenless or self.pgconn.transaction_status != _INTRANS:
            return False
        return written is not None or self._may_have_told(journal)

    def _may_have_told(self, journal: Journal) -> bool:
        """It has no id; may it have done what leaves none, where it could write a token?"""
        if self._read_only or any(_READ_ONLY.search(entry.query) for entry in journal.entries):
            return False
        proved = self._core.known.proved
        return journal.unseen or any(
            asked not in proved and not traits(asked[0]).plain for asked in journal.asked()
        )

    def _without_token(self, refused: ledger.Refused) -> Gen:
        """The ledger took no token: the transaction is done again, to be committed without."""
        error = refused.error
        if error.sqlstate in FORGOTTEN:
            self._ours_failed(error)
            yield from self._redo(error)
            return
        if error.sqlstate in UNUSABLE:
            if self._resolver == "ledger":
                raise explained(
                    error,
                    f"RESILIENT_COMMIT_RESOLVER=ledger writes to {ledger.TABLE} with each COMMIT:"
                    f" GRANT INSERT ON {ledger.TABLE}, USAGE ON SCHEMA resilient, or set it to"
                    " auto; see `resilient install-ledger`",
                )
            self._core.known.ledger_fails(error)
        self._tokenless = True
        yield from self._redo(error)

    def _learn(self, asked: list[Asked]) -> Gen:
        """Blocks like the one that has just committed need no token, if they only read."""
        try:
            found = yield from reached(self.pgconn, asked)
        except e.OperationalError:
            return  # the next use finds the session gone
        self._core.known.learnt(asked if not found.effect else [])

    def _committed(self, journal: Journal) -> None:
        if journal.sets:
            self._session.keep(journal.settings())
        journal.reset()
