"""What only ours does, on request or by itself, beside what the plain client does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from side_by_side import Asked, Pair, Reply, Server

from resilient import Settings
from resilient.errors import NoEndpointAvailable
from resilient.http import _dial
from resilient.telemetry import instruments

Serve = Callable[..., list[Server]]
HEDGE: dict[str, Any] = {"resilient": {"hedge": True}}


def in_turn(pair: Pair, asks: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """One after the other on one client: all that was answered."""

    async def run_async(client: Any) -> Any:
        return [await ask(client) for ask in asks]

    return (lambda client: [ask(client) for ask in asks]) if pair.blocking else run_async


def one_slow(slow: set[str], gone: list[str]) -> Callable[[Asked], Reply]:
    """The servers in `slow` take 1 s for /work and note in `gone` who left meanwhile."""

    def handle(one: Asked) -> Reply:
        mine = one.sock.getsockname()[0]
        if one.path == "/work" and mine in slow:
            one.sock.settimeout(1.0)
            try:
                if one.sock.recv(1) == b"":
                    gone.append(mine)
                    return None
            except OSError:
                pass
        return 200, {}, mine.encode()

    return handle


def local(servers: list[Server], **more: Any) -> Settings:
    """The first server is in the client's zone."""
    zones = ",".join(f"az{n}={server.address}/32" for n, server in enumerate(servers))
    return Settings(zone="az0", zones=zones, **more)


def test_a_hedge_goes_out_at_the_usual_time_and_its_loser_is_cancelled(
    pair: Pair, serve: Serve, url: str
) -> None:
    slow: set[str] = set()
    gone: list[str] = []
    servers = serve(2, one_slow(slow, gone))
    pair.settings = local(servers)
    usual = [lambda c: c.get(f"{url}/x")] * 30

    def later(client: Any) -> Any:
        slow.add(servers[0].address)
        return client.get(f"{url}/work", extensions=HEDGE, timeout=5)

    seen = pair.one(in_turn(pair, [*usual, later]), True)
    assert seen.result[-1].text == servers[1].address
    assert seen.result[-1].elapsed.total_seconds() < 0.5
    deadline = time.monotonic() + 2
    while not gone and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone == [servers[0].address]


@pytest.mark.parametrize(
    ("method", "headers"),
    [("POST", {}), ("PUT", {}), ("PUT", {"if-match": "x", "idempotency-key": "k"})],
)
def test_a_hedge_lifts_no_rule(
    pair: Pair, serve: Serve, url: str, method: str, headers: dict[str, str]
) -> None:
    slow: set[str] = set()
    servers = serve(2, one_slow(slow, []))
    slow.update(server.address for server in servers)
    seen = pair.one(
        lambda c: c.request(method, f"{url}/work", headers=headers, extensions=HEDGE), True
    )
    assert seen.text.startswith("200")
    assert sum(len(server.asked) for server in servers) == 1


def test_hedges_come_out_of_the_budget(pair: Pair, serve: Serve, url: str) -> None:
    slow: set[str] = set()
    servers = serve(2, one_slow(slow, []))
    slow.update(server.address for server in servers)
    pair.settings = Settings(retry_budget=0.0, retry_budget_floor=0.0)
    seen = pair.one(lambda c: c.get(f"{url}/work", extensions=HEDGE), True)
    assert seen.text.startswith("200")
    assert sum(len(server.asked) for server in servers) == 1


def test_the_time_left_is_told_to_the_server(pair: Pair, serve: Serve, url: str) -> None:
    (server,) = serve(1, lambda one: (200, {}, b"ok"))
    pair.settings = Settings(http_deadline_header="X-Time-Left")
    within = {"resilient": {"deadline_s": 2.0}}
    asks = [
        lambda c: c.get(f"{url}/x", extensions=within),
        lambda c: c.get(f"{url}/x", timeout=1.0),
        lambda c: c.get(f"{url}/x", timeout=None),
        lambda c: c.get(f"{url}/x", headers={"x-time-left": "mine"}),
    ]
    pair.one(in_turn(pair, asks), True)
    told = [one.headers.get("x-time-left") for one in server.asked]
    assert 1.5 < float(told[0] or 0) <= 2.0
    assert 0.5 < float(told[1] or 0) <= 1.0
    assert told[2:] == [None, "mine"]


def test_a_key_is_made_once_for_all_attempts(pair: Pair, serve: Serve, url: str) -> None:
    keys: list[str] = []

    def lose_first(one: Asked) -> Reply:
        keys.append(one.headers["idempotency-key"])
        return None if len(keys) == 1 else (201, {}, b"done")

    serve(2, lose_first)
    wanted = {"resilient": {"idempotency_key": True}}
    seen = pair.one(lambda c: c.post(f"{url}/order", content=b"x", extensions=wanted), True)
    assert seen.text == "201 done"
    assert len(keys) == 2
    assert keys[0] == keys[1] == seen.result.extensions["resilient"]["idempotency_key"]


def test_connections_get_only_so_old(
    pair: Pair, serve: Serve, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (server,) = serve(1, lambda one: (200, {}, b"ok"))
    ask = lambda c: c.get(f"{url}/x")  # noqa: E731
    pair.one(in_turn(pair, [ask] * 3), True)
    assert server.total == 1
    monkeypatch.setattr(_dial, "AGE_S", 0.0)
    pair.one(in_turn(pair, [ask] * 3), True)
    assert server.total == 4


def test_orders_that_were_not_sent_arrive_once(pair: Pair, serve: Serve, url: str) -> None:
    """Nobody takes connections for a while: each order is placed once, none is an error."""
    servers = serve(2, lambda one: (201, {}, b"ok"))
    address, port = servers[0].address, servers[0]._listener.getsockname()[1]
    for server in servers:
        server.close()
    late: list[Server] = []
    again = threading.Timer(0.4, lambda: late.append(Server(address, port, servers[0].handle)))
    again.start()
    try:
        seen = pair.one(in_turn(pair, [lambda c: c.post(f"{url}/order")] * 5), True)
        assert [response.status_code for response in seen.result] == [201] * 5
        assert len(late[0].asked) == 5
    finally:
        again.join()
        late[0].close()


@pytest.mark.parametrize(("count", "spilled"), [(20, False), (80, True)])
def test_a_saturated_zone_spills_over(serve: Serve, url: str, count: int, spilled: bool) -> None:
    def slow(one: Asked) -> Reply:
        time.sleep(0.3)
        return 200, {}, b"ok"

    servers = serve(2, slow)
    pair = Pair(blocking=False, settings=local(servers))

    async def run(client: Any) -> Any:
        await client.get(url)
        return await asyncio.gather(*[client.get(url) for _ in range(count)])

    assert len(pair.one(run, True, timeout=10).result) == count
    assert bool(servers[1].asked) is spilled
    assert len(servers[0].asked) > len(servers[1].asked)


def test_further_attempts_are_counted(
    pair: Pair, serve: Serve, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what they were for; a meter that fails harms nobody."""
    counted: list[str] = []

    def count(number: float, said: Any) -> None:
        counted.append(said["resilient.attempt.reason"])
        raise RuntimeError("the meter is broken")

    monkeypatch.setitem(instruments._made, "resilient.http.attempts", count)

    def handle(one: Asked) -> Reply:
        first = one.sock.getsockname()[0] == servers[0].address
        if first and one.path == "/lost":
            return None
        if first and one.path == "/hedge":
            time.sleep(0.6)
        return (503 if first and one.path == "/answer" else 200), {}, b"ok"

    servers: list[Server] = []
    servers += serve(2, handle)
    pair.settings = local(servers)
    asks: list[Callable[[Any], Any]] = [
        lambda client: client.get(url + "/lost"),
        lambda client: client.get(url + "/answer"),
        lambda client: client.get(url + "/hedge", extensions=HEDGE),
    ]
    for ask, why in zip(asks, ("lost", "answer", "hedge"), strict=True):
        counted.clear()
        seen = pair.one(in_turn(pair, [ask]), True)
        assert [response.status_code for response in seen.result] == [200]
        assert counted == [why]
    for server in servers:
        server.refuse()
    counted.clear()
    last = {"resilient": {"deadline_s": 0.2}}
    seen = pair.one(in_turn(pair, [lambda client: client.post(url, extensions=last)]), True)
    assert isinstance(seen.result, NoEndpointAvailable)
    assert counted == ["nobody"]
