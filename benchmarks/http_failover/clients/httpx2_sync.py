"""Bare httpx2: as it comes, or with its transport's connect retries and shorter timeouts."""

from __future__ import annotations

import logging
from typing import Any

import httpx2


class Client:
    """`httpx2.Client`."""

    asynchronous = False
    log = ("httpx2", logging.WARNING)

    def __init__(self, url: str, *, tuned: bool = False) -> None:
        more: dict[str, Any] = {}
        if tuned:
            more = {"transport": httpx2.HTTPTransport(retries=3)}
            more["timeout"] = httpx2.Timeout(2.0, connect=1.0)
        self._client = httpx2.Client(base_url=url, **more)

    def open(self) -> None:
        self.get("/whoami")

    def get(self, path: str) -> Any:
        return self._client.get(path).raise_for_status().json()

    def post(self, path: str) -> Any:
        return self._client.post(path).raise_for_status().json()
