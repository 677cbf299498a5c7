"""What a dial is told, and what its outcome says of the endpoints; shared by both shells.

A connect is staggered: the next endpoint is dialled when the ones before failed, or after
250 ms of silence (the shape of RFC 8305).  So a dead address costs about 250 ms once, and
then it is known to be dead.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from math import inf

from ..core.upstream_events import Lost, Trouble
from ._attempt import STAGGER_S, Attempt, clock
from ._origin import Slot

#: errors of this process or machine: they say nothing of the endpoint
LOCAL = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EADDRNOTAVAIL,
        errno.EADDRINUSE,
    }
)


#: what one write hands over at most, in bytes, so that progress shows
BULK = 65536


class Course:
    """Whom a staggered connect dials: the attempt's own endpoint, then the others as they
    are known by then, the families in turn."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._last = attempt.slot
        self._past = {attempt.slot, *(outer.slot for outer, _ in attempt.outer)}
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
    return isinstance(exc, OSError) and exc.errno in LOCAL


def refused(attempt: Attempt, slot: Slot, exc: BaseException) -> None:
    """A dial failed at once."""
    detail = f"connect: {exc}" if str(exc) else f"connect: {type(exc).__name__}"
    attempt.call.origin.apply(Lost(slot.endpoint, Trouble.REFUSED, detail), clock())


def silent(attempt: Attempt, slot: Slot, since_s: float) -> None:
    """A dial was still unanswered when the race ended."""
    now = clock()
    if now - since_s >= STAGGER_S - 0.01:
        detail = f"connect: no answer for {now - since_s:.2f} s"
        attempt.call.origin.apply(Lost(slot.endpoint, Trouble.CONNECT_SILENT, detail), now)


def handshake_failed(attempt: Attempt, exc: BaseException, silent_s: float | None) -> None:
    """TLS failed, or (with `silent_s`) got no answer for so long."""
    slot = attempt.slot
    trouble = Trouble.REFUSED if silent_s is None else Trouble.SILENT
    detail = f"TLS: {exc}" if silent_s is None else f"TLS: no answer for {silent_s:.1f} s"
    attempt.call.origin.apply(Lost(slot.endpoint, trouble, detail), clock())


def verified(name: str | None, tls_names: Mapping[str, str], attempt: Attempt | None) -> str | None:
    """The name for SNI and verification: the caller's own `sni_hostname`, else what
    `TLS_NAMES` says, else the URL's.  `name`: as the core library has it."""
    if attempt is not None and attempt.call.request.extensions.get("sni_hostname"):
        return name
    return tls_names.get((name or "").rstrip(".").lower(), name)


def bounded(attempt: Attempt, timeout: float | None) -> float:
    """Seconds that connecting or a handshake may take."""
    left_s = max(0.001, attempt.call.deadline_s - clock())
    return left_s if timeout is None else min(timeout, left_s)


def handshake_s(attempt: Attempt, timeout: float | None) -> float:
    """The same for TLS; a window at most while others could be asked, because nothing was
    sent yet."""
    limit_s = bounded(attempt, timeout)
    others = attempt.call.origin.others((*attempt.call.tried, attempt.slot))
    return min(limit_s, attempt.call.window_s, limit_s / 2) if others else limit_s


def write_s(attempt: Attempt, timeout: float | None, size: int) -> float:
    """Seconds that one write may stand still: a window at most while the request may be
    sent to another endpoint instead.  Less than `BULK` always fits into the buffers."""
    left_s = max(STAGGER_S, attempt.until_s() - clock())
    call = attempt.call
    elsewhere = call.repeatable and attempt.silence_at < inf
    if size > BULK and elsewhere and call.origin.others((*call.tried, attempt.slot)):
        left_s = max(STAGGER_S, min(call.window_s, left_s / 2))
    return left_s if timeout is None else min(timeout, left_s)
