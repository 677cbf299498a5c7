"""What the caller said of time and connections holds.

FAULTS 58.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest
from side_by_side import Asked, Names, Pair, Reply, Server, connected

import resilient.http
import resilient.http.httpx
from resilient import Settings

Serve = Callable[..., list[Server]]


def slow(one: Asked) -> Reply:
    time.sleep(0.5)
    return 200, {}, b"done"


@pytest.mark.parametrize(
    ("method", "timeout"),
    [("GET", 10), ("GET", None), ("POST", httpx2.Timeout(None, connect=5))],
)
def test_a_long_timeout_is_not_cut_at_our_deadline(
    pair: Pair, serve: Serve, url: str, method: str, timeout: Any
) -> None:
    servers = serve(1, slow)
    pair.settings = Settings(deadline_s=0.2)
    plain, ours = pair.each(lambda c: c.request(method, f"{url}/x"), timeout=timeout)
    assert plain.text == ours.text == "200 done"
    assert len(servers[0].asked) == 2


def test_a_requests_own_timeout_is_explicit_too(pair: Pair, serve: Serve, url: str) -> None:
    serve(1, slow)
    pair.settings = Settings(deadline_s=0.2)
    plain, ours = pair.each(lambda c: c.get(f"{url}/x", timeout=10))
    assert plain.text == ours.text == "200 done"


def test_the_requests_deadline_bounds_all(pair: Pair, serve: Serve, url: str) -> None:
    serve(1, slow)
    extensions = {"resilient": {"deadline_s": 0.3}}
    seen = pair.one(lambda c: c.get(f"{url}/x", extensions=extensions), True, timeout=10)
    assert isinstance(seen.result, httpx2.TimeoutException)
    assert 0.3 <= seen.took_s < 0.5


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_read_timeout_ends_the_request(pair: Pair, serve: Serve, url: str, method: str) -> None:
    servers = serve(2, slow)
    plain, ours = pair.each(lambda c: c.request(method, f"{url}/x"), timeout=0.3)
    assert plain.text == ours.text == "ReadTimeout"
    assert ours.took_s < 0.5
    assert sum(len(server.asked) for server in servers) == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_refused_is_waited_for_within_connect(
    pair: Pair, names: Names, subnet: str, port: int, method: str
) -> None:
    names["svc.test"] = (subnet + "1", subnet + "2")
    url = f"http://svc.test:{port}/x"
    plain, ours = pair.each(lambda c: c.request(method, url), timeout=0.4)
    assert plain.text == "ConnectError"
    assert isinstance(ours.result, httpx2.ConnectError)
    assert ours.took_s < 0.6


def test_limits_are_per_transport_over_all_endpoints(
    pair: Pair, serve: Serve, url: str, port: int
) -> None:
    peak, lock = [0], threading.Lock()

    def handle(one: Asked) -> Reply:
        with lock:
            peak[0] = max(peak[0], connected(port))
        time.sleep(0.02)
        return 200, {}, b"ok"

    serve(4, handle)
    options = {"limits": httpx2.Limits(max_connections=2), "timeout": 10}
    many(pair, url, options, 24)
    assert 1 <= peak[0] <= 2


def many(pair: Pair, url: str, options: dict[str, Any], count: int) -> None:
    """So many requests at once with our client; all are answered."""
    if pair.blocking:
        with pair.client(True, **options) as client:
            got: list[int] = []
            threads = [
                threading.Thread(target=lambda: got.append(client.get(url).status_code))
                for _ in range(count)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert got == [200] * count
        return

    async def gather(client: Any) -> Any:
        responses = await asyncio.gather(*[client.get(url) for _ in range(count)])
        assert [response.status_code for response in responses] == [200] * count
        return responses[0]

    assert pair.one(gather, True, **options).text == "200 ok"


def test_an_idle_connection_elsewhere_is_closed_before_anyone_waits(
    pair: Pair, names: Names, serve: Serve, subnet: str, port: int
) -> None:
    servers = serve(3, lambda one: (200, {}, b"ok"))
    for number, server in enumerate(servers):
        names[f"n{number}.test"] = (server.address,)
    urls = [f"http://n{number}.test:{port}/x" for number in range(3)]
    limits = httpx2.Limits(max_connections=1)

    def run(client: Any) -> Any:
        return [client.get(one) for one in urls][-1]

    async def run_async(client: Any) -> Any:
        return [await client.get(one) for one in urls][-1]

    plain, ours = pair.each(run if pair.blocking else run_async, limits=limits, timeout=1)
    assert plain.text == ours.text == "200 ok"
    assert ours.took_s < 0.5


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
def test_at_the_limit_connections_are_used_again(
    pair: Pair, serve: Serve, url: str, library: str
) -> None:
    """Whichever endpoint they are to: none is closed for one to another, as long as it serves."""
    pair.library = library

    def handle(one: Asked) -> Reply:
        time.sleep(0.005)
        return 200, {}, b"ok"

    servers = serve(3, handle)
    limits = (httpx2 if library == "httpx2" else httpx).Limits(max_connections=4)
    many(pair, url, {"limits": limits, "timeout": 10}, 60)
    assert sum(server.total for server in servers) <= 6  # 60 before


def test_at_the_limit_a_flow_stays_where_it_is(pair: Pair, serve: Serve, url: str) -> None:
    """A redirect is answered by the endpoint that gave it, though another's connection is free."""

    def handle(one: Asked) -> Reply:
        mine = one.sock.getsockname()[0]
        if one.path.startswith("/from"):
            return 302, {"location": f"/to?{mine}"}, b""
        time.sleep(0.002)
        return 200, {}, b"ok"

    servers = serve(2, handle)
    limits = httpx2.Limits(max_connections=2)
    options = {"limits": limits, "timeout": 10, "follow_redirects": True}
    many(pair, url + "/from", options, 30)
    for server in servers:
        ends = [asked.path for asked in server.asked if asked.path.startswith("/to")]
        assert set(ends) <= {f"/to?{server.address}"}


def test_no_connection_at_all_may_be_opened(pair: Pair, serve: Serve, url: str) -> None:
    serve(2, lambda one: (200, {}, b"ok"))
    limits = httpx2.Limits(max_connections=0)
    plain, ours = pair.each(lambda c: c.get(f"{url}/x"), limits=limits, timeout=0.1)
    assert plain.text == ours.text == "PoolTimeout"


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
@pytest.mark.parametrize(
    "options",
    [
        {"local_address": "::1"},
        {"local_address": "192.0.2.1"},
        {"socket_options": [(99, 99, 99)]},
    ],
)
def test_what_this_machine_refuses_is_told_at_once(
    pair: Pair, serve: Serve, url: str, library: str, options: dict[str, Any]
) -> None:
    """It says nothing of the endpoints, and waiting for others won't help."""
    if "socket_options" in options and not pair.blocking:
        pytest.skip("the core library connects first and leaves that connection open")
    servers = serve(2, lambda one: (200, {}, b"ok"))
    pair.library = library
    home: Any = resilient.http if library == "httpx2" else resilient.http.httpx
    kind = home.Transport if pair.blocking else home.AsyncTransport
    transport = kind(**options, settings=pair.settings)
    seen = pair.one(lambda c: c.get(f"{url}/x"), True, transport=transport, timeout=5)
    assert seen.text == "ConnectError"
    assert seen.took_s < 2
    good = pair.one(lambda c: c.get(f"{url}/x"), True)
    assert (good.text, good.result.extensions["resilient"]["attempts"]) == ("200 ok", 1)
    assert sum(len(server.asked) for server in servers) == 1
