"""What a dial is told, and what its outcome says of the endpoints; shared by both shells.

A connect is staggered: the next endpoint is dialled when the ones before failed, or after
250 ms of silence (the shape of RFC 8305).  So a dead address costs about 250 ms once, and
then it is known to be dead.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from math import inf

from ..core.hosts import literal_address
from ..core.upstream_events import Lost, Trouble
from ._attempt import STAGGER_S, Attempt, clock, draw
from ._slot import Slot

#: errors of this process or machine: they say nothing of the endpoint
LOCAL = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EADDRNOTAVAIL,
        errno.EADDRINUSE,
        errno.EAFNOSUPPORT,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EINVAL,
        errno.ENODEV,
    }
)


#: what one write hands over at most, in bytes, so that progress shows
BULK = 65536
#: a connection is kept for so long, in seconds, give or take this share: so that load balancers
#: get to spread the load anew, and endpoints that joined get their part
AGE_S = 300.0
AGE_SPREAD = 0.1


class Course:
    """Whom a staggered connect dials: the attempt's own endpoint, then the others as they
    are known by then, the families in turn."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._last = attempt.slot
        self._past = {attempt.slot, *(primary.slot for primary, _ in attempt.primaries)}
        self._past.update(attempt.call.tried)
        self._begun = False

    def next(self, now: float) -> Slot | None:
        """The next one; None: there is nobody else so far."""
        if not self._begun:
            self._begun = True
            return self._last
        slot = self._attempt.call.origin.next_dial(self._past, self._last, now)
        if slot is not None:
            self._past.add(slot)
            self._last = slot
        return slot


def is_local(exc: BaseException) -> bool:
    """Addresses are dialled, no names, so what getaddrinfo refuses is the caller's own
    `local_address`."""
    return isinstance(exc, OSError) and (exc.errno in LOCAL or isinstance(exc, socket.gaierror))


def other_family(slot: Slot, local_address: str | None) -> OSError | None:
    """Why nothing can be dialled there from the address that the caller chose, if so."""
    own = literal_address(local_address or "")
    if own is None or (":" in own) is (":" in slot.endpoint.address):
        return None
    text = f"{os.strerror(errno.EAFNOSUPPORT)}: from {own} to {slot.endpoint.address}"
    return OSError(errno.EAFNOSUPPORT, text)


def refused(attempt: Attempt, slot: Slot, exc: BaseException) -> None:
    """A dial failed at once."""
    detail = f"connect: {exc}" if str(exc) else f"connect: {type(exc).__name__}"
    attempt.call.origin.apply(Lost(slot.endpoint, Trouble.REFUSED, detail), clock())


def silent(attempt: Attempt, slot: Slot, since_s: float, winner_s: float | None) -> None:
    """A dial was still unanswered when the race ended.  `winner_s`: how long the one took that
    won it; it proves something only of those who had clearly more time."""
    now = clock()
    waited_s = now - since_s
    enough_s = attempt.call.window_s if winner_s is None else winner_s + STAGGER_S - 0.01
    if waited_s >= enough_s:
        detail = f"connect: no answer for {waited_s:.2f} s"
        attempt.call.origin.apply(Lost(slot.endpoint, Trouble.CONNECT_SILENT, detail), now)


def handshake_failed(attempt: Attempt, exc: BaseException) -> None:
    """TLS failed.  (No answer says nothing: that is for health checks to tell.)"""
    detail = f"TLS: {exc}"
    attempt.call.origin.apply(Lost(attempt.slot.endpoint, Trouble.REFUSED, detail), clock())


def verified(name: str | None, tls_names: Mapping[str, str], attempt: Attempt | None) -> str | None:
    """The name for SNI and verification: the caller's own `sni_hostname`, else what
    `TLS_NAMES` says, else the URL's.  `name`: as the core library has it."""
    if attempt is not None and attempt.call.request.extensions.get("sni_hostname"):
        return name
    return tls_names.get((name or "").rstrip(".").lower(), name)


def bounded(attempt: Attempt, timeout: float | None) -> float:
    """Seconds that connecting or a handshake may take; `inf` for no bound."""
    call = attempt.call
    left_s = max(0.001, min(call.connect_s, call.deadline_s) - clock())
    return left_s if timeout is None else min(timeout, left_s)


def write_s(attempt: Attempt, timeout: float | None) -> float | None:
    """Seconds that one write may stand still; None for no bound."""
    until_s = attempt.until_s()
    if until_s == inf:
        return timeout
    left_s = max(STAGGER_S, until_s - clock())
    return left_s if timeout is None else min(timeout, left_s)


def finite(seconds: float) -> float | None:
    """As the libraries have it: None for no bound."""
    return None if seconds == inf else seconds


class Mark:
    """What a stream remembers of its endpoint: whether the connection may be kept."""

    __slots__ = ("ends_at", "losses", "slot")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.losses = slot.losses
        self.ends_at = clock() + AGE_S * (1 - AGE_SPREAD + 2 * AGE_SPREAD * draw())

    def is_stale(self) -> bool:
        """Its endpoint is gone, or was lost since; or it is old."""
        slot = self.slot
        return slot.retired or slot.losses != self.losses or clock() >= self.ends_at
