"""The async engine: runs a call's attempts in the caller's task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Any

import anyio

from .. import errors
from . import _pools
from ._async_hedge import Hedge
from ._async_stream import AsyncBackend, wait_for
from ._attempt import CURRENT, Attempt, Elsewhere, Superseded, clock
from ._call import Call
from ._engine import Engine, Send
from ._fallbacks import Relay
from ._slot import Slot


class AsyncEngine(Engine):
    """See `Engine`."""

    blocking = False
    _loop: asyncio.AbstractEventLoop | None = None

    def handle(self, request: Any, send: Send) -> Awaitable[Any] | None:
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

    async def _relay(self, relay: Relay, send: Send) -> Any:
        """Through the URL and its fallbacks, until one serves."""
        response = None
        try:
            while response is None:
                request = relay.request()
                try:
                    answer = await self._handle(self.key(request), request, send)
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

    async def _handle(self, key: Any, request: Any, send: Send) -> Any:
        began_s = clock()
        origin, wait = self.origin(key, began_s)
        if wait is not None:
            try:
                with anyio.fail_after(self.resolution_s(request)):
                    await wait_for(wait)
            except errors.ResolutionError as exc:
                raise self.resolution_error(exc, key[1]) from exc
            except TimeoutError as exc:
                raise self.resolution_late(key[1]) from exc
        with suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()
        call = Call(self.policy, origin, request, send, self.once, began_s)
        return await self._run(call, clock())

    async def _run(self, call: Call, now: float) -> Any:
        try:
            while True:
                attempt = call.attempt(now)
                try:
                    if attempt.hedge_at < inf:
                        response = await Hedge(attempt).run()
                    else:
                        response = await self.once(attempt)
                    if await self._taken(call, attempt, response):
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
                    await _rest(call, call.failed(attempt, exc, clock()))
                except BaseException:
                    attempt.leave()
                    raise
                now = clock()
        finally:
            await _tidy(call)

    async def _taken(self, call: Call, attempt: Attempt, response: Any) -> bool:
        """Is this answer the caller's?  Whatever goes wrong here, it isn't left open."""
        try:
            if call.answered(attempt, response.status_code, clock()):
                return True
            if not attempt.left and _pools.is_full(self.pool):
                await response.aclose()
            else:
                call.kept = (attempt, response)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await response.aclose()
            raise
        if call.kept is None:
            attempt.leave()
        return False

    async def once(self, attempt: Attempt) -> Any:
        """One attempt: the response with its head, and its body if that belongs to it."""
        call = attempt.call
        token = CURRENT.set(attempt)
        try:
            response = await call.send(call.request)
            if response.status_code != 101 and self.buffers(call):
                attempt.headed = True
                try:
                    body = b"".join([part async for part in response.stream])
                finally:
                    await response.stream.aclose()
                response.stream = self.library.client.ByteStream(body)
                attempt.leave()
        finally:
            CURRENT.reset(token)
        return response

    def _deliver(self, attempt: Attempt, response: Any) -> Any:
        response.extensions["resilient"] = attempt.call.note(attempt, response.status_code)
        if not attempt.left:
            body = _stream_type(self.library.client.AsyncByteStream)
            response.stream = body(response.stream, attempt.leave)
        return response

    # -- what Engine asks for

    def _backend(self) -> AsyncBackend:
        return AsyncBackend(self.library, self._own_backend, self.settings.tls_names)

    def endpoint_gone(self, slot: Slot) -> None:
        # Connections belong to the loop that opened them: have them closed there.  (Under trio
        # there is no such loop: the next request closes them.)
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._close_idle)

    def _close_idle(self) -> None:
        closing = _pools.expire(self.pool)
        if closing:
            task = asyncio.ensure_future(_close_all(closing))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _discard(self, connections: list[Any]) -> None:
        # Their loop stayed with the parent: nothing can be awaited, so only forget them.
        self._loop = None

    async def aclose(self) -> None:
        while self._closing:
            await asyncio.wait(self._closing)  # which doesn't cancel them with us
        await self.pool.aclose()
        self.detach()

    @property
    def _closing(self) -> set[asyncio.Future[None]]:
        tasks: set[asyncio.Future[None]] = self.__dict__.setdefault("_closing_tasks", set())
        return tasks


async def _tidy(call: Call) -> None:
    """What is left of a call when it ends."""
    if call.handed_over is None and call.kept is None:
        return
    with anyio.CancelScope(shield=True):
        if call.handed_over is not None:
            await call.handed_over[1].aclose()
        if call.kept is not None:
            await call.kept[1].aclose()
            call.kept[0].leave()


async def _close_all(connections: list[Any]) -> None:
    with suppress(Exception):
        await _pools.close_all(connections)


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
