"""Is something there to be read?  For an idle connection that means: it was closed."""

from __future__ import annotations

import select
from typing import Any


class Readable:
    """Asked by the core library twice a request, so the poll object is kept."""

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
