"""Requests that don't go straight to a server: proxies, tunnels, Unix sockets.

There the proxy or the path decides where a request ends up, so they go the library's own way:
answers, errors and what the proxy sees are the plain client's.
"""

from __future__ import annotations

import importlib.util
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme
from side_by_side import Pair, Seen, Server

import resilient.http

Serve = Callable[..., list[Server]]
AUTHORITY = trustme.CA()


class Road:
    """A proxy: requests that are forwarded are answered here, tunnels lead to `port` of loopback.

    `said`: what it was asked, with the credentials.  `refuses`: a status for all of it.
    """

    def __init__(self, refuses: int = 0) -> None:
        self.said: list[tuple[str, str]] = []
        self.port = 0
        self._refuses = refuses
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=32)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://me:secret@127.0.0.1:{self.listener.getsockname()[1]}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(OSError, ValueError), sock.makefile("rb") as stream:
            while line := stream.readline():
                method, target, _ = line.decode().split(" ", 2)
                heads = [head.decode().lower() for head in iter(stream.readline, b"\r\n")]
                told = next((h for h in heads if h.startswith("proxy-authorization")), "").strip()
                self.said.append((f"{method} {target}", told))
                if self._refuses:
                    sock.sendall(b"HTTP/1.1 %d No\r\ncontent-length: 0\r\n\r\n" % self._refuses)
                elif method == "CONNECT":
                    sock.sendall(b"HTTP/1.1 200 Go\r\n\r\n")
                    self._join(sock)
                    return
                else:
                    sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nforwarded")

    def _join(self, sock: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as other:
            back = threading.Thread(target=_pump, args=(other, sock), daemon=True)
            back.start()
            _pump(sock, other)
            back.join(5)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def secured(answer: bytes) -> Iterator[int]:
    """A server with TLS for `api.test`; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("api.test").configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0), backlog=32)

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError), context.wrap_socket(plain, server_side=True) as sock:
                while sock.recv(65536):
                    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer)
                    sock.sendall(head + answer)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def road(stack: ExitStack, **options: Any) -> Road:
    made = Road(**options)
    stack.callback(made.close)
    return made


def trust() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def same(pair: Pair, run: Callable[[Any], Any], said: list[Any], **options: Any) -> Seen:
    """What both saw, if it is the same, as what their proxy was asked is."""
    asked = []
    for ours in (False, True):
        said.clear()
        seen = pair.one(run, ours, **options)
        asked.append((seen.text, list(said)))
    assert asked[0] == asked[1]
    return seen


def test_a_proxy_that_forwards(pair: Pair, stack: ExitStack) -> None:
    proxy = road(stack)
    seen = same(pair, lambda c: c.get("http://api.test/x"), proxy.said, proxy=proxy.url)
    assert seen.text == "200 forwarded"
    assert proxy.said == [("GET http://api.test/x", "proxy-authorization: basic bwu6c2vjcmv0")]


def test_a_tunnel(pair: Pair, stack: ExitStack) -> None:
    """The name is the proxy's to resolve: it exists nowhere here."""
    proxy = road(stack)
    proxy.port = stack.enter_context(secured(b"through"))
    options = {"proxy": proxy.url, "verify": trust()}
    seen = same(pair, lambda c: c.get("https://api.test/x"), proxy.said, **options)
    assert seen.text == "200 through"
    assert len(proxy.said) == 1


@pytest.mark.parametrize("url", ["http://api.test/x", "https://api.test/x"])
@pytest.mark.parametrize("status", [407, 502, 503])
def test_a_proxy_that_refuses(pair: Pair, stack: ExitStack, url: str, status: int) -> None:
    """Its 503 is the proxy's word: nobody asks it again."""
    proxy = road(stack, refuses=status)
    seen = same(pair, lambda c: c.get(url), proxy.said, proxy=proxy.url)
    assert seen.text == ("ProxyError" if url.startswith("https") else f"{status} ")
    assert len(proxy.said) == 1


def test_a_proxy_that_is_not_there(pair: Pair) -> None:
    gone = "http://127.0.0.1:1"
    seen = same(pair, lambda c: c.get("http://api.test/x"), [], proxy=gone)
    assert seen.text == "ConnectError"


def test_the_environments(
    pair: Pair, stack: ExitStack, serve: Serve, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = road(stack)
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", "svc.test")
    (direct,) = serve(1, lambda one: (200, {}, b"direct"))
    assert same(pair, lambda c: c.get("http://api.test/"), proxy.said).text == "200 forwarded"
    assert same(pair, lambda c: c.get(url), proxy.said).text == "200 direct"
    assert len(direct.asked) == 2


def test_a_unix_socket(pair: Pair, stack: ExitStack, tmp_path: Path) -> None:
    path = str(tmp_path / "http")
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(path)
    listener.listen()

    def answer() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock:
                    sock.recv(65536)
                    sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nlocal")

    threading.Thread(target=answer, daemon=True).start()
    texts = []
    theirs: Any = httpx2.HTTPTransport if pair.blocking else httpx2.AsyncHTTPTransport
    own: Any = resilient.http.Transport if pair.blocking else resilient.http.AsyncTransport
    for kind in (theirs, own):
        options = {"transport": kind(uds=path)}
        seen = pair.one(lambda c: c.get("http://nowhere.test/"), kind is own, **options)
        texts.append(seen.text)
    assert texts == ["200 local"] * 2


@pytest.mark.skipif(importlib.util.find_spec("socksio") is None, reason="socksio isn't installed")
def test_a_socks_proxy_that_is_not_there(pair: Pair) -> None:
    seen = same(pair, lambda c: c.get("http://api.test/"), [], proxy="socks5://127.0.0.1:1")
    assert seen.text == "ConnectError"
