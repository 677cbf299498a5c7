"""Fixtures of the HTTP tests; what they are made of is in `http_lab`."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable, Iterator

import pytest
from http_lab import Names, Shell, Upstream

from resilient.http import _addresses

_numbers = itertools.count()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    source = Names()
    monkeypatch.setattr(_addresses, "factory", source)
    return source


@pytest.fixture(scope="session")
def subnet() -> str:
    """Loopback addresses of this session: `subnet + "1"` and so on."""
    return f"127.{os.getpid() % 200 + 20}.7."


@pytest.fixture(scope="session")
def port(subnet: str) -> int:
    with socket.socket() as sock:
        sock.bind((subnet + "1", 0))
        number: int = sock.getsockname()[1]
        return number


@pytest.fixture(scope="session")
def _idle(subnet: str) -> Iterator[list[Upstream]]:
    """Upstreams that a test gave back in good health."""
    idle: list[Upstream] = []
    yield idle
    for upstream in idle:
        upstream.kill()


@pytest.fixture
def run_upstreams(
    subnet: str, port: int, _idle: list[Upstream]
) -> Iterator[Callable[..., list[Upstream]]]:
    used: list[Upstream] = []

    def run(count: int, *pair: str) -> list[Upstream]:
        """That many upstreams: plain ones are used again, ones with certificates are new."""
        taken = [_idle.pop() for _ in range(min(count, len(_idle)))] if not pair else []
        for upstream in taken:
            upstream.reset()
        missing = range(count - len(taken))
        fresh = [Upstream(f"{subnet}{20 + next(_numbers)}", port, *pair) for _ in missing]
        for upstream in fresh:
            upstream.start()
        used.extend((*taken, *fresh))
        for upstream in fresh:
            upstream.wait()
        return [*taken, *fresh]

    yield run
    for upstream in used:
        if upstream.reusable:
            _idle.append(upstream)
        else:
            upstream.kill()


@pytest.fixture(params=["sync-httpx2", "async-httpx2", "sync-httpx", "async-httpx"])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    kind, _, library = request.param.partition("-")
    made = Shell(kind, library)
    yield made
    made.finish()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
