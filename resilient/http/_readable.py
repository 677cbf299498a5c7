"""What a socket has to say while nobody reads from it."""

from __future__ import annotations

import select
from typing import Any


class Readable:
    """Is something there to be read?  For an idle HTTP/1.1 connection that means: it was closed.

    Asked by the core library twice a request, so the poll object is kept.
    """

    __slots__ = ("_poll", "_sock")

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._poll: select.poll | None = None

    def __call__(self) -> bool:
        """True as well when the socket is closed: a read would end at once."""
        sock = self._sock
        if sock is None or sock.fileno() < 0:
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLIN)
        return bool(self._poll.poll(0))

    def hung_up(self) -> bool:
        """Has the other side ended it?  On HTTP/2 there may be frames to read besides, and they
        may be encrypted, so that is asked of the kernel (Linux; elsewhere, when both have)."""
        sock = self._sock
        if sock is None or sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(sock.fileno(), getattr(select, "POLLRDHUP", 0))
        return bool(poll.poll(0))


class Writable:
    """Does a socket take something now?"""

    __slots__ = ("_poll", "_sock")

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._poll = select.poll()
        if sock is not None and sock.fileno() >= 0:
            self._poll.register(sock.fileno(), select.POLLOUT)

    def __call__(self) -> bool:
        """True as well when a write would fail at once."""
        sock = self._sock
        return sock is None or sock.fileno() < 0 or bool(self._poll.poll(0))
