"""Streams for the core library's async pools: dialled at one endpoint, watched while they
wait.  Wraps whatever network backend the library chose (asyncio or trio)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

import anyio
import anyio.to_thread

from . import _dial
from ._async_race import read_head
from ._attempt import CURRENT, STAGGER_S, Attempt, Elsewhere, clock
from ._library import Library
from ._origin import Slot
from ._readable import Readable


class AsyncStream:
    """A connected stream with the interface of the core library's `AsyncNetworkStream`."""

    __slots__ = ("_readable", "_tls_names", "inner", "library", "runner", "slot")

    def __init__(
        self,
        library: Library,
        inner: Any,
        slot: Slot,
        runner: Any,
        tls_names: Mapping[str, str],
    ) -> None:
        self.library = library
        self.inner = inner
        self.slot = slot
        self.runner = runner
        self._tls_names = tls_names
        self._readable: Readable | None = None

    def read(self, max_bytes: int, timeout: float | None = None) -> Awaitable[bytes]:
        attempt = CURRENT.get()
        if attempt is None:
            return self._receive(max_bytes, timeout)
        return read_head(self, attempt, max_bytes, timeout)

    async def _receive(self, max_bytes: int, timeout: float | None) -> bytes:
        data: bytes = await self.inner.read(max_bytes, timeout)
        self.slot.byte_at = clock()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        attempt = CURRENT.get()
        if attempt is None or not buffer:
            await self.inner.write(buffer, timeout)
            return
        attempt.sent = True
        for begin in range(0, len(buffer), _dial.BULK):
            part = buffer if len(buffer) <= _dial.BULK else buffer[begin : begin + _dial.BULK]
            await self.inner.write(part, _dial.write_s(attempt, timeout, len(buffer)))
            attempt.wrote(clock())

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> AsyncStream:
        attempt, began_s = CURRENT.get(), clock()
        core = self.library.core
        name = _dial.verified(server_hostname, self._tls_names, attempt)
        bound_s = timeout if attempt is None else _dial.handshake_s(attempt, timeout)
        try:
            secured = await self.inner.start_tls(ssl_context, name, bound_s)
        except (core.ConnectError, core.ConnectTimeout) as exc:
            if attempt is not None:
                late = isinstance(exc, core.ConnectTimeout)
                _dial.handshake_failed(attempt, exc, clock() - began_s if late else None)
            raise
        return AsyncStream(self.library, secured, self.slot, self.runner, self._tls_names)

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            if self._readable is None:
                self._readable = Readable(self.inner.get_extra_info("socket"))
            return self._readable()
        return self.inner.get_extra_info(info)


class AsyncBackend:
    """The network backend of one endpoint's connection pool."""

    def __init__(
        self,
        library: Library,
        slot: Slot,
        network: Any,
        runner: Any,
        tls_names: Mapping[str, str],
    ) -> None:
        self._library = library
        self._slot = slot
        self._network = network
        self._runner = runner
        self._tls_names = tls_names

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> AsyncStream:
        attempt = CURRENT.get()
        endpoint = self._slot.endpoint
        if attempt is None:  # a health check
            stream = await self._network.connect_tcp(endpoint.address, endpoint.port, timeout)
            return AsyncStream(self._library, stream, self._slot, self._runner, self._tls_names)
        parked, attempt.call.parked = attempt.call.parked, None
        if parked is not None and parked[0] is self._slot:
            stream = parked[1]
        else:
            if parked is not None:
                await parked[1].aclose()
            options = tuple(socket_options or ())
            race = DialRace(self._library, self._network, attempt, local_address, options)
            slot, stream = await race.run(_dial.bounded(attempt, timeout))
            if slot is not self._slot:
                attempt.call.parked = (slot, stream)
                raise Elsewhere
        return AsyncStream(self._library, stream, self._slot, self._runner, self._tls_names)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


async def wait_for(future: Future[None]) -> None:
    """Wait for another thread's news."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # trio
        await anyio.to_thread.run_sync(future.result, abandon_on_cancel=True)
    else:
        await asyncio.wrap_future(future)


class DialRace:
    """One staggered connect."""

    def __init__(
        self,
        library: Library,
        network: Any,
        attempt: Attempt,
        local_address: str | None,
        options: tuple[Any, ...],
    ) -> None:
        self._library = library
        self._network = network
        self._attempt = attempt
        self._local_address = local_address
        self._options = options
        self._won: tuple[Slot, Any] | None = None
        self._pending: dict[Slot, float] = {}
        self._error: Exception | None = None
        self._failed = anyio.Event()

    async def run(self, timeout_s: float) -> tuple[Slot, Any]:
        """The endpoint that took the connection, and the stream.  The core library's
        ConnectError: none did; ConnectTimeout: none did in time."""
        core = self._library.core
        try:
            with anyio.move_on_after(timeout_s):
                async with anyio.create_task_group() as group:
                    await self._stagger(timeout_s, group)
            if self._won is not None:
                return self._won
            if self._pending or self._error is None:
                raise core.ConnectTimeout("timed out")
            self._attempt.nobody = not self._attempt.local_fault
            raise self._error
        except BaseException:
            if self._won is not None:
                with anyio.CancelScope(shield=True):
                    await self._won[1].aclose()
            raise
        finally:
            for slot, since_s in self._pending.items():
                _dial.silent(self._attempt, slot, since_s)

    async def _stagger(self, timeout_s: float, group: Any) -> None:
        course, origin = _dial.Course(self._attempt), self._attempt.call.origin
        while self._won is None:
            self._failed = anyio.Event()
            seen, partial, now = origin.improvements, origin.partial, clock()
            slot = course.next(now)
            if slot is not None:
                self._pending[slot] = now
                group.start_soon(self._dial, slot, timeout_s, group)
            elif self._pending:
                # All were dialled and are silent: perhaps there are others by now.
                origin.look_again(None, now)
            elif partial:
                await wait_for(origin.news(seen))  # the other family may still come
                continue
            else:
                return
            with anyio.move_on_after(STAGGER_S):
                await self._failed.wait()

    async def _dial(self, slot: Slot, timeout_s: float, group: Any) -> None:
        core, endpoint = self._library.core, slot.endpoint
        self._attempt.dialled += 1
        try:
            stream = await self._network.connect_tcp(
                endpoint.address,
                endpoint.port,
                timeout=timeout_s,
                local_address=self._local_address,
                socket_options=self._options,
            )
        except core.ConnectTimeout:
            return
        except core.ConnectError as exc:
            self._refused(slot, exc)
            return
        del self._pending[slot]
        if self._won is not None:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
            return
        self._won = (slot, stream)
        self._failed.set()
        group.cancel_scope.cancel()

    def _refused(self, slot: Slot, exc: Exception) -> None:
        del self._pending[slot]
        self._error = exc
        cause = exc.__cause__ or exc
        inner = getattr(cause, "__cause__", None) or cause
        if _dial.is_local(cause) or _dial.is_local(inner):
            self._attempt.local_fault = True
        else:
            _dial.refused(self._attempt, slot, exc)
        self._failed.set()
