"""Blocking sockets for the core library: dialled at one endpoint, watched while they wait.

The core library connects by the URL's name and calls `connect_tcp`; what is dialled is the
endpoint's address.  TLS is started with the URL's name by the core library as ever.
"""

# long: a socket, from its dial to its end
from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from math import inf
from typing import Any

from . import _dial, _offline
from ._attempt import CURRENT, STAGGER_S, Attempt, Elsewhere, PrimaryReady, clock
from ._library import Library
from ._readable import Readable
from ._slot import Slot
from ._sync_race import read_head


class SyncStream:
    """A connected socket with the interface of the core library's `NetworkStream`.

    A plain socket stays non-blocking, and is waited for only when that must be: this spares
    three of the eight system calls that a request takes otherwise.
    """

    __slots__ = ("_mark", "_plain", "_poll", "_readable", "_tls_names", "library", "slot", "sock")

    def __init__(
        self, library: Library, sock: socket.socket, slot: Slot, tls_names: Mapping[str, str]
    ) -> None:
        self.library = library
        self.sock = sock
        self.slot = slot
        self._tls_names = tls_names
        self._mark = _dial.Mark(slot)
        self._readable = Readable(sock)
        self._plain = not isinstance(sock, ssl.SSLSocket)
        self._poll = select.poll()
        if self._plain:
            sock.setblocking(False)
            self._poll.register(sock, select.POLLIN)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        attempt = CURRENT.get()
        if attempt is None:
            return self.receive(max_bytes, timeout)
        now = clock()
        until_s = inf if timeout is None else now + timeout
        stop_s = min(until_s, attempt.until_s(), attempt.look_at, attempt.hedge_at)
        if now < stop_s and not attempt.primaries:  # nearly always all there is to it
            data = self.take(max_bytes, None if stop_s == inf else stop_s - now)
            if data is not None:
                self.slot.byte_at = clock()
                attempt.ended = not data
                return data
        return read_head(self, attempt, max_bytes, until_s)

    def receive(self, max_bytes: int, timeout: float | None) -> bytes:
        data = self.take(max_bytes, timeout)
        if data is None:
            raise self.library.core_error("ReadTimeout", TimeoutError("timed out"))
        self.slot.byte_at = clock()
        return data

    def take(self, max_bytes: int, timeout: float | None) -> bytes | None:
        """What comes; None when nothing came for so many seconds."""
        sock = self.sock
        try:
            if not self._plain:
                sock.settimeout(timeout)
                return sock.recv(max_bytes)
            while self._poll.poll(None if timeout is None else _ms(timeout)):
                # Not `suppress`: this runs for every response.
                try:
                    return sock.recv(max_bytes)
                except BlockingIOError:
                    continue  # it looked as if there were something
        except TimeoutError:
            pass
        except OSError as exc:
            raise self.library.core_error("ReadError", exc) from exc
        return None

    def take_now(self, max_bytes: int) -> bytes | None:
        """What is there; None when there is nothing yet."""
        try:
            self.sock.settimeout(0.0)
            return self.sock.recv(max_bytes)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except OSError as exc:
            raise self.library.core_error("ReadError", exc) from exc

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        attempt = CURRENT.get()
        if attempt is not None and not self._plain:
            attempt.sent = True  # a part of a record may leave before an error is raised
        try:
            size = len(buffer)
            view: bytes | memoryview = buffer
            while size:
                try:
                    sent = self.sock.send(view) if self._plain else 0
                except BlockingIOError:
                    sent = 0
                if not sent:
                    sent = self._send(view, attempt, timeout)
                if attempt is not None and sent:
                    attempt.sent = True
                    attempt.uploaded_s = clock()
                size -= sent
                if size:
                    view = memoryview(view)[sent:]
        except TimeoutError as exc:
            raise self.library.core_error("WriteTimeout", exc) from exc
        except OSError as exc:
            raise self.library.core_error("WriteError", exc) from exc

    def _send(
        self, view: bytes | memoryview, attempt: Attempt | None, timeout: float | None
    ) -> int:
        """When nothing could be sent at once: how much was taken later, which for a plain
        socket is nothing yet.  TimeoutError: nothing in time."""
        if attempt is not None:
            timeout = _dial.write_s(attempt, timeout)
        until_s = inf if timeout is None else clock() + timeout
        while True:
            now = clock()
            stop_s = until_s if attempt is None else min(until_s, attempt.look_at)
            try:
                return self._send_once(view, None if stop_s == inf else max(0.001, stop_s - now))
            except TimeoutError:
                if attempt is not None and clock() >= attempt.look_at:
                    if attempt.is_dead(clock()):
                        raise
                elif clock() >= until_s:
                    raise

    def _send_once(self, view: bytes | memoryview, timeout: float | None) -> int:
        if not self._plain:
            self.sock.settimeout(timeout)
            return self.sock.send(view)
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT)
        if not poll.poll(None if timeout is None else _ms(timeout)):
            raise TimeoutError("timed out")
        return 0

    def close(self) -> None:
        self.sock.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> SyncStream:
        attempt = CURRENT.get()
        name = _dial.verified(server_hostname, self._tls_names, attempt)
        try:
            secured = ssl_context.wrap_socket(
                self.sock, server_hostname=name, do_handshake_on_connect=False
            )
            self.sock = secured
            self._shake(secured, attempt, timeout)
        except OSError as exc:
            self.close()
            late = isinstance(exc, TimeoutError)
            if attempt is not None and not late:
                _dial.handshake_failed(attempt, exc)
            raise self.library.core_error(
                "ConnectTimeout" if late else "ConnectError", exc
            ) from exc
        except BaseException:
            self.close()
            raise
        return SyncStream(self.library, secured, self.slot, self._tls_names)

    def _shake(self, sock: ssl.SSLSocket, attempt: Attempt | None, timeout: float | None) -> None:
        """The handshake; TimeoutError when it isn't over in time, or the endpoint is dead."""
        if attempt is None:
            sock.settimeout(timeout)
            sock.do_handshake()
            return
        until_s = clock() + _dial.bounded(attempt, timeout)
        while True:
            now = clock()
            if now >= until_s or (now >= attempt.look_at and attempt.is_dead(now)):
                raise TimeoutError("the handshake timed out")
            sock.settimeout(_dial.finite(min(until_s, attempt.look_at) - now) or None)
            try:
                sock.do_handshake()
            except TimeoutError:
                continue
            return

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._mark.is_stale() or self._readable()
        if info == "is_over":
            return self._mark.is_stale() or self._readable.hung_up()
        if info == "is_stale":
            return self._mark.is_stale()
        if info == "ssl_object" and isinstance(self.sock, ssl.SSLSocket):
            return self.sock._sslobj  # type: ignore[attr-defined]  # as the core library does
        if info == "client_addr":
            return self.sock.getsockname()
        if info == "server_addr":
            return self.sock.getpeername()
        if info == "socket":
            if self._plain:  # whoever takes it may want to wait on it
                self._plain = False
                self.sock.setblocking(True)
            return self.sock
        return None


class SyncBackend:
    """The network backend of a transport's pool: dials the endpoint of the attempt under way.

    `own`: the library's own backend, for requests that aren't ours (a mock lets them pass).
    """

    def __init__(self, library: Library, own: Any, tls_names: Mapping[str, str]) -> None:
        self._library = library
        self._own = own
        self._tls_names = tls_names
        #: returns when the pool has closed what had to go
        self.settle: Callable[[], None] = lambda: None

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        attempt = CURRENT.get()
        if attempt is None:
            _offline.check(self._library, host)
            return self._own.connect_tcp(host, port, timeout, local_address, socket_options)
        attempt.call.waited(attempt, clock())
        self.settle()
        handed_over, attempt.call.handed_over = attempt.call.handed_over, None
        if handed_over is not None and handed_over[0] is attempt.slot:
            sock = handed_over[1]
        else:
            if handed_over is not None:
                handed_over[1].close()
            race = DialRace(attempt, local_address, tuple(socket_options or ()))
            try:
                slot, sock = race.run(clock() + _dial.bounded(attempt, timeout))
            except TimeoutError as exc:
                raise self._library.core_error("ConnectTimeout", exc) from exc
            except OSError as exc:
                attempt.nobody = not attempt.local_fault
                raise self._library.core_error("ConnectError", exc) from exc
            if slot is not attempt.slot:
                attempt.call.handed_over = (slot, sock)
                raise Elsewhere
        return SyncStream(self._library, sock, attempt.slot, self._tls_names)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _socket_address(slot: Slot) -> Any:
    endpoint = slot.endpoint
    kind, flags = socket.SOCK_STREAM, socket.AI_NUMERICHOST
    return socket.getaddrinfo(endpoint.address, endpoint.port, type=kind, flags=flags)[0][4]


def _begin(slot: Slot, local_address: str | None, options: Iterable[Any] | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in slot.endpoint.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options or ():
            sock.setsockopt(*option)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if local_address is not None:
            sock.bind((local_address, 0))
    except BaseException:
        sock.close()
        raise
    return sock


class DialRace:
    """One staggered connect."""

    def __init__(
        self, attempt: Attempt, local_address: str | None, options: tuple[Any, ...]
    ) -> None:
        self._attempt = attempt
        self._local_address = local_address
        self._options = options
        self._pending: dict[int, tuple[Slot, socket.socket, float]] = {}
        self._winner_s: float | None = None
        self._error: OSError | None = None
        # `_refused`: by an endpoint, so that not all errors are this machine's own
        self._failed = self._refused = False

    def run(self, until_s: float) -> tuple[Slot, socket.socket]:
        """The endpoint that took the connection, and the socket.  OSError: none did;
        TimeoutError: none did in time."""
        course, origin = _dial.Course(self._attempt), self._attempt.call.origin
        next_at = clock()
        try:
            while True:
                now = clock()
                seen, partial = origin.improvements, origin.partial
                while now >= next_at or not self._pending:
                    next_at = now + STAGGER_S
                    slot = course.next(now)
                    if slot is None:
                        break
                    self._start(slot, now)
                if not self._pending:
                    if not partial or now >= until_s or self._attempt.primaries:
                        self._attempt.local_fault = bool(self._error) and not self._refused
                        raise self._error or ConnectionError("no endpoint")
                    with suppress(TimeoutError):  # the other family may still come
                        origin.news(seen).result(_dial.finite(until_s - now))
                    continue
                if slot is None:
                    # All were dialled and are silent: perhaps there are others by now.
                    origin.look_again(None, now)
                if now >= until_s:
                    raise TimeoutError("timed out")
                won = self._wait(min(until_s, next_at))
                if won is not None:
                    return won
                if self._failed:
                    next_at = clock()
        finally:
            for slot, sock, since_s in self._pending.values():
                sock.close()
                _dial.silent(self._attempt, slot, since_s, self._winner_s)

    def _start(self, slot: Slot, now: float) -> None:
        self._attempt.dialled += 1
        try:
            sock = _begin(slot, self._local_address, self._options)
        except OSError as exc:  # nobody was asked yet
            self._error = exc
            return
        sock.setblocking(False)
        code = sock.connect_ex(_socket_address(slot))
        if code in (0, errno.EINPROGRESS):
            self._pending[sock.fileno()] = (slot, sock, now)
        else:
            sock.close()
            self._fail(slot, _as_error(code))

    def _fail(self, slot: Slot, error: OSError) -> None:
        self._error = error
        if not _dial.is_local(error):
            self._refused = True
            _dial.refused(self._attempt, slot, error)

    def _wait(self, until_s: float) -> tuple[Slot, socket.socket] | None:
        """Until something happens: the winner, or None to look again."""
        self._failed = False
        poll = select.poll()
        for fd in self._pending:
            poll.register(fd, select.POLLOUT)
        primaries = {stream.sock.fileno(): attempt for attempt, stream in self._attempt.primaries}
        for fd in primaries:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(max(0.0, until_s - clock()) * 1000 + 0.5):
            if fd in primaries:
                raise PrimaryReady(primaries[fd])
            slot, sock, since_s = self._pending.pop(fd)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                self._winner_s = clock() - since_s
                return slot, sock
            sock.close()
            self._fail(slot, _as_error(code))
            self._failed = True
        return None


def _ms(seconds: float) -> float:
    """For poll, which takes no more than its integers hold."""
    return min(seconds, 1e6) * 1000


def _as_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
