"""Slow isn't lost, and idempotent isn't harmless: how often servers are asked.

FAULTS 56.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from side_by_side import Asked, Pair, Reply, Server

from resilient import Settings

Serve = Callable[..., list[Server]]
#: longer than the window of `QUICK`
LONG_S = 0.5
QUICK: dict[str, Any] = {"probe_interval_s": 0.1, "probe_timeout_s": 0.1}


def reset(sock: socket.socket) -> None:
    """End the connection with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def asked(servers: list[Server], path: str) -> int:
    return sum(one.path == path for server in servers for one in server.asked)


@pytest.mark.parametrize(
    ("method", "checked"), [("GET", False), ("GET", True), ("DELETE", False), ("POST", True)]
)
def test_a_slow_answer_is_computed_once(
    pair: Pair, serve: Serve, url: str, method: str, checked: bool
) -> None:
    def slow(one: Asked) -> Reply:
        if one.path == "/slow":
            time.sleep(LONG_S)
        return 200, {}, b"done"

    servers = serve(2, slow)
    pair.settings = Settings(http_health_path="/health" if checked else None, **QUICK)
    plain, ours = pair.each(lambda c: c.request(method, f"{url}/slow"), timeout=10)
    assert plain.text == ours.text == "200 done"
    assert asked(servers, "/slow") == 2  # one each


def test_a_conditional_write_gets_its_own_answer(pair: Pair, serve: Serve, url: str) -> None:
    store, lock = {"/x": "v1"}, threading.Lock()

    def handle(one: Asked) -> Reply:
        with lock:
            if store.get(one.path) != one.headers.get("if-match"):
                return 412, {}, b"changed"
            store[one.path] = "v2"
        time.sleep(LONG_S)
        return 200, {}, b"written"

    serve(2, handle)
    pair.settings = Settings(**QUICK)
    plain, ours = pair.each(
        lambda c: c.put(f"{url}/x", content=b"v2", headers={"if-match": "v1"}),
        before=lambda: store.update({"/x": "v1"}),
        timeout=10,
    )
    assert plain.text == ours.text == "200 written"


@pytest.mark.parametrize(
    ("method", "headers"),
    [("PUT", {"if-none-match": "*"}), ("PUT", {"if-match": "v1"}), ("DELETE", {}), ("PATCH", {})],
)
def test_a_lost_reply_is_told(
    pair: Pair, serve: Serve, url: str, method: str, headers: dict[str, str]
) -> None:
    def lose(one: Asked) -> Reply:
        reset(one.sock)
        return None

    servers = serve(2, lose)
    plain, ours = pair.each(lambda c: c.request(method, f"{url}/x", headers=headers))
    assert plain.text == ours.text == "ReadError"
    assert asked(servers, "/x") == 2


def test_a_lost_reply_to_a_get_is_asked_for_again(pair: Pair, serve: Serve, url: str) -> None:
    lost: list[str] = []

    def lose_first(one: Asked) -> Reply:
        if not lost:
            lost.append(one.path)
            reset(one.sock)
            return None
        return 200, {}, b"done"

    serve(2, lose_first)
    plain, ours = pair.each(lambda c: c.get(f"{url}/x"), before=lost.clear)
    assert (plain.text, ours.text) == ("ReadError", "200 done")


def test_an_upload_that_pauses_isnt_cut(pair: Pair, serve: Serve, url: str) -> None:
    got: list[int] = []

    def handle(one: Asked) -> Reply:
        got.append(len(one.body))
        return 200, {}, b"stored"

    servers = serve(2, handle)
    for server in servers:  # read nothing for a while: the buffers fill
        talk = server._talk
        server._talk = lambda sock, talk=talk: (time.sleep(LONG_S), talk(sock))[1]  # type: ignore
    pair.settings = Settings(http_health_path="/health", **QUICK)
    plain, ours = pair.each(lambda c: c.put(f"{url}/x", content=bytes(8_000_000)), timeout=10)
    assert plain.text == ours.text == "200 stored"
    assert [size for size in got if size] == [8_000_000] * 2


@pytest.mark.parametrize(("method", "status"), [("POST", 503), ("PUT", 429), ("DELETE", 502)])
def test_an_answer_to_a_write_is_the_callers(
    pair: Pair, serve: Serve, url: str, method: str, status: int
) -> None:
    servers = serve(2, lambda one: (status, {"retry-after": "1"}, b"no"))
    headers = {"Idempotency-Key": "k"}
    plain, ours = pair.each(lambda c: c.request(method, f"{url}/x", headers=headers))
    assert plain.text == ours.text == f"{status} no"
    assert asked(servers, "/x") == 2
    assert ours.took_s < 0.5


def test_one_of_ten_slow_ones_proves_nothing(pair: Pair, serve: Serve, url: str) -> None:
    """As many as there are: their silence is none, whoever else answers meanwhile."""

    def slow(one: Asked) -> Reply:
        time.sleep(LONG_S)
        return 200, {}, b"done"

    servers = serve(3, slow)
    pair.settings = Settings(**QUICK)
    if pair.blocking:
        with pair.client(True, timeout=10) as client:
            threads = [threading.Thread(target=client.get, args=(f"{url}/x",)) for _ in range(10)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    else:
        import asyncio

        async def many(client: Any) -> Any:
            return (await asyncio.gather(*[client.get(f"{url}/x") for _ in range(10)]))[0]

        assert pair.one(many, True, timeout=10).text == "200 done"
    assert asked(servers, "/x") == 10


def test_a_server_that_hangs_after_an_interim_answer_is_left(
    pair: Pair, serve: Serve, url: str
) -> None:
    silent: set[str] = set()

    def handle(one: Asked) -> Reply:
        mine = one.sock.getsockname()[0]
        if mine in silent:
            if one.path == "/x":
                one.sock.sendall(b"HTTP/1.1 103 X\r\nlink: </a>\r\n\r\n")
            time.sleep(2)
            return None
        if one.path == "/last":
            silent.add(mine)
        return 200, {}, mine.encode()

    one, two = serve(2, handle)
    zones = f"az0={one.address}/32,az1={two.address}/32"
    pair.settings = Settings(http_health_path="/health", zone="az0", zones=zones, **QUICK)

    def run(client: Any) -> Any:
        return [client.get(f"{url}/last"), client.get(f"{url}/x", timeout=5)][-1]

    async def run_async(client: Any) -> Any:
        return [await client.get(f"{url}/last"), await client.get(f"{url}/x", timeout=5)][-1]

    seen = pair.one(run if pair.blocking else run_async, True)
    assert seen.text == f"200 {two.address}"
    assert seen.took_s < 1


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    ],
)
def test_a_malformed_answer_is_an_answer(  # as many fixtures
    pair: Pair, serve: Serve, url: str, library: str, count: int, answer: bytes
) -> None:
    """It is no sign that the request was lost: as a 502 it goes once to one other endpoint."""

    def handle(one: Asked) -> Reply:
        one.sock.sendall(answer)
        time.sleep(0.1)  # it doesn't end the connection at once
        return None

    servers = serve(count, handle)
    pair.library = library
    plain, ours = pair.each(lambda c: c.get(f"{url}/x"))
    assert plain.text == ours.text == "RemoteProtocolError"
    assert sum(len(server.asked) for server in servers) == 1 + min(2, count)
