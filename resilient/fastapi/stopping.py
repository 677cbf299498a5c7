"""A graceful stop: readiness says 503 first, and only then does the server stop listening.

A server that is told to stop (SIGTERM) closes its listening socket at once, while balancers still
send it requests.  So the signal is kept back for a moment, in which readiness fails and answers
close their connections; then the server has it, and lets finish what is under way.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any, Self

Message = MutableMapping[str, Any]

#: someone who asks for readiness at all asks again within so many seconds
WATCHED_S = 60.0


class Stopping:
    """Of one application.  `now`: it has been told to stop."""

    def __init__(self, drain_s: float) -> None:
        self.now = False
        self._drain_s = drain_s
        self._asked_at = float("-inf")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._previous: Callable[..., Any] | None = None

    def watched(self) -> None:
        """Somebody asks whether it is ready: one who is to be told of the stop."""
        self._asked_at = time.monotonic()

    # -- the signal

    def __enter__(self) -> Self:
        """Stand before the server's own handler; where there is none there is nothing to do."""
        self.now = False
        if threading.current_thread() is not threading.main_thread():
            return self
        handler = signal.getsignal(signal.SIGTERM)
        if callable(handler):
            self._loop, self._previous = asyncio.get_running_loop(), handler
            signal.signal(signal.SIGTERM, self._told)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None and signal.getsignal(signal.SIGTERM) == self._told:
            signal.signal(signal.SIGTERM, self._previous)
        self._previous = self._loop = None

    def _told(self, number: int, frame: Any) -> None:
        previous, loop = self._previous, self._loop
        watched = time.monotonic() < self._asked_at + WATCHED_S
        if self.now or not watched or not self._drain_s or loop is None:
            self.now = True
            if previous is not None:
                previous(number, frame)
            return
        self.now = True
        with suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(loop.call_later, self._drain_s, self._pass_on, number)

    def _pass_on(self, number: int) -> None:
        if self._previous is not None:
            self._previous(number, None)

    # -- answers meanwhile

    def middleware(self, app: Any) -> Callable[..., Any]:
        """ASGI: while it stops, answers say that their connection ends."""

        async def closing(scope: Message, receive: Any, send: Any) -> None:
            async def last(message: Message) -> None:
                if message["type"] == "http.response.start" and self.now:
                    headers = [
                        (name, value)
                        for name, value in message.get("headers", ())
                        if name.lower() != b"connection"
                    ]
                    message["headers"] = [*headers, (b"connection", b"close")]
                await send(message)

            http_1 = scope["type"] == "http" and scope.get("http_version", "1.1") < "2"
            await app(scope, receive, last if http_1 else send)

        return closing
