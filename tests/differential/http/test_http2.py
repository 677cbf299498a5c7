"""HTTP/2: streams of one connection don't fail for each other, and what provably wasn't
processed is sent again."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from side_by_side import Names, Pair, connected

from resilient import Settings

pytest.importorskip("h2", reason="HTTP/2 needs the h2 package")

from h2_server import H2Server

Serve2 = Callable[[int], list[H2Server]]
OPTIONS: dict[str, Any] = {"http1": False, "http2": True}


@pytest.fixture(params=["sync-httpx2", "async-httpx2", "sync-httpx", "async-httpx"])
def pair(request: pytest.FixtureRequest) -> Pair:
    kind, _, library = request.param.partition("-")
    return Pair(kind == "sync", library=library)


@pytest.fixture
def serve(names: Names, subnet: str, port: int) -> Iterator[Serve2]:
    started: list[H2Server] = []

    def start(count: int) -> list[H2Server]:
        servers = [H2Server(f"{subnet}{n + 11}", port) for n in range(count)]
        names["svc.test"] = tuple(server.address for server in servers)
        started.extend(servers)
        return servers

    yield start
    for server in started:
        server.close()


def together(pair: Pair, asks: list[Callable[[Any], Any]], ours: bool = True) -> list[Any]:
    """All at once on one client, 0.1 s apart: (what each got, seconds)."""
    got: list[Any] = [None] * len(asks)

    def work(client: Any, index: int) -> None:
        time.sleep(0.1 * index)
        began = time.monotonic()
        try:
            result = asks[index](client)
        except Exception as exc:
            result = exc
        got[index] = (result, time.monotonic() - began)

    async def work_async(client: Any, index: int) -> None:
        await asyncio.sleep(0.1 * index)
        began = time.monotonic()
        try:
            result = await asks[index](client)
        except Exception as exc:
            result = exc
        got[index] = (result, time.monotonic() - began)

    async def run(client: Any) -> None:
        await client.get(url_of(asks))
        await asyncio.gather(*[work_async(client, index) for index in range(len(asks))])

    if pair.blocking:
        with pair.client(ours, **OPTIONS) as client:
            client.get(url_of(asks))
            threads = [
                threading.Thread(target=work, args=(client, index)) for index in range(len(asks))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    else:
        pair.one(run, ours, **OPTIONS)
    return got


def url_of(asks: list[Callable[[Any], Any]]) -> str:
    url: str = asks[0].__defaults__[0]  # type: ignore[index]
    return f"{url}/x"


def get(url: str, path: str, timeout: float = 5.0) -> Callable[[Any], Any]:
    return lambda client, url=url: client.get(f"{url}{path}", timeout=timeout)


def test_a_streams_timeout_is_its_own(pair: Pair, serve: Serve2, url: str) -> None:
    (server,) = serve(1)
    asks = [get(url, "/slow?s=1.0", 3.0), get(url, "/slow?s=2", 0.3), get(url, "/slow?s=0.2")]
    first, second, third = together(pair, asks)
    assert first[0].status_code == third[0].status_code == 200
    assert type(second[0]).__name__ == "ReadTimeout"
    assert second[1] < 0.55  # whoever was reading
    assert third[1] < 0.6
    assert server.connections == 1
    assert server.cancelled == ["/slow?s=2"]


def test_a_connection_that_leads_to_nobody_is_left(pair: Pair, serve: Serve2, url: str) -> None:
    """As with the plain client, one request at most times out on it."""
    (server,) = serve(1)

    def lose() -> None:
        server.lost = True  # what is connected now is never answered any more

    def run(client: Any) -> Any:
        client.get(f"{url}/x")
        lose()
        with pytest.raises(httpx2.ReadTimeout if pair.library == "httpx2" else httpx.ReadTimeout):
            client.get(f"{url}/x", timeout=1.2)
        return client.get(f"{url}/x", timeout=1.2)

    async def run_async(client: Any) -> Any:
        await client.get(f"{url}/x")
        lose()
        with pytest.raises(httpx2.ReadTimeout if pair.library == "httpx2" else httpx.ReadTimeout):
            await client.get(f"{url}/x", timeout=1.2)
        return await client.get(f"{url}/x", timeout=1.2)

    seen = pair.one(run if pair.blocking else run_async, True, **OPTIONS)
    assert seen.text.startswith("200"), seen.result
    assert server.connections == 2


def test_a_cancelled_stream_leaves_its_siblings_alone(serve: Serve2, url: str) -> None:
    (server,) = serve(1)
    pair = Pair(blocking=False)

    async def run(client: Any) -> Any:
        await client.get(f"{url}/x")
        sibling = asyncio.create_task(client.get(f"{url}/slow?s=0.5"))
        victim = asyncio.create_task(client.get(f"{url}/slow?s=3"))
        await asyncio.sleep(0.2)
        victim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await victim
        response = await sibling
        await client.get(f"{url}/x")
        return response

    assert pair.one(run, True, **OPTIONS).text.startswith("200")
    assert server.connections == 1
    assert server.cancelled == ["/slow?s=3"]


@pytest.mark.parametrize(
    ("library", "backend"),
    # httpx's own generators are left to trio's garbage collection, which warns of it
    [("httpx2", "asyncio"), ("httpx2", "trio"), ("httpx", "asyncio")],
)
def test_cancelled_at_any_point(
    serve: Serve2, url: str, port: int, library: str, backend: str
) -> None:
    """Those who aren't are answered, and no connection is lost from sight."""
    serve(3)
    draw = random.Random(7)
    pair = Pair(blocking=False, library=library)
    limits = (httpx2 if library == "httpx2" else httpx).Limits(max_connections=4)

    async def victim(client: Any) -> None:
        with anyio.move_on_after(draw.random() * 0.02):
            if draw.random() < 0.5:
                await client.get(f"{url}/slow?s=0.01")
            else:
                await client.post(f"{url}/x", content=bytes(100_000))

    async def other(client: Any, statuses: list[int]) -> None:
        statuses.append((await client.post(f"{url}/x", content=b"order")).status_code)

    async def run() -> None:
        async with pair.client(True, limits=limits, **OPTIONS) as client:
            statuses: list[int] = []
            for _ in range(20):
                async with anyio.create_task_group() as group:
                    for number in range(24):
                        group.start_soon(victim, client)
                        if number % 8 == 7:
                            group.start_soon(other, client, statuses)
                assert connected(port) <= 4
            assert statuses == [200] * 60
        await anyio.sleep(0.05)
        assert connected(port) == 0

    anyio.run(run, backend=backend)


def test_a_body_that_nobody_reads_doesnt_use_up_the_connection(
    pair: Pair, serve: Serve2, url: str
) -> None:
    (server,) = serve(1)

    def run(client: Any) -> Any:
        for _ in range(4):
            with client.stream("GET", f"{url}/big?n=4500000") as response:
                assert response.status_code == 200
        return client.get(f"{url}/x")

    async def run_async(client: Any) -> Any:
        for _ in range(4):
            async with client.stream("GET", f"{url}/big?n=4500000") as response:
                assert response.status_code == 200
        return await client.get(f"{url}/x")

    seen = pair.one(run if pair.blocking else run_async, True, **OPTIONS)
    assert seen.text.startswith("200")
    assert server.connections == 1


@pytest.mark.parametrize(("path", "method"), [("/refuse", "POST"), ("/above", "POST")])
def test_what_was_provably_not_processed_is_sent_again(
    pair: Pair, serve: Serve2, url: str, path: str, method: str
) -> None:
    servers = serve(1)

    def run(client: Any) -> Any:
        client.get(f"{url}/x")
        return client.request(method, f"{url}{path}", content=b"order")

    async def run_async(client: Any) -> Any:
        await client.get(f"{url}/x")
        return await client.request(method, f"{url}{path}", content=b"order")

    seen = pair.one(run if pair.blocking else run_async, True, **OPTIONS)
    assert seen.text.startswith("200"), seen.result
    assert seen.took_s < 1
    assert servers[0].seen.count(path) == 2  # as this server counts, which processed one


def test_an_upload_ends_when_it_is_refused(pair: Pair, serve: Serve2, url: str) -> None:
    """It is more than the server takes without reading."""
    (server,) = serve(1)
    body = bytes(400_000)
    seen = pair.one(lambda c: c.post(f"{url}/refuse-early", content=body), True, **OPTIONS)
    assert seen.text.startswith("200"), seen.result
    assert seen.took_s < 3
    assert server.seen.count("/refuse-early") == 2


def test_an_upload_ends_when_it_is_answered(pair: Pair, serve: Serve2, url: str) -> None:
    """Nothing of its body is taken."""
    (server,) = serve(1)
    body = bytes(400_000)

    def run(client: Any) -> Any:
        first = client.post(f"{url}/early-answer", content=body)
        assert client.get(f"{url}/x").status_code == 200
        return first

    async def run_async(client: Any) -> Any:
        first = await client.post(f"{url}/early-answer", content=body)
        assert (await client.get(f"{url}/x")).status_code == 200
        return first

    seen = pair.one(run if pair.blocking else run_async, True, **OPTIONS)
    assert seen.text == "413 big", seen.result
    assert seen.took_s < 3
    assert server.connections == 1


def test_a_server_that_goes_away_answers_what_it_took(pair: Pair, serve: Serve2, url: str) -> None:
    (server,) = serve(1)
    asks = [get(url, "/slow?s=0.5"), get(url, "/last"), get(url, "/x")]
    got = together(pair, asks)
    assert [one[0].status_code for one in got] == [200, 200, 200]
    assert server.connections == 2


def test_an_idle_connection_that_was_ended_isnt_used(pair: Pair, serve: Serve2, url: str) -> None:
    """Plain clients write to it, and lose the order."""
    (server,) = serve(1)

    def run(client: Any) -> Any:
        client.get(f"{url}/bye")
        time.sleep(0.1)
        return client.post(f"{url}/x")

    async def run_async(client: Any) -> Any:
        await client.get(f"{url}/bye")
        await asyncio.sleep(0.1)
        return await client.post(f"{url}/x")

    seen = pair.one(run if pair.blocking else run_async, True, **OPTIONS)
    assert seen.text.startswith("200"), seen.result
    assert (server.seen, server.connections) == (["/bye", "/x"], 2)


@pytest.mark.parametrize("pair", ["sync-httpx2", "async-httpx"], indirect=True)
@pytest.mark.parametrize("path", ["/slow", "/early"])
def test_a_hung_server_is_left_by_all_streams(
    pair: Pair, serve: Serve2, url: str, path: str
) -> None:
    one, two = serve(2)
    zones = f"az1={one.address}/32,az2={two.address}/32"
    pair.settings = Settings(
        http_health_path="/health",
        probe_interval_s=0.2,
        probe_timeout_s=0.1,
        zone="az1",
        zones=zones,
    )
    stop = threading.Timer(0.5, lambda: setattr(one, "mute", True))
    fast = path + "?s=0.8"
    stop.start()
    got = together(pair, [get(url, fast), get(url, fast), get(url, fast)])
    assert [got_one[0].text for got_one in got] == [two.address] * 3
    assert max(took_s for _, took_s in got) < 0.5 + 0.5 + 0.8 + 0.3
