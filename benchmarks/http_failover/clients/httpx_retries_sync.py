"""httpx with httpx-retries: its defaults, or with back-off and shorter timeouts."""

from __future__ import annotations

import logging
from typing import Any

import httpx
from httpx_retries import Retry, RetryTransport


class Client:
    """`httpx.Client(transport=RetryTransport())`."""

    asynchronous = False
    log = ("httpx_retries", logging.INFO)

    def __init__(self, url: str, *, tuned: bool = False) -> None:
        more: dict[str, Any] = {"transport": RetryTransport()}
        if tuned:
            more = {"transport": RetryTransport(retry=Retry(total=5, backoff_factor=0.1))}
            more["timeout"] = httpx.Timeout(2.0, connect=1.0)
        self._client = httpx.Client(base_url=url, **more)

    def open(self) -> None:
        self.get("/whoami")

    def get(self, path: str) -> Any:
        return self._client.get(path).raise_for_status().json()

    def post(self, path: str) -> Any:
        return self._client.post(path).raise_for_status().json()
