"""What to do after a failed HTTP attempt, or a bad answer: again, or give up.

The rules, in this order:

1. An attempt that provably wasn't processed may be repeated, whatever the method: it failed
   before a byte was sent, or the server said so (HTTP/2: REFUSED_STREAM, a stream above
   GOAWAY's last one).
2. After bytes were sent, GET, HEAD and OPTIONS may be repeated; another method only when the
   caller says that it is idempotent (the extension, an Idempotency-Key) and it has no
   precondition: the second one would see what the first one did.  The body must be one that
   can be sent once more.
3. Silence is no failure: a timeout ends the request, as it does without us.  The exception is
   an endpoint that is proved dead (`Failure.proved`).
4. A request that found nobody to connect to waits for somebody: that is no attempt.  Where
   nobody else can appear (a literal address), it ends at once, as it does without us.
5. 502, 503 and 504 to GET, HEAD and OPTIONS go once to one other endpoint, and so does an
   answer that breaks HTTP's rules; other answers are the caller's, and all are for a client that
   has retries of its own.
6. Attempts, time and budget bound all of it.  What is refused for these reasons is named, so
   that the caller sees the right error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum

from .._dataclass import dataclass
from .budget import backoff_s

#: methods that may be sent twice, preconditions included
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
#: answers that speak of an endpoint's trouble, not of the request
PASSED_ON = frozenset({502, 503, 504})
#: headers by which a client says that it repeats requests itself
OWN_RETRIES = ("x-stainless-retry-count",)
#: when nobody takes connections, time for the name to be looked up again, in seconds
LOOKUP_S = 0.05
#: when nobody takes connections, the longest pause until somebody is asked again, in seconds
NOBODY_BACK_OFF_S = 0.25
#: If-Match and its kin, vendors' and WebDAV's included (x-goog-if-generation-match, If)
_PRECONDITION = re.compile(r"(^|-)if(-|$)")


class Kind(StrEnum):
    """How an attempt ended, as far as repeating it is concerned."""

    UNSENT = "unsent"  # nothing was sent, or what was sent was provably not processed
    LOST = "lost"  # broken or timed out after bytes were sent
    FINAL = "final"  # the request itself is wrong: never again


class GiveUp(StrEnum):
    """Why it is not repeated."""

    FINAL = "final"
    UNSAFE = "unsafe"
    NOT_REPLAYABLE = "not-replayable"
    TIMEOUT = "timeout"
    SETTLED = "settled"
    ATTEMPTS = "attempts"
    DEADLINE = "deadline"
    BUDGET = "budget"


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

    `repeatable`: see `may_repeat`.  `replayable`: the body can be sent once more; `begun`:
    some of it was taken.  `attempt`: its number, from 1.  `others`: usable endpoints beside
    the one that failed.  `timed_out`: it ended by a timeout; `proved`: its endpoint is dead.
    `nobody`: every address was dialled, all refused, and that may change (a name moves, a
    health check succeeds); `settled`: it won't, as with a literal address.  `back_offs`: how often
    nobody was there before.
    """

    kind: Kind
    repeatable: bool
    replayable: bool
    attempt: int
    attempts: int
    left_s: float
    others: int
    begun: bool = False
    timed_out: bool = False
    proved: bool = False
    nobody: bool = False
    settled: bool = False
    back_offs: int = 0


def may_repeat(method: str, marked: object, headers: Mapping[str, str]) -> bool:
    """May it be sent again after bytes were sent?  `marked`: what the caller said in the
    request extension (None: nothing).  `headers`: names in lower case, or any case-insensitive
    mapping."""
    if marked is not None and not marked:
        return False
    if method.upper() in SAFE:
        return True
    return bool(marked or "idempotency-key" in headers) and not has_precondition(headers)


def has_precondition(names: Iterable[str]) -> bool:
    """Is one of these header names a precondition (RFC 9110, section 13, and its kin)?"""
    return any(_PRECONDITION.search(name.lower()) for name in names)


def may_pass_on(status: int, method: str, marked: object, headers: Mapping[str, str]) -> bool:
    """May a request with this answer go to another endpoint, once?"""
    if status not in PASSED_ON or method.upper() not in SAFE:
        return False
    return (marked is None or bool(marked)) and not any(name in headers for name in OWN_RETRIES)


def forbidden(failure: Failure) -> GiveUp | None:
    """Why it must not be repeated, whatever attempts, time and budget are left."""
    if failure.kind is Kind.FINAL:
        return GiveUp.FINAL
    if failure.kind is Kind.LOST:
        if not failure.repeatable:
            return GiveUp.UNSAFE
        if failure.timed_out and not failure.proved:
            return GiveUp.TIMEOUT
    return GiveUp.NOT_REPLAYABLE if failure.begun and not failure.replayable else None


def decide(failure: Failure, draw: float, withdraw: Callable[[], bool]) -> Again | Wait | GiveUp:
    """Again, or why not.  `draw` is a number from [0, 1); `withdraw` asks the budget."""
    why = forbidden(failure)
    if why is not None:
        return why
    if failure.nobody:  # no server was reached: that was no attempt
        return Wait(nobody_back_off_s(failure.back_offs, draw))
    if failure.settled:
        return GiveUp.SETTLED
    if failure.attempt >= failure.attempts:
        return GiveUp.ATTEMPTS
    if failure.timed_out and not failure.others:
        return GiveUp.TIMEOUT  # waiting once more for the same endpoint isn't what was asked
    delay_s = _delay_s(failure, draw)
    if delay_s >= failure.left_s:
        return GiveUp.DEADLINE
    return Again(delay_s) if withdraw() else GiveUp.BUDGET


def nobody_back_off_s(back_offs: int, draw: float) -> float:
    """Seconds until somebody is asked again when nobody took connections."""
    return min(NOBODY_BACK_OFF_S, LOOKUP_S + backoff_s(back_offs + 1, draw))


def _delay_s(failure: Failure, draw: float) -> float:
    if failure.others > 0 and failure.attempt <= failure.others:
        return 0.0
    pause_s = LOOKUP_S if failure.kind is Kind.UNSENT else 0.0
    return max(backoff_s(failure.attempt, draw), pause_s)
