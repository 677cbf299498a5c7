"""The clients, as they come: one function `ask(method, url, headers, body)` → status each.

`limit`: connections at most, None for the library's own bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..entries import Entry

__all__ = ["CLIENTS", "PLAIN", "asynchronous", "make", "missing"]

#: name → (packages, distribution names)
CLIENTS: dict[str, tuple[str, ...]] = {
    "httpx2": ("httpx2",),
    "resilient": ("resilient-connect",),
    "httpx-retries": ("httpx-retries", "httpx"),
    "requests": ("requests", "urllib3"),
    "httpx2-async": ("httpx2",),
    "resilient-async": ("resilient-connect",),
    "aiohttp": ("aiohttp",),
}
#: ours → whom it is compared with
PLAIN = {"resilient": "httpx2", "resilient-async": "httpx2-async"}
Ask = Callable[[str, str, dict[str, str], bytes], Any]


def asynchronous(name: str) -> bool:
    return name.endswith("-async") or name == "aiohttp"


def missing(name: str) -> str:
    """What isn't installed; empty when nothing is."""
    return Entry(name, "", needs=CLIENTS[name]).missing() or ""


def make(name: str, limit: int | None) -> tuple[Ask, Callable[[], Any]]:
    """(`ask`, what closes the client); both are coroutine functions for asyncio's."""
    makers: dict[str, Callable[[int | None], tuple[Ask, Callable[[], Any]]]] = {
        "requests": _requests,
        "aiohttp": _aiohttp,
        "httpx-retries": _retries,
    }
    if name in makers:
        return makers[name](limit)
    import httpx2

    import resilient.http

    home: Any = resilient.http if name.startswith("resilient") else httpx2
    kind = home.AsyncClient if asynchronous(name) else home.Client
    more = {} if limit is None else {"limits": httpx2.Limits(max_connections=limit)}
    return _httpx(kind(timeout=httpx2.Timeout(20), **more), asynchronous(name))


def _httpx(client: Any, tasks: bool) -> tuple[Ask, Callable[[], Any]]:
    def ask(method: str, url: str, headers: dict[str, str], body: bytes) -> Any:
        return client.request(method, url, headers=headers, content=body or None).status_code

    async def ask_async(method: str, url: str, headers: dict[str, str], body: bytes) -> Any:
        response = await client.request(method, url, headers=headers, content=body or None)
        return response.status_code

    return (ask_async, client.aclose) if tasks else (ask, client.close)


def _retries(limit: int | None) -> tuple[Ask, Callable[[], Any]]:
    import httpx
    from httpx_retries import RetryTransport

    limits = httpx.Limits(max_connections=limit or 100, max_keepalive_connections=20)
    transport = RetryTransport(transport=httpx.HTTPTransport(limits=limits))
    return _httpx(httpx.Client(transport=transport, timeout=20), tasks=False)


def _requests(limit: int | None) -> tuple[Ask, Callable[[], Any]]:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retry = Retry(total=3, backoff_factor=0.1, status_forcelist=[502, 503, 504])
    session = requests.Session()
    pool = {"pool_maxsize": limit or 10, "pool_block": limit is not None}
    session.mount("http://", HTTPAdapter(max_retries=retry, **pool))

    def ask(method: str, url: str, headers: dict[str, str], body: bytes) -> Any:
        return session.request(method, url, headers=headers, data=body, timeout=20).status_code

    return ask, session.close


def _aiohttp(limit: int | None) -> tuple[Ask, Callable[[], Any]]:
    import aiohttp

    opened: list[Any] = []

    async def ask(method: str, url: str, headers: dict[str, str], body: bytes) -> Any:
        if not opened:  # needs a running loop
            connector = aiohttp.TCPConnector(limit=limit or 100)
            opened.append(aiohttp.ClientSession(connector=connector))
        async with opened[0].request(method, url, headers=headers, data=body or None) as response:
            await response.read()
            return response.status

    async def close() -> None:
        for session in opened:
            await session.close()

    return ask, close
