"""Ours under asyncio, with nothing set."""

from __future__ import annotations

import logging
from typing import Any

from resilient.http import AsyncClient


class Client:
    """`resilient.http.AsyncClient`."""

    asynchronous = True
    log = ("resilient", logging.INFO)

    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self) -> None:
        self._client = AsyncClient(base_url=self._url)
        await self.get("/whoami")

    async def get(self, path: str) -> Any:
        return (await self._client.get(path)).raise_for_status().json()

    async def post(self, path: str) -> Any:
        return (await self._client.post(path)).raise_for_status().json()
