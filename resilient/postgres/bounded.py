"""Libpq's generators with bounds, against servers that mean no good or are broken.

A probe's answer is a few hundred bytes.  A host that sends without an end would fill memory,
because libpq keeps what it hasn't given out; one that asks for two thousand million SCRAM
iterations would keep the thread that computes them for an hour.  So what was received is
counted, by the kernel, before libpq reads it (TCP_INFO, tcp(7); Linux, where others can't it
isn't bounded), and who logs in does so on a thread of his own.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from psycopg import errors as e
from psycopg import generators, pq, waiting
from psycopg.conninfo import make_conninfo

T = TypeVar("T")

#: bytes that a server may send until it has answered one probe, or has let it in
ANSWER_MOST = 1 << 18
#: seconds of computing on end from which on a login is laborious: usual ones take 10 ms
LABORIOUS_S = 0.5
#: a server's 4096, and what administrators raise it to, have fewer digits
_ITERATIONS = re.compile(rb",i=\d{8,}")
PEEK_BYTES = 4096
#: how often a waiting login looks whether anybody waits for it still, in seconds
TICK_S = 1.0
#: where the kernel's struct tcp_info has tcpi_bytes_received
_BYTES_RECEIVED = 128
#: a message's type and length, and what FIONREAD gives
_HEAD, _INT = struct.Struct("!cI"), struct.Struct("i")


#: states of a TCP socket whose peer has ended its stream: TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING
_ENDED = frozenset({6, 8, 9, 11})


class TooMuch(e.OperationalError):
    """A server sends more than any answer has."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text or f"the server's answer goes on after {ANSWER_MOST} bytes")


def received(fileno: int) -> int:
    """Bytes that have come on a TCP socket so far; 0 where the kernel doesn't tell."""
    if sys.platform != "linux" or fileno < 0:
        return 0
    sock: socket.socket | None = None
    try:
        # Said at once, the family isn't asked for; a socket without TCP says so below.
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno)
        size = _BYTES_RECEIVED + 8
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    except OSError:
        return 0
    finally:
        if sock is not None:
            sock.detach()  # the descriptor is libpq's
    # The kernel counts the end of the stream as a byte.
    return int.from_bytes(info[_BYTES_RECEIVED:], sys.byteorder) - (info[0] in _ENDED)


def demanding(fileno: int) -> bool:
    """Does what waits on the socket ask for more SCRAM iterations than any honest server does?
    Nobody could end that computation (RFC 5802, the `i` of server-first-message)."""
    sock: socket.socket | None = None
    try:
        # the family isn't asked for
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno)
        sock.setblocking(False)  # libpq's is so; gevent's own wait for data unless told
        data = sock.recv(PEEK_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return False
    finally:
        if sock is not None:
            sock.detach()  # the descriptor is libpq's
    return bool(_ITERATIONS.search(data))


def unbearable(fileno: int) -> str:
    """Why a login on this socket isn't to go on; empty: it may."""
    if demanding(fileno):
        return "its authentication demands too much computing"
    if received(fileno) > ANSWER_MOST:
        return f"the server's answer goes on after {ANSWER_MOST} bytes"
    return ""


#: the types of a server's messages (manual 55.7)
_KINDS = frozenset(bytes([kind]) for kind in b"RKSTDCEZNAI123nstVvcGHWd")


class _Meter:
    """What a server sends from now on, looked at before libpq reads it.

    Where it isn't encrypted, the lengths of its messages are: libpq makes room for a whole one,
    and reads on as long as there is more of it.
    """

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn
        self._began = self._next = received(pgconn.socket)
        self._plain = not pgconn.ssl_in_use and self._began > 0

    def look(self) -> None:
        fileno = self._pgconn.socket
        came = received(fileno)
        if came - self._began > ANSWER_MOST:
            raise TooMuch
        if self._plain and came > self._next:
            self._follow(fileno, came)

    def _follow(self, fileno: int, came: int) -> None:
        """From each message's head to the next one's."""
        import fcntl  # not everywhere, and nor is what brings us here
        import termios

        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno)
        try:
            (unread,) = _INT.unpack(fcntl.ioctl(fileno, termios.FIONREAD, bytes(_INT.size)))
            sock.setblocking(False)
            data = sock.recv(unread, socket.MSG_PEEK | socket.MSG_DONTWAIT) if unread else b""
        except OSError:
            return
        finally:
            sock.detach()
        at = came - unread  # of the first byte of `data`, which may have grown meanwhile
        while 0 <= self._next - at <= len(data) - _HEAD.size:
            kind, size = _HEAD.unpack_from(data, self._next - at)
            if kind not in _KINDS or size < _INT.size:
                self._plain = False  # it began within a message; libpq takes no unknown ones
                return
            if size > ANSWER_MOST:
                raise TooMuch
            self._next += 1 + size


def answer(pgconn: pq.abc.PGconn, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
    """The same generator, which ends in `TooMuch` when more comes than is right.  What it has
    left on the connection is no good for anybody."""
    meter = _Meter(pgconn)
    try:
        wait = next(gen)
        while True:
            ready = yield wait
            meter.look()
            wait = gen.send(ready)
    except StopIteration as stop:
        value: T = stop.value
        return value


def has_password(params: dict[str, str]) -> bool:
    """Can libpq be made to compute with one?"""
    if "password" in params or "PGPASSWORD" in os.environ:
        return True
    place = params.get("passfile") or os.environ.get("PGPASSFILE") or "~/.pgpass"
    return Path(place).expanduser().exists()


class Login:
    """One connection that is made; on the event loop, or on a daemon thread of its own."""

    def __init__(self, params: dict[str, str]) -> None:
        self._conninfo = make_conninfo("", **params)
        self._forgotten = False
        self._since: float | None = None
        self._done: asyncio.Future[pq.abc.PGconn]
        #: whether its thread has ended
        self.over = False

    @property
    def laborious(self) -> bool:
        """Has it computed for so long that no honest server can have asked for it?"""
        since = self._since
        return since is not None and time.monotonic() - since > LABORIOUS_S

    async def here(self) -> pq.abc.PGconn:
        """The connection, or libpq's error; where nothing is computed."""
        return await waiting.wait_conn_async(self._connecting(), TICK_S)

    async def elsewhere(self) -> pq.abc.PGconn:
        """The same.  Cancelled: nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        run = partial(self._run, loop)
        threading.Thread(target=run, daemon=True, name="resilient-login").start()
        try:
            return await self._done
        except asyncio.CancelledError:
            self._forgotten = True
            raise

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        pgconn: pq.abc.PGconn | None = None
        failure: BaseException | None = None
        try:
            pgconn = waiting.wait_conn(self._connecting(), TICK_S)
        except Exception as exc:
            failure = exc
        self.over = True
        try:
            loop.call_soon_threadsafe(self._tell, pgconn, failure)
        except RuntimeError:  # the loop is closed
            if pgconn is not None:
                pgconn.finish()

    def _tell(self, pgconn: pq.abc.PGconn | None, failure: BaseException | None) -> None:
        if self._done.done():
            if pgconn is not None:
                pgconn.finish()
        elif pgconn is not None:
            self._done.set_result(pgconn)
        elif failure is not None:
            self._done.set_exception(failure)

    def _connecting(self) -> Generator[Any, Any, pq.abc.PGconn]:
        gen = generators.connect(self._conninfo)
        try:
            fileno, wait = self._timed(partial(next, gen))
            while True:
                ready = yield fileno, wait
                why = "nobody waits for it" if self._forgotten else unbearable(fileno)
                if why:
                    gen.close()
                    raise TooMuch(why)
                fileno, wait = self._timed(partial(gen.send, ready))
        except StopIteration as stop:
            value: pq.abc.PGconn = stop.value
            return value

    def _timed(self, step: Callable[[], T]) -> T:
        self._since = time.monotonic()
        try:
            return step()
        finally:
            self._since = None
