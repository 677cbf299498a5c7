"""A connection that survives its server: a new session under the same object, and the
transaction so far done again on it.

psycopg waits on one descriptor for as long as one of its generators runs.  A generator here
that needs another session yields a `Detour`; `session.waiting` ends psycopg's loop there, does
what the detour asks for, and goes on with the same generator.
"""

# long: the way from a lost session to the next, in one piece
from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from psycopg import errors as e
from psycopg import generators, pq

from ...core.model import Endpoint
from ...core.reaction import Action, Sent
from ...core.sqlstates import ADMIN_SHUTDOWN, Says, says
from ...monitor.cluster import DEADLINE
from ..commit import losses
from ..commit.facts import commit_facts
from ..errors import (
    DeadlineExceeded,
    RetryBudgetExhausted,
    TransactionReplayMismatch,
    ended,
    explained,
)
from ..session.detour import Detour
from .apart import apart
from .entry import Entry
from .proofs import bare, not_twice, only_read, same_session
from .results import difference

if TYPE_CHECKING:
    from ...core.reach import Asked
    from ..errors import CommitOutcomeUnknown
    from ..session.detour import Fresh
    from ..session.host import Gen
    from ..session.wire import Wire
    from .judge import Judge

#: what a replay that met a conflict with others waits before it starts over, in seconds
CONFLICT_PAUSE_S = 0.02

_FATAL = pq.ExecStatus.FATAL_ERROR


def _wire(fresh: Fresh | None) -> Wire | None:
    return None if fresh is None else fresh.wire


class Replayer:
    """The way to the next session.  `asks`: COMMITs are resolved by what the server is asked."""

    __slots__ = ("asks", "host", "journal", "judge", "session", "wire")

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.host = judge.host
        self.wire = judge.wire
        self.journal = judge.journal
        self.session = judge.session
        self.asks = False

    # -- a new session

    def renewed(self, deadline_at: float, at: Endpoint | None = None) -> Gen:
        """A connection to whoever fits now, or to one endpoint and no other, made by the pool;
        waited for until the deadline."""
        if not self.judge.driven:
            raise e.OperationalError("nobody can be asked: the connection's class waits by itself")
        detour = Detour(deadline_at, at=at)
        yield detour
        if detour.failure is not None:
            raise detour.failure
        return detour.fresh

    def pause(self, seconds: float) -> Gen:
        if self.judge.driven:
            yield Detour(pause_s=seconds)

    def ask(self, asks: bool) -> None:
        """Servers are asked what a lost COMMIT is resolved by, or they aren't."""
        self.asks = asks

    def adopt(self, fresh: Fresh) -> None:
        """Go on with this connection's session, under the object that the caller holds."""
        self.host.swap(fresh.judge.host)
        self.wire.renew(fresh.wire, self.asks)

    def revisited(self) -> Gen:
        """A new session of the very server that this one was of; None if it takes none now."""
        judge, link = self.judge, self.wire.link
        judge.locked_out = False
        if link is None or judge.pool.over:
            return None
        limit_s = judge.pool.settings.probe_timeout_s
        try:
            return (yield from self.renewed(time.monotonic() + limit_s, link.endpoint))
        except (e.Error, OSError) as refusal:
            judge.locked_out = judge.driven and judge.pool.locks_out(link, refusal)
            return None

    # -- may it be done again?

    def recover(
        self, exc: e.Error, sent: Sent, doing: Asked | None = None, proved: bool = True
    ) -> Gen:
        """After a failure.  True: the transaction so far stands again, on a new session, and what
        failed may be sent again.  False: the failure is the caller's to see, since somebody meant
        it for this session alone.  Raises when neither can be.  `doing`: the
        statement that was under way; unless `proved`, it has to be shown to have only read."""
        judge = self.judge
        reaction = judge.reaction(exc, sent)
        if reaction.action not in (Action.REPLAY, Action.ELSEWHERE):
            raise exc
        if not judge.driven:
            self.journal.fail()
            raise explained(exc, "not replayed: the connection's class waits by itself")
        fresh: Fresh | None = None
        if reaction.stops:
            fresh = yield from self.revisited()
            if judge.meant_us(_wire(fresh)):
                judge.obey(exc, _wire(fresh))
                return False
        if self.journal.failed:
            raise e.OperationalError("the connection is closed: its transaction failed") from exc
        judge.note(exc)
        why = judge.unreplayable()
        if why:
            judge.pool.not_replayed(why)
            if fresh is not None:
                fresh.finish()
            self.journal.refuse()
            raise explained(exc, f"not replayed: {why}")
        yield from self.reestablish(exc, self.deadline_at(), fresh, doing, proved)
        return True

    def reestablish(
        self,
        exc: e.Error,
        deadline_at: float,
        fresh: Fresh | None = None,
        doing: Asked | None = None,
        proved: bool = True,
    ) -> Gen:
        """`recover`'s work, on `fresh` or else a new connection, until the deadline."""
        began_s = time.monotonic()
        try:
            yield from self._try_to(exc, deadline_at, fresh, doing, proved)
        except BaseException as failure:
            self.journal.fail()
            self.judge.pool.missed(began_s, failure)
            raise

    def _try_to(
        self,
        exc: e.Error,
        deadline_at: float,
        fresh: Fresh | None,
        doing: Asked | None,
        proved: bool,
    ) -> Gen:
        judge = self.judge
        while True:
            try:
                self._spend(exc, deadline_at)
            except e.Error:
                if fresh is not None:
                    fresh.finish()
                raise
            if fresh is None:
                fresh = yield from self._replaced(exc, deadline_at)
            why = apart(self.journal, self.wire.link, fresh.wire.link)
            if why and (yield from only_read(judge, fresh.wire.pgconn)):
                fresh.finish()
                raise explained(exc, f"not replayed: {why}")
            self.adopt(fresh)
            fresh = None
            try:
                yield from self.meet()
                if not proved and doing:
                    why = yield from only_read(judge, self.wire.pgconn, [doing])
                    if why:
                        raise self._unread(exc, doing, why)
                yield from same_session(judge, exc)
                yield from not_twice(judge, exc, doing)
                yield from self._replay()
                return
            except TransactionReplayMismatch as mismatch:
                raise mismatch from exc
            except e.OperationalError as again:
                if not self.wire.lost:
                    raise
                judge.note(again)
                exc = again

    def _replaced(self, exc: e.Error, deadline_at: float) -> Gen:
        try:
            return (yield from self.renewed(deadline_at))
        except Exception as failure:
            if exc.sqlstate == ADMIN_SHUTDOWN and self.judge.pool.crowded():
                why = f"the server had no room for another session ({failure})"
                raise explained(exc, f"not replayed: {why}") from failure
            if isinstance(failure, e.Error):
                why = "no server took it"
                if time.monotonic() >= deadline_at:
                    limit_s = self.judge.pool.settings.deadline_s
                    why += f" within {limit_s:g} s (RESILIENT_DEADLINE_S)"
                explained(failure, f"not replayed: {why}")
            raise failure from exc

    def _unread(self, exc: e.Error, asked: Asked, why: str) -> CommitOutcomeUnknown:
        """A statement in autocommit has lost its reply, and may do more than read."""
        return self.judge.unknown(
            str(exc),
            details={
                "statement": Entry(asked[0]).shown,
                "resolver": f"in autocommit nothing marks it, and it may have reached {why}",
            },
        )

    def deadline_at(self) -> float:
        """Until when a failure that was just met may be dealt with.  A call that the deadline
        itself has cut has no time left."""
        link = self.wire.link
        cut = link is not None and link.evicted.startswith(DEADLINE)
        return time.monotonic() + (0.0 if cut else self.judge.pool.settings.deadline_s)

    def _spend(self, exc: e.Error, deadline_at: float) -> None:
        """One more replay: within the deadline and the retry budget?"""
        settings = self.judge.pool.settings
        if time.monotonic() >= deadline_at:
            raise DeadlineExceeded(
                f"the transaction could not be done again within {settings.deadline_s:g} s"
                " (RESILIENT_DEADLINE_S)"
            ) from exc
        again = self.journal.again()
        attempts = settings.retry_attempts
        if again + 1 >= attempts:
            why = f"it was sent {attempts} time(s) (RESILIENT_RETRY_ATTEMPTS)"
            raise explained(exc, f"not replayed: {why}")
        # The first replay adds nothing to anybody's load: what it repeats went to a server
        # that is gone, and the pool's size bounds how many there are.  Further ones retry.
        if again and not self.judge.pool.withdraw():
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
        journal = self.journal
        started = time.monotonic()
        mark = journal.mark
        journal.unwritten()
        try:
            for entry in self.session.settings:
                yield from self._again(entry, 0)
            if journal.entries:
                from .keeping import kept  # nobody else needs it

                journal.give_back((yield from kept(self.judge, mark, self.pause)))
            for conflict in range(self.judge.pool.settings.retry_attempts):
                if (yield from self._replay_once(conflict)):
                    break
        except BaseException:
            self.wire.pgconn.finish()  # half a replay is nobody's transaction
            raise
        where = self.wire.link.endpoint if self.wire.link else None
        took_s = time.monotonic() - started
        self.judge.pool.replayed(where, len(journal.entries), took_s)

    def redo(self, exc: e.Error) -> Gen:
        """The transaction once more, on the session that it was on: something of ours has made it
        fail.  Raises the failure where it can't be done again."""
        why = self.judge.unreplayable()
        if why:
            raise explained(exc, f"not replayed: {why}")
        yield from self.wire.roll_back()
        yield from not_twice(self.judge, exc)
        yield from self._replay()

    def _replay_once(self, conflict: int) -> Gen:
        """False: it met another transaction, and is rolled back to be done once more."""
        last = conflict + 1 >= self.judge.pool.settings.retry_attempts
        for number, entry in enumerate(self.journal.entries):
            try:
                yield from self._again(entry, number)
            except e.OperationalError as exc:
                if entry.results is not None:
                    self.judge.strike(entry.query, exc)
                if not says(exc.sqlstate, Says.CONFLICT) or last or self.wire.lost:
                    raise
                yield from self.wire.roll_back()
                yield from self.pause(CONFLICT_PAUSE_S)
                return False
        return True

    def _again(self, entry: Entry, number: int) -> Gen:
        """One statement once more.  Raises `TransactionReplayMismatch` when the caller has
        seen another result."""
        wire = self.wire
        given = self.journal.kept
        sent = entry if given is None else given.entry(entry)
        if sent is None:  # its result stands
            return
        sent.send(wire.pgconn)
        results = yield from generators.execute(wire.pgconn)
        if entry.waiting:
            entry.results = results
            return
        found = difference(entry.results, entry.digest, results)
        if not found:
            return
        for result in results:
            if result.status == _FATAL:
                error = wire.error(result)
                if wire.lost or says(error.sqlstate, Says.CONFLICT) or ended(error):
                    raise error
        if given is not None:
            found += given.reason(entry)
        where = wire.link.endpoint if wire.link else None
        self.judge.pool.mismatched(where, entry.shown, found)
        raise TransactionReplayMismatch(
            f"the transaction was done again on {wire.where}, and"
            f" statement {number} gave another result than before: {found} ({entry.shown})"
        )

    # -- meeting a server

    @property
    def unmet(self) -> bool:
        """Its server wasn't asked yet what it takes to resolve a COMMIT."""
        link = self.wire.link
        return link is not None and link.commit_facts is None

    def meet(self) -> Gen:
        """Ask this session's server, once, what it takes to resolve a COMMIT."""
        link = self.wire.link
        if link is None or link.commit_facts is not None or not self.asks:
            return
        pgconn, pool = self.wire.pgconn, self.judge.pool
        who = (pgconn.user, pgconn.db)
        lately = pool.known.lately(who) if not self.wire.pooled else None
        seen = yield from commit_facts(pgconn, lately)
        if seen is not None:
            if seen is not lately:
                pool.known.met(who, seen)
            pool.met(link.endpoint, seen)
            yield from losses.look_back(pgconn, seen, pool.place, link.endpoint, pool.labels)
        link.commit_facts = seen or False
        if seen is not None:
            pool.known.resolves(seen.ledger)
        self.wire.piggybacks(self.asks)

    def meet_first(self, tell: Callable[[], Gen]) -> Gen:
        """`meet`, where nothing was sent yet: on another session if this one is gone."""
        try:
            yield from self.meet()
            yield from tell()
        except e.Error as failure:
            exc = self.judge.heard(failure)
            if not (yield from self.recover(exc, Sent.BLOCK)):
                raise exc from None

    def stand_again(self) -> Gen:
        """The session was lost behind an answer: the transaction so far on a new one, before
        anybody looks at what state it is in."""
        exc = self.judge.heard(e.OperationalError("the connection was lost"))
        if not (yield from self.recover(exc, Sent.BLOCK)):
            raise exc

    def restore(self) -> Gen:
        """The settings of the session, on the new one, which is asked what its next COMMIT
        will need; nothing else is left to do."""
        try:
            yield from self.meet()
            yield from bare(self.judge)
            for entry in [*self.session.settings, *self.journal.settings()]:
                yield from self._again(entry, 0)
        except e.Error:
            self.wire.pgconn.finish()  # the next use finds it lost, and restores it
