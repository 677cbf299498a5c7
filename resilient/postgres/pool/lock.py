"""`pool.lock` for threads: an advisory lock whose holder is told when it is gone.

The asyncio one is in `lock_async`; what both decide, and what is said to the server, in `holding`.
"""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from typing import Any, Self

import psycopg
import psycopg_pool

from ..errors import LockLost
from ..session.keeper import close
from .holding import Grant, Held, Hold, acquire

#: how long a pool that is closed waits for the end of a watcher, in seconds
END_S = 1.0


class Lock(Held):
    """What `pool.lock(key)` gives: a context manager, for one use.

    At the end of its block `LockLost` is raised if the lock was gone before.
    """

    _thread: threading.Thread | None = None

    def acquire(self) -> Self:
        """Wait for the lock.  Raises psycopg's `LockNotAvailable` when somebody else has it for the
        whole `timeout`, `PoolTimeout` where no session can be had."""
        until = self._start()
        self._core.sessions.locks.add(self._abandon)
        try:
            conn, grant = self._waited(until)
        except BaseException:
            self._core.sessions.locks.discard(self._abandon)
            raise
        hold = self._got(conn, grant)
        self._changed = threading.Condition()
        self._wake, woken = socket.socketpair()
        self._wake.setblocking(False)
        self._thread = threading.Thread(
            target=self._watch, args=(hold, woken), name="resilient-lock", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # there can be no more threads
            hold.end()
            woken.close()
            self._wake.close()
            self._core.sessions.locks.discard(self._abandon)
            raise
        except BaseException:  # a Ctrl-C: it runs, and nobody is there to give the lock back
            hold.leaving = True
            self._tell()
            raise
        return self

    def _waited(self, until: float) -> tuple[Any, Grant]:
        pool, core = self._pool, self._core
        if core.reopen:
            core.reopened()
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
                core.note(conn, exc)
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
            self._core.sessions.locks.discard(self._abandon)
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
