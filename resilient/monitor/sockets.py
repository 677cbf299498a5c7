"""Sockets that may have to be shut down under whoever waits on them.

A descriptor's number is reused at once after a close, so a link remembers the inode of its
socket; an abort duplicates the descriptor, compares the inode on the duplicate, and only
then shuts it down.  `shutdown` wakes a blocked reader of any thread; the owner closes.
"""

from __future__ import annotations

import math
import os
import select
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress

from ..core.drain import Fate, Phase
from ..core.model import Endpoint, Observation

#: where `tcpi_last_data_recv`, milliseconds in 4 bytes, stands in Linux's struct tcp_info
LAST_DATA_RECV = 52


def _nothing(timeout_ms: int) -> list[tuple[int, int]]:
    return []


def _never() -> bool:
    return False


class Link:
    """What ties a connection (or one that is still connecting) to its endpoint.

    Its state is `phase` (`core.drain`); `evicted` says why it must not be used any more, and is
    empty while it may.
    """

    __slots__ = (
        "__weakref__",
        "_fd",
        "_inode",
        "begun_at",
        "commit_facts",
        "committing",
        "doubtful",
        "endpoint",
        "evicted",
        "expendable",
        "follows",
        "generation",
        "looked_at",
        "observed",
        "phase",
        "promoted",
        "questions",
        "readable",
    )

    def __init__(self, endpoint: Endpoint, generation: int) -> None:
        self.endpoint = endpoint
        self.generation = generation
        self.begun_at = time.monotonic()
        self.phase = Phase.CONNECTING
        self.evicted = ""
        #: its endpoint is under suspicion
        self.doubtful = False
        #: nothing is lost with it: a ROLLBACK is under way, or what only confirms another
        self.expendable = False
        #: it goes where the writer goes (a listener, a lock): a server that is no longer the one to
        #: use isn't left to let it finish
        self.follows = False
        #: asked whether a COMMIT is under way on it
        self.committing: Callable[[], bool] = _never
        #: when its socket was last looked at for a farewell
        self.looked_at = 0.0
        #: the monitor was told that its server takes writes now
        self.promoted = False
        #: what its server said of itself when it was asked last; an address may have several
        self.observed: Observation | None = None
        #: what its server said of itself for resolving a COMMIT; whoever asked knows the type
        self.commit_facts: object = None
        #: what the probes have prepared in its session; likewise
        self.questions: object = None
        #: `readable(0)`: events on the socket, none when it is silent and open
        self.readable: Callable[[int], list[tuple[int, int]]] = _nothing
        self._fd = -1
        self._inode = 0

    @property
    def pending(self) -> bool:
        """Evicted, and whoever waits on it still waits."""
        return self.phase is Phase.HELD or self.phase is Phase.DRAINING

    @property
    def connecting(self) -> bool:
        """Its dial is under way."""
        return self.phase is Phase.CONNECTING

    @property
    def pooled(self) -> bool:
        """A pooler is in between: what a session has prepared may be another's."""
        return self.observed is not None and self.observed.pooled

    @property
    def aborted(self) -> bool:
        """Its socket was shut down: what comes from it now is no acknowledgement."""
        return self.phase is Phase.ABORTED

    def made(self) -> None:
        """It is connected, and its server admitted."""
        self.phase = self.phase.made()

    def evict(self, why: str, end: Fate = Fate.DRAIN) -> None:
        """Not to be used any more; who uses it may finish."""
        self.evicted = why
        self.phase = self.phase.under(end)

    def follow_writer(self) -> None:
        """It goes where the writer goes."""
        self.follows = True

    def bind(self, fd: int) -> None:
        """The link's socket is this descriptor from now on."""
        if fd != self._fd:
            self._inode = os.fstat(fd).st_ino
            self._fd = fd
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            self.readable = poll.poll

    def replace(self, fd: int) -> None:
        """Put another file under the link's descriptor (in a forked child)."""
        try:
            if self._fd >= 0 and os.fstat(self._fd).st_ino == self._inode:
                os.dup2(fd, self._fd)
        except OSError:
            self._fd = -1

    def abort(self, why: str) -> bool:
        """Evict, and wake whoever waits.  False when the socket is gone already."""
        self.evict(why, Fate.ABORT)
        sock = self._socket()
        if sock is None:
            return False
        with sock, suppress(OSError):  # ENOTCONN: it had ended by itself
            sock.shutdown(socket.SHUT_RDWR)
        return True

    def received_ago_s(self) -> float:
        """Seconds since its server has sent something (Linux, tcp(7): TCP_INFO); endless where
        nobody knows.  Data, that is: a kernel acknowledges for a server that hangs."""
        sock = self._socket()
        if sock is None:
            return math.inf
        with sock, suppress(OSError):
            return _received_ago_s(sock)
        return math.inf

    def _socket(self) -> socket.socket | None:
        """A duplicate of its socket, to be closed; None when it is gone already."""
        if self._fd < 0:
            return None
        try:
            duplicate = os.dup(self._fd)
        except OSError:
            return None
        try:
            ours = os.fstat(duplicate).st_ino == self._inode
            sock = socket.socket(fileno=duplicate) if ours else None
        except OSError:
            sock = None
        if sock is None:
            os.close(duplicate)
        return sock


def _received_ago_s(sock: socket.socket) -> float:
    """Seconds since data came, as the kernel knows it; endless where it doesn't tell."""
    if sys.platform != "linux" or sock.family == socket.AF_UNIX:
        return math.inf
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_DATA_RECV + 4)
    return int.from_bytes(info[LAST_DATA_RECV:], sys.byteorder) / 1000


class LinkRegistry:
    """The links of one cluster.  Held weakly: a link lives as long as its connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()

    def add(self, link: Link) -> None:
        with self._lock:
            self._links.add(link)

    def all_links(self) -> list[Link]:
        """All of them, without the lock: for a forked child, where nobody holds it."""
        return list(self._links)

    def select(self, test: Callable[[Link], bool]) -> list[Link]:
        """The links that pass.  A copy: nothing is held while they are dealt with."""
        with self._lock:
            links = list(self._links)
        return [link for link in links if test(link)]
