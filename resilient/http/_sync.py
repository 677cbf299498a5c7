"""The blocking engine: runs a call's attempts in the caller's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf
from typing import Any

from .. import errors
from . import _pools
from ._attempt import CURRENT, Attempt, Elsewhere, Superseded, clock
from ._call import Call
from ._engine import Engine, Send
from ._fallbacks import Relay
from ._slot import Slot
from ._sync_stream import SyncBackend


class SyncEngine(Engine):
    """See `Engine`."""

    def handle(self, request: Any, send: Send) -> Any:
        """The response; None: the library itself is to handle it, or to complain.  `send`:
        the library's own way to send a request.  Raises as documented in the package."""
        now = clock()
        call = self.begin(request, send, now)
        if call is not None:
            return self._run(call, now)
        key = self.key(request)
        if key is None:
            return None
        if self.fallbacks is not None:
            relay = self.fallbacks.relay(request, self.deadline_of(request))
            if relay is not None:
                return self._relay(relay, send)
        return self._handle(key, request, send)

    def _relay(self, relay: Relay, send: Send) -> Any:
        """Through the URL and its fallbacks, until one serves."""
        response = None
        try:
            while response is None:
                request = relay.request()
                try:
                    answer = self._handle(self.key(request), request, send)
                except self.library.client.TransportError as exc:
                    response = relay.failed(exc)
                    continue
                response, loser = relay.answered(answer)
                if loser is not None:
                    loser.close()
            return response
        finally:
            if relay.kept is not None and relay.kept is not response:
                relay.kept.close()

    def _handle(self, key: Any, request: Any, send: Send) -> Any:
        began_s = clock()
        origin, wait = self.origin(key, began_s)
        if wait is not None:
            try:
                wait.result(self.resolution_s(request))
            except errors.ResolutionError as exc:
                raise self.resolution_error(exc, key[1]) from exc
            except TimeoutError as exc:
                raise self.resolution_late(key[1]) from exc
        call = Call(self.policy, origin, request, send, self.once, began_s)
        return self._run(call, clock())

    def _run(self, call: Call, now: float) -> Any:
        try:
            while True:
                attempt = call.attempt(now)
                try:
                    response = self.once(attempt)
                    if self._taken(call, attempt, response):
                        return self._deliver(attempt, response)
                except Superseded as won:
                    attempt.leave()
                    return self._deliver(won.attempt, won.response)
                except Elsewhere:
                    call.redirected(attempt)
                except self.library.client.TransportError as exc:
                    if call.kept is not None:
                        call.failed_beside(attempt, exc, clock())
                        (attempt, response), call.kept = call.kept, None
                        return self._deliver(attempt, response)
                    _rest(call, call.failed(attempt, exc, clock()))
                except BaseException:
                    attempt.leave()
                    raise
                now = clock()
        finally:
            if call.handed_over is not None:
                call.handed_over[1].close()
            if call.kept is not None:
                call.kept[1].close()
                call.kept[0].leave()

    def _taken(self, call: Call, attempt: Attempt, response: Any) -> bool:
        """Is this answer the caller's?  Whatever goes wrong here, it isn't left open."""
        try:
            if call.answered(attempt, response.status_code, clock()):
                return True
            if not attempt.left and _pools.is_full(self.pool):
                response.close()
            else:
                call.kept = (attempt, response)
        except BaseException:
            response.close()
            raise
        if call.kept is None:
            attempt.leave()
        return False

    def once(self, attempt: Attempt) -> Any:
        """One attempt: the response with its head, and its body if that belongs to it."""
        call = attempt.call
        token = CURRENT.set(attempt)
        try:
            response = call.send(call.request)
            if response.status_code != 101 and self.buffers(call):
                attempt.headed, attempt.hedge_at = True, inf
                try:
                    body = b"".join(response.stream)
                finally:
                    response.stream.close()
                response.stream = self.library.client.ByteStream(body)
                attempt.leave()
        finally:
            CURRENT.reset(token)
        return response

    def _deliver(self, attempt: Attempt, response: Any) -> Any:
        response.extensions["resilient"] = attempt.call.note(attempt, response.status_code)
        if not attempt.left:
            response.stream = self.stream_type(response.stream, attempt.leave)
        return response

    @property
    def stream_type(self) -> Callable[..., Any]:
        return _stream_type(self.library.client.SyncByteStream)

    # -- what Engine asks for

    def _backend(self) -> SyncBackend:
        return SyncBackend(self.library, self._own_backend, self.settings.tls_names)

    def endpoint_gone(self, slot: Slot) -> None:
        for connection in _pools.expire(self.pool):
            connection.close()

    def _discard(self, connections: list[Any]) -> None:
        for connection in connections:
            with suppress(Exception):
                connection.close()

    def close(self) -> None:
        self.pool.close()
        self.detach()


def _rest(call: Call, delay_s: float) -> None:
    """Wait before the next attempt; less when there are news."""
    while delay_s > 0:
        if call.news is None:
            time.sleep(delay_s)
            return
        with suppress(TimeoutError):
            call.news.result(delay_s)
        delay_s = call.rested(clock())


_stream_types: dict[type, Callable[..., Any]] = {}


def _stream_type(base: Any) -> Callable[..., Any]:
    """A response body that says when it has been read or closed, as a `base`."""
    known = _stream_types.get(base)
    if known is not None:
        return known

    class Body(base):  # type: ignore[misc]  # the base is the library's
        def __init__(self, stream: Any, done: Callable[[], None]) -> None:
            self._stream = stream
            self._done = done

        def __iter__(self) -> Iterator[bytes]:
            yield from self._stream

        def close(self) -> None:
            try:
                self._stream.close()
            finally:
                self._done()

    return _stream_types.setdefault(base, Body)
