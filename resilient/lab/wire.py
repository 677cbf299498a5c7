"""A proxy that reads PostgreSQL's protocol and cuts a conversation at a chosen message.

    with WireProxy("127.0.1.10", 5432) as proxy:
        ...                                     # a client connects to proxy.address
        watch = proxy.watch(pid=backend_pid)    # a dry run: what is said from now on
        cut = proxy.cut("client", 3, pid=backend_pid, side="after")

Messages (PostgreSQL manual 55.7) are forwarded whole, in one piece or not at all; a cut says
how far the last one comes:

    before   it is not forwarded: the other side never sees it
    within   half of its bytes are
    after    it is, and it is the last that either side hears
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Self

__all__ = ["Conversation", "Cut", "Direction", "Kind", "Side", "Watch", "WireProxy"]

#: who says it
Direction = Literal["client", "server"]
#: how a cut shows on both sockets; `silence`: not at all, nothing is forwarded any more
Kind = Literal["reset", "close", "silence"]
#: how far the message comes at which it is cut
Side = Literal["before", "within", "after"]

#: what a client may say first, instead of a message with a type
_STARTUP = {80877103: "ssl", 80877104: "gss", 80877102: "cancel"}
_HEADER = struct.Struct("!I")
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


@dataclass(slots=True)
class Watch:
    """What is said on one connection, or on each, from the moment of watching.

    `pid`: only where this backend answers.  `only_after`: only from a client's message on
    that contains these bytes, itself included.  `client` and `server` are the types of the
    messages: the protocol's letters, and `startup`, `ssl`, `gss`, `cancel`.
    """

    pid: int | None = None
    only_after: bytes = b""
    client: list[str] = field(default_factory=list)
    server: list[str] = field(default_factory=list)
    _counts: dict[int, dict[Direction, int]] = field(default_factory=dict)

    def count(self, talk: Conversation, direction: Direction, kind: str, frame: bytes) -> int:
        """The number of this message, from 1; 0 when it isn't watched."""
        if self.pid is not None and talk.pid != self.pid:
            return 0
        counts = self._counts.get(talk.number)
        if counts is None:
            if self.only_after and (direction == "server" or self.only_after not in frame):
                return 0
            counts = self._counts[talk.number] = {"client": 0, "server": 0}
        counts[direction] += 1
        heard = self.client if direction == "client" else self.server
        heard.append(kind)
        return counts[direction]


@dataclass(slots=True)
class Cut(Watch):
    """A watch that ends the conversation.  `fired` is set as soon as it has."""

    direction: Direction = "client"
    number: int = 1
    kind: Kind = "reset"
    side: Side = "after"
    once: bool = True
    fired: threading.Event = field(default_factory=threading.Event)

    def fits(self, direction: Direction, number: int) -> bool:
        here = direction == self.direction and number == self.number
        return here and not (self.once and self.fired.is_set())


class _Framing:
    """Bytes in, whole messages out: (type, frame)."""

    def __init__(self, direction: Direction) -> None:
        self._buffer = bytearray()
        #: the client's first message has no type; it may ask for encryption before it
        self.starting = direction == "client"

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        self._buffer += data
        while (size := self._size()) and len(self._buffer) >= size:
            frame = bytes(self._buffer[:size])
            del self._buffer[:size]
            yield self._kind(frame), frame

    def _size(self) -> int:
        start = 0 if self.starting else 1
        if len(self._buffer) < start + 4:
            return 0
        size: int = _HEADER.unpack_from(self._buffer, start)[0]
        return start + max(size, 4)

    def _kind(self, frame: bytes) -> str:
        if not self.starting:
            return chr(frame[0])
        kind = "startup"
        if len(frame) >= 8:
            kind = _STARTUP.get(_HEADER.unpack_from(frame, 4)[0], "startup")
        self.starting = kind in ("ssl", "gss")
        return kind


class _End(asyncio.Protocol):
    """One of the two sockets of a conversation."""

    transport: asyncio.Transport

    def __init__(self, talk: Conversation, direction: Direction) -> None:
        self._talk = talk
        self._direction: Direction = direction
        self.framing = _Framing(direction)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._talk.made(self._direction, self)

    def data_received(self, data: bytes) -> None:
        self._talk.heard(self._direction, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._talk.lost(self._direction)

    def pause_writing(self) -> None:
        self._talk.hold(self._direction, hold=True)

    def resume_writing(self) -> None:
        self._talk.hold(self._direction, hold=False)


class Conversation:
    """A client's connection and ours to the server.  Runs on the proxy's thread."""

    def __init__(self, proxy: WireProxy, number: int) -> None:
        self.number = number
        #: the backend's process id, once the server has told it
        self.pid: int | None = None
        self.silent = False
        self.over = False
        self._proxy = proxy
        self._ends: dict[Direction, _End] = {}
        self._early: list[bytes] = []
        self._asked_for_ssl = False
        self._encrypted = False

    # -- the sockets' events

    def made(self, direction: Direction, end: _End) -> None:
        self._ends[direction] = end
        if direction == "server":
            if self.over:  # the client left meanwhile
                end.transport.abort()
            for data in self._early:
                self.heard("client", data)
            self._early.clear()

    def heard(self, direction: Direction, data: bytes) -> None:
        if direction == "client" and "server" not in self._ends:
            self._early.append(data)
            return
        if direction == "server" and self._asked_for_ssl:
            self._asked_for_ssl = False
            self._encrypted = data[:1] == b"S"
            self._ends["client"].transport.write(data[:1])
            data = data[1:]
        if self._encrypted:
            if not self.silent:
                self._receiver(direction).write(data)
            return
        for kind, frame in self._ends[direction].framing.feed(data):
            if self.over or self.silent:
                return
            self._message(direction, kind, frame)

    def lost(self, direction: Direction) -> None:
        if not self.silent:
            self.end("close")

    def hold(self, direction: Direction, *, hold: bool) -> None:
        """This side takes no more: the other one has to wait."""
        other = self._receiver(direction)
        if not other.is_closing():
            (other.pause_reading if hold else other.resume_reading)()

    def _receiver(self, direction: Direction) -> asyncio.Transport:
        return self._ends["server" if direction == "client" else "client"].transport

    # -- what is said

    def _message(self, direction: Direction, kind: str, frame: bytes) -> None:
        if direction == "server" and kind == "K":
            self.pid = _HEADER.unpack_from(frame, 5)[0]
        cut = self._proxy.judge(self, direction, kind, frame)
        passed = len(frame)
        if cut is not None and cut.side != "after":
            passed = len(frame) // 2 if cut.side == "within" else 0
        if kind == "gss" or (kind == "ssl" and not self._proxy.pass_ssl):
            self._ends["client"].transport.write(b"N")  # so that we can read what follows
        elif passed:
            self._asked_for_ssl = kind == "ssl"
            self._receiver(direction).write(frame[:passed])
        if cut is not None:
            self.end(cut.kind)
            cut.fired.set()

    def end(self, kind: Kind) -> None:
        """Let neither side hear any more."""
        if kind == "silence":
            self.silent = True
            return
        self.over = True
        self._proxy.forget(self)
        for end in self._ends.values():
            if end.transport.is_closing():
                continue
            if kind == "reset":
                # What was written is in the peer's queue already: it is read before the reset.
                with contextlib.suppress(OSError):
                    sock = end.transport.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.transport.abort()
            else:
                end.transport.close()


class WireProxy:
    """Listens on `address` for clients of one PostgreSQL server.

    `backend` may be changed: connections made from then on go there.  `pass_ssl`: an
    encrypted conversation is passed on without being understood; otherwise the proxy says
    that there is no encryption.  Its methods may be called from any thread.
    """

    def __init__(
        self,
        backend_host: str,
        backend_port: int,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        pass_ssl: bool = False,
    ) -> None:
        self.backend = (backend_host, backend_port)
        self.pass_ssl = pass_ssl
        #: where clients connect: host and port
        self.address = (host, port)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: asyncio.Server | None = None
        self._talks: dict[int, Conversation] = {}
        self._made = 0
        self._watches: list[Watch] = []
        self._tasks: set[asyncio.Task[None]] = set()

    # -- up and down

    def start(self) -> Self:
        """Listen; returns when it does."""
        if self._thread is not None:
            raise RuntimeError("this proxy was started before: make a new one")
        loop = self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, args=(loop,), name="wire-proxy")
        self._thread.daemon = True
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(loop), loop).result(10)
        return self

    def stop(self) -> None:
        """End every conversation and the thread; idempotent."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or not thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._end_all(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def conversations(self) -> list[Conversation]:
        """Those that go on (a silent one does)."""
        return list(self._talks.values())

    # -- watching and cutting

    def watch(self, *, pid: int | None = None, only_after: str = "") -> Watch:
        """Note what is said from now on, until `unwatch`."""
        watch = Watch(pid, only_after.encode())
        self._watches.append(watch)
        return watch

    def cut(
        self,
        direction: Direction,
        after_message_k: int,
        *,
        kind: Kind = "reset",
        side: Side = "after",
        once: bool = True,
        pid: int | None = None,
        only_after: str = "",
    ) -> Cut:
        """End a conversation at that side's k-th message from now on, counted from 1 on each
        connection by itself; `once`: the first one that comes so far."""
        if after_message_k < 1:
            raise ValueError(f"after_message_k={after_message_k}: messages are counted from 1")
        start = only_after.encode()
        cut = Cut(pid, start, [], [], {}, direction, after_message_k, kind, side, once)
        self._watches.append(cut)
        return cut

    def unwatch(self, watch: Watch) -> None:
        """Take a watch or a cut back."""
        with contextlib.suppress(ValueError):
            self._watches.remove(watch)

    def end_silent(self) -> None:
        """Close the conversations that a cut has silenced."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._end_all(silent_only=True), self._loop).result(10)

    # -- the thread's part

    def judge(
        self, talk: Conversation, direction: Direction, kind: str, frame: bytes
    ) -> Cut | None:
        """The cut that this message meets, if there is one."""
        found: Cut | None = None
        for watch in tuple(self._watches):
            number = watch.count(talk, direction, kind, frame)
            if number and isinstance(watch, Cut) and watch.fits(direction, number):
                found = found or watch
        return found

    def forget(self, talk: Conversation) -> None:
        """It is over."""
        self._talks.pop(talk.number, None)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        self._server = await loop.create_server(self._accept, *self.address)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = (host, port)

    def _accept(self) -> _End:
        self._made += 1
        talk = self._talks[self._made] = Conversation(self, self._made)
        assert self._loop is not None
        task = self._loop.create_task(self._reach(talk))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return _End(talk, "client")

    async def _reach(self, talk: Conversation) -> None:
        assert self._loop is not None
        try:
            await self._loop.create_connection(lambda: _End(talk, "server"), *self.backend)
        except OSError:
            talk.end("reset")

    async def _end_all(self, *, silent_only: bool = False) -> None:
        if not silent_only and self._server is not None:
            self._server.close()
        for talk in self.conversations:
            if talk.silent or not silent_only:
                talk.end("reset")
        for task in () if silent_only else tuple(self._tasks):
            task.cancel()
        await asyncio.sleep(0)  # transports and tasks end in the loop's next round
