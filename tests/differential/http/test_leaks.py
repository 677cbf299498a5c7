"""Whatever ends in the middle, no connection is dropped without being closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from side_by_side import Asked, Pair, Reply, Server

from resilient import Settings
from resilient.http._async import AsyncEngine

Serve = Callable[..., list[Server]]


def slow(one: Asked) -> Reply:
    time.sleep(0.1)
    return 200, {}, b"ok"


async def idle_connections(client: object, url: str, count: int) -> AsyncEngine:
    """So many at once: as many connections stay open."""
    await asyncio.gather(*[client.get(url) for _ in range(count)])  # type: ignore[attr-defined]
    engine = client._transport._engine  # type: ignore[attr-defined]
    assert isinstance(engine, AsyncEngine)
    assert len(engine.pool.connections) == count
    return engine


async def closed(server: Server) -> None:
    """Returns when the server has no connection any more."""
    end = time.monotonic() + 5
    while server.open:
        assert time.monotonic() < end, f"{server.open} connections are left"
        await asyncio.sleep(0.01)


def test_a_cancelled_task_closes_all_that_it_was_closing(serve: Serve, url: str) -> None:
    """asyncio's cancellation passes anyio's shield, in which the core library closes."""
    (server,) = serve(1, slow)

    async def run() -> None:
        async with Pair(False).client(True) as client:
            engine = await idle_connections(client, url, 5)
            connections = list(engine.pool._connections)
            engine.pool._connections.clear()
            closing = asyncio.create_task(engine.pool._close_connections(connections))
            await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([closing])
            assert closing.cancelled()
            await closed(server)

    asyncio.run(run())


def test_a_cancelled_close_leaves_no_connection_of_a_moved_name(
    serve: Serve, url: str, port: int
) -> None:
    (server,) = serve(1, slow)

    async def run() -> None:
        async with Pair(False).client(True) as client:
            engine = await idle_connections(client, url, 5)
            for slot in next(iter(engine._origins.values())).slots():
                slot.losses += 1
            engine._close_idle()
            ending = asyncio.create_task(engine.aclose())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            ending.cancel()
            await asyncio.wait([ending])
            await closed(server)

    asyncio.run(run())


def test_health_checks_that_end_twice_leave_no_connection(serve: Serve, url: str) -> None:
    """They are cancelled when their endpoint leaves, and again when their loop ends."""
    (server,) = serve(1, lambda one: (200, {}, b"ok"))
    pair = Pair(True, Settings(http_health_path="/health"))
    with pair.client(True) as client:
        client.get(url)
        engine = client._transport._engine
        monitor = engine._directory._monitor
        (record,) = engine._directory._records.values()

        def end_twice() -> None:
            for _ in range(2):
                record.task.cancel()

        monitor.call(end_twice)
    end = time.monotonic() + 5
    while server.open:
        assert time.monotonic() < end, f"{server.open} connections are left"
        time.sleep(0.01)
