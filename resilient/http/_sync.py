"""The blocking engine: runs a call's attempts in the caller's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakMethod

from .. import errors
from . import _pools
from ._attempt import CURRENT, Attempt, Elsewhere, Superseded, clock
from ._call import Call
from ._engine import BUFFERED, Engine
from ._fallbacks import Relay
from ._origin import Slot
from ._sync_stream import SyncBackend


class SyncEngine(Engine):
    """See `Engine`."""

    def handle(self, request: Any) -> Any:
        """The response; None: the library itself is to handle it, or to complain.  Raises
        as documented in the package."""
        now = clock()
        call = self.begin(request, now)
        if call is not None:
            return self._run(call, now)
        key = self.key(request)
        if key is None:
            return None
        if self.fallbacks is not None:
            relay = self.fallbacks.relay(request, self.deadline_of(request))
            if relay is not None:
                return self._relay(relay)
        return self._handle(key, request)

    def _relay(self, relay: Relay) -> Any:
        """Through the URL and its fallbacks, until one serves."""
        response = None
        try:
            while response is None:
                request = relay.request()
                try:
                    answer = self._handle(self.key(request), request)
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

    def _handle(self, key: Any, request: Any) -> Any:
        began_s = clock()
        origin, wait = self.origin(key, began_s)
        if wait is None:
            return self._run(Call(self.policy, origin, request, began_s), began_s)
        try:
            wait.result(self.deadline_of(request))
        except errors.ResolutionError as exc:
            raise self.resolution_error(exc, key[1]) from exc
        except TimeoutError as exc:
            raise self.resolution_late(key[1]) from exc
        return self._run(Call(self.policy, origin, request, began_s), clock())

    def _run(self, call: Call, now: float) -> Any:
        try:
            while True:
                attempt = call.attempt(now)
                try:
                    response = self.once(attempt)
                except Superseded as won:
                    call.superseded(attempt, clock())
                    return self._deliver(won.attempt, won.response)
                except Elsewhere:
                    call.redirected(attempt)
                    now = clock()
                    continue
                except self.library.client.TransportError as exc:
                    _rest(call, call.failed(attempt, exc, clock()))
                    now = clock()
                    continue
                except BaseException:
                    attempt.leave()
                    raise
                delay_s = call.answered(attempt, response.status_code, response.headers, clock())
                if delay_s is None:
                    return self._deliver(attempt, response)
                response.close()
                attempt.leave()
                time.sleep(delay_s)
                now = clock()
        finally:
            if call.parked is not None:
                call.parked[1].close()

    def once(self, attempt: Attempt) -> Any:
        """One attempt: the response with its head, and its body if that belongs to it."""
        inner = self._inners.get(attempt.slot) or self.inner(attempt.slot)
        token = CURRENT.set(attempt)
        try:
            response = inner.handle_request(self.request_for(attempt, inner))
        finally:
            CURRENT.reset(token)
        buffered = BUFFERED.get()
        if buffered is None:
            buffered = self.buffers
        if buffered and attempt.call.repeatable and response.status_code != 101:
            try:
                body = b"".join(response.stream)
            finally:
                response.stream.close()
            response.stream = self.library.client.ByteStream(body)
            attempt.leave()
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

    def _backend(self, slot: Slot, network: Any) -> SyncBackend:
        return SyncBackend(self.library, slot, WeakMethod(self.once), self.settings.tls_names)

    def endpoint_gone(self, slot: Slot) -> None:
        for connection in self._take_idle(slot):
            connection.close()

    def _discard(self, inners: list[Any]) -> None:
        for inner in inners:
            for connection in _pools.connections(inner):
                with suppress(Exception):
                    connection.close()

    def close(self) -> None:
        for inner in self.take_inners():
            inner.close()
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
