"""Ours under asyncio: with nothing set, or with health checks."""

from __future__ import annotations

import logging
from typing import Any

from resilient import Settings
from resilient.http import AsyncClient


class Client:
    """`resilient.http.AsyncClient`."""

    asynchronous = True
    log = ("resilient", logging.INFO)

    def __init__(self, url: str, *, tuned: bool = False) -> None:
        self._url, self._tuned = url, tuned

    async def open(self) -> None:
        settings = Settings(http_health_path="/health/ready") if self._tuned else None
        self._client = AsyncClient(base_url=self._url, settings=settings)
        await self.get("/whoami")

    async def get(self, path: str) -> Any:
        return (await self._client.get(path)).raise_for_status().json()

    async def post(self, path: str) -> Any:
        return (await self._client.post(path)).raise_for_status().json()
