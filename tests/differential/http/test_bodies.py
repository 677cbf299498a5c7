"""Bodies that are the caller's own code, and whoever looks at a response before its body."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from side_by_side import Asked, Names, Pair, Reply, Server

from resilient import Settings

Serve = Callable[..., list[Server]]


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
def test_a_download_that_is_passed_on_has_its_own_time(
    pair: Pair, serve: Serve, url: str, library: str
) -> None:
    """It is read while the upload is sent, whose deadline is long over when its next part comes."""

    def handle(one: Asked) -> Reply:
        if one.method == "PUT":
            return 200, {}, one.body
        one.sock.sendall(b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\na")
        time.sleep(0.6)
        one.sock.sendall(b"b")
        return None

    serve(1, handle)
    pair.settings, pair.library = Settings(deadline_s=0.2), library

    def run(client: Any) -> Any:
        def parts() -> Iterator[bytes]:
            with client.stream("GET", f"{url}/from") as response:
                yield from response.iter_bytes()

        return client.put(f"{url}/to", content=parts())

    async def run_async(client: Any) -> Any:
        async def parts() -> AsyncIterator[bytes]:
            async with client.stream("GET", f"{url}/from") as response:
                async for part in response.aiter_bytes():
                    yield part

        return await client.put(f"{url}/to", content=parts())

    plain, ours = pair.each(run if pair.blocking else run_async)
    assert plain.text == ours.text == "200 ab"


class Unwanted(Exception):
    pass


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
def test_a_hook_sees_a_response_before_its_body(
    pair: Pair, serve: Serve, url: str, library: str
) -> None:
    """So it can refuse one that has no end."""

    def handle(one: Asked) -> Reply:
        one.sock.sendall(b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\n\r\n")
        end = time.monotonic() + 3
        with suppress(OSError):
            while time.monotonic() < end:
                one.sock.sendall(b"data: 1\n\n")
                time.sleep(0.02)
        return None

    serve(1, handle)
    pair.library = library

    def hook(response: Any) -> None:
        raise Unwanted(response.headers["content-type"])

    async def hook_async(response: Any) -> None:
        hook(response)

    hooks = {"response": [hook if pair.blocking else hook_async]}
    plain, ours = pair.each(lambda c: c.get(f"{url}/events"), event_hooks=hooks)
    assert isinstance(plain.result, Unwanted)
    assert isinstance(ours.result, Unwanted)
    assert ours.took_s < 2


@pytest.fixture
def early(names: Names, subnet: str, port: int) -> Iterator[None]:
    """A server that answers 413 while it is being sent to, and ends the connection."""
    listener = socket.create_server((subnet + "31", port))
    names["svc.test"] = (subnet + "31",)

    def serve() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock, sock.makefile("rb") as stream:
                    while stream.readline() != b"\r\n":
                        pass
                    time.sleep(0.1)  # the client fills all buffers
                    sock.sendall(b"HTTP/1.1 413 X\r\ncontent-length: 3\r\n\r\nbig")

    threading.Thread(target=serve, daemon=True).start()
    yield
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
@pytest.mark.usefixtures("early")
def test_an_early_answer_is_had(pair: Pair, url: str, library: str) -> None:
    """The library's own over asyncio mostly says ReadError."""
    pair.library = library
    body = bytes(8_000_000)
    for _ in range(5):
        assert pair.one(lambda c: c.post(f"{url}/x", content=body), True).text == "413 big"
