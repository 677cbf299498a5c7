"""What a failure means: whose word it is, and whether it is this session's alone.

The codes are `core.reaction`'s.  Here is what only a session knows: what its server said before it
ended, whether that goes on as it was, and which statement sessions have ended under.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psycopg import errors as e
from psycopg import pq

from ...core.reaction import OWN, Action, Reaction, Sent, react
from ...core.sqlstates import READ_ONLY_SQL_TRANSACTION, Says, says
from ...errors import ResilientError
from ..errors import CommitOutcomeUnknown, ended, explained
from .journal import UNRECORDED, Journal
from .restored import Session

if TYPE_CHECKING:
    from ..session.host import Host, PoolSide
    from ..session.wire import Wire

_BAD = pq.ConnStatus.BAD
_READ_ONLY = re.compile(rb"\b(?:READ\s+ONLY|default_transaction_read_only)\b", re.I)


class Judge:
    """Judges the failures of one connection's sessions.

    `recording`: it is checked out, and what is done with it is recorded in `journal`.  `session`:
    what its caller's statements made of the session.  `struck`: statements that were under way when
    their session ended without a word, and how often; of this checkout, or of all attempts of one
    `run`.  `obeyed`: the failure by which somebody has stopped this session alone.
    `locked_out`: a new session was refused where the last one was ended.  `dealt`: the
    failure under way is one of a recorded statement, and was dealt with.  `driven`: who waits takes
    detours, see `replayer`.  `whole`: the generator of the statement that was begun last, where it
    can do without any as long as nothing fails; whoever waits on that very one may set `parts`, and
    gives it to psycopg's loop as it is: at a failure it ends, with another to be gone on with.  It
    takes `parts` for itself as it begins, so that nothing else ever does so.  `stopped`: nobody
    would go on with it any more.
    """

    __slots__ = (
        "core",
        "dealt",
        "driven",
        "host",
        "journal",
        "locked_out",
        "obeyed",
        "parts",
        "recording",
        "session",
        "stopped",
        "struck",
        "whole",
        "wire",
    )

    def __init__(self, host: Host, wire: Wire) -> None:
        self.host = host
        self.wire = wire
        self.journal = Journal()
        self.session = Session()
        self.core: PoolSide | None = None
        self.recording = False
        self.struck: dict[bytes, int] = {}
        self.obeyed: e.Error | None = None
        self.locked_out = False
        self.dealt = False
        self.driven = False
        self.parts = self.stopped = False
        self.whole: object = None

    @property
    def pool(self) -> PoolSide:
        """The pool that it was checked out of."""
        assert self.core is not None
        return self.core

    def stop(self) -> None:
        """Whoever waits on it stops."""
        self.parts, self.stopped = False, True

    # -- what to do about it

    def heard(self, exc: e.Error) -> e.Error:
        """The failure of something recorded, in the server's own words."""
        self.dealt = True
        return self.wire.heard(exc)

    def reaction(self, exc: e.Error, sent: Sent, *, gone: bool = False) -> Reaction:
        """What to do about a failure.  What was said of a statement stays so, whatever became of
        the session afterwards.  `gone`: its session is, whatever the present one shows."""
        said = exc.sqlstate is not None and exc.diag.severity_nonlocalized == "ERROR"
        found = react(
            *(exc.sqlstate, sent),
            broken=not said and (gone or self.wire.lost or ended(exc)),
            read_only=self._writes_nothing(exc),
            text=str(exc),
        )
        if exc.sqlstate == READ_ONLY_SQL_TRANSACTION and self._writable_server():
            return Reaction(Action.SURFACE, "its server takes writes: the transaction doesn't")
        return found

    def surfaces(self, exc: e.Error, sent: Sent) -> bool:
        """Is it the application's own error?  Also when the session ended behind it."""
        return self.reaction(exc, sent).action in OWN

    def own_failure(self, exc: e.Error) -> bool:
        """Is it the application's own, or meant for this session alone?  It says nothing of the
        server then."""
        return exc is self.obeyed or self.surfaces(exc, Sent.BLOCK)

    def _writes_nothing(self, exc: e.Error) -> bool:
        """Did the transaction ask to be read-only, or 25006 come from a server that began so?"""
        link = self.wire.link
        seen = link.observed if link is not None else None
        began = exc.sqlstate == READ_ONLY_SQL_TRANSACTION and seen is not None and seen.read_only
        return began or self.host.read_only

    def _writable_server(self) -> bool:
        """Does the server itself say that it takes writes?  (Manual 55.2.7, from version 14; a
        pooler may not pass it on.)"""
        pgconn = self.wire.pgconn
        if pgconn.status == _BAD or pgconn.parameter_status(b"in_hot_standby") != b"off":
            return False
        by_default = pgconn.parameter_status(b"default_transaction_read_only")
        return by_default == b"off" or (by_default == b"on" and self._made_read_only())

    def _made_read_only(self) -> bool:
        """Has the caller made the session so?"""
        told = [entry.query for entry in self.session.settings]
        told += [query for query, _ in self.journal.asked()]
        return any(_READ_ONLY.search(query) for query in told)

    def goes_on(self, fresh: Wire) -> bool:
        """Is the server of `fresh` as it was when this session began?"""
        then, now = (link.observed if link else None for link in (self.wire.link, fresh.link))
        return then is not None and now is not None and then.goes_on_in(now)

    def meant_us(self, fresh: Wire | None) -> bool:
        """Did who ended this session mean it alone?  `fresh`: a new one of its server, if that
        takes any; it goes on as it was, or is up and lets us in no more."""
        return self.locked_out if fresh is None else self.goes_on(fresh)

    def note(self, exc: BaseException) -> None:
        """Tell the pool what the failure may say of the endpoint."""
        if self.core is None or (isinstance(exc, e.Error) and self.own_failure(exc)):
            return
        broken = self.wire.pgconn.status == _BAD and not self.host.closed
        self.core.lost(self.wire.link, exc, broken)

    # -- what becomes of the transaction

    def unreplayable(self) -> str:
        """Why the transaction can't be done again; empty when it can."""
        if self.pool.settings.replay != "on":
            return "RESILIENT_REPLAY=off"
        if not self.recording:
            return "the connection isn't checked out"
        if self.pool.over:
            return "the pool is closed"
        self.journal.measure()
        return self.journal.hazard or self.session.hazard

    def tell_why(self, exc: BaseException, dealt: bool = False) -> None:
        """Put into a failure of the session why it reaches the caller.  `dealt`: what failed is
        recorded, and has its reason already unless it never got to be."""
        if not isinstance(exc, e.OperationalError) or isinstance(exc, ResilientError):
            return
        if exc is self.obeyed:
            return
        # A cursor that isn't the connection's stays with the session that was replaced.
        gone = self.wire.lost or (self.recording and bool(self.journal.replays))
        if not gone or self.core is None or self.host.closed:
            return
        if self.reaction(exc, Sent.BLOCK, gone=True).action is Action.SURFACE:
            return
        why = self.unreplayable() or ("" if dealt else UNRECORDED)
        if why:
            explained(exc, f"not replayed: {why}")

    def strike(self, query: bytes, exc: e.Error) -> None:
        """A session ended under this statement.  If nobody said why, the statement may have
        felled it, and is run once more at most: raises the failure the second time."""
        wire = self.wire
        said = exc.sqlstate or wire.warned
        if not said and wire.farewell is not None:
            said = wire.farewell.sqlstate or ""
        if not wire.lost or says(said, Says.BLAMELESS):
            return
        count = self.struck[query] = self.struck.get(query, 0) + 1
        if count > 1:
            self.give_up()
            why = "two sessions have ended without a word under this statement"
            raise explained(exc, f"not replayed: {why}")

    def obey(self, exc: e.Error, fresh: Wire | None) -> None:
        """The server goes on as it was: whoever said stop meant this session."""
        if fresh is not None:
            fresh.pgconn.finish()
        self.obeyed = exc
        self.end_with(exc)

    def end_with(self, exc: e.Error) -> None:
        """The server's word, and the transaction's last."""
        if ended(exc):
            self.wire.pgconn.finish()  # its end may be on its way yet
        self.give_up()

    def give_up(self) -> None:
        """Nobody may commit what is left of a transaction whose session is gone."""
        if self.wire.lost:
            self.journal.fail()

    def unknown(
        self, reason: str, details: dict[str, object] | None = None
    ) -> CommitOutcomeUnknown:
        """The error; and what may have taken effect is never done again."""
        link = self.wire.link
        if self.recording:
            self.journal.never_again()
        elif details is None and self.core is not None:
            off = self.core.settings.commit_resolver == "off"
            why = "RESILIENT_COMMIT_RESOLVER=off" if off else "the connection isn't checked out"
            details = {"resolver": why}
        if self.core is not None:
            self.core.resolved("unknown", str((details or {}).get("resolver", "")) or reason)
        where = str(link.endpoint) if link else "an unknown endpoint"
        known: dict[str, object] = {"endpoint": where, "reason": reason, **(details or {})}
        if self.core is not None:
            self.core.resolved("unknown", str(known.get("resolver", reason)))
        why = f": {known['resolver']}" if "resolver" in known else ""
        text = f"the reply to COMMIT was lost ({where}): it may have taken effect or not{why}"
        return CommitOutcomeUnknown(text, details=known)

    def unconfirmed(self) -> CommitOutcomeUnknown:
        return self.unknown(
            "committed on this server, but the wait for its standbys was cancelled",
            details={"committed_locally": True},
        )
