"""COMMIT: sent once, and when its reply is lost, resolved, never guessed.

What decides is `core.outcome` (`COMMIT_RESOLVER=lsn`) or a row of the ledger (`ledger`); what
is gathered for it before the COMMIT is the journal's mark.
"""

from __future__ import annotations

import time
from typing import Any

from psycopg import IsolationLevel, generators, pq
from psycopg import errors as e
from psycopg.pq.abc import PGresult

from ..core.outcome import Mark, Outcome, Testimony, Verdict, lsn_text, resolve
from ..core.reaction import Action, Sent, react
from . import ledger
from .errors import CommitOutcomeUnknown, explained
from .journal import Journal
from .recovery import Gen, RecoveryMixin, logger
from .witness import CONFIRM, END_BACKEND, RIDER, Written, ask, mark_of, witness, xid_status

#: how the reason begins when a commit is there, and no standby has acknowledged it
UNCONFIRMED = "it is committed, and not acknowledged as durable"
#: how often a COMMIT that is still running is asked for again, in seconds
RUNNING_PAUSE_S = 0.05

_BAD = pq.ConnStatus.BAD
_IDLE = pq.TransactionStatus.IDLE
_INTRANS = pq.TransactionStatus.INTRANS
_TUPLES = pq.ExecStatus.TUPLES_OK
_FATAL = pq.ExecStatus.FATAL_ERROR


class CommitMixin(RecoveryMixin):
    """The end of a recorded transaction."""

    #: token of the COMMIT under way, with a ledger
    _token = b""
    #: who runs it, for a session that is gone
    _backend_pid = 0

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
            except e.Error as exc:
                if not self._lost and not self._ends(exc):
                    journal.reset()  # the server refused it: the application's own
                    raise
                if not sent:
                    yield from self._recover(exc, Sent.BLOCK)
                elif (yield from self._commit_lost(exc)):
                    break
                continue
            break
        self._committed(journal)
        return result

    @staticmethod
    def _ends(exc: e.Error) -> bool:
        """The session has ended, though its connection doesn't show it yet."""
        return react(exc.sqlstate, Sent.COMMIT, broken=False).action is Action.REPLAY

    def _announce(self) -> None:
        """From here on a COMMIT is under way: its answer is waited for, unless it can't count.  A
        session that was cut before takes none."""
        self._committing = True
        link = self._link
        if link is not None and link.aborted:
            self._committing = False
            raise e.OperationalError(f"not committed there: {link.condemned}")

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
        if self._dismissed:
            pgconn.finish()  # the end of the stream may be on its way yet
        if pgconn.status == _BAD:
            raise e.OperationalError("the server closed the connection")

    def _send_own(
        self, name: bytes, query: bytes, params: list[bytes] | None = None, types: Any = None
    ) -> bytes:
        """Put a statement of ours into the message.  Not empty: it is prepared with it, and
        known by this name once that is answered.  Behind a pooler, names are nobody's."""
        pgconn = self.pgconn
        pooled = self._link is not None and self._link.pooled
        if pooled or self._prepared.prepare_threshold is None:
            pgconn.send_query_params(query, params, param_types=types)
            return b""
        known = self._own_names.get(name)
        if known is not None:
            pgconn.send_query_prepared(known, params)
            return b""
        known = b"%s_%d" % (name, self._forgotten)
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

    @property
    def _marks(self) -> bool:
        """Is the server asked for the transaction's id and position?"""
        seen = self._witness()
        return seen is not None and seen.marks and self._asks

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
                journal.marked_at = time.monotonic()
            journal.blind = False

    def _send_commit(self, journal: Journal) -> Gen:
        pgconn, written = self.pgconn, journal.written
        if pgconn.transaction_status != _INTRANS:
            written = None
        self._committing = True
        self._sync_rep_warned = False
        self._token = b""
        self._backend_pid = pgconn.backend_pid
        try:
            if written is not None and self._keeps_ledger:
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

    def _unknown(
        self, reason: str, details: dict[str, object] | None = None
    ) -> CommitOutcomeUnknown:
        """The error; and what may have taken effect is never done again."""
        journal = self._journal
        if journal is not None:
            journal.failed = True
            journal.hazard = "the outcome of what was done before is unknown"
        elif details is None and self._pool is not None:
            off = self._core.settings.commit_resolver == "off"
            why = "RESILIENT_COMMIT_RESOLVER=off" if off else "the connection isn't checked out"
            details = {"resolver": why}
        return super()._unknown(reason, details)

    def _unconfirmed(self) -> CommitOutcomeUnknown:
        return self._unknown(
            "committed on this server, but the wait for its standbys was cancelled",
            details={"committed_locally": True},
        )

    def _committed(self, journal: Journal) -> None:
        if journal.sets:
            self._session.keep(journal.settings())
        journal.reset()

    # -- the reply was lost

    def _commit_lost(self, exc: e.Error) -> Gen:
        """True: it is committed, and durable.  False: it is not, and stands again, to be
        committed on a new session."""
        self._core.note(self, exc)
        journal = self._journal
        assert journal is not None
        if isinstance(exc, CommitOutcomeUnknown):
            raise exc
        if react(exc.sqlstate, Sent.COMMIT, broken=True).action is Action.REPLAY:
            yield from self._not_committed(exc, "the session ended before it")
            return False
        if journal.written is None:
            serializable = self._isolation_level is IsolationLevel.SERIALIZABLE
            if self._marks and not journal.blind and not serializable:
                return True  # it wrote nothing: there is nothing to lose
            if self._read_only or (self._marks and not journal.blind):
                yield from self._not_committed(exc, "it was read-only")
                return False
        if self._core.settings.commit_resolver == "off" or journal.written is None:
            why = "RESILIENT_COMMIT_RESOLVER=off"
            if self._core.settings.commit_resolver != "off":
                why = (
                    "the transaction's id and position aren't known: the server doesn't tell"
                    " them, or wasn't asked (a cursor that the connection didn't make)"
                )
            raise self._unknown(str(exc), details={"resolver": why}) from exc
        return (yield from self._resolve(exc, journal.written))

    def _not_committed(self, exc: e.Error, reason: str, fresh: Any = None) -> Gen:
        """It certainly did not commit: do it again, or say that it did not."""
        logger.info("step=resolved outcome=not-committed reason=%r", reason)
        why = self._unreplayable()
        if why:
            if fresh is not None:
                fresh.pgconn.finish()
            raise explained(exc, f"not committed ({reason}); not replayed: {why}") from None
        yield from self._reestablish(exc, self._deadline_at(), fresh)

    def _resolve(self, exc: e.Error, written: Written) -> Gen:
        """Ask the fenced primary, until it tells or the deadline passes."""
        mark = mark_of(written)
        deadline_at = self._deadline_at()
        limit = f" within {self._core.settings.deadline_s:g} s (RESILIENT_DEADLINE_S)"
        verdict = Verdict(Outcome.UNKNOWN, f"no primary could be asked{limit}")
        fresh: Any = None
        while fresh is None and time.monotonic() < deadline_at:
            try:
                fresh = yield from self._renewed(deadline_at)
            except (e.Error, OSError) as failure:
                why = f"no primary could be asked{limit}: {failure}"
                verdict = Verdict(Outcome.UNKNOWN, why)
                break
            try:
                verdict = yield from self._hear_verdict(fresh, mark, deadline_at)
            except BaseException as failure:
                fresh.pgconn.finish()
                if not isinstance(failure, e.Error | OSError):
                    raise
                self._core.note(fresh, failure)
                fresh = None
                verdict = Verdict(Outcome.UNKNOWN, f"the primary was lost too: {failure}")
        if verdict.outcome is Outcome.COMMITTED:
            logger.info("step=resolved outcome=committed reason=%r", verdict.reason)
            self._adopt(fresh)
            yield from self._restore()
            known = self._witness()
            if known is not None:
                known.flushed.acknowledged(written)
            return True
        if verdict.outcome is Outcome.NOT_COMMITTED:
            yield from self._not_committed(exc, verdict.reason, fresh)
            return False
        if fresh is not None:
            fresh.pgconn.finish()
        raise self._unknown(str(exc), details=self._known(mark, verdict)) from exc

    def _hear_verdict(self, fresh: Any, mark: Mark, deadline_at: float) -> Gen:
        """What one server says, while the COMMIT runs again and again; confirmed."""
        while True:
            verdict = yield from self._verdict(fresh, mark)
            if verdict.outcome is Outcome.COMMITTED:
                try:
                    yield from self._confirm(fresh, deadline_at)
                except e.Error as failure:
                    if time.monotonic() < deadline_at:
                        raise
                    return Verdict(Outcome.UNKNOWN, f"{UNCONFIRMED}: {failure}")
            if verdict.outcome is not Outcome.RUNNING or time.monotonic() >= deadline_at:
                return verdict
            yield from self._pause(RUNNING_PAUSE_S)

    def _verdict(self, fresh: Any, mark: Mark) -> Gen:
        """One round of questions to the server behind `fresh`."""
        seen = yield from witness(fresh.pgconn)
        if seen is None:
            return Verdict(Outcome.UNKNOWN, "the new primary doesn't tell its incarnation")
        if self._token:
            verdict = yield from ledger.verdict(fresh.pgconn, self._token)
        else:
            status = yield from xid_status(fresh.pgconn, mark.xid)
            known = self._witness()
            flushed = known.flushed.lsn if known is not None else 0
            verdict = resolve(mark, Testimony(seen.incarnation, status, seen.received), flushed)
            if verdict.outcome is Outcome.UNKNOWN:
                why = f"{verdict.reason} (RESILIENT_COMMIT_RESOLVER=ledger would know)"
                verdict = Verdict(Outcome.UNKNOWN, why)
        if verdict.outcome is Outcome.RUNNING:
            backend, xid = b"%d" % self._backend_pid, b"%d" % (mark.xid & 0xFFFFFFFF)
            yield from ask(fresh.pgconn, END_BACKEND, [backend, xid])
        return verdict

    def _confirm(self, fresh: Any, deadline_at: float) -> Gen:
        """Committed counts once something behind it is acknowledged as durable."""
        fresh._sync_rep_warned = False
        link = fresh._link
        link.connecting = True  # nothing is lost with it: the deadline may cut it
        self._core.cluster.at(deadline_at, link, "the deadline for an acknowledgement passed")
        fresh.pgconn.send_query(CONFIRM)
        (result,) = yield from generators.execute(fresh.pgconn)
        link.connecting = False
        if result.status != _TUPLES:
            raise e.error_from_result(result)
        if fresh._sync_rep_warned:
            raise self._unconfirmed()

    def _restore(self) -> Gen:
        """The settings of the session, on the new one, which is asked what its next COMMIT
        will need; nothing else is left to do."""
        try:
            yield from self._meet()
            for entry in [*self._session.settings, *self._journal_settings()]:
                yield from self._again(entry, 0)
        except e.Error:
            self.pgconn.finish()  # the next use finds it lost, and restores it

    def _journal_settings(self) -> list[Any]:
        return self._journal.settings() if self._journal is not None else []

    def _known(self, mark: Mark, verdict: Verdict) -> dict[str, object]:
        """Everything that is known, for the error."""
        return {
            "xid": mark.xid,
            "lsn": lsn_text(mark.lsn),
            "timeline": mark.incarnation.timeline,
            "system_id": mark.incarnation.system_id,
            "resolver": verdict.reason,
            "committed_locally": verdict.reason.startswith(UNCONFIRMED),
        }
