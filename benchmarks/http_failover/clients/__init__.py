"""The HTTP clients, one small file each.

A client has `open()`, `get(path)` and `post(path)`, which return the JSON answer of a good response
and raise otherwise; all may be coroutines (`asynchronous = True`).  Then a line in `CLIENTS`.
"""

from __future__ import annotations

from typing import Any

from ...entries import Entry

__all__ = ["CLIENTS"]

_OURS = ("resilient-connect",)
_REQUESTS = ("requests", "urllib3")
_RETRIES = ("httpx-retries", "httpx")
_TUNED = {"tuned": True}


def _entry(name: str, module: str, needs: tuple[str, ...], **more: Any) -> Entry:
    return Entry(name, f"{__name__}.{module}:Client", needs=needs, **more)


CLIENTS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _entry("resilient", "resilient_sync", _OURS, ours=True),
        _entry("resilient-tuned", "resilient_sync", _OURS, ours=True, options=_TUNED),
        _entry("resilient-async", "resilient_async", _OURS, ours=True),
        _entry("resilient-async-tuned", "resilient_async", _OURS, ours=True, options=_TUNED),
        _entry("httpx2", "httpx2_sync", ("httpx2",)),
        _entry("httpx2-tuned", "httpx2_sync", ("httpx2",), options=_TUNED),
        _entry("httpx-retries", "httpx_retries_sync", _RETRIES),
        _entry("httpx-retries-tuned", "httpx_retries_sync", _RETRIES, options=_TUNED),
        _entry("requests", "requests_sync", _REQUESTS),
        _entry("requests-tuned", "requests_sync", _REQUESTS, options=_TUNED),
        _entry("aiohttp", "aiohttp_async", ("aiohttp",)),
        _entry("aiohttp-tuned", "aiohttp_async", ("aiohttp",), options=_TUNED),
    )
}
