"""Request bodies that are the caller's own code: generators, files, what is read from elsewhere.

Such a body runs while its request is sent.  It may send requests itself, or read the response of
one (a download that is passed on).  Those are no part of the attempt that it is read for: neither
its deadline nor its endpoint's death concerns them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import AsyncGeneratorType
from typing import Any

from ._attempt import CURRENT, FLOW


class Upload:
    """A body as the core library reads it; `stream` is the client library's."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        parts = None
        while True:
            own = _leave()
            try:
                parts = iter(self._stream) if parts is None else parts
                part = next(parts)
            except StopIteration:
                return
            finally:
                _return(own)
            yield part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = None
        try:
            while True:
                own = _leave()
                try:
                    parts = aiter(self._stream) if parts is None else parts
                    part = await anext(parts)
                except StopAsyncIteration:
                    return
                finally:
                    _return(own)
                yield part
        finally:
            if isinstance(parts, AsyncGeneratorType):
                await parts.aclose()


def _leave() -> tuple[Any, Any]:
    own = CURRENT.get(), FLOW.get()
    CURRENT.set(None)
    FLOW.set(None)
    return own


def _return(own: tuple[Any, Any]) -> None:
    # Not by tokens: a body that is closed late may be so in another context.
    CURRENT.set(own[0])
    FLOW.set(own[1])
