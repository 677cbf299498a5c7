"""The async engine: runs a call's attempts in the caller's task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any
from weakref import WeakMethod

import anyio

from .. import errors
from ._async_stream import AsyncBackend, wait_for
from ._attempt import CURRENT, Attempt, Elsewhere, Superseded, clock
from ._call import Call
from ._engine import BUFFERED, Engine
from ._fallbacks import Relay
from ._origin import Slot


class AsyncEngine(Engine):
    """See `Engine`."""

    _loop: asyncio.AbstractEventLoop | None = None

    def handle(self, request: Any) -> Awaitable[Any] | None:
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

    async def _relay(self, relay: Relay) -> Any:
        """Through the URL and its fallbacks, until one serves."""
        response = None
        try:
            while response is None:
                request = relay.request()
                try:
                    answer = await self._handle(self.key(request), request)
                except self.library.client.TransportError as exc:
                    response = relay.failed(exc)
                    continue
                response, loser = relay.answered(answer)
                if loser is not None:
                    await loser.aclose()
            return response
        finally:
            if relay.kept is not None and relay.kept is not response:
                await relay.kept.aclose()

    async def _handle(self, key: Any, request: Any) -> Any:
        began_s = clock()
        origin, wait = self.origin(key, began_s)
        if wait is None:
            return await self._run(Call(self.policy, origin, request, began_s), began_s)
        try:
            with anyio.fail_after(self.deadline_of(request)):
                await wait_for(wait)
        except errors.ResolutionError as exc:
            raise self.resolution_error(exc, key[1]) from exc
        except TimeoutError as exc:
            raise self.resolution_late(key[1]) from exc
        with suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()
        return await self._run(Call(self.policy, origin, request, began_s), clock())

    async def _run(self, call: Call, now: float) -> Any:
        try:
            while True:
                attempt = call.attempt(now)
                try:
                    response = await self.once(attempt)
                except Superseded as won:
                    call.superseded(attempt, clock())
                    return self._deliver(won.attempt, won.response)
                except Elsewhere:
                    call.redirected(attempt)
                    now = clock()
                    continue
                except self.library.client.TransportError as exc:
                    await _rest(call, call.failed(attempt, exc, clock()))
                    now = clock()
                    continue
                except BaseException:
                    attempt.leave()
                    raise
                again_s = call.answered(attempt, response.status_code, response.headers, clock())
                if again_s is None:
                    return self._deliver(attempt, response)
                await response.aclose()
                attempt.leave()
                await anyio.sleep(again_s)
                now = clock()
        finally:
            if call.parked is not None:
                with anyio.CancelScope(shield=True):
                    await call.parked[1].aclose()

    async def once(self, attempt: Attempt) -> Any:
        """One attempt: the response with its head, and its body if that belongs to it."""
        inner = self._inners.get(attempt.slot) or self.inner(attempt.slot)
        token = CURRENT.set(attempt)
        try:
            response = await inner.handle_async_request(self.request_for(attempt, inner))
        finally:
            CURRENT.reset(token)
        buffered = BUFFERED.get()
        if buffered is None:
            buffered = self.buffers
        if buffered and attempt.call.repeatable and response.status_code != 101:
            try:
                body = b"".join([part async for part in response.stream])
            finally:
                await response.stream.aclose()
            response.stream = self.library.client.ByteStream(body)
            attempt.leave()
        return response

    def _deliver(self, attempt: Attempt, response: Any) -> Any:
        response.extensions["resilient"] = attempt.call.note(attempt, response.status_code)
        if not attempt.left:
            body = _stream_type(self.library.client.AsyncByteStream)
            response.stream = body(response.stream, attempt.leave)
        return response

    # -- what Engine asks for

    def _backend(self, slot: Slot, network: Any) -> AsyncBackend:
        with suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()
        runner = WeakMethod(self.once)
        return AsyncBackend(self.library, slot, network, runner, self.settings.tls_names)

    def endpoint_gone(self, slot: Slot) -> None:
        # Connections belong to the loop that opened them: have them closed there.
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._close_idle, slot)

    def _close_idle(self, slot: Slot) -> None:
        closing = self._take_idle(slot)
        if closing:
            task = asyncio.ensure_future(_close_all(closing))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _discard(self, inners: list[Any]) -> None:
        # Their loop stayed with the parent: nothing can be awaited, so only forget them.
        self._loop = None

    async def aclose(self) -> None:
        while self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)
        for inner in self.take_inners():
            await inner.aclose()
        self.detach()

    @property
    def _closing(self) -> set[asyncio.Future[None]]:
        tasks: set[asyncio.Future[None]] = self.__dict__.setdefault("_closing_tasks", set())
        return tasks


async def _close_all(connections: list[Any]) -> None:
    for connection in connections:
        with suppress(Exception):
            await connection.aclose()


async def _rest(call: Call, delay_s: float) -> None:
    """Wait before the next attempt; less when there are news."""
    while delay_s > 0:
        if call.news is None:
            await anyio.sleep(delay_s)
            return
        with anyio.move_on_after(delay_s):
            await wait_for(call.news)
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

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for part in self._stream:
                yield part

        async def aclose(self) -> None:
            try:
                await self._stream.aclose()
            finally:
                self._done()

    return _stream_types.setdefault(base, Body)
