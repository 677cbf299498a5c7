"""Blocking sockets for the core library: dialled at one endpoint, watched while they wait.

The core library connects by the URL's name and calls `connect_tcp`; what is dialled is the
endpoint's address.  TLS is started with the URL's name by the core library as ever.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any

from . import _dial
from ._attempt import CURRENT, STAGGER_S, Attempt, Elsewhere, OuterReady, clock
from ._library import Library
from ._origin import Slot
from ._readable import Readable
from ._sync_race import read_head


class SyncStream:
    """A connected socket with the interface of the core library's `NetworkStream`."""

    __slots__ = ("_readable", "_tls_names", "library", "runner", "sock")

    def __init__(
        self, library: Library, sock: socket.socket, runner: Any, tls_names: Mapping[str, str]
    ) -> None:
        self.library = library
        self.sock = sock
        self.runner = runner
        self._tls_names = tls_names
        self._readable = Readable(sock)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        attempt = CURRENT.get()
        if attempt is None:
            return self.receive(max_bytes, timeout)
        return read_head(self, attempt, max_bytes, timeout)

    def receive(self, max_bytes: int, timeout: float | None) -> bytes:
        try:
            self.sock.settimeout(timeout)
            return self.sock.recv(max_bytes)
        except TimeoutError as exc:
            raise self.library.core_error("ReadTimeout", exc) from exc
        except OSError as exc:
            raise self.library.core_error("ReadError", exc) from exc

    def receive_now(self, max_bytes: int) -> bytes | None:
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
        sock = self.sock
        if attempt is not None and isinstance(sock, ssl.SSLSocket):
            attempt.sent = True  # a part of a record may leave before an error is raised
        try:
            size = len(buffer)
            view: bytes | memoryview = buffer
            while size:
                if attempt is not None:
                    sock.settimeout(_dial.write_s(attempt, timeout, size))
                else:
                    sock.settimeout(timeout)
                sent = sock.send(view)
                if attempt is not None:
                    attempt.sent = True
                    attempt.wrote(clock())
                size -= sent
                if size:
                    view = memoryview(view)[sent:]
        except TimeoutError as exc:
            raise self.library.core_error("WriteTimeout", exc) from exc
        except OSError as exc:
            raise self.library.core_error("WriteError", exc) from exc

    def close(self) -> None:
        self.sock.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> SyncStream:
        attempt, began_s = CURRENT.get(), clock()
        name = self._tls_names.get((server_hostname or "").rstrip(".").lower(), server_hostname)
        try:
            self.sock.settimeout(
                timeout if attempt is None else _dial.handshake_s(attempt, timeout)
            )
            secured = ssl_context.wrap_socket(self.sock, server_hostname=name)
        except OSError as exc:
            self.close()
            late = isinstance(exc, TimeoutError)
            if attempt is not None:
                _dial.handshake_failed(attempt, exc, clock() - began_s if late else None)
            raise self.library.core_error(
                "ConnectTimeout" if late else "ConnectError", exc
            ) from exc
        except BaseException:
            self.close()
            raise
        return SyncStream(self.library, secured, self.runner, self._tls_names)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object" and isinstance(self.sock, ssl.SSLSocket):
            return self.sock._sslobj  # type: ignore[attr-defined]  # as the core library does
        if info == "client_addr":
            return self.sock.getsockname()
        if info == "server_addr":
            return self.sock.getpeername()
        if info == "socket":
            return self.sock
        if info == "is_readable":
            return self._readable()
        return None


class SyncBackend:
    """The network backend of one endpoint's connection pool."""

    def __init__(
        self, library: Library, slot: Slot, runner: Any, tls_names: Mapping[str, str]
    ) -> None:
        self._library = library
        self._slot = slot
        self._runner = runner
        self._tls_names = tls_names

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> SyncStream:
        attempt = CURRENT.get()
        if attempt is None:
            raise RuntimeError("a pinned pool is used by its engine only")
        parked, attempt.call.parked = attempt.call.parked, None
        if parked is not None and parked[0] is self._slot:
            sock = parked[1]
        else:
            race = DialRace(attempt, local_address, tuple(socket_options or ()))
            try:
                slot, sock = race.run(clock() + _dial.bounded(attempt, timeout))
            except TimeoutError as exc:
                raise self._library.core_error("ConnectTimeout", exc) from exc
            except OSError as exc:
                attempt.local_fault = _dial.is_local(exc)
                attempt.nobody = not attempt.local_fault
                raise self._library.core_error("ConnectError", exc) from exc
            if slot is not self._slot:
                attempt.call.parked = (slot, sock)
                raise Elsewhere
        return SyncStream(self._library, sock, self._runner, self._tls_names)

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
        self._error: OSError | None = None
        self._failed = False

    def run(self, until_s: float) -> tuple[Slot, socket.socket]:
        """The endpoint that took the connection, and the socket.  OSError: none did;
        TimeoutError: none did in time."""
        waiting = list(_dial.targets(self._attempt))
        known = set(waiting)
        next_at = clock()
        try:
            while True:
                now = clock()
                if not waiting and now >= next_at:
                    # All were dialled and are silent: perhaps there are others by now.
                    waiting = _dial.newcomers(self._attempt, known, now)
                    next_at = now if waiting else now + STAGGER_S
                while waiting and (now >= next_at or not self._pending):
                    self._start(waiting.pop(0), now)
                    next_at = now + STAGGER_S
                if not self._pending:
                    raise self._error or ConnectionError("no endpoint")
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
                _dial.silent(self._attempt, slot, since_s)

    def _start(self, slot: Slot, now: float) -> None:
        self._attempt.dialled += 1
        try:
            sock = _begin(slot, self._local_address, self._options)
        except OSError as exc:
            self._fail(slot, exc)
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
            _dial.refused(self._attempt, slot, error)

    def _wait(self, until_s: float) -> tuple[Slot, socket.socket] | None:
        """Until something happens: the winner, or None to look again."""
        self._failed = False
        poll = select.poll()
        for fd in self._pending:
            poll.register(fd, select.POLLOUT)
        outer = {stream.sock.fileno(): attempt for attempt, stream in self._attempt.outer}
        for fd in outer:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(max(0.0, until_s - clock()) * 1000 + 0.5):
            if fd in outer:
                raise OuterReady(outer[fd])
            slot, sock, _ = self._pending.pop(fd)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                return slot, sock
            sock.close()
            self._fail(slot, _as_error(code))
            self._failed = True
        return None


def _as_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
