"""Servers, names and clients of the cases."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest
from side_by_side import Asked, Names, Pair, Reply, Server

from resilient.http import _addresses

Serve = Callable[..., list[Server]]


@pytest.fixture(params=["sync", "async"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param == "sync")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    known = Names()
    monkeypatch.setattr(_addresses, "factory", known)
    monkeypatch.setattr(socket, "getaddrinfo", known.getaddrinfo(socket.getaddrinfo))
    return known


@pytest.fixture(scope="session")
def subnet() -> str:
    return f"127.{os.getpid() % 200 + 20}.9."


@pytest.fixture
def port(subnet: str) -> int:
    with socket.socket() as sock:
        sock.bind((subnet + "1", 0))
        number: int = sock.getsockname()[1]
        return number


@pytest.fixture
def serve(names: Names, subnet: str, port: int) -> Iterator[Serve]:
    """`serve(count, handle)`: so many servers behind `svc.test`, one handler for all."""
    started: list[Server] = []

    def start(count: int, handle: Callable[[Asked], Reply]) -> list[Server]:
        servers = [Server(f"{subnet}{n + 11}", port, handle) for n in range(count)]
        names["svc.test"] = tuple(server.address for server in servers)
        started.extend(servers)
        return servers

    yield start
    for server in started:
        server.close()


@pytest.fixture
def url(port: int) -> str:
    return f"http://svc.test:{port}"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
