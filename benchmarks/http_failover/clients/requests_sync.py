"""requests with urllib3's Retry, as its documentation mounts it; tuned: with timeouts too.

A session per thread: a Session isn't promised to be safe between threads.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry


class Client:
    """`requests.Session()` with `HTTPAdapter(max_retries=Retry(…))`."""

    asynchronous = False
    log = ("urllib3", logging.WARNING)

    def __init__(self, url: str, *, tuned: bool = False) -> None:
        self._url = url
        self._timeout = (1.0, 2.0) if tuned else None
        self._retry = Retry(total=3, backoff_factor=0.1, status_forcelist=[502, 503, 504])
        self._mine = threading.local()

    def open(self) -> None:
        self.get("/whoami")

    def get(self, path: str) -> Any:
        return self._done(self._session().get(self._url + path, timeout=self._timeout))

    def post(self, path: str) -> Any:
        return self._done(self._session().post(self._url + path, timeout=self._timeout))

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._mine, "session", None)
        if session is None:
            session = self._mine.session = requests.Session()
            session.mount("http://", HTTPAdapter(max_retries=self._retry))
        return session

    @staticmethod
    def _done(response: requests.Response) -> Any:
        response.raise_for_status()
        return response.json()
