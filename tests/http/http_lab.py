"""Upstreams in processes, names that change, and one face for the four clients."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

import resilient.http
import resilient.http.httpx
from resilient import Settings
from resilient.errors import NameNotFound
from resilient.http._addresses import Addresses

SCRIPT = Path(__file__).with_name("upstream.py")
NAME = "svc.test"
#: for tests that have to wait: both kinds and both libraries, but not all four
TIMED = pytest.mark.parametrize("shell", ["sync-httpx2", "async-httpx"], indirect=True)


class Upstream:
    """One server process on one loopback address."""

    def __init__(self, address: str, port: int, *pair: str) -> None:
        self.address, self.port = address, port
        self._command = [sys.executable, "-S", str(SCRIPT), address, str(port), *pair]
        self._process: subprocess.Popen[bytes] | None = None
        self._signalled = False

    def start(self) -> Upstream:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        return self

    def wait(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"up\n"
        self._process.stdout.close()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._signalled = True
        self._process.send_signal(number)

    def hang(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def reusable(self) -> bool:
        """Plain, and never killed or stopped."""
        return self._process is not None and not self._signalled and len(self._command) == 5

    def stats(self) -> Any:
        """What it has seen, asked past all clients under test."""
        return json.loads(self._ask("/stats"))

    def reset(self) -> None:
        """Forget what was seen."""
        self._ask("/reset")

    def _ask(self, path: str) -> bytes:
        connection = http.client.HTTPConnection(self.address, self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def seen(self, key: str) -> int:
        count: int = self.stats()["seen"].get(key, 0)
        return count


class Names:
    """An address source that a test changes: the documented seam."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[str, ...]] = {}
        self.ttl_s = 60.0
        self.mode: str | None = None
        self.lookups: list[tuple[str, bool]] = []
        self.closed = 0
        self._watchers: dict[str, list[tuple[asyncio.AbstractEventLoop, Callable[[], None]]]] = {}

    def __call__(self, settings: Settings) -> Names:
        return self

    async def lookup(self, name: str, fresh: bool, hurry: bool) -> Addresses:
        self.lookups.append((name, fresh))
        if name not in self.answers:
            raise NameNotFound(f"{name} does not exist", name=name)
        mode: Any = self.mode
        return Addresses(self.answers[name], self.ttl_s, mode=mode)

    def watch(self, name: str, changed: Callable[[], None]) -> Callable[[], None]:
        entry = (asyncio.get_running_loop(), changed)
        self._watchers.setdefault(name, []).append(entry)
        return lambda: self._watchers[name].remove(entry)

    def report_dead(self, address: str) -> None:
        pass

    async def close(self) -> None:
        self.closed += 1

    def change(self, name: str, *addresses: str) -> None:
        self.answers[name] = addresses
        for loop, changed in self._watchers.get(name, ()):
            loop.call_soon_threadsafe(changed)


class Shell:
    """A client of either kind and library, driven from plain test functions."""

    def __init__(self, kind: str, library: str) -> None:
        self.sync = kind == "sync"
        self.lib: Any = httpx2 if library == "httpx2" else httpx
        self.ours: Any = resilient.http if library == "httpx2" else resilient.http.httpx
        self._runner = None if self.sync else asyncio.Runner()
        self._clients: list[Any] = []

    def client(self, settings: Settings | None = None, **options: Any) -> Any:
        settings = settings or Settings()
        kind = self.ours.Client if self.sync else self.ours.AsyncClient
        client = self.run(lambda: _make(kind, settings, options))
        self._clients.append(client)
        return client

    def run(self, make: Callable[[], Any]) -> Any:
        """`make()`, awaited when it is awaitable."""
        if self._runner is None:
            return make()

        async def main() -> Any:
            result = make()
            return await result if asyncio.iscoroutine(result) else result

        return self._runner.run(main())

    def get(self, client: Any, url: str, **options: Any) -> Any:
        return self.run(lambda: client.get(url, **options))

    def post(self, client: Any, url: str, **options: Any) -> Any:
        return self.run(lambda: client.post(url, **options))

    def close(self, client: Any) -> None:
        self.run(client.close if self.sync else client.aclose)

    def finish(self) -> None:
        for client in self._clients:
            self.close(client)
        if self._runner is not None:
            self._runner.close()


def _make(kind: Any, settings: Settings, options: dict[str, Any]) -> Any:
    return kind(settings=settings, **options)


def facts(response: Any) -> Any:
    return json.loads(response.text)


def settle(shell: Shell) -> None:
    shell.run(lambda: time.sleep(0.05) if shell.sync else asyncio.sleep(0.05))


def open_connections(address: str, port: int) -> int:
    """Sockets of this process that are connected to (address, port)."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        copy = -1
        try:
            copy = os.dup(int(fd))
            sock = socket.socket(fileno=copy)
        except OSError:
            if copy >= 0:
                os.close(copy)
            continue
        with sock, suppress(OSError):
            count += sock.getpeername() == (address, port)
    return count
