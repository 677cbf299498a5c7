"""A drop-in for httpx2 that lives through the loss of an upstream.

`Client` and `AsyncClient` take httpx2's place with every argument kept, plus `settings`.
`Transport` and `AsyncTransport` do so for its transports.  `resilient.http.httpx` has the
same four names on httpx.
"""

from __future__ import annotations

from . import errors
from ._events import OnEvent, subscribe
from ._httpx2 import AsyncClient, AsyncTransport, Client, Transport

__all__ = [
    "AsyncClient",
    "AsyncTransport",
    "Client",
    "OnEvent",
    "Transport",
    "errors",
    "subscribe",
]
