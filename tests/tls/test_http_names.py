"""HTTPS behind a name that moves: SNI, Host and verification stay with the URL."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import httpx2
import pytest
import trustme

from resilient import Settings
from resilient.http import AsyncClient, Client
from resilient.lab import DnsServer

NAME, OTHER = "api.tls.test", "other.tls.test"
A, B = "127.0.85.1", "127.0.86.1"


class Service(ThreadingHTTPServer):
    """Says who it is and what it was told; counts connections, and those that are open."""

    daemon_threads = True

    def __init__(self, address: str, port: int, authority: trustme.CA, name: str) -> None:
        super().__init__((address, port), Handler)
        self.sni: list[str | None] = []
        self.open = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        context.sni_callback = lambda _sock, given, _context: self.sni.append(given)
        self._context = context
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            secured = self._context.wrap_socket(request, server_side=True)
        except OSError:
            return  # the client didn't believe us
        with secured:
            super().finish_request(secured, client_address)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that left is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def handle(self) -> None:
        self.server.open += 1
        try:
            super().handle()
        except OSError:
            pass
        finally:
            self.server.open -= 1

    def do_GET(self) -> None:
        said = {"address": self.server.server_address[0], "host": self.headers["Host"]}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Face:
    """Both shells, one way to ask."""

    def __init__(self, shell: str, settings: Settings, trust: ssl.SSLContext) -> None:
        self.is_async = shell == "async"
        kind: Any = AsyncClient if self.is_async else Client
        self._client = kind(settings=settings, verify=trust)

    async def get(self, url: str) -> Any:
        if self.is_async:
            return (await self._client.get(url)).json()
        return (await asyncio.to_thread(self._client.get, url)).json()

    async def get_until_it_fails(self, url: str) -> None:
        while True:
            assert (await self.get(url))["address"] == A
            await asyncio.sleep(0.05)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.is_async:
            await self._client.aclose()
        else:
            await asyncio.to_thread(self._client.close)


@pytest.fixture
def zone() -> Iterator[DnsServer]:
    running = DnsServer("tls.test")
    for label, address in (("a", A), ("b", B)):
        running.set_records(f"{label}.tls.test", "A", [address], 60)
    running.flip(NAME, "a.tls.test", 1)
    running.settle()
    yield running
    running.close()


@pytest.fixture
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def settings(zone: DnsServer, **given: Any) -> Settings:
    at = "{}:{}".format(*zone.listen("127.0.0.1", 0))
    return Settings(dns_nameservers=at, dns_search=[], **given)


async def test_a_flip_drains_and_stays_verified(
    shell: str, zone: DnsServer, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    with Service(A, 0, authority, NAME) as one, Service(B, one.server_port, authority, NAME) as two:
        url = f"https://{NAME}:{one.server_port}/"
        async with Face(shell, settings(zone), trust) as face:
            assert (await face.get(url))["address"] == A
            flipped_at = zone.flip(NAME, "b.tls.test")
            while (said := await face.get(url))["address"] != B:
                assert time.monotonic() - flipped_at <= 1.3
                await asyncio.sleep(0.02)
            assert said["host"] == f"{NAME}:{one.server_port}"
            for _ in range(5):
                assert (await face.get(url))["address"] == B
            end = time.monotonic() + 2
            while one.open and time.monotonic() < end:
                await asyncio.sleep(0.01)
            assert one.open == 0  # drained: nothing idles on the old address
        assert set(one.sni) == set(two.sni) == {NAME}


async def test_a_flip_to_a_server_with_another_name_fails_closed(
    shell: str, zone: DnsServer, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    with Service(B, 0, authority, OTHER) as wrong:
        port = wrong.server_port
        with Service(A, port, authority, NAME):
            async with Face(shell, settings(zone, deadline_s=3), trust) as face:
                assert (await face.get(f"https://{NAME}:{port}/"))["address"] == A
                zone.flip(NAME, "b.tls.test")
                with pytest.raises(httpx2.TransportError, match="CERTIFICATE_VERIFY_FAILED"):
                    await face.get_until_it_fails(f"https://{NAME}:{port}/")
                assert wrong.open == 0  # no request reached it


async def test_a_tls_name_for_an_alias_of_our_own(
    shell: str, zone: DnsServer, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    with Service(A, 0, authority, OTHER) as service:
        given = settings(zone, tls_names=f"{NAME}={OTHER}")
        async with Face(shell, given, trust) as face:
            said = await face.get(f"https://{NAME}:{service.server_port}/")
            assert said["host"] == f"{NAME}:{service.server_port}"
        assert set(service.sni) == {OTHER}
