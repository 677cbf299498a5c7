"""What to do after a failed HTTP attempt: again, or give up.

The rules, in this order:

1. An attempt that failed before a byte of the request was sent may be repeated, whatever
   the method.
2. After bytes were sent, only an idempotent request (RFC 9110, section 9.2.2; or marked by
   the caller; or with an Idempotency-Key) is repeated, and only if its body can be.
3. An idempotent request that found nobody to connect to waits for somebody, until its
   deadline: that is no attempt.
4. Attempts, deadline and budget bound all of it.  What is refused for these reasons is
   named, so that the caller sees the right error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from .._dataclass import dataclass
from .budget import backoff_s

#: RFC 9110, section 9.2.2
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"})
RETRIED_STATUS = frozenset({429, 502, 503, 504})
#: when nobody takes connections, time for the name to be looked up again, in seconds
LOOKUP_S = 0.05
#: when nobody takes connections, the longest pause until somebody is asked again, in seconds
LULL_S = 0.25
#: statuses that speak of the caller's rate, not of one endpoint
_EVERYWHERE = frozenset({429})


class Kind(StrEnum):
    """How an attempt ended, as far as repeating it is concerned."""

    CONNECT = "connect"  # no connection, no TLS, no room in the pool: nothing was sent
    LOST = "lost"  # broken or timed out after bytes were sent
    STATUS = "status"  # answered 429, 502, 503 or 504
    FINAL = "final"  # the request itself is wrong: never again


class GiveUp(StrEnum):
    """Why it is not repeated."""

    FINAL = "final"
    NOT_IDEMPOTENT = "not-idempotent"
    NOT_REPLAYABLE = "not-replayable"
    ATTEMPTS = "attempts"
    DEADLINE = "deadline"
    BUDGET = "budget"
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class Again:
    """Repeat it after `delay_s` seconds."""

    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Nobody takes connections.  Go on as soon as that changes; after `delay_s` seconds ask
    again, if the budget permits."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt, and what is left.  Durations in seconds.

    `attempt`: its number, from 1.  `others`: usable endpoints beside the one that failed.
    `nobody`: every address was dialled, all refused, and that may change (a name moves, a
    health check succeeds).  `lulls`: how often that was so before.
    """

    kind: Kind
    sent: bool
    idempotent: bool
    replayable: bool
    attempt: int
    attempts: int
    left_s: float
    others: int
    timed_out: bool = False
    status: int = 0
    retry_after_s: float | None = None
    nobody: bool = False
    lulls: int = 0


def is_idempotent(method: str, marked: object, headers: Mapping[str, str]) -> bool:
    """`marked`: what the caller said in the request extension (None: nothing)."""
    if marked is not None:
        return bool(marked)
    return method.upper() in IDEMPOTENT or "idempotency-key" in headers


def retry_after_s(value: str | None, http_date: Callable[[str], float | None]) -> float | None:
    """Seconds from a Retry-After value (RFC 9110, section 10.2.3).

    `http_date` turns a date into seconds from now, or None if it is none.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    seconds = http_date(text)
    return None if seconds is None else max(0.0, seconds)


def forbidden(failure: Failure) -> GiveUp | None:
    """Why it must not be repeated, whatever attempts, time and budget are left."""
    if failure.kind is Kind.FINAL:
        return GiveUp.FINAL
    if not failure.sent:
        return None
    if not failure.idempotent:
        return GiveUp.NOT_IDEMPOTENT
    return None if failure.replayable else GiveUp.NOT_REPLAYABLE


def decide(failure: Failure, draw: float, withdraw: Callable[[], bool]) -> Again | Wait | GiveUp:
    """Again, or why not.  `draw` is a number from [0, 1); `withdraw` asks the budget."""
    why = forbidden(failure)
    if why is not None:
        return why
    if failure.nobody and failure.idempotent and failure.replayable:
        # No server was reached: that was no attempt.
        return Wait(lull_s(failure.lulls, draw))
    if failure.attempt >= failure.attempts:
        return GiveUp.ATTEMPTS
    if failure.timed_out and not failure.others:
        return GiveUp.NOWHERE  # waiting once more for the same endpoint isn't what was asked
    delay_s = _delay_s(failure, draw)
    if delay_s >= failure.left_s:
        return GiveUp.DEADLINE
    return Again(delay_s) if withdraw() else GiveUp.BUDGET


def lull_s(lulls: int, draw: float) -> float:
    """Seconds until somebody is asked again when nobody took connections."""
    return min(LULL_S, LOOKUP_S + backoff_s(lulls + 1, draw))


def _delay_s(failure: Failure, draw: float) -> float:
    elsewhere = failure.others > 0 and failure.status not in _EVERYWHERE
    if elsewhere and failure.attempt <= failure.others:
        return 0.0
    pause_s = LOOKUP_S if failure.kind is Kind.CONNECT else 0.0
    return max(backoff_s(failure.attempt, draw), pause_s, failure.retry_after_s or 0.0)
