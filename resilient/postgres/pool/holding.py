"""A session that holds an advisory lock: how it gets it, how it is looked after, and how it ends.

A session-level lock lives as long as its session (manual 13.3.5), so the lock has a session of its
own, to the writer, beside the pool's.  Only its watcher speaks on it, a thread or a task, which
runs `Hold.steps`.  Everything of the holder's goes through the fields of `Hold`.

The fencing token is the timeline and the id of a transaction that was flushed with the lock held.
Ids grow for as long as a timeline lasts, crashes included, because what is given out is in the
WAL; a promotion begins a higher timeline.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
from psycopg import errors as e
from psycopg import generators, pq
from psycopg.abc import PQGen

from ..._dataclass import dataclass
from ..._logs import Line
from ...errors import ConfigError
from ...settings import Settings
from ..errors import LockLost
from ..session.keeper import close, keeper_of, link_of

if TYPE_CHECKING:
    from .base import PoolCore

logger = logging.getLogger("resilient.postgres")

Key = int | str
Told = Callable[[LockLost], object]

#: in a token: room for transactions below the timeline.  It fits into a bigint until the 32 768th
#: promotion
XID_BITS = 48
#: a question on the session may take so many windows of detection: a slow server isn't a lost one
PATIENT_WINDOWS = 5
#: with the session's own name for it: what an operator sees in pg_stat_activity
ALIVE = b"SELECT pg_catalog.pg_backend_pid() /* resilient: holds a lock */"
HASH = b"SELECT pg_catalog.pg_backend_pid(), pg_catalog.hashtextextended($1::text, 0)"
NUMBER = b"SELECT pg_catalog.pg_backend_pid(), $1::bigint"
#: nobody else's limit ends the wait; the token is flushed, and waits for no standby
SETTINGS = b"""\
SELECT pg_catalog.set_config(name, CASE name WHEN 'lock_timeout' THEN $1
 WHEN 'synchronous_commit' THEN 'local' ELSE '0' END, false)
FROM pg_catalog.pg_settings
WHERE name IN ('lock_timeout', 'statement_timeout', 'transaction_timeout', 'synchronous_commit')"""
LOCK = b"SELECT true FROM pg_catalog.pg_advisory_lock($1::bigint)"
TRY = b"SELECT pg_catalog.pg_try_advisory_lock($1::bigint)"
UNLOCK = b"SELECT pg_catalog.pg_advisory_unlock($1::bigint)"
#: the message makes WAL of the transaction, so its id survives a crash
TOKEN = b"""\
SELECT pg_catalog.pg_current_xact_id(),
 pg_catalog.pg_logical_emit_message(true, 'resilient.lock', $1::text),
 pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn())"""


def checked(key: Key) -> Key:
    """The key, if it can be one."""
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise ConfigError(f"lock({key!r}): accepted: a text, or a number of 64 bits")
    if isinstance(key, int) and not -(1 << 63) <= key < 1 << 63:
        raise ConfigError(f"lock({key!r}): accepted: a number from -2**63 to 2**63 - 1")
    return key


@dataclass(frozen=True, slots=True)
class Grant:
    """A lock that was got.  `number`: the server's name for it; `pid`: of the session."""

    number: int
    token: int
    pid: bytes


def acquire(pgconn: pq.abc.PGconn, key: Key, limit_s: float | None, pooler: bool) -> PQGen[Grant]:
    """Wait for the lock for so long (0: don't, None: as long as it takes), in a session that is
    idle.  `pooler`: a pooler is in between, which is said to keep a session for each client.
    Raises `LockNotAvailable`, `ConfigError`, and whatever ends the session."""
    encoded = str(key).encode() if isinstance(key, int) else key.encode(pgconn._encoding)
    pid, number = yield from _asked(pgconn, NUMBER if isinstance(key, int) else HASH, encoded)
    if pid != b"%d" % pgconn.backend_pid and not pooler:
        raise ConfigError(
            f"lock({key!r}): a pooler is in between (PgBouncer, …). In transaction mode the lock"
            " would be left in a session that is everybody's, so it isn't taken. Give this pool"
            " the server's own address; or say session_pooler=True, if the pooler keeps one"
            " session for each client (pool_mode = session)"
        )
    limit_ms = 0 if limit_s is None else max(1, round(limit_s * 1000))
    yield from _asked(pgconn, SETTINGS, b"%d" % limit_ms)
    (got,) = yield from _asked(
        pgconn, TRY if limit_s is not None and limit_s <= 0 else LOCK, number
    )
    if got != b"t":
        raise e.LockNotAvailable(f"lock({key!r}): somebody else has it")
    xid, _, place = yield from _asked(pgconn, TOKEN, encoded)
    token = int(place[:8], 16) << XID_BITS | int(xid)
    return Grant(int(number), token, pid)


def _asked(pgconn: pq.abc.PGconn, query: bytes, *params: bytes) -> PQGen[list[bytes]]:
    """The first row of the answer."""
    pgconn.send_query_params(query, params)
    (result,) = yield from generators.execute(pgconn)
    return _row(pgconn, result)


def _row(pgconn: pq.abc.PGconn, result: pq.abc.PGresult) -> list[bytes]:
    if result.status != pq.ExecStatus.TUPLES_OK:
        raise e.error_from_result(result, encoding=pgconn._encoding)
    return [result.get_value(0, column) or b"" for column in range(result.nfields)]


class Hold:
    """What holder and watcher share.  The holder sets `leaving` and takes tickets with `ask`, and
    wakes the watcher; the watcher answers them, and says with `over` and `reason` how it ended.

    `reason`: why the lock is lost; empty while it isn't, and where it was given back.
    """

    def __init__(self, conn: Any, grant: Grant, settings: Settings) -> None:
        self.conn = conn
        self.grant = grant
        self.leaving = self.over = False
        self.reason = ""
        self.asked = self.answered = 0
        self._interval_s = settings.probe_interval_s
        self._patience_s = PATIENT_WINDOWS * settings.window_s
        #: the question under way: its answer's tickets, and when it was sent
        self._tickets, self._sent_at = 0, 0.0
        self._answer: list[bytes] | None = None

    def ask(self) -> int:
        """Ask the server soon, whatever the interval says; the ticket is answered then."""
        self.asked += 1
        return self.asked

    def settled(self, ticket: int) -> bool:
        return self.over or self.answered >= ticket

    def lose(self, why: str) -> None:
        """It is over, and not because it was given back."""
        if not self.over:
            self.reason, self.over = why, True

    def steps(self) -> Generator[float, None, None]:
        """Look after the session.  Yields for how long to wait, in seconds, for its socket or for
        the holder; ends when it is over."""
        due_at = time.monotonic() + self._interval_s
        try:
            while not self.leaving:
                now = time.monotonic()
                if now >= due_at or self.asked > self.answered:
                    tickets = self.asked
                    (pid,) = yield from self._exchange(ALIVE)
                    if pid != self.grant.pid:
                        raise e.OperationalError("the pooler has given the session to others")
                    self.answered, due_at = tickets, time.monotonic() + self._interval_s
                else:
                    yield due_at - now
                    self._hear()
            (had,) = yield from self._exchange(UNLOCK, b"%d" % self.grant.number)
            if had != b"t":
                raise e.OperationalError("the session didn't have it any more")
            self.over = True
        except e.Error as exc:
            self.lose(self._why(exc))

    def _exchange(self, query: bytes, *params: bytes) -> Generator[float, None, list[bytes]]:
        """Ask, and wait for the answer; what has come is read before its lateness is judged."""
        pgconn = self.conn.pgconn
        pgconn.send_query_params(query, params or None)
        pgconn.flush()
        until = time.monotonic() + self._patience_s
        row: list[bytes] = []
        while True:
            left_s = until - time.monotonic()
            self._hear()
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    return row
                row = _row(pgconn, result)
            if left_s <= 0:
                raise e.OperationalError(f"the server hasn't answered for {self._patience_s:g} s")
            yield left_s

    def _hear(self) -> None:
        """Read what has come.  Raises when the session has ended."""
        pgconn, keeper = self.conn.pgconn, keeper_of(self.conn)
        pgconn.consume_input()
        pgconn.is_busy()  # has it looked at
        if keeper is not None and keeper.wire.farewell is not None:
            raise keeper.wire.farewell
        if keeper is not None and keeper.link is not None and keeper.link.evicted:
            raise e.OperationalError(keeper.link.evicted)
        while pgconn.notifies() is not None:
            pass

    def _why(self, exc: e.Error) -> str:
        keeper = keeper_of(self.conn)
        if keeper is None:
            return str(exc)
        link = keeper.link
        return (link.evicted if link is not None else "") or str(keeper.wire.heard(exc))

    def end(self) -> None:
        """The watcher ends, however it does."""
        self.lose("it isn't looked after any more")
        close(self.conn)

    def facts(self) -> Mapping[str, object]:
        """For the log."""
        keeper = keeper_of(self.conn)
        where = keeper.wire.where if keeper is not None else "-"
        return {"number": self.grant.number, "token": self.grant.token, "endpoint": where}


class Held:
    """What a holder sees of its lock, in threads and in asyncio."""

    def __init__(
        self,
        pool: Any,
        core: PoolCore,
        key: Key,
        *,
        timeout: float | None,
        session_pooler: bool,
        on_lost: Told | None,
    ) -> None:
        #: as it was given
        self.key = checked(key)
        self._pool = pool
        self._core = core
        self._timeout = timeout
        self._pooler = session_pooler
        self._on_lost = on_lost
        self._hold: Hold | None = None
        #: the session that waits, for who closes the pool
        self._waiting: Any = None
        self._pid = os.getpid()

    @property
    def _held(self) -> Hold:
        if self._hold is None:
            raise RuntimeError(f"lock({self.key!r}) wasn't acquired")
        return self._hold

    @property
    def token(self) -> int:
        """The fencing token: greater than that of every holder before, also of those on servers
        that were primary before.  Fits into a `bigint`."""
        return self._held.grant.token

    @property
    def number(self) -> int:
        """What the server calls it: `classid` and `objid` in pg_locks are its two halves."""
        return self._held.grant.number

    @property
    def lost(self) -> bool:
        """Is it gone, without having been given back?  Asks nobody; see `check`."""
        return bool(self.reason)

    @property
    def reason(self) -> str:
        """Why it is gone; empty while it isn't."""
        if os.getpid() != self._pid:
            return "this is a forked process: its parent has the lock"
        return self._held.reason

    def _raise_if_lost(self) -> None:
        if self.lost:
            raise LockLost(f"lock({self.key!r}) is lost: {self.reason}")

    def _start(self) -> float:
        """When to give up, in monotonic seconds."""
        if self._hold is not None or self._waiting is not None:
            raise RuntimeError(f"lock({self.key!r}) was acquired before: ask the pool for another")
        return float("inf") if self._timeout is None else time.monotonic() + self._timeout

    def _left_s(self, until: float) -> float | None:
        return None if until == float("inf") else max(0.0, until - time.monotonic())

    def _connecting_s(self, until: float) -> float:
        """A session may take so long to get: an outage isn't waited out for ever."""
        deadline_s = self._core.settings.deadline_s
        return (
            max(0.001, min(deadline_s, until - time.monotonic())) if self._timeout else deadline_s
        )

    def _met(self, conn: Any) -> None:
        """A session for it was made.  Nothing is lost with it that isn't lost anyway where its
        server is no longer the one to use, so then it is cut."""
        self._waiting = conn
        link = link_of(conn)
        if link is not None:
            link.follow_writer()
        if self._pool.closed:
            raise psycopg_pool.PoolClosed("the pool was closed")

    def _got(self, conn: Any, grant: Grant) -> Hold:
        self._hold = hold = Hold(conn, grant, self._core.settings)
        facts = {**hold.facts(), **self._core.labels}
        logger.info("%s", Line(event="lock.held", key=self.key, **facts))
        return hold

    def _again(self, conn: Any, until: float) -> bool:
        """The session has ended while it waited: does it wait on in another?"""
        gone = conn.pgconn.status == psycopg.pq.ConnStatus.BAD
        return gone and not self._pool.closed and time.monotonic() < until

    def _ended(self, hold: Hold) -> None:
        """The watcher is done; whoever wants to know is told."""
        if not hold.reason:
            return
        facts = {**hold.facts(), "reason": hold.reason, **self._core.labels}
        logger.warning("%s", Line(event="lock.lost", key=self.key, **facts))
        if self._on_lost is not None:
            try:
                self._on_lost(LockLost(f"lock({self.key!r}) is lost: {hold.reason}"))
            except Exception:
                logger.exception("%s", Line(event="lock.failed", key=self.key, **self._core.labels))

    def _abandon(self, why: str) -> None:
        """The pool is closed."""
        link = link_of(self._waiting) if self._waiting is not None else None
        if link is not None:
            link.abort(why)
