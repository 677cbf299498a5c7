"""What became of a COMMIT whose reply was lost: resolved, never guessed.

What decides is `core.outcome`, or a row of the ledger; what a transaction without an id may have
left behind, the catalogue tells (`proofs`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from psycopg import errors as e
from psycopg import generators, pq

from ...core.outcome import Mark, Outcome, ServerFacts, Verdict, Written, lsn_text, mark_of, resolve
from ...core.reach import names_of
from ...core.reaction import Action, Sent
from ..errors import CommitOutcomeUnknown, explained
from ..replay.proofs import only_read, reached_far
from . import ledger
from .facts import CONFIRM, END_BACKEND, ask, commit_facts, flushed_in, xid_status

if TYPE_CHECKING:
    from ..replay.replayer import Replayer
    from ..session.detour import Fresh
    from ..session.host import Gen

#: how the reason begins when a commit is there, and no standby has acknowledged it
UNCONFIRMED = "it is committed, and not acknowledged as durable"
#: how often a COMMIT that is still running is asked for again, in seconds
RUNNING_PAUSE_S = 0.05

_TUPLES = pq.ExecStatus.TUPLES_OK


class Resolver:
    """The end of a transaction that nobody has told of.

    `token`: of the COMMIT under way, with a ledger.  `backend_pid`: who runs it, for a session
    that is gone.
    """

    __slots__ = ("backend_pid", "host", "journal", "judge", "replayer", "session", "token", "wire")

    def __init__(self, replayer: Replayer) -> None:
        self.replayer = replayer
        self.judge = replayer.judge
        self.host = replayer.host
        self.wire = replayer.wire
        self.journal = replayer.journal
        self.session = replayer.session
        self.token = b""
        self.backend_pid = 0

    @property
    def marks(self) -> bool:
        """Is the server asked for the transaction's id and position?"""
        seen = self.wire.facts
        return seen is not None and seen.marks and self.replayer.asks and not self.wire.silenced

    def lost(self, exc: e.Error) -> Gen:
        """True: it is committed, and durable.  False: it is not, and stands again, to be
        committed on a new session."""
        if isinstance(exc, CommitOutcomeUnknown):
            raise exc
        found = self.judge.reaction(exc, Sent.COMMIT)
        fresh = (yield from self.replayer.revisited()) if found.stops else None
        wire = None if fresh is None else fresh.wire
        if found.stops and self.judge.meant_us(wire):
            yield from self._not_far(exc, fresh)
            self.judge.obey(exc, wire)
            raise exc
        self.judge.note(exc)
        if found.action is Action.REPLAY:
            if fresh is None and not self.judge.pool.over:
                fresh = yield from self.replayer.renewed(self.replayer.deadline_at())
            yield from self._not_far(exc, fresh)
            yield from self._not_committed(exc, found.reason, fresh)
            return False
        if self.journal.written is None and not self.token:
            return (yield from self._nothing_written(exc))
        if self.judge.pool.settings.commit_resolver == "off":
            why = "RESILIENT_COMMIT_RESOLVER=off"
            raise self.judge.unknown(str(exc), details={"resolver": why}) from exc
        return (yield from self._resolve(exc, self.journal.written))

    def _nothing_written(self, exc: e.Error) -> Gen:
        """It has no transaction id, as far as anybody asked.  True where it is proved to have
        left nothing, so that there is nothing to lose."""
        unasked = self.journal.blind or not self.marks
        if self.judge.pool.settings.commit_resolver == "off":
            why = "RESILIENT_COMMIT_RESOLVER=off"
            raise self.judge.unknown(str(exc), details={"resolver": why}) from exc
        if unasked and any(names_of(query).writes for query, _ in self.journal.asked()):
            why = (
                "the transaction's id and position aren't known: the server doesn't tell"
                " them, or wasn't asked (a cursor that the connection didn't make)"
            )
            raise self.judge.unknown(str(exc), details={"resolver": why}) from exc
        try:
            fresh = yield from self.replayer.renewed(self.replayer.deadline_at())
        except (e.Error, OSError) as failure:
            why = f"no server could be asked what it may have done: {failure}"
            raise self.judge.unknown(str(exc), details={"resolver": why}) from exc
        try:
            effect = yield from only_read(self.judge, fresh.wire.pgconn)
        except e.OperationalError as failure:
            effect = f"what nobody could be asked about ({failure})"
        if effect:
            fresh.finish()
            why = f"it has no transaction id, and may have reached {effect}, which leaves none"
            raise self.judge.unknown(str(exc), details={"resolver": why}) from exc
        if self.host.serializable:
            # What it has read counts once its COMMIT has (manual 13.2.3).
            yield from self._not_committed(exc, "it has only read", fresh)
            return False
        self.replayer.adopt(fresh)
        yield from self.replayer.restore()
        return True

    def _not_far(self, exc: e.Error, fresh: Fresh | None) -> Gen:
        """Raises where a part of it may have committed elsewhere, whatever became of it here."""
        pgconn = None if fresh is None else fresh.wire.pgconn
        far = yield from reached_far(self.judge, pgconn)
        if far:
            if fresh is not None:
                fresh.finish()
            why = f"it may have reached {far}, which commits by itself"
            raise self.judge.unknown(str(exc), details={"resolver": why}) from exc

    def _not_committed(self, exc: e.Error, reason: str, fresh: Fresh | None = None) -> Gen:
        """It certainly did not commit: do it again, or say that it did not."""
        self.judge.pool.resolved("not-committed", reason)
        try:
            self.judge.strike(b"COMMIT", exc)
        except e.Error:
            if fresh is not None:
                fresh.finish()
            raise
        why = self.judge.unreplayable()
        if why:
            if fresh is not None:
                fresh.finish()
            raise explained(exc, f"not committed ({reason}); not replayed: {why}") from None
        yield from self.replayer.reestablish(exc, self.replayer.deadline_at(), fresh)

    def _resolve(self, exc: e.Error, written: Written | None) -> Gen:
        """Ask the fenced primary, until it tells or the deadline passes."""
        mark = None if written is None else mark_of(written)
        deadline_at = self.replayer.deadline_at()
        limit = f" within {self.judge.pool.settings.deadline_s:g} s (RESILIENT_DEADLINE_S)"
        verdict = Verdict(Outcome.UNKNOWN, f"no primary could be asked{limit}")
        fresh: Fresh | None = None
        while fresh is None and time.monotonic() < deadline_at:
            try:
                fresh = yield from self.replayer.renewed(deadline_at)
            except (e.Error, OSError) as failure:
                late = limit if time.monotonic() >= deadline_at else ""
                why = f"no primary could be asked{late}: {failure}"
                verdict = Verdict(Outcome.UNKNOWN, why)
                break
            try:
                far = yield from reached_far(self.judge, fresh.wire.pgconn)
                if far:
                    why = f"it may have reached {far}, which commits by itself"
                    verdict = Verdict(Outcome.UNKNOWN, why)
                    break
                verdict = yield from self._hear_verdict(fresh, written, deadline_at)
            except BaseException as failure:
                fresh.finish()
                if not isinstance(failure, e.Error | OSError):
                    raise
                fresh.judge.note(failure)
                fresh = None
                verdict = Verdict(Outcome.UNKNOWN, f"the primary was lost too: {failure}")
        if verdict.outcome is Outcome.COMMITTED and fresh is not None:
            yield from self._committed(verdict.reason, fresh, written)
            return True
        if verdict.outcome is Outcome.NOT_COMMITTED:
            yield from self._not_committed(exc, verdict.reason, fresh)
            return False
        if fresh is not None:
            fresh.finish()
        raise self.judge.unknown(str(exc), details=self._known(mark, verdict)) from exc

    def _committed(self, reason: str, fresh: Fresh, written: Written | None) -> Gen:
        """It certainly did: the connection goes on."""
        self.judge.pool.resolved("committed", reason)
        self.replayer.adopt(fresh)
        yield from self.replayer.restore()
        known = self.wire.facts
        if known is not None and written is not None:
            known.flushed.acknowledged(written)

    def _flush_position(self, mark: Mark) -> int:
        """How far the mark's incarnation had flushed, as far as anybody knows.  A COMMIT whose
        wait for standbys was ended is flushed, see `core.outcome`."""
        warned, seen = self.wire.sync_rep_warned, self.wire.facts
        if seen is None:
            return mark.lsn if warned else 0
        known = flushed_in(mark.incarnation, seen)
        if warned:
            known.seen(mark.lsn)
        return known.lsn

    def _hear_verdict(self, fresh: Fresh, written: Written | None, deadline_at: float) -> Gen:
        """What one server says, while the COMMIT runs again and again; confirmed."""
        while True:
            verdict = yield from self._verdict(fresh, written)
            if verdict.outcome is Outcome.COMMITTED:
                try:
                    yield from self._confirm(fresh, deadline_at)
                except e.Error as failure:
                    if time.monotonic() < deadline_at:
                        raise
                    return Verdict(Outcome.UNKNOWN, f"{UNCONFIRMED}: {failure}")
            if verdict.outcome is not Outcome.RUNNING or time.monotonic() >= deadline_at:
                return verdict
            yield from self.replayer.pause(RUNNING_PAUSE_S)

    def _verdict(self, fresh: Fresh, written: Written | None) -> Gen:
        """One round of questions to the server behind `fresh`: behind a pooler in one transaction,
        which goes on where it says that it is committed."""
        if not fresh.wire.pooled or self.token:
            return (yield from self._one_verdict(fresh, written))
        yield from ask(fresh.wire.pgconn, b"BEGIN")
        verdict = yield from self._one_verdict(fresh, written)
        if verdict.outcome is not Outcome.COMMITTED:
            yield from ask(fresh.wire.pgconn, b"ROLLBACK")
        return verdict

    def _one_verdict(self, fresh: Fresh, written: Written | None) -> Gen:
        mark = None if written is None else mark_of(written)
        seen = yield from commit_facts(fresh.wire.pgconn)
        if seen is None:
            return Verdict(Outcome.UNKNOWN, "the new primary doesn't tell its incarnation")
        if self.token:
            verdict = yield from ledger.verdict(fresh.wire.pgconn, self.token)
        else:
            assert mark is not None
            status = yield from xid_status(fresh.wire.pgconn, mark.xid)
            flushed = self._flush_position(mark)
            verdict = resolve(mark, ServerFacts(seen.incarnation, status, seen.received), flushed)
            if verdict.outcome is Outcome.UNKNOWN:
                why = f"{verdict.reason} (RESILIENT_COMMIT_RESOLVER=ledger would know)"
                verdict = Verdict(Outcome.UNKNOWN, why)
        if verdict.outcome is Outcome.RUNNING and mark is not None:
            pid = 0 if fresh.wire.pooled else self.backend_pid
            backend, xid = b"%d" % pid, b"%d" % (mark.xid & 0xFFFFFFFF)
            yield from ask(fresh.wire.pgconn, END_BACKEND, [backend, xid])
        return verdict

    def _confirm(self, fresh: Fresh, deadline_at: float) -> Gen:
        """Committed counts once something behind it is acknowledged as durable."""
        fresh.wire.sync_rep_warned = False
        link = fresh.wire.link
        assert link is not None
        link.expendable = True  # the deadline may cut it
        self.judge.pool.cut_at(deadline_at, link, "the deadline for an acknowledgement passed")
        result = yield from self._said_durably(fresh)
        link.expendable = False
        if result.status not in (_TUPLES, pq.ExecStatus.COMMAND_OK):
            raise e.error_from_result(result)
        if fresh.wire.sync_rep_warned:
            raise self.judge.unconfirmed()

    def _said_durably(self, fresh: Fresh) -> Gen:
        """A transaction that waits for standbys as the one before was told to."""
        told = [*self.session.settings, *self.journal.entries]
        waits = [entry for entry in told if b"synchronous_commit" in entry.query.lower()]
        pgconn, as_one = fresh.wire.pgconn, bool(waits) or fresh.wire.pooled
        if as_one:
            if pgconn.transaction_status == pq.TransactionStatus.IDLE:
                pgconn.send_query(b"BEGIN")
                yield from generators.execute(pgconn)
            for entry in waits:
                entry.send(pgconn)
                yield from generators.execute(pgconn)
        pgconn.send_query(CONFIRM)
        (result,) = yield from generators.execute(pgconn)
        if as_one:
            pgconn.send_query(b"COMMIT")
            (result,) = yield from generators.execute(pgconn)
        return result

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
