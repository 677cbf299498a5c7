"""Ours: with nothing set, or with health checks."""

from __future__ import annotations

import logging
from typing import Any

from resilient import Settings
from resilient.http import Client as Resilient


class Client:
    """`resilient.http.Client`."""

    asynchronous = False
    log = ("resilient", logging.INFO)

    def __init__(self, url: str, *, tuned: bool = False) -> None:
        settings = Settings(http_health_path="/health/ready") if tuned else None
        self._client = Resilient(base_url=url, settings=settings)

    def open(self) -> None:
        self.get("/whoami")

    def get(self, path: str) -> Any:
        return self._client.get(path).raise_for_status().json()

    def post(self, path: str) -> Any:
        return self._client.post(path).raise_for_status().json()
