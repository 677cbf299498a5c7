"""What became of a COMMIT whose reply was lost: resolved, never guessed.

What decides is `core.outcome`, or a row of the ledger; what a transaction without an id may have
left behind, the catalogue tells (`proofs`).
"""

from __future__ import annotations

import time
from typing import Any

from psycopg import IsolationLevel, generators, pq
from psycopg import errors as e

from ..core.outcome import Mark, Outcome, Testimony, Verdict, lsn_text, resolve
from ..core.reach import names_of
from ..core.reaction import Action, Sent
from . import ledger
from .errors import CommitOutcomeUnknown, explained
from .proofs import Gen
from .recovery import RecoveryMixin
from .witness import CONFIRM, END_BACKEND, Written, ask, mark_of, witness, xid_status

#: how the reason begins when a commit is there, and no standby has acknowledged it
UNCONFIRMED = "it is committed, and not acknowledged as durable"
#: how often a COMMIT that is still running is asked for again, in seconds
RUNNING_PAUSE_S = 0.05

_TUPLES = pq.ExecStatus.TUPLES_OK


class ResolveMixin(RecoveryMixin):
    """The end of a transaction that nobody has told of."""

    #: token of the COMMIT under way, with a ledger
    _token = b""
    #: in this session the question has failed: it isn't asked any more
    _silenced = False
    #: who runs it, for a session that is gone
    _backend_pid = 0

    @property
    def _marks(self) -> bool:
        """Is the server asked for the transaction's id and position?"""
        seen = self._witness()
        return seen is not None and seen.marks and self._asks and not self._silenced

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
        if self._pool is not None:
            self._core.resolved("unknown", str((details or {}).get("resolver", "")) or reason)
        return super()._unknown(reason, details)

    def _unconfirmed(self) -> CommitOutcomeUnknown:
        return self._unknown(
            "committed on this server, but the wait for its standbys was cancelled",
            details={"committed_locally": True},
        )

    def _commit_lost(self, exc: e.Error) -> Gen:
        """True: it is committed, and durable.  False: it is not, and stands again, to be
        committed on a new session."""
        journal = self._journal
        assert journal is not None
        if isinstance(exc, CommitOutcomeUnknown):
            raise exc
        found = self._reaction(exc, Sent.COMMIT)
        fresh = (yield from self._revisited()) if found.stops else None
        if fresh is not None and self._goes_on(fresh):
            yield from self._not_far(exc, fresh)
            self._obey(exc, fresh)
            raise exc
        self._core.note(self, exc)
        if found.action is Action.REPLAY:
            if fresh is None:
                fresh = yield from self._renewed(self._deadline_at())
            yield from self._not_far(exc, fresh)
            yield from self._not_committed(exc, found.reason, fresh)
            return False
        if journal.written is None and not self._token:
            return (yield from self._nothing_written(exc))
        if self._core.settings.commit_resolver == "off":
            why = "RESILIENT_COMMIT_RESOLVER=off"
            raise self._unknown(str(exc), details={"resolver": why}) from exc
        return (yield from self._resolve(exc, journal.written))

    def _nothing_written(self, exc: e.Error) -> Gen:
        """It has no transaction id, as far as anybody asked.  True where it is proved to have
        left nothing, so that there is nothing to lose."""
        journal = self._journal
        assert journal is not None
        unasked = journal.blind or not self._marks
        if self._core.settings.commit_resolver == "off":
            why = "RESILIENT_COMMIT_RESOLVER=off"
            raise self._unknown(str(exc), details={"resolver": why}) from exc
        if unasked and any(names_of(query).writes for query, _ in journal.asked()):
            why = (
                "the transaction's id and position aren't known: the server doesn't tell"
                " them, or wasn't asked (a cursor that the connection didn't make)"
            )
            raise self._unknown(str(exc), details={"resolver": why}) from exc
        try:
            fresh = yield from self._renewed(self._deadline_at())
        except (e.Error, OSError) as failure:
            why = f"no server could be asked what it may have done: {failure}"
            raise self._unknown(str(exc), details={"resolver": why}) from exc
        try:
            effect = yield from self._only_read(fresh)
        except e.OperationalError as failure:
            effect = f"what nobody could be asked about ({failure})"
        if effect:
            fresh.pgconn.finish()
            why = f"it has no transaction id, and may have reached {effect}, which leaves none"
            raise self._unknown(str(exc), details={"resolver": why}) from exc
        if self._isolation_level is IsolationLevel.SERIALIZABLE:
            # What it has read counts once its COMMIT has (manual 13.2.3).
            yield from self._not_committed(exc, "it has only read", fresh)
            return False
        self._adopt(fresh)
        yield from self._restore()
        return True

    def _not_far(self, exc: e.Error, fresh: Any) -> Gen:
        """Raises where a part of it may have committed elsewhere, whatever became of it here."""
        far = yield from self._reached_far(fresh)
        if far:
            fresh.pgconn.finish()
            why = f"it may have reached {far}, which commits by itself"
            raise self._unknown(str(exc), details={"resolver": why}) from exc

    def _not_committed(self, exc: e.Error, reason: str, fresh: Any = None) -> Gen:
        """It certainly did not commit: do it again, or say that it did not."""
        self._core.resolved("not-committed", reason)
        try:
            self._strike(b"COMMIT", exc)
        except e.Error:
            if fresh is not None:
                fresh.pgconn.finish()
            raise
        why = self._unreplayable()
        if why:
            if fresh is not None:
                fresh.pgconn.finish()
            raise explained(exc, f"not committed ({reason}); not replayed: {why}") from None
        yield from self._reestablish(exc, self._deadline_at(), fresh)

    def _resolve(self, exc: e.Error, written: Written | None) -> Gen:
        """Ask the fenced primary, until it tells or the deadline passes."""
        mark = None if written is None else mark_of(written)
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
                far = yield from self._reached_far(fresh)
                if far:
                    why = f"it may have reached {far}, which commits by itself"
                    verdict = Verdict(Outcome.UNKNOWN, why)
                    break
                verdict = yield from self._hear_verdict(fresh, mark, deadline_at)
            except BaseException as failure:
                fresh.pgconn.finish()
                if not isinstance(failure, e.Error | OSError):
                    raise
                self._core.note(fresh, failure)
                fresh = None
                verdict = Verdict(Outcome.UNKNOWN, f"the primary was lost too: {failure}")
        if verdict.outcome is Outcome.COMMITTED:
            self._core.resolved("committed", verdict.reason)
            self._adopt(fresh)
            yield from self._restore()
            known = self._witness()
            if known is not None and written is not None:
                known.flushed.acknowledged(written)
            return True
        if verdict.outcome is Outcome.NOT_COMMITTED:
            yield from self._not_committed(exc, verdict.reason, fresh)
            return False
        if fresh is not None:
            fresh.pgconn.finish()
        raise self._unknown(str(exc), details=self._known(mark, verdict)) from exc

    def _hear_verdict(self, fresh: Any, mark: Mark | None, deadline_at: float) -> Gen:
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

    def _verdict(self, fresh: Any, mark: Mark | None) -> Gen:
        """One round of questions to the server behind `fresh`."""
        seen = yield from witness(fresh.pgconn)
        if seen is None:
            return Verdict(Outcome.UNKNOWN, "the new primary doesn't tell its incarnation")
        if self._token:
            verdict = yield from ledger.verdict(fresh.pgconn, self._token)
        else:
            assert mark is not None
            status = yield from xid_status(fresh.pgconn, mark.xid)
            known = self._witness()
            flushed = known.flushed.lsn if known is not None else 0
            verdict = resolve(mark, Testimony(seen.incarnation, status, seen.received), flushed)
            if verdict.outcome is Outcome.UNKNOWN:
                why = f"{verdict.reason} (RESILIENT_COMMIT_RESOLVER=ledger would know)"
                verdict = Verdict(Outcome.UNKNOWN, why)
        if verdict.outcome is Outcome.RUNNING and mark is not None:
            backend, xid = b"%d" % self._backend_pid, b"%d" % (mark.xid & 0xFFFFFFFF)
            yield from ask(fresh.pgconn, END_BACKEND, [backend, xid])
        return verdict

    def _confirm(self, fresh: Any, deadline_at: float) -> Gen:
        """Committed counts once something behind it is acknowledged as durable."""
        fresh._sync_rep_warned = False
        link = fresh._link
        link.connecting = True  # nothing is lost with it: the deadline may cut it
        self._core.cluster.at(deadline_at, link, "the deadline for an acknowledgement passed")
        result = yield from self._said_durably(fresh)
        link.connecting = False
        if result.status not in (_TUPLES, pq.ExecStatus.COMMAND_OK):
            raise e.error_from_result(result)
        if fresh._sync_rep_warned:
            raise self._unconfirmed()

    def _said_durably(self, fresh: Any) -> Gen:
        """A transaction that waits for standbys as the one before was told to."""
        told = [*self._session.settings, *(self._journal.entries if self._journal else ())]
        waits = [entry for entry in told if b"synchronous_commit" in entry.query.lower()]
        if waits:
            fresh.pgconn.send_query(b"BEGIN")
            yield from generators.execute(fresh.pgconn)
            for entry in waits:
                entry.send(fresh.pgconn)
                yield from generators.execute(fresh.pgconn)
        fresh.pgconn.send_query(CONFIRM)
        (result,) = yield from generators.execute(fresh.pgconn)
        if waits:
            fresh.pgconn.send_query(b"COMMIT")
            (result,) = yield from generators.execute(fresh.pgconn)
        return result

    def _restore(self) -> Gen:
        """The settings of the session, on the new one, which is asked what its next COMMIT
        will need; nothing else is left to do."""
        try:
            yield from self._meet()
            yield from self._bare()
            for entry in [*self._session.settings, *self._journal_settings()]:
                yield from self._again(entry, 0)
        except e.Error:
            self.pgconn.finish()  # the next use finds it lost, and restores it

    def _journal_settings(self) -> list[Any]:
        return self._journal.settings() if self._journal is not None else []

    def _known(self, mark: Mark | None, verdict: Verdict) -> dict[str, object]:
        """Everything that is known, for the error."""
        told: dict[str, object] = {
            "resolver": verdict.reason,
            "committed_locally": verdict.reason.startswith(UNCONFIRMED),
        }
        if mark is not None:
            told |= {
                "xid": mark.xid,
                "lsn": lsn_text(mark.lsn),
                "timeline": mark.incarnation.timeline,
                "system_id": mark.incarnation.system_id,
            }
        return told
