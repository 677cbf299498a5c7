"""aiohttp: as it comes, or with shorter timeouts and no cache of names."""

from __future__ import annotations

import logging
from typing import Any

import aiohttp


class Client:
    """`aiohttp.ClientSession`."""

    asynchronous = True
    log = ("aiohttp", logging.WARNING)

    def __init__(self, url: str, *, tuned: bool = False) -> None:
        self._url, self._tuned = url, tuned

    async def open(self) -> None:
        more: dict[str, Any] = {}
        if self._tuned:
            more["timeout"] = aiohttp.ClientTimeout(total=2.0, sock_connect=1.0)
            more["connector"] = aiohttp.TCPConnector(ttl_dns_cache=1)
        self._session = aiohttp.ClientSession(self._url, raise_for_status=True, **more)
        await self.get("/whoami")

    async def get(self, path: str) -> Any:
        async with self._session.get(path) as response:
            return await response.json()

    async def post(self, path: str) -> Any:
        async with self._session.post(path) as response:
            return await response.json()
