"""Streams for the core library's async pools: dialled at one endpoint, watched while they
wait.  Wraps whatever network backend the library chose (asyncio or trio)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from . import _dial, _offline
from ._attempt import CURRENT, STAGGER_S, Attempt, Elsewhere, clock
from ._library import Library
from ._readable import Readable
from ._slot import Slot


class AsyncStream:
    """A connected stream with the interface of the core library's `AsyncNetworkStream`."""

    __slots__ = (
        "_early", "_mark", "_readable", "_tls_names", "inner", "library", "shared", "slot",
    )  # fmt: skip

    def __init__(
        self, library: Library, inner: Any, slot: Slot, tls_names: Mapping[str, str]
    ) -> None:
        self.library = library
        self.inner = inner
        self.slot = slot
        self._tls_names = tls_names
        self._mark = _dial.Mark(slot)
        self._readable: Readable | None = None
        #: several requests use it at once (HTTP/2), so somebody else may be reading
        self.shared = False
        #: what came while a request was sent
        self._early = b""

    def read(self, max_bytes: int, timeout: float | None = None) -> Awaitable[bytes]:
        attempt = CURRENT.get()
        if attempt is None:
            return self.receive(max_bytes, timeout)
        return self._read(attempt, max_bytes, timeout)

    async def _read(self, attempt: Attempt, max_bytes: int, timeout: float | None) -> bytes:
        """Bytes.  Core's ReadTimeout at the deadline, after `timeout` seconds, or when the
        endpoint is proved dead."""
        user_until_s = inf if timeout is None else clock() + timeout
        while True:
            now = clock()
            until_s = min(user_until_s, attempt.until_s())
            if now >= until_s:
                raise self.library.core_error("ReadTimeout", TimeoutError("timed out"))
            stop_s = min(until_s, attempt.look_at)
            try:
                data = await self.receive(max_bytes, _dial.finite(max(0.001, stop_s - now)))
            except self.library.core.ReadTimeout:
                if clock() >= attempt.look_at:
                    attempt.look(clock())
            else:
                attempt.ended = not data
                return data

    async def receive(self, max_bytes: int, timeout: float | None) -> bytes:
        if self._early:
            early, self._early = self._early[:max_bytes], self._early[max_bytes:]
            return early
        data: bytes = await self.inner.read(max_bytes, timeout)
        self.slot.byte_at = clock()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        attempt = CURRENT.get()
        if attempt is None or not buffer:
            await self.inner.write(buffer, timeout)
            return
        attempt.sent = True
        if len(buffer) <= _dial.BULK:  # fits into the buffers, nearly always
            await self.inner.write(buffer, _dial.write_s(attempt, timeout))
            attempt.uploaded_s = clock()
            return
        write = partial(self._write_all, attempt, buffer, timeout)
        if not await unless_dead(attempt, write if self.shared else partial(self._beside, write)):
            raise self.library.core_error("WriteTimeout", TimeoutError("the endpoint is dead"))

    async def _write_all(self, attempt: Attempt, buffer: bytes, timeout: float | None) -> None:
        for begin in range(0, len(buffer), _dial.BULK):
            part = buffer[begin : begin + _dial.BULK]
            if self._look()() and not self.shared:
                for _ in range(3):  # let `_hear` take it
                    await anyio.lowlevel.checkpoint()
            await self.inner.write(part, _dial.write_s(attempt, timeout))
            attempt.uploaded_s = clock()

    async def _beside(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write while listening.  A server that answers before it has all (413, say) may end the
        connection with the rest unread; asyncio, when it meets that while it writes, drops what
        came and wasn't read."""
        error: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._hear)
            try:
                await write()
            except Exception as exc:
                error = exc
            group.cancel_scope.cancel()
        if error is not None:
            raise error

    async def _hear(self) -> None:
        core = self.library.core
        with suppress(core.ReadError, core.ReadTimeout):
            while len(self._early) < _dial.BULK and (
                data := await self.inner.read(_dial.BULK, None)
            ):
                self.slot.byte_at = clock()
                self._early += data

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> AsyncStream:
        attempt = CURRENT.get()
        core = self.library.core
        name = _dial.verified(server_hostname, self._tls_names, attempt)
        bound_s = timeout if attempt is None else _dial.finite(_dial.bounded(attempt, timeout))
        secured: list[Any] = []

        async def shake() -> None:
            secured.append(await self.inner.start_tls(ssl_context, name, bound_s))

        try:
            if not await unless_dead(attempt, shake):
                raise core.ConnectTimeout("the endpoint is dead")
        except BaseException as exc:
            if attempt is not None and isinstance(exc, core.ConnectError):
                _dial.handshake_failed(attempt, exc)
            with anyio.CancelScope(shield=True):
                await self.inner.aclose()
            raise
        return AsyncStream(self.library, secured[0], self.slot, self._tls_names)

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return bool(self._early) or self._mark.is_stale() or self._look()()
        if info == "is_over":
            return self._mark.is_stale() or self._look().hung_up()
        if info == "is_stale":
            return self._mark.is_stale()
        return self.inner.get_extra_info(info)

    def _look(self) -> Readable:
        if self._readable is None:
            self._readable = Readable(self.inner.get_extra_info("socket"))
        return self._readable


async def unless_dead(attempt: Attempt | None, run: Callable[[], Awaitable[None]]) -> bool:
    """Run it; False when it was ended because the attempt's endpoint was proved dead."""
    if attempt is None or attempt.look_at == inf:
        await run()
        return True
    error: BaseException | None = None
    dead = False
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            nonlocal dead
            while not attempt.is_dead(clock()):  # noqa: ASYNC110  # time is what is waited for
                await anyio.sleep(max(0.0, attempt.look_at - clock()))
            dead = True
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            await run()
        except Exception as exc:
            error = exc
        group.cancel_scope.cancel()
    if error is not None:
        raise error
    return not dead


class AsyncBackend:
    """The network backend of a transport's pool: dials the endpoint of the attempt under way,
    or `slot` if it is given (for health checks).

    `own`: the library's own backend (asyncio or trio), which does the work.
    """

    def __init__(
        self, library: Library, own: Any, tls_names: Mapping[str, str], slot: Slot | None = None
    ) -> None:
        self._library = library
        self._own = own
        self._tls_names = tls_names
        self._slot = slot

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        attempt, slot = CURRENT.get(), self._slot
        if slot is not None:
            endpoint = slot.endpoint
            stream = await self._own.connect_tcp(endpoint.address, endpoint.port, timeout)
            return AsyncStream(self._library, stream, slot, self._tls_names)
        if attempt is None:
            _offline.check(self._library, host)
            return await self._own.connect_tcp(host, port, timeout, local_address, socket_options)
        attempt.call.waited(attempt, clock())
        # Closing takes a turn or two of the loop: what had to go is gone by then.
        for _ in range(2):
            await anyio.lowlevel.checkpoint()
        handed_over, attempt.call.handed_over = attempt.call.handed_over, None
        if handed_over is not None and handed_over[0] is attempt.slot:
            stream = handed_over[1]
        else:
            if handed_over is not None:
                await handed_over[1].aclose()
            options = tuple(socket_options or ())
            race = DialRace(self._library, self._own, attempt, local_address, options)
            slot, stream = await race.run(_dial.bounded(attempt, timeout))
            if slot is not attempt.slot:
                attempt.call.handed_over = (slot, stream)
                raise Elsewhere
        return AsyncStream(self._library, stream, attempt.slot, self._tls_names)

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
        self._winner_s: float | None = None
        self._error: Exception | None = None
        #: an endpoint refused: not all errors are this machine's own
        self._refused = False
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
            self._attempt.local_fault = not self._refused
            self._attempt.nobody = self._refused
            raise self._error
        except BaseException:
            if self._won is not None:
                with anyio.CancelScope(shield=True):
                    await self._won[1].aclose()
            raise
        finally:
            for slot, since_s in self._pending.items():
                _dial.silent(self._attempt, slot, since_s, self._winner_s)

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
        local = _dial.other_family(slot, self._local_address)
        if local is not None:
            error = self._library.core_error("ConnectError", local)
            error.__cause__ = local
            self._fail(slot, error)
            return
        try:
            stream = await self._network.connect_tcp(
                endpoint.address,
                endpoint.port,
                timeout=_dial.finite(timeout_s),
                local_address=self._local_address,
                socket_options=self._options,
            )
        except core.ConnectTimeout:
            return
        except core.ConnectError as exc:
            self._fail(slot, exc)
            return
        since_s = self._pending.pop(slot)
        if self._won is not None:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
            return
        self._won, self._winner_s = (slot, stream), clock() - since_s
        self._failed.set()
        group.cancel_scope.cancel()

    def _fail(self, slot: Slot, exc: Exception) -> None:
        del self._pending[slot]
        self._error = exc
        cause = exc.__cause__ or exc
        inner = getattr(cause, "__cause__", None) or cause
        if not (_dial.is_local(cause) or _dial.is_local(inner)):
            self._refused = True
            _dial.refused(self._attempt, slot, exc)
        self._failed.set()
