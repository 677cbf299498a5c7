"""What a dial is told, and what its outcome says of the endpoints; shared by both shells.

A connect is staggered: the next endpoint is dialled when the ones before failed, or after
250 ms of silence (the shape of RFC 8305).  So a dead address costs about 250 ms once, and
then it is known to be dead.
"""

from __future__ import annotations

import errno
from math import inf

from ..core.upstream import Lost, Trouble
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


def targets(attempt: Attempt) -> tuple[Slot, ...]:
    """Whom to dial, the attempt's own endpoint first."""
    call = attempt.call
    busy = {outer.slot for outer, _ in attempt.outer} | set(call.tried)
    order = call.origin.order(clock())
    rest = tuple(slot for slot in order if slot not in busy and not slot.retired)
    return (attempt.slot, *(slot for slot in rest if slot is not attempt.slot))


def newcomers(attempt: Attempt, known: set[Slot], now: float) -> list[Slot]:
    """Endpoints that weren't there when the connect began; asks for news of the name."""
    fresh = [slot for slot in targets(attempt) if slot not in known]
    known.update(fresh)
    if not fresh:
        attempt.call.origin.look_again(None, now)
    return fresh


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
    if size > BULK and attempt.silence_at < inf:
        call = attempt.call
        if call.origin.others((*call.tried, attempt.slot)):
            left_s = max(STAGGER_S, min(call.window_s, left_s / 2))
    return left_s if timeout is None else min(timeout, left_s)
