"""`pool.lock` for threads: an advisory lock whose holder is told when it is gone.

The asyncio one is in `lock_async`; what both decide, and what is said to the server, in `holding`.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import psycopg
import psycopg_pool

from ..._logs import Line
from ..errors import LockLost
from ..session.keeper import close, link_of
from .holding import Grant, Hold, Key, acquire, checked

logger = logging.getLogger("resilient.postgres")

Told = Callable[[LockLost], object]
#: how long a pool that is closed waits for the end of a watcher, in seconds
END_S = 1.0


class Held:
    """What a holder sees of its lock, in threads and in asyncio."""

    def __init__(
        self, pool: Any, key: Key, timeout: float | None, session_pooler: bool, on_lost: Told | None
    ) -> None:
        #: as it was given
        self.key = checked(key)
        self._pool = pool
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
        self._pool._locks.add(self)
        return float("inf") if self._timeout is None else time.monotonic() + self._timeout

    def _left_s(self, until: float) -> float | None:
        return None if until == float("inf") else max(0.0, until - time.monotonic())

    def _connecting_s(self, until: float) -> float:
        """A session may take so long to get: an outage isn't waited out for ever."""
        deadline_s = float(self._pool._core.settings.deadline_s)
        return (
            max(0.001, min(deadline_s, until - time.monotonic())) if self._timeout else deadline_s
        )

    def _met(self, conn: Any) -> None:
        """A session for it was made.  Nothing is lost with it that isn't lost anyway where its
        server is no longer the one to use, so then it is cut."""
        self._waiting = conn
        link = link_of(conn)
        if link is not None:
            link.follows = True
        if self._pool.closed:
            raise psycopg_pool.PoolClosed("the pool was closed")

    def _got(self, conn: Any, grant: Grant) -> Hold:
        self._hold = hold = Hold(conn, grant, self._pool._core.settings)
        logger.info("%s", Line(event="lock.held", key=self.key, **hold.facts(), **self._labels))
        return hold

    @property
    def _labels(self) -> dict[str, str]:
        labels: dict[str, str] = self._pool._core.labels
        return labels

    def _again(self, conn: Any, until: float) -> bool:
        """The session has ended while it waited: does it wait on in another?"""
        gone = conn.pgconn.status == psycopg.pq.ConnStatus.BAD
        return gone and not self._pool.closed and time.monotonic() < until

    def _ended(self, hold: Hold) -> None:
        """The watcher is done; whoever wants to know is told."""
        if not hold.reason:
            return
        facts = {**hold.facts(), "reason": hold.reason, **self._labels}
        logger.warning("%s", Line(event="lock.lost", key=self.key, **facts))
        if self._on_lost is not None:
            try:
                self._on_lost(LockLost(f"lock({self.key!r}) is lost: {hold.reason}"))
            except Exception:
                logger.exception("%s", Line(event="lock.failed", key=self.key, **self._labels))

    def _abandon(self, why: str) -> None:
        """The pool is closed."""
        link = link_of(self._waiting) if self._waiting is not None else None
        if link is not None:
            link.abort(why)


class Lock(Held):
    """What `pool.lock(key)` gives: a context manager, for one use.

    At the end of its block `LockLost` is raised if the lock was gone before.
    """

    _thread: threading.Thread | None = None

    def acquire(self) -> Self:
        """Wait for the lock.  Raises psycopg's `LockNotAvailable` when somebody else has it for the
        whole `timeout`, `PoolTimeout` where no session can be had."""
        until = self._start()
        try:
            conn, grant = self._waited(until)
        except BaseException:
            self._pool._locks.discard(self)
            raise
        hold = self._got(conn, grant)
        self._changed = threading.Condition()
        self._wake, woken = socket.socketpair()
        self._wake.setblocking(False)
        self._thread = threading.Thread(
            target=self._watch, args=(hold, woken), name="resilient-lock", daemon=True
        )
        self._thread.start()
        return self

    def _waited(self, until: float) -> tuple[Any, Grant]:
        pool = self._pool
        if pool._core.reopen:
            pool._core.reopen = False
            pool.open()
        if pool.closed:
            raise psycopg_pool.PoolClosed("the pool isn't open")
        while True:
            conn = pool._connect(self._connecting_s(until))
            try:
                self._met(conn)
                conn.autocommit = True
                left_s = self._left_s(until)
                return conn, conn.wait(acquire(conn.pgconn, self.key, left_s, self._pooler))
            except psycopg.OperationalError as exc:
                again = self._again(conn, until)
                close(conn)
                if not again:
                    raise
                pool._core.note(conn, exc)
            except BaseException:
                close(conn)
                raise

    def _watch(self, hold: Hold, woken: socket.socket) -> None:
        try:
            with selectors.DefaultSelector() as waits, woken:
                waits.register(hold.conn.pgconn.socket, selectors.EVENT_READ)
                waits.register(woken, selectors.EVENT_READ)
                for wait_s in hold.steps():
                    with self._changed:
                        self._changed.notify_all()
                    waits.select(wait_s)
                    with suppress(BlockingIOError):
                        woken.recv(4096, socket.MSG_DONTWAIT)
        finally:
            hold.end()
            self._pool._locks.discard(self)
            with self._changed:
                self._changed.notify_all()
            self._wake.close()
            self._ended(hold)

    def _tell(self) -> None:
        """Wake the watcher."""
        with suppress(OSError):  # full: it is woken anyway; closed: it is over
            self._wake.send(b"x")

    def check(self) -> None:
        """Ask the server, in one round trip, on the session that holds the lock.  Raises `LockLost`
        when it is gone."""
        self._raise_if_lost()
        with self._changed:
            ticket = self._held.ask()
            self._tell()
            self._changed.wait_for(lambda: self._held.settled(ticket))
        self._raise_if_lost()

    def wait_lost(self, timeout: float | None = None) -> bool:
        """Wait until it is gone, or given back: is it lost?  `timeout`: in seconds at most."""
        hold = self._held
        with self._changed:
            self._changed.wait_for(lambda: hold.over, timeout)
        return self.lost

    def release(self) -> None:
        """Give it back.  Raises `LockLost` if it was gone before."""
        hold = self._held
        if not self.lost and not hold.over:
            hold.leaving = True
            self._tell()
            assert self._thread is not None
            self._thread.join()
        self._raise_if_lost()

    def _abandon(self, why: str) -> None:
        super()._abandon(why)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(END_S)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, kind: object, failure: BaseException | None, traceback: object) -> None:
        try:
            self.release()
        except LockLost:
            if failure is None:
                raise
