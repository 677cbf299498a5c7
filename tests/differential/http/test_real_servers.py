"""Plain clients and ours at servers as people run them, on an ordinary day and in a rolling
restart: no order is placed twice, none that was acknowledged is missing, and no GET fails."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme
from real_servers import Process, counted, granian, haproxy, needed, nginx, uvicorn
from side_by_side import Names, Pair

KINDS = ("uvicorn", "granian", "nginx", "nginx-h2")
NEEDS = {"uvicorn": "uvicorn", "granian": "granian", "nginx": "nginx", "nginx-h2": "nginx"}
BODY = bytes(range(256)) * 8192  # 2 MiB
SUM = f"{len(BODY)} {hashlib.sha256(BODY).hexdigest()}"
_ids = itertools.count()


class World:
    """Two servers behind `svc.test`."""

    def __init__(self, kind: str, names: Names, subnet: str, port: int, folder: Path) -> None:
        self.kind, self.orders = kind, folder / "orders"
        self.all: list[Process] = []
        self.options: dict[str, Any] = {"timeout": 20}
        scheme = "http"
        places = [f"{subnet}{number}" for number in (61, 62)]
        if kind == "uvicorn":
            self.servers = [uvicorn(place, port, self.orders) for place in places]
        elif kind == "granian":
            self.servers = [granian(place, port, self.orders) for place in places]
            self.options.update(http1=False, http2=True)
        else:
            scheme = "https"
            authority = trustme.CA()
            trust = ssl.create_default_context()
            authority.configure_trust(trust)
            self.options.update(verify=trust, http2=kind == "nginx-h2")
            issued = authority.issue_cert("svc.test")
            files = folder / "cert.pem", folder / "key.pem"
            issued.cert_chain_pems[0].write_to_path(files[0])
            issued.private_key_pem.write_to_path(files[1])
            behind = uvicorn(f"{subnet}60", port, self.orders)
            self.all.append(behind)
            upstream = f"{behind.address}:{port}"
            self.servers = [nginx(place, port, upstream, files, folder) for place in places]
        self.all.extend(self.servers)
        names["svc.test"] = tuple(places)
        self.url = f"{scheme}://svc.test:{port}"


@pytest.fixture
def world(
    request: pytest.FixtureRequest, names: Names, subnet: str, port: int, tmp_path: Path
) -> Iterator[World]:
    needed("uvicorn", NEEDS[request.param])
    made = World(request.param, names, subnet, port, tmp_path)
    try:
        for one in made.all:
            one.wait()
        yield made
    finally:
        for one in made.all:
            one.kill()


def order(world: World) -> tuple[str, str]:
    """(id, URL) of a new order."""
    number = str(next(_ids))
    return number, f"{world.url}/order?id={number}"


@pytest.mark.parametrize("world", KINDS, indirect=True)
def test_an_ordinary_day(pair: Pair, world: World) -> None:
    """One after the other, many at once, large ones, and after a pause in which idle
    connections were closed: all as with the plain client."""
    placed: list[str] = []

    def urls(count: int) -> list[str]:
        both = [order(world) for _ in range(count)]
        placed.extend(number for number, _ in both)
        return [url for _, url in both]

    def run(client: Any) -> Any:
        got = [client.post(url, content=BODY).text for url in urls(2)]
        got += [client.get(f"{world.url}/who").status_code for _ in range(20)]
        threads = [
            threading.Thread(target=lambda url=url: got.append(client.post(url).status_code))
            for url in urls(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(1.05)  # nginx closes idle connections after 1 s
        return got + [client.post(url).status_code for url in urls(10)]

    async def run_async(client: Any) -> Any:
        got = [(await client.post(url, content=BODY)).text for url in urls(2)]
        got += [(await client.get(f"{world.url}/who")).status_code for _ in range(20)]
        many = await asyncio.gather(*[client.post(url) for url in urls(8)])
        got += [response.status_code for response in many]
        await asyncio.sleep(1.05)
        return got + [(await client.post(url)).status_code for url in urls(10)]

    chosen = run if pair.blocking else run_async
    plain, ours = pair.each(chosen, before=placed.clear, **world.options)
    assert ours.result == [SUM] * 2 + [200] * 38
    taken = counted(world.orders)
    assert set(taken.values()) == {1}
    assert set(placed) <= set(taken)
    if isinstance(plain.result, httpx2.RemoteProtocolError):
        # What plain httpx2 makes of an HTTP/2 server that ends a connection in good order.
        assert world.kind == "nginx-h2"
    else:
        assert plain.result == ours.result
        assert ours.took_s < 1.5 * plain.took_s + 1


Load = Callable[[Any, threading.Event], Any]


def load(world: World, acked: list[str], sent: list[str]) -> tuple[Load, Load]:
    """GETs and orders in turn, until it is over: the errors of GETs (threads, tasks)."""

    def run(client: Any, over: threading.Event) -> Any:
        errors: list[object] = []
        while not over.is_set():
            number, url = order(world)
            sent.append(number)
            try:
                if client.post(url).status_code == 200:
                    acked.append(number)
            except httpx2.TransportError:
                pass
            response = client.get(f"{world.url}/slow?s=0.01")
            errors += [] if response.status_code == 200 else [response.status_code]
        return errors

    async def run_async(client: Any, over: threading.Event) -> Any:
        errors: list[object] = []
        while not over.is_set():
            number, url = order(world)
            sent.append(number)
            try:
                if (await client.post(url)).status_code == 200:
                    acked.append(number)
            except httpx2.TransportError:
                pass
            response = await client.get(f"{world.url}/slow?s=0.01")
            errors += [] if response.status_code == 200 else [response.status_code]
        return errors

    return run, run_async


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("world", KINDS, indirect=True)
def test_one_of_two_ends_under_load(pair: Pair, world: World, how: str) -> None:
    acked: list[str] = []
    sent: list[str] = []
    over = threading.Event()
    runs = load(world, acked, sent)

    def end() -> None:
        getattr(world.servers[0], how)()

    timers = [threading.Timer(0.4, end), threading.Timer(1.3, over.set)]
    for timer in timers:
        timer.start()
    try:
        seen = pair.one(lambda client: runs[not pair.blocking](client, over), True, **world.options)
    finally:
        for timer in timers:
            timer.join()
    assert seen.result == []
    taken = counted(world.orders)
    assert set(taken.values()) <= {1}
    assert set(acked) <= set(taken) <= set(sent)
    assert len(sent) - len(acked) <= 1  # the one that was on its way


def test_behind_a_balancer(
    pair: Pair, names: Names, subnet: str, port: int, tmp_path: Path
) -> None:
    """HAProxy in front of three: its answers are answers, and it is asked as often as by the
    plain client; a server behind it may end."""
    needed("haproxy", "uvicorn")
    orders = tmp_path / "orders"
    three = [uvicorn(f"{subnet}{number}", port, orders) for number in (71, 72, 73)]
    front = haproxy(f"{subnet}70", port, three, tmp_path)
    url = f"http://svc.test:{port}"
    names["svc.test"] = (front.address,)

    def asked(client: Any) -> Any:
        return [client.get(f"{url}/status?code={code}").status_code for code in (503, 429, 200)]

    async def asked_async(client: Any) -> Any:
        codes = (503, 429, 200)
        return [(await client.get(f"{url}/status?code={code}")).status_code for code in codes]

    try:
        for one in (*three, front):
            one.wait()
        plain, ours = pair.each(asked if pair.blocking else asked_async)
        assert plain.result == ours.result == [503, 429, 200]
        over = threading.Event()
        acked: list[str] = []
        sent: list[str] = []
        behind = World.__new__(World)
        behind.url = url
        runs = load(behind, acked, sent)
        timers = [threading.Timer(0.4, three[0].stop), threading.Timer(1.5, over.set)]
        for timer in timers:
            timer.start()
        seen = pair.one(lambda client: runs[not pair.blocking](client, over), True, timeout=20)
        for timer in timers:
            timer.join()
    finally:
        for one in (*three, front):
            one.kill()
    assert seen.result == []
    taken = counted(orders)
    assert set(taken.values()) <= {1}
    assert set(acked) <= set(taken)
