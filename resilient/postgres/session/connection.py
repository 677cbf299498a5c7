"""What the library adds to a connection class: a guarded connect and a truthful COMMIT.

`derived` puts this in front of whatever class a pool was given; psycopg's own code, and the
user's, go on unchanged above it.  A connect that runs inside `dialling` registers its socket
while it is still connecting, keeps its deadline (psycopg raises a `connect_timeout` to 2 s
at least), and asks the server what it is before anybody else gets the connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import ref

from psycopg import errors as e
from psycopg import generators, pq

from ...core.model import Endpoint, FailureKind, Observation, Role
from ...monitor.sockets import Link
from .._psycopg import BaseConnection
from ..errors import CommitOutcomeUnknown
from ..role import RoleError, observe, with_descriptor

#: the SQLSTATE of a COMMIT's *first reply* that proves it did not happen although the session
#: ended: the server handles a termination request only outside the critical part of a
#: commit, and inside of it ends without any reply (PostgreSQL: CommitTransaction,
#: SyncRepWaitForLSN)
NOT_COMMITTED = frozenset({"57P01", "25P03"})
#: the server's function that warns of a commit without its standbys; no translation changes
#: its name, as it does the message
SYNC_REP = b"SyncRepWaitForLSN"
#: warnings behind which the session ends: 57P01 of an immediate shutdown, 57P02
ENDING_SOON = frozenset({b"57P01", b"57P02"})
#: how often a wait looks up from its socket (a Ctrl-C), in seconds; psycopg's own value
INTERVAL_S = 0.1


class Dial:
    """One attempt to connect to one endpoint.

    `judge` is given what the server said of itself; it raises to refuse the connection.
    """

    __slots__ = ("began_at", "deadline_at", "endpoint", "judge", "link", "seen", "watch", "watched")

    def __init__(
        self,
        endpoint: Endpoint,
        link: Link,
        deadline_at: float,
        judge: Callable[[Observation], None],
        watch: Callable[[Link], None],
    ) -> None:
        self.endpoint = endpoint
        self.link = link
        self.deadline_at = deadline_at
        self.judge = judge
        self.watch = watch
        self.watched = False
        self.began_at = time.monotonic()
        self.seen: Observation | None = None

    def guard(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Pass a connecting generator through, watching its socket and the time."""
        ready: Any = True
        try:
            item = next(gen)
            while True:
                self.link.bind(item[0])
                self._keep_deadline(ready)
                ready = yield item
                if time.monotonic() >= self.deadline_at:
                    gen.close()
                    raise self._timeout()
                if self.link.condemned:
                    gen.close()
                    raise e.OperationalError(f"connecting abandoned: {self.link.condemned}")
                item = gen.send(ready)
        except StopIteration as stop:
            return stop.value
        except e.OperationalError as exc:
            # The monitor keeps the deadline too, by shutting the socket down.
            if self.link.condemned and time.monotonic() >= self.deadline_at:
                raise self._timeout() from exc
            raise

    def _keep_deadline(self, ready: object) -> None:
        """psycopg looks up from the socket every tenth of a second: after the first one without
        a packet, or where less than one is left, the monitor keeps the deadline to the
        millisecond."""
        if not self.watched and (not ready or self.deadline_at - time.monotonic() < INTERVAL_S):
            self.watched = True
            self.watch(self.link)

    def _timeout(self) -> e.ConnectionTimeout:
        return e.ConnectionTimeout(f"no connection to {self.endpoint} in time")

    def admit(self, pgconn: pq.abc.PGconn) -> Generator[Any, Any, None]:
        """Ask the server what it is, and judge the answer."""
        try:
            self.seen = yield from self.guard(with_descriptor(pgconn, observe(pgconn)))
        except RoleError as exc:
            if exc.kind not in (FailureKind.ERROR, FailureKind.CROWDED):
                raise e.OperationalError(str(exc)) from exc
            self.seen = Observation(Role.UNKNOWN)
        self.judge(self.seen)
        self.link.connecting = False


current_dial: ContextVar[Dial | None] = ContextVar("resilient_dial", default=None)


@contextmanager
def dialling(dial: Dial) -> Iterator[Dial]:
    """Everything that connects inside is this dial's."""
    token = current_dial.set(dial)
    try:
        yield dial
    finally:
        current_dial.reset(token)


class ResilientMixin(BaseConnection[Any]):
    """Mixed in front of a connection class, sync or async: generators only, no I/O."""

    _link: Link | None = None
    #: while it is lent for reading: what its `read_only` was before, in a tuple
    _read_only_before: tuple[bool | None] | None = None
    #: its server was told so, because BEGIN tells it for transactions only
    _told_read_only = False
    #: a COMMIT is under way
    _committing = False
    #: the server's last words, heard while nothing was asked: it has ended the session
    _farewell: e.Error | None = None
    #: the SQLSTATE of a warning that the session ends, which is no answer to anything: its
    #: server shuts down at once, or restarts because another of its processes has crashed
    _warned = ""
    #: it committed on the server, whose wait for its standbys was cancelled
    _sync_rep_warned = False

    def __init__(self, pgconn: pq.abc.PGconn, *args: Any, **kwargs: Any) -> None:
        super().__init__(pgconn, *args, **kwargs)
        if pgconn.notice_handler is not None:
            pgconn.notice_handler = partial(_noticed, ref(self), pgconn.notice_handler)

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> Generator[Any, Any, Any]:
        dial = current_dial.get()
        gen = super()._connect_gen(conninfo)
        if dial is None:
            return (yield from gen)
        conn = yield from dial.guard(gen)
        try:
            yield from dial.admit(conn.pgconn)
        except BaseException:
            conn.pgconn.finish()
            raise
        conn._link = dial.link
        return conn

    def _exec_command(self, command: Any, *args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        if command in ("COMMIT", b"COMMIT") and self._pipeline is None:
            return self._commit_truthfully()
        if self._link is not None and command in ("ROLLBACK", b"ROLLBACK"):
            return self._roll_back_at_once(self._link)
        return super()._exec_command(command, *args, **kwargs)

    def _plain_command(self, command: bytes) -> Generator[Any, Any, Any]:
        """The command, by psycopg alone."""
        return super()._exec_command(command)

    def _tell_read_only(self) -> Generator[Any, Any, None]:
        """Lent for reading, in autocommit: the server enforces it, as a standby does by itself."""
        pgconn = self.pgconn
        if (
            self._told_read_only
            or not self._autocommit
            or pgconn.transaction_status != pq.TransactionStatus.IDLE
            or pgconn.parameter_status(b"in_hot_standby") == b"on"
        ):
            return
        yield from self._send_setting(b"SET default_transaction_read_only TO on")
        self._told_read_only = True

    def _untell_read_only(self) -> Generator[Any, Any, None]:
        """It goes back to who may write."""
        self._told_read_only = False
        yield from self._send_setting(b"RESET default_transaction_read_only")

    def _send_setting(self, command: bytes) -> Generator[Any, Any, None]:
        self.pgconn.send_query(command)
        (result,) = yield from generators.execute(self.pgconn)
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise e.error_from_result(result, encoding=self.pgconn._encoding)

    def _commit_answer(self) -> Generator[Any, Any, Any]:
        """Send COMMIT; its first answer decides.

        A server that has committed may still serve a termination before it is ready again
        (the log line of a slow statement is such a place): what follows the first answer
        says nothing about the COMMIT.
        """
        self._check_connection_ok()
        pgconn = self.pgconn
        pgconn.send_query(b"COMMIT")
        results = yield from generators.execute(pgconn)
        if not results:
            raise e.InternalError("no answer to COMMIT")
        first = results[0]
        if first.status != pq.ExecStatus.COMMAND_OK:
            raise e.error_from_result(first, encoding=pgconn._encoding)
        return first

    def _commit_truthfully(self) -> Generator[Any, Any, Any]:
        # What the server said before we ask: a session that has ended takes no COMMIT, and
        # then it is certain that nothing was committed.
        while self._link is not None and self._link.readable(0):
            self.pgconn.consume_input()
        self._committing = True
        try:
            result = yield from self._commit_answer()
        except e.OperationalError as exc:
            refused = exc.sqlstate in NOT_COMMITTED and ended(exc)
            if refused or self.pgconn.status != pq.ConnStatus.BAD:
                raise
            raise self._unknown(str(exc)) from exc
        finally:
            self._committing = False
        if self._link is not None and self._link.aborted and not self._read_only:
            # The socket was shut down because a higher epoch was seen: what was still in
            # its buffer is no acknowledgement.
            raise self._unknown(self._link.condemned)
        return result

    def _roll_back_at_once(self, link: Link) -> Generator[Any, Any, Any]:
        """A server that is gone isn't waited for: closing rolls back as well."""
        if link.condemned:
            self.pgconn.finish()
            raise e.OperationalError(f"rolled back by closing: {link.endpoint} {link.condemned}")
        link.expendable = True
        try:
            return (yield from self._plain_command(b"ROLLBACK"))
        finally:
            link.expendable = False

    def _may_cancel(self) -> bool:
        """Is asking the server to cancel safe, and likely to be answered?"""
        link = self._link
        return not self._committing and not (link and (link.condemned or link.doubtful))

    def _unknown(
        self, reason: str, details: dict[str, object] | None = None
    ) -> CommitOutcomeUnknown:
        where = str(self._link.endpoint) if self._link else "an unknown endpoint"
        known: dict[str, object] = {"endpoint": where, "reason": reason, **(details or {})}
        why = f": {known['resolver']}" if "resolver" in known else ""
        text = f"the reply to COMMIT was lost ({where}): it may have taken effect or not{why}"
        return CommitOutcomeUnknown(text, details=known)


def _noticed(
    reference: ref[ResilientMixin], handler: Callable[[Any], None], notice: pq.abc.PGresult
) -> None:
    """A notice has come: it may say that no standby has confirmed a commit, or be a farewell."""
    conn = reference()
    if conn is not None:
        source = notice.error_field(pq.DiagnosticField.SOURCE_FUNCTION)
        conn._sync_rep_warned |= source == SYNC_REP
        # An error between two statements comes as a notice (libpq: pqParseInput3).
        severity = notice.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
        state = notice.error_field(pq.DiagnosticField.SQLSTATE) or b""
        if severity in (b"FATAL", b"PANIC"):
            conn._farewell = _kept(notice, conn.pgconn._encoding)
        elif severity == b"WARNING" and state in ENDING_SOON:
            conn._warned = state.decode()
    handler(notice)


def _kept(notice: pq.abc.PGresult, encoding: str) -> e.Error:
    """The error that a notice is, for when its result is gone."""
    error = e.error_from_result(notice, encoding=encoding)
    fields = {int(field): notice.error_field(field) for field in pq.DiagnosticField}
    return type(error)(*error.args, info=fields, encoding=encoding)


def ended(exc: e.Error) -> bool:
    """Did the server end the session with this?  Poolers leave out the untranslated severity."""
    severity = exc.diag.severity_nonlocalized or exc.diag.severity
    return severity in ("FATAL", "PANIC")
