"""A resolv.conf, a hosts file, name servers on port 53; who asks is glibc, plain httpx2, or ours.

Only in a namespace of our own (`python -m tests.side_by_side tests/differential/dns`).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import socketserver
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self

import httpx2

import resilient.http
from resilient import Settings
from resilient.dns import AsyncResolver, Resolver
from resilient.lab.namespace import use_resolv_conf

sys.path.append(str(Path(__file__).parents[2] / "dns"))
from dns_lab import Rule, ScriptedServer

UPSTREAM = "127.0.0.12"
_MS_BIND = 4096


def use_hosts(text: str) -> None:
    """Make `text` this namespace's /etc/hosts."""
    target = Path("/etc/hosts").resolve()
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    if str(target) in {line.split()[4] for line in mounts}:
        target.write_text(text)
        return
    with tempfile.NamedTemporaryFile("w", prefix="resilient-lab-hosts-") as private:
        private.write(text)
        private.flush()
        os.fchmod(private.fileno(), 0o644)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(private.name.encode(), str(target).encode(), None, _MS_BIND, None) != 0:
            raise OSError(ctypes.get_errno(), "mount", str(target))


class World:
    """A context manager.  `scripts`: the rules (see `dns.yaml`) of each name server."""

    def __init__(
        self, *scripts: Sequence[Rule], conf: str = "", hosts: str = "127.0.0.1 localhost\n"
    ) -> None:
        at = [f"127.0.0.{53 + i}" for i in range(len(scripts))]
        use_resolv_conf("".join(f"nameserver {address}\n" for address in at) + conf)
        use_hosts(hosts)
        self.servers = [
            ScriptedServer(rules, (address, 53)) for rules, address in zip(scripts, at, strict=True)
        ]
        self._serve(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop_web()
        for server in self.servers:
            server.close()

    def _serve(self, port: int) -> None:
        self.web = _Server((UPSTREAM, port), Web)
        self.port = self.web.server_address[1]
        self._thread = threading.Thread(target=self.web.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop_web(self) -> None:
        """The upstream dies, its connections with it."""
        self.web.shutdown()
        self._thread.join()
        self.web.server_close()
        for connection in tuple(Web.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def start_web(self) -> None:
        """It lives again."""
        self._serve(self.port)

    def asked(self) -> list[tuple[str, str, str]]:
        """All questions so far: (name, type, transport)."""
        return [query for server in self.servers for query in server.queries]

    def forget(self) -> None:
        for server in self.servers:
            server.queries.clear()
            server.times.clear()
            server.edns.clear()


class _Server(ThreadingHTTPServer):
    """Asks no name server for its own name."""

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]


class Web(BaseHTTPRequestHandler):
    """Says ok."""

    protocol_version = "HTTP/1.1"
    connections: ClassVar[set[socket.socket]] = set()

    def setup(self) -> None:
        super().setup()
        self.connections.add(self.connection)

    def finish(self) -> None:
        self.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: object) -> None:
        pass


class Asked:
    """What came of one question: the addresses or the error, and how long it took."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        begun = time.monotonic()
        self.error: BaseException | None = None
        self.addresses: frozenset[str] = frozenset()
        try:
            self.addresses = frozenset(ask())
        except (OSError, ValueError) as exc:
            self.error = exc
        self.took_s = time.monotonic() - begun

    def __repr__(self) -> str:
        return f"<{self.error!r}>" if self.error else f"<{sorted(self.addresses)}>"


def glibc(name: str, family: Any = 4) -> Asked:
    """`getaddrinfo` of this machine's C library."""
    kind = {4: socket.AF_INET, 6: socket.AF_INET6, "any": socket.AF_UNSPEC}[family]
    return Asked(lambda: [i[4][0] for i in socket.getaddrinfo(name, 80, kind, socket.SOCK_STREAM)])


def threads(name: str, family: Any = 4, **given: Any) -> Asked:
    """Our resolver for threads, a new one."""

    def ask() -> Any:
        with Resolver(Settings(**given)) as resolver:
            return resolver.resolve(name, family).addresses

    return Asked(ask)


def tasks(name: str, family: Any = 4, **given: Any) -> Asked:
    """Our resolver for asyncio, a new one."""

    async def resolve() -> Any:
        async with AsyncResolver(Settings(**given)) as resolver:
            return (await resolver.resolve(name, family)).addresses

    return Asked(lambda: asyncio.run(resolve()))


class Web1:
    """A client that stays: plain httpx2's, or ours of either kind."""

    def __init__(self, kind: str, **given: Any) -> None:
        self.kind = kind
        self.runner = asyncio.Runner() if kind == "tasks" else None
        if self.runner:
            self.runner.get_loop()
        makers: Mapping[str, Callable[[], Any]] = {
            "plain": httpx2.Client,
            "threads": lambda: resilient.http.Client(settings=Settings(**given)),
            "tasks": lambda: resilient.http.AsyncClient(settings=Settings(**given)),
        }
        self.client = makers[kind]()

    def get(self, url: str) -> Any:
        if self.runner:
            return self.runner.run(self.client.get(url))
        return self.client.get(url)

    def close(self) -> None:
        if self.runner:
            self.runner.run(self.client.aclose())
            self.runner.close()
        else:
            self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
