"""HTTP/2 connections whose streams don't fail for each other, over the core library's.

What is different here:

- A stream's read timeout, cancellation or early close ends that stream: it is reset, what came
  for it is acknowledged, and the connection serves the others.
- A stream that waits times out by its own clock, whoever of them is reading just now.
- A connection on which a stream timed out, and that was silent all the while, gets no new ones
  until something is heard of it: it may lead to nobody.
- What is cancelled while it sets the connection up, or while frames are written for it, leaves
  the connection whole: half of a frame, or a missing one, would end all streams.
- An upload ends when its stream is refused, reset, or answered in full (413, say).
- After GOAWAY the streams that the server still answers get their answers.  Those above its last
  one were provably not processed, and so was a refused one: `unprocessed` says so.

GOAWAY never reaches the h2 library, which would read no further: `Frames` takes it out of
the stream of bytes and puts an acknowledged PING there instead.
"""

# long: one kind of connection, for both shells
from __future__ import annotations

import time
from contextlib import suppress
from math import inf
from typing import Any

import anyio

from ._attempt import CURRENT, clock
from ._library import Library
from ._readable import Writable

#: how long one stream reads before others of its connection may look at their clocks, in seconds
TURN_S = 0.05
#: so long nothing came while somebody waited, until a timeout speaks against the connection
SILENT_S = 1.0
#: how long telling the server that a stream is over may take, in seconds
FAREWELL_S = 0.5
_REFUSED_STREAM = 7
_CANCEL = 8
_GOAWAY = 7
_HEAD = 9
#: so much of a GOAWAY's payload is kept: the last stream and the error code
_NOTE = 8
_PING_ACK = b"\x00\x00\x08\x06\x01\x00\x00\x00\x00" + bytes(8)


class Unprocessed(Exception):
    """The server said that it hasn't looked at this request."""


class Answered(Exception):
    """An upload isn't wanted any more: its answer is there.  Never leaves this module."""


def unprocessed(exc: BaseException) -> bool:
    """Does this error (the client library's) prove that the server didn't process it?"""
    cause = exc.__cause__
    what = cause.args[0] if cause is not None and cause.args else None
    if isinstance(what, Unprocessed):
        return True
    refused = getattr(what, "error_code", None) == _REFUSED_STREAM
    return refused and type(what).__name__ == "StreamReset"


class Frames:
    """Finds GOAWAY in what a server sends.  `last`: the last stream that it serves."""

    def __init__(self) -> None:
        self.last: int | None = None
        self._head = b""
        self._left = 0
        self._taken: bytearray | None = None

    def feed(self, data: bytes) -> bytes:
        """What of it is to be passed on; the head of a frame only when it is complete."""
        if self._taken is None and self._left >= len(data):
            self._left -= len(data)
            return data
        out, at = bytearray(), 0
        while at < len(data):
            if self._left:
                part = data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                self._payload(part, out)
                continue
            part = data[at : at + _HEAD - len(self._head)]
            at += len(part)
            self._head += part
            if len(self._head) == _HEAD:
                self._begin(out)
        return bytes(out)

    def _begin(self, out: bytearray) -> None:
        head, self._head = self._head, b""
        self._left = int.from_bytes(head[:3])
        if head[3] == _GOAWAY and self._left >= _NOTE:
            self._taken = bytearray()
        else:
            out += head

    def _payload(self, part: bytes, out: bytearray) -> None:
        if self._taken is None:
            out += part
            return
        self._taken += part[: _NOTE - len(self._taken)]
        if not self._left:
            self.last = int.from_bytes(self._taken[:4]) & 0x7FFFFFFF
            self._taken = None
            out += _PING_ACK


class _Wire:
    """The connection's stream, without GOAWAY.  `until_s`: when the next read must end.
    `torn`: a part of what was to be written is lost.  `asked_at`: since when somebody waits
    for something to come; None since it came.  `doubted`: see `_doubt`."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.frames = Frames()
        self.until_s = inf
        self.torn = self.doubted = False
        self.asked_at: float | None = None

    def heard(self) -> None:
        self.asked_at, self.doubted = None, False

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)

    def left_s(self) -> float | None:
        return None if self.until_s == inf else max(0.001, self.until_s - clock())


class _BlockingWire(_Wire):
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            data: bytes = self.stream.receive(max_bytes, self.left_s())
            self.heard()
            passed = self.frames.feed(data)
            if passed or not data:
                return passed

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, timeout)

    def close(self) -> None:
        self.stream.close()


async def _hurry(shield: anyio.CancelScope) -> None:
    """Whoever is cancelled while the connection takes nothing waits only so long for it."""
    try:
        await anyio.sleep_forever()
    finally:
        shield.deadline = anyio.current_time() + FAREWELL_S


class _AsyncWire(_Wire):
    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        stream.shared = True
        self._writable: Any = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            data: bytes = await self.stream.receive(max_bytes, self.left_s())
            self.heard()
            passed = self.frames.feed(data)
            if passed or not data:
                return passed

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Written whole, also for somebody who is cancelled meanwhile: it may be others' too."""
        if not buffer:
            return
        if self._writable is None:
            self._writable = Writable(self.stream.get_extra_info("socket"))
        if self._writable():  # nearly always: then it is taken at once
            with anyio.CancelScope(shield=True):
                await self.stream.write(buffer, timeout)
            return
        written = False
        async with anyio.create_task_group() as group:
            with anyio.CancelScope(shield=True) as shield:
                group.start_soon(_hurry, shield)
                await self.stream.write(buffer, timeout)
                written = True
            self.torn = self.torn or not written
            group.cancel_scope.cancel()

    async def aclose(self) -> None:
        await self.stream.aclose()


class _Farewell:
    """What the core library wants to know of a request, to write without one."""

    extensions = {"timeout": {"write": FAREWELL_S}}  # noqa: RUF012  # nobody changes it


class _Shared:
    """What both kinds have in common; mixed into the core library's class."""

    _library: Library
    _network_stream: Any
    _events: dict[int, list[Any]]
    _h2_state: Any
    _state: Any
    _read_exception: Any
    _connection_error: bool
    _keepalive_expiry: float | None
    _expire_at: float | None

    def _await(self, request: Any, stream_id: int, phase: str) -> None:
        """This stream begins to wait: note until when."""
        timeout = (request.extensions.get("timeout") or {}).get(phase)
        now, wire = clock(), self._network_stream
        request.waits = (stream_id, inf if timeout is None else now + timeout, phase)
        if wire.asked_at is None:
            wire.asked_at = now

    def _doubt(self) -> None:
        """A stream timed out.  Was the connection silent all the while?"""
        wire = self._network_stream
        if wire.asked_at is not None and clock() - wire.asked_at >= SILENT_S:
            wire.doubted = True

    def _uploads(self, stream_id: int) -> None:
        """Raises when no more of this stream's body is to be sent."""
        seen = {type(event).__name__: event for event in self._events.get(stream_id, ())}
        reset = seen.get("StreamReset")
        if "ResponseReceived" in seen and (reset or "StreamEnded" in seen):
            raise Answered
        if reset is not None:
            raise self._library.core.RemoteProtocolError(reset)

    def _closed_by_server(self, exc: Exception, stream_id: int) -> None:
        """The h2 library refused to send on a stream: raises why, if the server ended it."""
        if type(exc).__name__ == "StreamClosedError":
            self._uploads(stream_id)

    def _turn(self, request: Any) -> float:
        """Until when this stream is to wait.  Sets how long it may read now; raises when its
        time is over."""
        stream_id, until_s, phase = getattr(request, "waits", (None, inf, ""))
        if phase == "write" and stream_id is not None:
            self._uploads(stream_id)
        wire = self._network_stream
        last = wire.frames.last
        if stream_id is not None and last is not None and stream_id > last:
            note = Unprocessed(f"the server goes away and serves streams up to {last}")
            raise self._library.core.RemoteProtocolError(note)
        now, attempt = clock(), CURRENT.get()
        wire.until_s = until_s
        if attempt is not None:
            if now >= attempt.look_at:
                attempt.look(now)
            until_s = min(until_s, attempt.until_s())
            wire.until_s = min(until_s, attempt.look_at)
        if now >= until_s:
            self._doubt()
            raise self._library.core.ReadTimeout("timed out")
        if len(self._events) > 1:
            wire.until_s = min(wire.until_s, now + TURN_S)
        return float(until_s)

    def _forgive(self, exc: Exception) -> None:
        """A read that got nothing in time says nothing of the connection."""
        if self._read_exception is exc:
            self._read_exception, self._connection_error = None, False

    def _rest(self) -> None:
        """It is idle from now on."""
        self._state = type(self._state).IDLE
        if self._keepalive_expiry is not None:
            self._expire_at = time.monotonic() + self._keepalive_expiry

    def _abandon(self, stream_id: int) -> bool:
        """Let go of a stream; True when the server is to be told."""
        events = self._events.get(stream_id)
        if events is None:
            return False
        unread = sum(getattr(event, "flow_controlled_length", None) or 0 for event in events)
        stream = self._h2_state.streams.get(stream_id)
        with suppress(Exception):  # h2's, when the stream is closed by now
            if unread:
                self._h2_state.acknowledge_received_data(unread, stream_id)
            if self._network_stream.doubted:
                self._h2_state.ping(bytes(8))  # whose answer lifts the doubt
            if stream is not None and not stream.closed:
                self._h2_state.reset_stream(stream_id, _CANCEL)
                return True
        return bool(unread)

    def is_available(self) -> bool:
        wire = self._network_stream
        if wire.frames.last is not None or wire.torn or wire.doubted:
            return False
        if wire.get_extra_info("is_stale"):
            return False
        return bool(super().is_available())  # type: ignore[misc]

    def has_expired(self) -> bool:
        if super().has_expired():  # type: ignore[misc]
            return True
        wire = self._network_stream
        # A server that ended an idle connection said so, but nobody was reading.
        return self.is_idle() and (  # type: ignore[attr-defined]
            wire.frames.last is not None
            or wire.torn
            or wire.doubted
            or bool(wire.get_extra_info("is_over"))
        )


class _Permits:
    """The semaphore of a connection's streams, whose first permits the core library takes back at
    once, so that one is left until the server says how many it allows.  It can't be cancelled
    within that."""

    def __init__(self, own: Any, taken_back: int) -> None:
        self._own, self._left = own, taken_back
        self.release = own.release
        self.acquire_if_available = getattr(own, "acquire_if_available", None)

    async def acquire(self) -> None:
        if not self._left:
            await self._own.acquire()
            return
        self._left -= 1
        with anyio.CancelScope(shield=True):
            await self._own.acquire()


# long: a class over whichever base the library has
def _blocking_type(library: Library, base: Any) -> type:
    core = library.core

    class Connection(_Shared, base):  # type: ignore[misc]  # the base is the library's
        _library = library
        _shy = False

        def _receive_stream_event(self, request: Any, stream_id: int) -> Any:
            self._await(request, stream_id, "read")
            return super()._receive_stream_event(request, stream_id)

        def _send_request_body(self, request: Any, stream_id: int) -> None:
            try:
                super()._send_request_body(request, stream_id)
            except Answered:
                pass
            except Exception as exc:
                with suppress(Answered):
                    self._closed_by_server(exc, stream_id)
                    raise

        def _wait_for_outgoing_flow(self, request: Any, stream_id: int) -> Any:
            self._uploads(stream_id)
            self._await(request, stream_id, "write")
            try:
                return super()._wait_for_outgoing_flow(request, stream_id)
            except core.ReadTimeout as exc:
                raise core.WriteTimeout(str(exc)) from exc

        def _read_incoming_data(self, request: Any) -> Any:
            until_s = self._turn(request)
            try:
                return super()._read_incoming_data(request)
            except core.ReadTimeout as exc:
                self._forgive(exc)
                if clock() >= until_s:
                    self._doubt()
                    raise
                self._shy = len(self._events) > 1
                return []

        def _write_outgoing_data(self, request: Any) -> None:
            if self._shy:  # a lock is given to whoever comes first: let others come
                self._shy = False
                time.sleep(0.001)
            super()._write_outgoing_data(request)

        def _response_closed(self, stream_id: int) -> None:
            if self._abandon(stream_id):
                with suppress(Exception):
                    self._write_outgoing_data(_Farewell)
            super()._response_closed(stream_id)

    return Connection


# long: a class over whichever base the library has
def _async_type(library: Library, base: Any) -> type:
    core = library.core

    class Connection(_Shared, base):  # type: ignore[misc]  # the base is the library's
        _library = library
        _entering = 0

        async def handle_async_request(self, request: Any) -> Any:
            self._entering += 1
            try:
                return await super().handle_async_request(request)
            finally:
                self._entering -= 1
                # The core library forgets this where somebody is cancelled before his stream
                # begins: the connection would never be idle again.
                if self._state.name == "ACTIVE" and not self._events and not self._entering:
                    self._rest()

        async def _send_connection_init(self, request: Any) -> None:
            with anyio.CancelScope(shield=True):  # others wait for it too
                await super()._send_connection_init(request)

        @property
        def _max_streams_semaphore(self) -> Any:
            return self.__dict__["_permits"]

        @_max_streams_semaphore.setter
        def _max_streams_semaphore(self, made: Any) -> None:
            most = self._h2_state.local_settings.max_concurrent_streams
            self.__dict__["_permits"] = _Permits(made, most - 1)

        async def _receive_stream_event(self, request: Any, stream_id: int) -> Any:
            self._await(request, stream_id, "read")
            return await super()._receive_stream_event(request, stream_id)

        async def _send_request_body(self, request: Any, stream_id: int) -> None:
            try:
                await super()._send_request_body(request, stream_id)
            except Answered:
                pass
            except Exception as exc:
                with suppress(Answered):
                    self._closed_by_server(exc, stream_id)
                    raise

        async def _wait_for_outgoing_flow(self, request: Any, stream_id: int) -> Any:
            self._uploads(stream_id)
            self._await(request, stream_id, "write")
            try:
                return await super()._wait_for_outgoing_flow(request, stream_id)
            except core.ReadTimeout as exc:
                raise core.WriteTimeout(str(exc)) from exc

        async def _read_incoming_data(self, request: Any) -> Any:
            until_s = self._turn(request)
            try:
                return await super()._read_incoming_data(request)
            except core.ReadTimeout as exc:
                self._forgive(exc)
                if clock() >= until_s:
                    self._doubt()
                    raise
                return []

        async def _response_closed(self, stream_id: int) -> None:
            if self._abandon(stream_id):
                with suppress(Exception), anyio.move_on_after(FAREWELL_S, shield=True):
                    await self._write_outgoing_data(_Farewell)
            await super()._response_closed(stream_id)

    return Connection


_types: dict[type, type] = {}


def ours(library: Library, made: Any, blocking: bool) -> Any:
    """A connection that the core library made, if it is HTTP/2: of our kind."""
    if made is None or not hasattr(made, "_h2_state"):
        return made
    base = type(made)
    if base not in _types:
        _types[base] = (_blocking_type if blocking else _async_type)(library, base)
    wire = (_BlockingWire if blocking else _AsyncWire)(made._network_stream)
    return _types[base](origin=made._origin, stream=wire, keepalive_expiry=made._keepalive_expiry)
