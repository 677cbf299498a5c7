"""A connection that survives its server: a new session under the same object, and the
transaction so far done again on it.

psycopg waits on one descriptor for as long as one of its generators runs.  A generator here
that needs another session yields a `Detour`, which psycopg's loop doesn't understand: it
raises, the generator stays where it is, and `waiting` does what the detour asks for and goes
on with the same generator.
"""

# long: the way from a lost session to the next, in one piece
from __future__ import annotations

import time
import weakref
from typing import Any

from psycopg import errors as e
from psycopg import generators, pq
from psycopg.pq.abc import PGconn

from ..core.model import Endpoint
from ..core.reaction import Action, Sent
from ..errors import ResilientError
from ..monitor.cluster import DEADLINE
from ..settings import Settings
from . import losses
from .apart import apart
from .catalogue import Asked
from .connection import ended
from .errors import (
    CommitOutcomeUnknown,
    DeadlineExceeded,
    RetryBudgetExhausted,
    TransactionReplayMismatch,
    explained,
)
from .journal import Entry, Journal, Session, difference
from .proofs import Gen, ProofMixin
from .witness import RIDER, Witness, witness

#: a statement's own conflict with others, met during a replay: it is tried again
CONFLICTS = frozenset({"40001", "40P01", "55P03"})
#: what such a replay waits before it starts over, in seconds
CONFLICT_PAUSE_S = 0.02

#: what nothing is known of that could be done again
UNRECORDED = "COPY, stream(), a server-side cursor or a cursor that the connection didn't make"

_BAD = pq.ConnStatus.BAD
_IDLE = pq.TransactionStatus.IDLE
_FATAL = pq.ExecStatus.FATAL_ERROR


class Detour:
    """What a generator asks of whoever waits on it: a new session, or a pause.

    `at`: the new session has to be this endpoint's; None: whoever fits now.
    """

    __slots__ = ("at", "deadline_at", "failure", "fresh", "pause_s", "taken")

    def __init__(
        self, deadline_at: float = 0.0, pause_s: float = 0.0, at: Endpoint | None = None
    ) -> None:
        self.deadline_at = deadline_at
        self.pause_s = pause_s
        self.at = at
        self.taken = False
        self.fresh: Any = None
        self.failure: Exception | None = None


class RecoveryMixin(ProofMixin):
    """State that survives a session, and the way to the next one."""

    _own_journal: Journal | None = None
    #: what the settings say
    _records = _asks = False
    _resolver = "off"
    _detour: Detour | None = None
    #: the question that follows a statement until the block has written; empty: none does
    _ride = b""
    #: the adapters that this session's `configure=` made, in a tuple, for the checkouts to come
    _next_adapters: tuple[Any] | None = None
    _silenced = False
    #: a caller has had it
    _lent_before = False
    #: what of ours is prepared in this session, by its name; how often that was forgotten
    _own_names: dict[bytes, bytes]
    _forgotten = 0

    def engage(self, settings: Settings) -> None:
        """The connection is checked out: record what is done with it."""
        self._lent_before = True
        if self._own_journal is None:
            self._own_names = {}
            self._own_journal = Journal(settings.replay_max_statements, settings.replay_max_bytes)
            self._session = Session()
            self._resolver = settings.commit_resolver
            self._asks = self._resolver != "off"
            self._records = settings.replay == "on" or self._asks
        self._struck = {}
        self._session.clear()  # the one before may have left it differently: nobody relies on it
        self._own_journal.earlier.clear()
        if self._records:
            self._journal = self._own_journal

    def disengage(self) -> None:
        """It is given back: what the pool does with it is not for recording."""
        journal = self._journal
        if self._next_adapters is not None:
            (self._adapters,), self._next_adapters = self._next_adapters, None
        if journal is not None:
            self._journal = None
            if journal.entries or journal.hazard or journal.blind or journal.failed:
                journal.reset()

    @property
    def stranded(self) -> bool:
        """The session is gone, a transaction is open, and nobody was told that it failed."""
        journal = self._journal
        return (
            self.pgconn.status == _BAD
            and not self._closed
            and journal is not None
            and bool(journal.entries)
            and not journal.failed
        )

    @property
    def recoverable(self) -> bool:
        """Is it recorded, so that a lost session need be nobody's end?"""
        journal = self._journal
        return journal is not None and not journal.failed and not self._closed

    # -- a new session

    def _renewed(self, deadline_at: float, at: Endpoint | None = None) -> Gen:
        """A connection to whoever fits now, or to one endpoint and no other, made by the pool;
        waited for until the deadline."""
        detour = self._detour = Detour(deadline_at, at=at)
        try:
            yield detour
        finally:
            self._detour = None
        if detour.failure is not None:
            raise detour.failure
        return detour.fresh

    def _pause(self, seconds: float) -> Gen:
        self._detour = Detour(pause_s=seconds)
        try:
            yield self._detour
        finally:
            self._detour = None

    def _adopt(self, fresh: Any) -> None:
        """Go on with this connection's session, under the object that the caller holds."""
        old, new = self.pgconn, fresh.pgconn
        new.notice_handler, new.notify_handler = old.notice_handler, old.notify_handler
        self.pgconn = new
        fresh.pgconn = old
        old.finish()
        self._link = fresh._link
        mine = weakref.ref(self)
        self._link.committing = lambda: bool(getattr(mine(), "_committing", False))
        self._ride = self._may_ride()
        self._farewell, self._warned = None, ""
        self._told_read_only = False
        # The names of the old session mean nothing here, and need no DEALLOCATE.  Those of the
        # new one are what its `configure=` and `check=` have prepared.
        prepared, theirs = self._prepared, fresh._prepared
        prepared._counts, prepared._names = theirs._counts.copy(), theirs._names.copy()
        prepared._prepared_idx = theirs._prepared_idx
        prepared._to_flush.clear()
        self._next_adapters = (fresh._adapters,)
        self._silenced = False
        self._forget_names()
        self._created_at, self._expire_at = fresh._created_at, fresh._expire_at

    def _forget_names(self) -> None:
        """Another session, or this one may have dropped them: they get new ones."""
        self._own_names = {}
        self._forgotten += 1

    # -- may it be done again?

    def _unreplayable(self) -> str:
        """Why the transaction can't be done again; empty when it can."""
        if self._core.settings.replay != "on":
            return "RESILIENT_REPLAY=off"
        journal = self._journal
        if journal is None:
            return "the connection isn't checked out"
        journal.measure()
        return journal.hazard or self._session.hazard

    def tell_why(self, exc: BaseException, recovers: bool = False) -> None:
        """Put into a failure of the session why it reaches the caller.  `recovers`: what failed
        is recorded, and has its reason already unless it never got to be."""
        if not isinstance(exc, e.OperationalError) or isinstance(exc, ResilientError):
            return
        if exc is self._obeyed:
            return
        journal = self._journal
        # A cursor that isn't the connection's stays with the session that was replaced.
        gone = self._lost or (journal is not None and bool(journal.replays))
        if not gone or self._closed or getattr(self, "_pool", None) is None:
            return
        if self._reaction(exc, Sent.BLOCK, gone=True).action is Action.SURFACE:
            return
        why = self._unreplayable() or ("" if recovers else UNRECORDED)
        if why:
            explained(exc, f"not replayed: {why}")

    def _recover(
        self, exc: e.Error, sent: Sent, doing: Asked | None = None, proved: bool = True
    ) -> Gen:
        """After a failure.  True: the transaction so far stands again, on a new session, and what
        failed may be sent again.  False: the failure is the caller's to see, since somebody meant
        it for this session alone.  Raises when neither can be.  `doing`: the
        statement that was under way; unless `proved`, it has to be shown to have only read."""
        reaction = self._reaction(exc, sent)
        if reaction.action not in (Action.REPLAY, Action.ELSEWHERE):
            raise exc
        fresh = None
        if reaction.stops:
            fresh = yield from self._revisited()
            if fresh is not None and self._goes_on(fresh):
                self._obey(exc, fresh)
                return False
        if self._journal is not None and self._journal.failed:
            raise e.OperationalError("the connection is closed: its transaction failed") from exc
        self._core.note(self, exc)
        why = self._unreplayable()
        if why:
            self._core.not_replayed(why)
            if fresh is not None:
                fresh.pgconn.finish()
            if self._journal is not None:
                self._journal.failed = True
            raise explained(exc, f"not replayed: {why}")
        yield from self._reestablish(exc, self._deadline_at(), fresh, doing, proved)
        return True

    def _revisited(self) -> Gen:
        """A new session of the very server that this one was of; None if it takes none now."""
        if self._link is None:
            return None
        limit_s = self._core.settings.probe_timeout_s
        try:
            return (yield from self._renewed(time.monotonic() + limit_s, self._link.endpoint))
        except (e.Error, OSError):
            return None

    def _obey(self, exc: e.Error, fresh: Any) -> None:
        """The server goes on as it was: whoever said stop meant this session."""
        fresh.pgconn.finish()
        self._obeyed = exc
        self._end_with(exc)

    def _reestablish(
        self,
        exc: e.Error,
        deadline_at: float,
        fresh: Any = None,
        doing: Asked | None = None,
        proved: bool = True,
    ) -> Gen:
        """`_recover`'s work, on `fresh` or else a new connection, until the deadline."""
        try:
            yield from self._try_to(exc, deadline_at, fresh, doing, proved)
        except BaseException:
            if self._journal is not None and self._journal.entries:
                # Nobody may commit what is left of it.
                self._journal.failed = True
                self._journal.hazard = self._journal.hazard or "the transaction has failed before"
            raise

    def _try_to(
        self, exc: e.Error, deadline_at: float, fresh: Any, doing: Asked | None, proved: bool
    ) -> Gen:
        while True:
            try:
                self._spend(exc, deadline_at)
            except e.Error:
                if fresh is not None:
                    fresh.pgconn.finish()
                raise
            if fresh is None:
                try:
                    fresh = yield from self._renewed(deadline_at)
                except Exception as failure:
                    if isinstance(failure, e.Error):
                        limit_s = self._core.settings.deadline_s
                        why = f"no server took it within {limit_s:g} s (RESILIENT_DEADLINE_S)"
                        explained(failure, f"not replayed: {why}")
                    raise failure from exc
            if (why := apart(self._journal, self._link, fresh._link)) and (
                yield from self._only_read(fresh)
            ):
                fresh.pgconn.finish()
                raise explained(exc, f"not replayed: {why}")
            self._adopt(fresh)
            fresh = None
            try:
                yield from self._meet()
                if not proved and doing and (why := (yield from self._only_read(self, [doing]))):
                    raise self._unread(exc, doing, why)
                yield from self._go_on(exc, doing)
                yield from self._replay()
                return
            except TransactionReplayMismatch as mismatch:
                raise mismatch from exc
            except e.OperationalError as again:
                if not self._lost:
                    raise
                self._core.note(self, again)
                exc = again

    def _unread(self, exc: e.Error, asked: Asked, why: str) -> CommitOutcomeUnknown:
        """A statement in autocommit has lost its reply, and may do more than read."""
        return self._unknown(
            str(exc),
            details={
                "statement": Entry(asked[0]).shown,
                "resolver": f"in autocommit nothing marks it, and it may have reached {why}",
            },
        )

    def _deadline_at(self) -> float:
        """Until when a failure that was just met may be dealt with.  A call that the deadline
        itself has cut has no time left."""
        link = self._link
        cut = link is not None and link.condemned.startswith(DEADLINE)
        left_s: float = 0.0 if cut else self._core.settings.deadline_s
        return time.monotonic() + left_s

    def _spend(self, exc: e.Error, deadline_at: float) -> None:
        """One more replay: within the deadline and the retry budget?"""
        if time.monotonic() >= deadline_at:
            limit_s = self._core.settings.deadline_s
            raise DeadlineExceeded(
                f"the transaction could not be done again within {limit_s:g} s"
                " (RESILIENT_DEADLINE_S)"
            ) from exc
        journal = self._journal
        again = journal is not None and journal.replays
        if journal is not None:
            journal.replays += 1
        attempts = self._core.settings.retry_attempts
        if (again or 0) + 1 >= attempts:
            why = f"it was sent {attempts} time(s) (RESILIENT_RETRY_ATTEMPTS)"
            raise explained(exc, f"not replayed: {why}")
        # The first replay adds nothing to anybody's load: what it repeats went to a server
        # that is gone, and the pool's size bounds how many there are.  Further ones retry.
        if again and not self._core.withdraw():
            error = RetryBudgetExhausted(
                f"the transaction was done again {again} times: one more would exceed the"
                " share of retries in the"
                " traffic (RESILIENT_RETRY_BUDGET, RESILIENT_RETRY_BUDGET_FLOOR)"
            )
            error.sqlstate = exc.sqlstate
            raise error from exc

    # -- replay

    def _replay(self) -> Gen:
        """Settings of the session, then the transaction, each result compared."""
        journal = self._journal
        assert journal is not None
        started = time.monotonic()
        journal.written = None
        journal.blind = bool(journal.entries)
        try:
            for entry in self._session.settings:
                yield from self._again(entry, 0)
            for conflict in range(self._core.settings.retry_attempts):
                if (yield from self._replay_once(journal, conflict)):
                    break
        except BaseException:
            self.pgconn.finish()  # half a replay is nobody's transaction
            raise
        where = self._link.endpoint if self._link else None
        self._core.replayed(where, len(journal.entries), time.monotonic() - started)

    def _redo(self, exc: e.Error) -> Gen:
        """The transaction once more, on the session that it was on: something of ours has made it
        fail.  Raises the failure where it can't be done again."""
        why = self._unreplayable()
        if why:
            raise explained(exc, f"not replayed: {why}")
        self.pgconn.send_query(b"ROLLBACK")
        yield from generators.execute(self.pgconn)
        yield from self._not_twice(exc, None)
        yield from self._replay()

    def _replay_once(self, journal: Journal, conflict: int) -> Gen:
        """False: it met another transaction, and is rolled back to be done once more."""
        last = conflict + 1 >= self._core.settings.retry_attempts
        for number, entry in enumerate(journal.entries):
            try:
                yield from self._again(entry, number)
            except e.OperationalError as exc:
                if entry.results is not None:
                    self._strike(entry.query, exc)
                if exc.sqlstate not in CONFLICTS or last or self._lost:
                    raise
                self.pgconn.send_query(b"ROLLBACK")
                yield from generators.execute(self.pgconn)
                yield from self._pause(CONFLICT_PAUSE_S)
                return False
        return True

    def _again(self, entry: Entry, number: int) -> Gen:
        """One statement once more.  Raises `TransactionReplayMismatch` when the caller has
        seen another result."""
        pgconn: PGconn = self.pgconn
        entry.send(pgconn)
        results = yield from generators.execute(pgconn)
        if entry.waiting:
            entry.results = results
            return
        found = difference(entry, results)
        if not found:
            return
        for result in results:
            if result.status == _FATAL:
                error = e.error_from_result(result, encoding=pgconn._encoding)
                if self._lost or error.sqlstate in CONFLICTS or ended(error):
                    raise error
        where = self._link.endpoint if self._link else None
        self._core.mismatched(where, entry.shown, found)
        raise TransactionReplayMismatch(
            f"the transaction was done again on {self._link.endpoint if self._link else '-'}, and"
            f" statement {number} gave another result than before: {found} ({entry.shown})"
        )

    def _meet(self) -> Gen:
        """Ask this session's server, once, what it takes to resolve a COMMIT."""
        link = self._link
        if link is None or link.witness is not None or not self._asks:
            return
        seen = yield from witness(self.pgconn)
        if seen is not None:
            place = losses.place_of(self._core)
            yield from losses.look_back(self.pgconn, seen, place, link.endpoint)
        link.witness = seen or False
        if seen is not None:
            self._core.known.resolves(seen.ledger)
        self._ride = self._may_ride()

    def _may_ride(self) -> bytes:
        """The rider, for who may be asked it."""
        seen = self._witness()
        return RIDER if seen is not None and seen.marks and self._asks else b""

    def _meet_first(self) -> Gen:
        """`_meet`, where nothing was sent yet: on another session if this one is gone."""
        try:
            yield from self._meet()
            if self._read_only_before is not None:
                yield from self._tell_read_only()
        except e.Error as failure:
            exc = self._heard(failure)
            if not (yield from self._recover(exc, Sent.BLOCK)):
                raise exc from None

    def _stand_again(self) -> Gen:
        """The session was lost behind an answer: the transaction so far on a new one, before
        anybody looks at what state it is in."""
        exc = self._heard(e.OperationalError("the connection was lost"))
        if not (yield from self._recover(exc, Sent.BLOCK)):
            raise exc

    def _witness(self) -> Witness | None:
        """What is known of this session's server for resolving a COMMIT."""
        seen = self._link.witness if self._link is not None else None
        return seen if isinstance(seen, Witness) else None
