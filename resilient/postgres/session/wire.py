"""The session that a connection has at present, and what its server says on it.

A connection outlives its sessions: `renew` puts the next one in the place of the last.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from psycopg import errors as e
from psycopg import generators, pq
from psycopg.pq.abc import PGconn, PGresult

from ...core.sqlstates import ADMIN_SHUTDOWN, CRASH_SHUTDOWN
from ...errors import ResilientError
from ...monitor.sockets import Link
from ..commit.facts import PIGGYBACK, POOLED_PIGGYBACK, CommitFacts
from ..errors import ended

if TYPE_CHECKING:
    from .host import Gen

#: the server's function that warns of a commit without its standbys; no translation changes
#: its name, as it does the message
SYNC_REP = b"SyncRepWaitForLSN"
#: warnings behind which the session ends: the first of an immediate shutdown
ENDING_SOON = frozenset({ADMIN_SHUTDOWN, CRASH_SHUTDOWN})
#: so many unread answers of one message are looked through for the server's last words
MOST_LEFT = 16
#: a statement may have one parameter less
TOO_MANY = 65_536

_IDLE = pq.TransactionStatus.IDLE
_BAD = pq.ConnStatus.BAD
_COMMAND = pq.ExecStatus.COMMAND_OK
_FATAL = pq.ExecStatus.FATAL_ERROR


class Wire:
    """One session after the other, of one connection."""

    __slots__ = (
        "__weakref__",
        "committing",
        "farewell",
        "forgotten",
        "link",
        "names",
        "pgconn",
        "piggyback",
        "rowwise",
        "silenced",
        "sync_rep_warned",
        "told_read_only",
        "unbegun",
        "warned",
    )

    def __init__(self, pgconn: PGconn) -> None:
        self.pgconn = pgconn
        self.link: Link | None = None
        #: a COMMIT is under way
        self.committing = False
        #: it committed on the server, whose wait for its standbys was cancelled
        self.sync_rep_warned = False
        #: the message with BEGIN in it failed at its first answer: if the server has said why, it
        #: took nothing of it
        self.unbegun = False
        #: how often what of ours is prepared was forgotten
        self.forgotten = 0
        self._fresh()
        if pgconn.notice_handler is not None:
            pgconn.notice_handler = partial(_noticed, ref(self), pgconn.notice_handler)

    def _fresh(self) -> None:
        #: the server's last words, heard while nothing was asked: it has ended the session
        self.farewell: e.Error | None = None
        #: the SQLSTATE of a warning that the session ends, which is no answer to anything: its
        #: server shuts down at once, or restarts because another of its processes has crashed
        self.warned = ""
        #: its server was told that it is lent for reading, because BEGIN tells it for
        #: transactions only
        self.told_read_only = False
        #: a question of ours has failed here: it isn't asked any more
        self.silenced = False
        #: the question that follows a statement until the block has written; empty: none does
        self.piggyback = b""
        #: what of ours is prepared, by its name
        self.names: dict[bytes, bytes] = {}
        #: libpq may still give rows one by one, as `stream()` has told it to (`read_whole`)
        self.rowwise = False

    def attach(self, link: Link) -> None:
        """The session is this link's."""
        self.link = link
        mine = ref(self)
        link.committing = lambda: (wire := mine()) is not None and wire.committing

    def renew(self, fresh: Wire, asks: bool) -> None:
        """Go on with that session; its connection has the one that is over."""
        self.pgconn, fresh.pgconn = fresh.pgconn, self.pgconn
        self._fresh()
        self.forgotten += 1
        if fresh.link is not None:
            self.attach(fresh.link)
        self.piggybacks(asks)

    # -- how it stands

    @property
    def pooled(self) -> bool:
        """Is it behind a pooler, where each transaction may meet another server?"""
        return self.link is not None and self.link.pooled

    @property
    def question(self) -> bytes:
        """What its server is asked for a transaction's id and position."""
        return POOLED_PIGGYBACK if self.pooled else PIGGYBACK

    @property
    def lost(self) -> bool:
        """The session is gone, or what comes from it now is no acknowledgement."""
        link = self.link
        return self.pgconn.status == _BAD or (link is not None and link.aborted)

    @property
    def in_block(self) -> bool:
        return self.pgconn.transaction_status != _IDLE

    @property
    def may_cancel(self) -> bool:
        """Is asking the server to cancel safe, and likely to be answered?"""
        link = self.link
        return not self.committing and not (link and (link.evicted or link.doubtful))

    @property
    def facts(self) -> CommitFacts | None:
        """What is known of its server for resolving a COMMIT."""
        link = self.link
        seen = link.commit_facts if link is not None else None
        return seen if seen.__class__ is CommitFacts else None

    @property
    def bounded(self) -> bool:
        """Its database is known to have nothing that reaches beyond a transaction."""
        seen = self.facts
        return seen is not None and not seen.beyond

    @property
    def where(self) -> str:
        return str(self.link.endpoint) if self.link is not None else "-"

    # -- what the server says

    def error(self, result: PGresult) -> e.Error:
        return e.error_from_result(result, encoding=self.pgconn._encoding)

    def heard(self, exc: e.Error) -> e.Error:
        """The failure, in the server's own words where it has left some: libpq tells of the end of
        the stream before it looks at what came with it."""
        if exc.sqlstate is not None or isinstance(exc, ResilientError) or not self.lost:
            return exc
        if self.farewell is None and self.pgconn.status == _BAD:
            with suppress(e.Error):  # closed by ourselves
                self.farewell = self._left()
        return self.farewell or exc

    def _left(self) -> e.Error | None:
        """The FATAL among the answers that weren't read yet."""
        for _ in range(MOST_LEFT):
            result = self.pgconn.get_result()
            if result is not None and result.status == _FATAL:
                last = self.error(result)
                if ended(last):
                    return last
            elif result is not None:
                self.unbegun = False
        return None

    def keep_farewell(self, exc: e.Error) -> None:
        """psycopg reads on behind the server's last words, and tells of the end of the stream."""
        if ended(exc):
            self.farewell = self.farewell or exc

    def hear_end(self) -> None:
        """A session that has ended takes no COMMIT: then it is certain that there is none."""
        link = self.link
        while link is not None and link.readable(0):
            self._hear()

    def _hear(self) -> None:
        """Read what the server said unasked.  Raises when it ended the session."""
        pgconn = self.pgconn
        pgconn.consume_input()
        pgconn.is_busy()  # has it looked at
        if self.farewell is not None:
            pgconn.finish()  # the end of the stream may be on its way yet
            raise self.farewell
        if pgconn.status == _BAD:
            raise e.OperationalError("the server closed the connection")

    # -- what is said to it beside the caller's own

    def piggybacks(self, asks: bool) -> None:
        """From here on the piggybacked query follows statements, where it may be asked."""
        seen = self.facts
        self.piggyback = self.question if asks and seen is not None and seen.marks else b""

    def stop_piggybacks(self) -> None:
        """What follows statements was refused: none does any more."""
        self.piggyback = b""

    def silence(self) -> None:
        """A question of ours has failed here: it isn't asked any more, not even by itself."""
        self.piggyback, self.silenced = b"", True

    def streams(self) -> None:
        """Rows may be given one by one from here on, see `read_whole`."""
        self.rowwise = True

    def enter_pipeline(self) -> None:
        """libpq's pipeline mode (manual 34.5)."""
        if self.rowwise:
            self.read_whole()
        self.pgconn.enter_pipeline_mode()

    def read_whole(self) -> None:
        """The next result comes in one piece.  Outside of a pipeline each statement has libpq do
        so, but the first one of a pipeline goes on as the statement before it was read.  It
        also does it for a statement that it then refuses to send, for its parameters."""
        self.rowwise = False
        with suppress(e.OperationalError):
            self.pgconn.send_prepare(b"", b"", [0] * TOO_MANY)

    def forget_names(self) -> None:
        """What was prepared may be gone: it gets new names."""
        self.names = {}
        self.forgotten += 1

    def send_own(
        self,
        name: bytes,
        query: bytes,
        params: list[bytes] | None = None,
        types: Any = None,
        *,
        named: bool,
        kind: bytes = b"",
    ) -> bytes:
        """Put a statement of ours into the message.  Not empty: it is prepared with it, and
        known by this name once that is answered; `kind`: what its name begins with there; `named`:
        it may be prepared.  Behind a pooler, names are nobody's."""
        pgconn = self.pgconn
        if not named or (self.link is not None and self.link.pooled):
            pgconn.send_query_params(query, params, param_types=types)
            return b""
        known = self.names.get(name)
        if known is not None:
            pgconn.send_query_prepared(known, params)
            return b""
        known = b"%s_%d_%d" % (kind or name, self.forgotten, len(self.names))
        pgconn.send_prepare(known, query, param_types=types)
        pgconn.send_query_prepared(known, params)
        return known

    def roll_back(self) -> Gen:
        """ROLLBACK, of whatever is open."""
        self.pgconn.send_query(b"ROLLBACK")
        yield from generators.execute(self.pgconn)

    def setting(self, command: bytes) -> Gen:
        """A setting of ours."""
        self.pgconn.send_query(command)
        (result,) = yield from generators.execute(self.pgconn)
        if result.status != _COMMAND:
            raise self.error(result)

    def tell_read_only(self, autocommit: bool) -> Gen:
        """Lent for reading, in autocommit: the server enforces it, as a standby does by itself."""
        pgconn = self.pgconn
        if (
            self.told_read_only
            or not autocommit
            or pgconn.transaction_status != _IDLE
            or pgconn.parameter_status(b"in_hot_standby") == b"on"
            or self.pooled  # it would be somebody else's
        ):
            return
        yield from self.setting(b"SET default_transaction_read_only TO on")
        self.told_read_only = True

    def untell_read_only(self) -> Gen:
        """It goes back to who may write."""
        self.told_read_only = False
        yield from self.setting(b"RESET default_transaction_read_only")


def _noticed(reference: ref[Wire], handler: Callable[[Any], None], notice: pq.abc.PGresult) -> None:
    """A notice has come: it may say that no standby has confirmed a commit, or be a farewell."""
    wire = reference()
    if wire is not None:
        source = notice.error_field(pq.DiagnosticField.SOURCE_FUNCTION)
        wire.sync_rep_warned |= source == SYNC_REP
        # An error between two statements comes as a notice (libpq: pqParseInput3).
        severity = notice.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
        state = (notice.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        if severity in (b"FATAL", b"PANIC"):
            wire.farewell = _kept(wire.error(notice), notice, wire.pgconn._encoding)
        elif severity == b"WARNING" and state in ENDING_SOON:
            wire.warned = state
    handler(notice)


def _kept(error: e.Error, notice: pq.abc.PGresult, encoding: str) -> e.Error:
    """The error that a notice is, for when its result is gone."""
    fields = {int(field): notice.error_field(field) for field in pq.DiagnosticField}
    return type(error)(*error.args, info=fields, encoding=encoding)
