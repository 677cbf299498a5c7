"""A request that is cancelled at any of its awaits, or just when what it awaits is done.

With httpx2's client and with ours: the cancellation arrives, the only connection that the limits
allow isn't lost, the next request is answered at once, and nothing is left open or running.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from side_by_side import Asked, Pair, Reply, Server

from tests.cancelled import Cancelled

Serve = Callable[..., list[Server]]
Scenario = Callable[[Any, str], Coroutine[Any, Any, None]]
MOST = 80


class Upstreams:
    """What the servers do; a request's first try may fail."""

    def __init__(self) -> None:
        self.first = True

    def __call__(self, asked: Asked) -> Reply:
        first, self.first = self.first, False
        if first and asked.path == "/reset":
            return None
        if first and asked.path == "/busy":
            return 503, {}, b""
        if asked.path == "/slow":
            time.sleep(0.03)
        if asked.path == "/big":
            return 200, {}, b"x" * 300_000
        return 200, {}, b"ok"


async def get(client: Any, url: str) -> None:
    await client.get(url + "/x")


async def get_slow(client: Any, url: str) -> None:
    await client.get(url + "/slow")


async def get_on_new_connections(client: Any, url: str) -> None:
    await client.get(url + "/x", headers={"connection": "close"})
    await client.get(url + "/x")


async def post(client: Any, url: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield b"x" * 1000

    await client.post(url + "/x", content=body())


async def stream(client: Any, url: str) -> None:
    async with client.stream("GET", url + "/big") as response:
        async for _ in response.aiter_bytes():
            break
    async with client.stream("GET", url + "/big") as response:
        await response.aread()


async def two(client: Any, url: str) -> None:
    await asyncio.gather(client.get(url + "/slow"), client.get(url + "/slow"))


async def reset(client: Any, url: str) -> None:
    with suppress(httpx2.TransportError):
        await client.get(url + "/reset")


async def busy(client: Any, url: str) -> None:
    await client.get(url + "/busy")


SCENARIOS = [get, get_slow, get_on_new_connections, post, stream, two, reset, busy]


@pytest.mark.parametrize("limit", [1, 100])
@pytest.mark.parametrize("done", [False, True], ids=["waiting", "done"])
@pytest.mark.parametrize("ours", [False, True], ids=["plain", "ours"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_cancelled(
    serve: Serve, url: str, scenario: Scenario, ours: bool, done: bool, limit: int
) -> None:
    upstreams = Upstreams()
    servers = serve(2, upstreams)
    wrong: list[object] = []

    async def run() -> None:
        others = asyncio.all_tasks()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: wrong.append(("loop", context)))
        kept = []
        options = {"limits": httpx2.Limits(max_connections=limit), "trust_env": False}
        async with Pair(False).client(ours, **options) as client:
            for number in range(1, MOST):
                upstreams.first = True
                cancelled = Cancelled(scenario(client, url), number, done)
                kept.append(cancelled)
                await asyncio.wait([cancelled.task])
                reached = cancelled.awaits >= number
                if not cancelled.task.cancelled() and (reached or cancelled.task.exception()):
                    wrong.append((number, "not cancelled", cancelled.task.exception()))
                try:
                    async with asyncio.timeout(2):
                        upstreams.first = False
                        await client.get(url + "/x")
                except Exception as exc:
                    wrong.append((number, "the next request", repr(exc)))
                if sum(server.open for server in servers) > limit + 1:
                    wrong.append((number, "connections", [server.open for server in servers]))
                if not reached:
                    break
            assert number < MOST
        kept.clear()
        gc.collect()
        end = time.monotonic() + 2
        while any(server.open for server in servers) or asyncio.all_tasks() > others:
            assert time.monotonic() < end, ([s.open for s in servers], asyncio.all_tasks())
            await asyncio.sleep(0.01)

    asyncio.run(run())
    assert wrong == []
