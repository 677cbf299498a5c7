"""Mocks of HTTP under `offline()`: those that are known, and one that nobody knows."""

import asyncio
import socket
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import httpcore
import httpcore2
import httpx
import httpx2
import pytest

import resilient.http
import resilient.http.httpx
from resilient.testing import offline

URL = "https://api.example.invalid/x"
KINDS = pytest.mark.parametrize(
    ("ours", "lib", "core"),
    [(resilient.http, httpx2, httpcore2), (resilient.http.httpx, httpx, httpcore)],
    ids=["httpx2", "httpx"],
)
Get = Callable[[str], Any]


def both(ours: ModuleType) -> tuple[Get, Get]:
    """GET, from a thread's client and from asyncio's."""

    def get(url: str) -> Any:
        with ours.Client() as client:
            return client.get(url)

    async def get_async(url: str) -> Any:
        async with ours.AsyncClient() as client:
            return await client.get(url)

    return get, lambda url: asyncio.run(get_async(url))


@pytest.fixture
def no_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a name's address fails the test."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"asked for {args[0]}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@KINDS
@pytest.mark.usefixtures("no_dns")
def test_what_no_mock_answers_is_refused(ours: Any, lib: Any, core: Any) -> None:
    for get in both(ours):
        with offline(), pytest.raises(lib.ConnectError, match=r"example\.invalid isn't dialled"):
            get(URL)
    heard: list[str] = []

    def elsewhere() -> None:
        with pytest.raises(lib.ConnectError) as refused:
            both(ours)[0](URL)
        heard.append(str(refused.value))

    with offline():
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
    assert "offline()" in heard[0]


@KINDS
@pytest.mark.usefixtures("no_dns")
def test_a_mock_that_nobody_knows(
    ours: Any, lib: Any, core: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands below all that is recognised as a mock: it makes the sockets."""

    def connected(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        assert address == ("api.example.invalid", 80)
        with socket.create_server(("127.0.0.1", 0)) as server:
            near = socket.socket()
            near.connect(server.getsockname())
            far, _ = server.accept()
        with far:
            far.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        return near

    monkeypatch.setattr(socket, "create_connection", connected)
    with offline(refuse=False):
        assert both(ours)[0](URL.replace("https", "http")).status_code == 204


@KINDS
def test_this_machine_is_dialled(ours: Any, lib: Any, core: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            for _ in range(4):
                conn, _ = server.accept()
                with conn:
                    conn.recv(65536)
                    conn.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with offline():
            for get in both(ours):
                for host in ("127.0.0.1", "localhost"):
                    assert get(f"http://{host}:{port}/").status_code == 204
        thread.join(5)


@KINDS
@pytest.mark.usefixtures("no_dns")
def test_a_transport_of_ones_own(ours: Any, lib: Any, core: Any) -> None:
    mock = lib.MockTransport(lambda request: lib.Response(200, json={"a": 1}))
    with offline(), ours.Client(transport=mock) as client:
        assert client.get(URL).json() == {"a": 1}


@pytest.mark.usefixtures("no_dns")
def test_respx() -> None:
    respx = pytest.importorskip("respx", reason="respx isn't installed")
    with offline(), respx.mock:
        respx.get(URL).respond(json={"a": 1})
        for get in both(resilient.http.httpx):
            assert get(URL).json() == {"a": 1}


@pytest.mark.usefixtures("no_dns")
def test_pytest_httpx(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("pytest_httpx", reason="pytest-httpx isn't installed")
    httpx_mock = request.getfixturevalue("httpx_mock")
    for get in both(resilient.http.httpx):
        httpx_mock.add_response(url=URL, json={"a": 1})
        with offline():
            assert get(URL).json() == {"a": 1}
