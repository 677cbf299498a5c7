"""Plain clients and ours on the same real servers.

A case is a function that gets a `Pair` and a way to make servers.  `pair.each(run)` plays the
same thing with the library's own client and with ours, in both shells, and gives what each saw.
The library's own client resolves names with getaddrinfo, ours through the source of addresses
that `names` stands for: both are told the same by `names[...] = addresses`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import httpx2

import resilient.http
import resilient.http.httpx
from resilient import Settings
from resilient.errors import NameNotFound
from resilient.http._addresses import Addresses
from resilient.settings import Settings as _Settings

#: made once: a client that makes its own spends a tenth of a second on it
TRUST = ssl.create_default_context()
Reply = tuple[int, dict[str, str], bytes] | None


@dataclass
class Asked:
    """One request as a server saw it.  `nth`: on its connection, from 1."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    nth: int
    sock: socket.socket


class Server:
    """HTTP/1.1 by threads.  `handle` gives (status, headers, body), or None when it did the
    talking itself; then the connection is closed."""

    def __init__(self, address: str, port: int, handle: Callable[[Asked], Reply]) -> None:
        self.address, self.handle = address, handle
        self.asked: list[Asked] = []
        self.open, self.peak, self.total = 0, 0, 0
        self._lock = threading.Lock()
        self._socks: set[socket.socket] = set()
        self._listener = socket.create_server((address, port), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with self._lock:
            self.open, self.total = self.open + 1, self.total + 1
            self.peak = max(self.peak, self.open)
            self._socks.add(sock)
        try:
            with suppress(OSError, ValueError):
                self._talk(sock)
        finally:
            with self._lock:
                self.open -= 1
                self._socks.discard(sock)
            sock.close()

    def _talk(self, sock: socket.socket) -> None:
        stream, nth = sock.makefile("rb"), 0
        with stream:
            while line := stream.readline():
                nth += 1
                method, path, _ = line.decode().split(" ", 2)
                headers = dict(_headers(iter(stream.readline, b"\r\n")))
                if "transfer-encoding" in headers:
                    body = b"".join(_chunks(stream))
                else:
                    body = stream.read(int(headers.get("content-length", 0)))
                asked = Asked(method, path, headers, body, nth, sock)
                self.asked.append(asked)
                reply = self.handle(asked)
                if reply is None:
                    return
                status, more, content = reply
                lines = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}"]
                lines += [f"{name}: {value}" for name, value in more.items()]
                head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
                sock.sendall(head + (b"" if method == "HEAD" else content))

    def refuse(self) -> None:
        """Take no connection from now on; those that are open stay."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close(self) -> None:
        self.refuse()
        for sock in tuple(self._socks):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def connected(port: int) -> int:
    """Sockets of this process that are connected to this port of anybody."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError, ValueError, IndexError):
            copy = os.dup(int(fd))
            try:
                sock = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
                raise
            with sock:
                count += sock.getpeername()[1] == port
    return count


def _chunks(stream: Any) -> Iterator[bytes]:
    while True:
        part = stream.read(int(stream.readline(), 16))
        stream.readline()
        if not part:
            return
        yield part


def _headers(lines: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, _, value = line.decode("latin-1").partition(":")
        yield name.lower(), value.strip()


class Names(dict[str, tuple[str, ...]]):
    """Name → addresses, for both resolvers."""

    def __init__(self) -> None:
        super().__init__()
        self._watchers: dict[str, list[Any]] = {}

    def __call__(self, settings: _Settings) -> Names:
        return self

    async def lookup(self, name: str, fresh: bool, hurry: bool) -> Addresses:
        if name not in self:
            raise NameNotFound(f"{name} does not exist", name=name)
        return Addresses(self[name], 60.0)

    def watch(self, name: str, changed: Callable[[], None]) -> Callable[[], None]:
        entry = (asyncio.get_running_loop(), changed)
        self._watchers.setdefault(name, []).append(entry)
        return lambda: self._watchers[name].remove(entry)

    def moved(self, name: str) -> None:
        """Tell those who watch that the name's addresses are others now."""
        for loop, changed in self._watchers.get(name, ()):
            loop.call_soon_threadsafe(changed)

    def report_dead(self, address: str) -> None:
        pass

    async def close(self) -> None:
        pass

    def getaddrinfo(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """`socket.getaddrinfo` that knows these names."""

        def known(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            text = host.decode() if isinstance(host, bytes) else host
            if text not in self:
                return own(host, port, *args, **kwargs)
            return [row for one in self[text] for row in own(one, port, *args, **kwargs)]

        return known


@dataclass
class Seen:
    """What a caller saw: the response or the error, and seconds until then."""

    result: Any
    took_s: float

    @property
    def text(self) -> str:
        """The status and the body; of an error, its class among httpx2's."""
        if isinstance(self.result, BaseException):
            kinds = type(self.result).__mro__
            return next(kind.__name__ for kind in kinds if kind.__module__.startswith("httpx"))
        return f"{self.result.status_code} {self.result.text}"


@dataclass
class Pair:
    """The plain client and ours, of one kind and library.  `settings`: ours, if not the
    defaults."""

    blocking: bool
    settings: Settings = field(default_factory=Settings)
    library: str = "httpx2"

    def client(self, ours: bool, **options: Any) -> Any:
        plain, own = (
            (httpx2, resilient.http) if self.library == "httpx2" else (httpx, resilient.http.httpx)
        )
        home: Any = own if ours else plain
        options.setdefault("verify", TRUST)
        if ours:
            options["settings"] = self.settings
        return (home.Client if self.blocking else home.AsyncClient)(**options)

    def each(
        self, run: Callable[[Any], Any], before: Callable[[], None] = lambda: None, **options: Any
    ) -> tuple[Seen, Seen]:
        """`run(client)` with the plain client, then with ours; in the async shell what it
        gives is awaited.  `before` is called before each."""
        both = []
        for ours in (False, True):
            before()
            both.append(self.one(run, ours, **options))
        return both[0], both[1]

    def one(self, run: Callable[[Any], Any], ours: bool, **options: Any) -> Seen:
        if not self.blocking:
            return asyncio.run(self._one(run, ours, options))
        with self.client(ours, **options) as client:
            began = time.monotonic()
            try:
                result = run(client)
            except Exception as exc:
                result = exc
            return Seen(result, time.monotonic() - began)

    async def _one(self, run: Callable[[Any], Any], ours: bool, options: dict[str, Any]) -> Seen:
        async with self.client(ours, **options) as client:
            began = time.monotonic()
            try:
                result = await run(client)
            except Exception as exc:
                result = exc
            return Seen(result, time.monotonic() - began)
