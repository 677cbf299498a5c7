"""Both resolvers behind one face, and the check that nothing outlives a test."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from dns_lab import FakeClock, until

from resilient.dns import Answer, AsyncResolver, Resolver

POOL = ThreadPoolExecutor(50)


async def _in_thread(call: Any, *args: Any, **kwargs: Any) -> Any:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(POOL, partial(call, *args, **kwargs))


class Sync:
    """`Resolver` with the manners of `AsyncResolver`, so that one test drives both."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.inner = Resolver(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def resolve(self, *args: Any, **kwargs: Any) -> Answer:
        return await _in_thread(self.inner.resolve, *args, **kwargs)

    async def refresh(self, *args: Any) -> Answer:
        return await _in_thread(self.inner.refresh, *args)

    async def resolve_srv(self, name: str) -> Any:
        return await _in_thread(self.inner.resolve_srv, name)

    async def close(self) -> None:
        await _in_thread(self.inner.close)


@pytest.fixture(params=[Sync, AsyncResolver], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """No helper thread and no socket may outlive a test."""
    sockets, threads = _sockets(), _helpers()
    yield
    assert _helpers() <= threads
    if _sockets() > sockets:
        gc.collect()
    assert until(lambda: _sockets() <= sockets), _sockets()


def _helpers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "resilient-dns"}


def _sockets() -> int:
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return sum(link.startswith("socket:") for link in links)
