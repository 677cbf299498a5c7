"""What a failure means: whose word it is, and whether it is this session's alone.

The codes are `core.reaction`'s.  Here is what only a session knows: what its server said before it
ended, whether that goes on as it was, and which statement sessions have ended under.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from psycopg import errors as e
from psycopg import pq

from ...core.reaction import Action, Reaction, Sent, react
from ...errors import ResilientError
from ..classify import server_refused
from ..errors import explained
from ..session.connection import ResilientMixin, ended
from .journal import Journal, Session

#: what a session may end with that no statement under way can be blamed for: a shutdown, the
#: crash of another process of the server, a session that idled
BLAMELESS = frozenset({"57P01", "57P02", "57P03", "57P05"})
#: so many unread answers of one message are looked through for the server's last words
MOST_LEFT = 16

_BAD = pq.ConnStatus.BAD
_FATAL = pq.ExecStatus.FATAL_ERROR


_READ_ONLY = re.compile(rb"\b(?:READ\s+ONLY|default_transaction_read_only)\b", re.I)


class FailureMixin(ResilientMixin):
    """Judges the failures of one session."""

    #: what the caller's statements made of the session
    _session: Session

    #: the transaction under way; None while nobody has checked the connection out
    _journal: Journal | None = None
    #: the message with BEGIN in it failed at its first answer: if the server has said why, it took
    #: nothing of it
    _unbegun = False
    #: the failure by which somebody has stopped this session alone
    _obeyed: e.Error | None = None
    #: a new session was refused where the last one was ended
    _locked_out = False
    #: statements that were under way when their session ended without a word, and how often;
    #: of this checkout, or of all attempts of one `run`
    _struck: dict[bytes, int]

    @property
    def _lost(self) -> bool:
        """The session is gone, or what comes from it now is no acknowledgement."""
        link = self._link
        return self.pgconn.status == _BAD or (link is not None and link.aborted)

    def own_failure(self, exc: e.Error) -> bool:
        """Is it the application's own, or meant for this session alone?  It says nothing of the
        server then."""
        if exc is self._obeyed:
            return True
        return self._reaction(exc, Sent.BLOCK).action in (Action.SURFACE, Action.RERUN)

    def _heard(self, exc: e.Error) -> e.Error:
        """The failure, in the server's own words where it has left some: libpq tells of the end of
        the stream before it looks at what came with it."""
        if exc.sqlstate is not None or isinstance(exc, ResilientError) or not self._lost:
            return exc
        if self._farewell is None and self.pgconn.status == _BAD:
            with suppress(e.Error):  # closed by ourselves
                self._farewell = self._left()
        return self._farewell or exc

    def _left(self) -> e.Error | None:
        """The FATAL among the answers that weren't read yet."""
        for _ in range(MOST_LEFT):
            result = self.pgconn.get_result()
            if result is not None and result.status == _FATAL:
                last = e.error_from_result(result, encoding=self.pgconn._encoding)
                if ended(last):
                    return last
            elif result is not None:
                self._unbegun = False
        return None

    def _reaction(self, exc: e.Error, sent: Sent, *, gone: bool = False) -> Reaction:
        """What to do about a failure.  What was said of a statement stays so, whatever became of
        the session afterwards.  `gone`: its session is, whatever the present one shows."""
        said = exc.sqlstate is not None and exc.diag.severity_nonlocalized == "ERROR"
        found = react(
            *(exc.sqlstate, sent),
            broken=not said and (gone or self._lost or ended(exc)),
            read_only=self._writes_nothing(exc),
            text=str(exc),
        )
        if exc.sqlstate == "25006" and self._writable_server():
            return Reaction(Action.SURFACE, "its server takes writes: the transaction doesn't")
        return found

    def _writes_nothing(self, exc: e.Error) -> bool:
        """Did the transaction ask to be read-only, or 25006 come from a server that began so?"""
        seen = self._link.observed if self._link is not None else None
        began = exc.sqlstate == "25006" and seen is not None and seen.read_only
        return began or bool(self._read_only)

    def _writable_server(self) -> bool:
        """Does the server itself say that it takes writes?  (Manual 55.2.7, from version 14; a
        pooler may not pass it on.)"""
        if self.pgconn.status == _BAD or self.pgconn.parameter_status(b"in_hot_standby") != b"off":
            return False
        by_default = self.pgconn.parameter_status(b"default_transaction_read_only")
        return by_default == b"off" or (by_default == b"on" and self._made_read_only())

    def _made_read_only(self) -> bool:
        """Has the caller made the session so?"""
        journal = self._journal
        told = [entry.query for entry in self._session.settings]
        if journal is not None:
            told += [query for query, _ in journal.asked()]
        return any(_READ_ONLY.search(query) for query in told)

    def _goes_on(self, fresh: Any) -> bool:
        """Is the server behind `fresh` as it was when this session began?"""
        then, now = self._link.observed if self._link else None, fresh._link.observed
        return then is not None and now is not None and then.goes_on_in(now)

    def _meant_us(self, fresh: Any) -> bool:
        """Did who ended this session mean it alone?  `fresh`: a new one of its server, if that
        takes any; it goes on as it was, or is up and lets us in no more."""
        return self._locked_out if fresh is None else self._goes_on(fresh)

    def _locks_out(self, refusal: BaseException) -> bool:
        """Is the server up, and doesn't let this user or database in any more?  Whoever ends
        sessions there wants them to stay away; one that shuts down or starts says so instead."""
        core, link = self._pool._core, self._link  # type: ignore[union-attr]
        writer = core.topology.writer
        if link is None or (writer is not None and writer.endpoint != link.endpoint):
            return False
        if isinstance(refusal, ResilientError):  # it wasn't asked: somebody else just was
            return bool(core.cluster.refusing(link.endpoint))
        sqlstate = refusal.sqlstate if isinstance(refusal, e.Error) else None
        return server_refused(sqlstate, str(refusal))

    def _strike(self, query: bytes, exc: e.Error) -> None:
        """A session ended under this statement.  If nobody said why, the statement may have
        felled it, and is run once more at most: raises the failure the second time."""
        said = exc.sqlstate or self._warned
        if not said and self._farewell is not None:
            said = self._farewell.sqlstate or ""
        if not self._lost or said in BLAMELESS:
            return
        count = self._struck[query] = self._struck.get(query, 0) + 1
        if count > 1:
            self._give_up()
            why = "two sessions have ended without a word under this statement"
            raise explained(exc, f"not replayed: {why}")

    def _end_with(self, exc: e.Error) -> None:
        """The server's word, and the transaction's last."""
        if ended(exc):
            self.pgconn.finish()  # its end may be on its way yet
        self._give_up()

    def _give_up(self) -> None:
        """Nobody may commit what is left of a transaction whose session is gone."""
        journal = self._journal
        if journal is not None and journal.entries and self._lost:
            journal.failed = True
            journal.hazard = journal.hazard or "the transaction has failed before"
