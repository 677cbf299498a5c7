"""Whatever servers and URLs say: an error or the plain client's answer, and nothing is left.

FAULTS 59.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest
from side_by_side import Asked, Names, Pair, Reply, Seen, Server

import resilient.http
from resilient import Settings

Serve = Callable[..., list[Server]]
ABSURD = [
    "Fri, 31 Dec 1999 23:59:59 +99999999999999",
    "Fri, 31 Dec 99999 23:59:59 GMT",
    "-1",
    "1e400",
    "9" * 4000,
    "\xff\xfe",
    "",
    "Thu, 01 Jan 1970",
    "nan",
]


@pytest.mark.parametrize("status", [200, 429, 503])
def test_absurd_retry_after(pair: Pair, serve: Serve, url: str, status: int) -> None:
    values = iter(ABSURD * 99)
    serve(2, lambda one: (status, {"retry-after": next(values)}, b"x"))
    options = {"limits": httpx2.Limits(max_connections=2), "timeout": 1.0}

    def run(client: Any) -> Any:
        return [client.get(f"{url}/x") for _ in range(2 * len(ABSURD))][-1]

    async def run_async(client: Any) -> Any:
        return [await client.get(f"{url}/x") for _ in range(2 * len(ABSURD))][-1]

    plain, ours = pair.each(run if pair.blocking else run_async, **options)
    assert plain.text == ours.text == f"{status} x"


@pytest.mark.parametrize("headers", [{"content-length": "-5"}, {"transfer-encoding": "absurd"}])
def test_broken_answers_leave_nothing(
    pair: Pair, serve: Serve, url: str, headers: dict[str, str]
) -> None:
    bad = [True]

    def handle(one: Asked) -> Reply:
        if not bad[0]:
            return 200, {}, b"ok"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        one.sock.sendall(f"HTTP/1.1 200 X\r\n{lines}\r\nabc".encode())
        return None

    serve(1, handle)
    options = {"limits": httpx2.Limits(max_connections=2), "timeout": 1.0}

    def run(client: Any) -> Any:
        for _ in range(6):
            with pytest.raises(httpx2.TransportError):
                client.get(f"{url}/x")
        bad[0] = False
        return client.get(f"{url}/x")

    async def run_async(client: Any) -> Any:
        for _ in range(6):
            with pytest.raises(httpx2.TransportError):
                await client.get(f"{url}/x")
        bad[0] = False
        return await client.get(f"{url}/x")

    bad[0] = True
    seen = pair.one(run if pair.blocking else run_async, True, **options)
    assert seen.text == "200 ok"


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0x7f.0.0.1", "0177.1"])
def test_spellings_of_an_address(pair: Pair, names: Names, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = Server("127.0.0.1", port, lambda one: (200, {}, b"ok"))
    try:
        plain, ours = pair.each(lambda c: c.get(f"http://{host}:{port}/"))
        assert plain.text == ours.text == "200 ok"
    finally:
        server.close()


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".test", ".".join(["y" * 60] * 5)])
def test_a_host_that_cant_be_a_name_is_told_at_once(pair: Pair, names: Names, host: str) -> None:
    for _ in range(2):
        seen = pair.one(lambda c: c.get(f"http://{host}/"), True)
        assert isinstance(seen.result, httpx2.ConnectError)
        assert isinstance(seen.result, socket.gaierror)
        assert seen.took_s < 0.1


@pytest.mark.parametrize("host", ["straße.test", "xn--strae-oqa.test", "XN--STRAE-OQA.test"])
def test_the_right_owner_gets_the_request(
    pair: Pair, names: Names, subnet: str, port: int, host: str
) -> None:
    wrong = Server(subnet + "11", port, lambda one: (200, {}, b"wrong"))
    right = Server(subnet + "12", port, lambda one: (200, {}, one.headers["host"].encode()))
    names["strasse.test"], names["xn--strae-oqa.test"] = (wrong.address,), (right.address,)
    try:
        plain, ours = pair.each(lambda c: c.get(f"http://{host}:{port}/", auth=("u", "secret")))
        assert plain.text == ours.text == f"200 xn--strae-oqa.test:{port}"
    finally:
        wrong.close()
        right.close()


def test_a_background_task_that_dies_settles_who_waits(
    pair: Pair, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(name: str, fresh: bool, hurry: bool) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(names, "lookup", broken, raising=False)
    for _ in range(2):
        seen = pair.one(lambda c: c.get("http://svc.test/"), True)
        assert isinstance(seen.result, httpx2.ConnectError)
        assert seen.took_s < 1


def test_trio_leaves_no_socket_of_a_moved_name(
    names: Names, serve: Serve, url: str, port: int
) -> None:
    trio = pytest.importorskip("trio", reason="trio isn't installed")
    servers = serve(3, lambda one: (200, {}, b"ok"))
    settings = Settings()

    async def main() -> None:
        async with resilient.http.AsyncClient(settings=settings) as client:
            for server in servers * 2:
                names["svc.test"] = (server.address,)
                names.moved("svc.test")
                end = time.monotonic() + 2
                while True:
                    response = await client.get(f"{url}/x")
                    where = response.extensions["resilient"]["endpoint"]
                    if where.startswith(server.address) or time.monotonic() > end:
                        break
                    await trio.sleep(0.01)
            await client.get(f"{url}/x")
            await trio.sleep(0.1)
            assert sum(server.open for server in servers) == 1

    trio.run(main)


def test_seen_tells_errors_apart() -> None:
    assert Seen(httpx2.ReadTimeout("x"), 0.0).text == "ReadTimeout"
    assert Seen(httpx.ReadTimeout("x"), 0.0).text == "ReadTimeout"
