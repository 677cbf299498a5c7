"""The sides of the HTTP case, on a quiet server of its own process, and of the DNS case."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from itertools import repeat
from typing import Any

import dns.asyncresolver
import dns.resolver
import httpx2

import resilient.http
from resilient import Settings
from resilient.dns import AsyncResolver, Resolver

from .. import dns_cache
from .batches import AsyncSession, Session
from .cases import CASES

__all__ = ["sides", "sides_async", "url_of_server"]

RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nok"
Sides = dict[tuple[str, str], Any]


def serve(listener: socket.socket) -> None:
    """One response per request, on any number of kept connections."""

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(RESPONSE * data.count(b"\r\n\r\n"))

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Protocol, sock=listener)
        await server.serve_forever()

    asyncio.run(main())


@contextmanager
def _process(work: Callable[[socket.socket], None], sock: socket.socket) -> Iterator[int]:
    """Runs `work(sock)` in a process of its own; the socket's port."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=(sock,), daemon=True)
    process.start()
    try:
        with sock:
            port: int = sock.getsockname()[1]
        yield port
    finally:
        process.kill()
        process.join()


def url_of_server(stack: Any) -> str:
    """Of a quiet server in a process of its own, which ends with the stack."""
    listener = socket.create_server(("127.0.0.1", 0))
    return f"http://localhost:{stack.enter_context(_process(serve, listener))}/"


def _names(stack: Any) -> tuple[int, Settings]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    port = stack.enter_context(_process(dns_cache.serve, sock))
    return port, Settings(dns_nameservers=[f"127.0.0.1:{port}"], dns_search=[])


def _peer(peer: Any, port: int) -> Any:
    peer.nameservers, peer.port = ["127.0.0.1"], port
    peer.cache = dns.resolver.LRUCache()
    return peer


def _many(call: Callable[[], Any]) -> Session:
    def operate() -> None:
        for _ in repeat(None, CASES["dns"].inner):
            call()

    return lambda: nullcontext(operate)


def _many_async(call: Callable[[], Awaitable[Any]]) -> AsyncSession:
    async def operate() -> None:
        for _ in repeat(None, CASES["dns"].inner):
            await call()

    return lambda: nullcontext(operate)


@contextmanager
def sides(case: str) -> Iterator[Sides]:
    """For threads."""
    with ExitStack() as stack:
        if case == "http":
            url = url_of_server(stack)
            clients = {"bare": httpx2.Client(), "again": httpx2.Client()}
            clients["resilient"] = resilient.http.Client()
            for client in clients.values():
                stack.enter_context(client)
            yield {
                (case, side): lambda client=client: nullcontext(lambda: client.get(url))
                for side, client in clients.items()
            }
            return
        port, settings = _names(stack)
        peer = _peer(dns.resolver.Resolver(configure=False), port)
        ours = stack.enter_context(Resolver(settings))
        name = dns_cache.NAME
        bare = _many(lambda: peer.resolve(name, "A"))
        yield {
            (case, "bare"): bare,
            (case, "again"): bare,
            (case, "resilient"): _many(lambda: ours.resolve(name)),
        }


@asynccontextmanager
async def sides_async(case: str) -> AsyncIterator[Sides]:
    """For tasks."""
    async with AsyncExitStack() as stack:
        if case == "http":
            url = url_of_server(stack)
            clients = {"bare": httpx2.AsyncClient(), "again": httpx2.AsyncClient()}
            clients["resilient"] = resilient.http.AsyncClient()
            for client in clients.values():
                await stack.enter_async_context(client)
            yield {
                (case, side): lambda client=client: nullcontext(lambda: client.get(url))
                for side, client in clients.items()
            }
            return
        port, settings = _names(stack)
        peer = _peer(dns.asyncresolver.Resolver(configure=False), port)
        ours = await stack.enter_async_context(AsyncResolver(settings))
        name = dns_cache.NAME
        bare = _many_async(lambda: peer.resolve(name, "A"))
        yield {
            (case, "bare"): bare,
            (case, "again"): bare,
            (case, "resilient"): _many_async(lambda: ours.resolve(name)),
        }
