"""One try at one endpoint, and the signals between attempts of one call."""

from __future__ import annotations

import time
from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._call import Call
    from ._origin import Slot

clock = time.monotonic
#: silence before a hedge, a trial or the next address of a staggered connect, in seconds
STAGGER_S = 0.25
#: a write that ends later than this after the start moves the moment of silence, in seconds
_QUICK_S = 0.1


class Attempt:
    """One try at one endpoint.

    `sent`: bytes of the request may have reached the endpoint.  `silence_at`: monotonic
    time at which another endpoint is asked as well; `inf` when none may be.  `outer`: the
    attempts (with their streams) that wait meanwhile, for a blocking shell.  `nobody`: all
    addresses were dialled and refused.
    """

    # Most attempts never change these: class attributes spare them the assignment.
    sent = False
    local_fault = False
    nobody = False
    silence_at = inf
    outer: tuple[tuple[Attempt, Any], ...] = ()
    dialled = 0
    left = False

    def __init__(self, call: Call, slot: Slot, number: int, now: float) -> None:
        self.call = call
        self.slot = slot
        self.number = number
        self.began_s = self.uploaded_s = now

    def leave(self) -> None:
        """It occupies its endpoint no longer.  Idempotent."""
        if not self.left:
            self.left = True
            self.call.origin.leave(self.slot)

    def wrote(self, now: float) -> None:
        """The endpoint took bytes; it is silent from now on at the earliest."""
        self.uploaded_s = now
        if now - self.began_s > _QUICK_S and self.silence_at < inf:
            self.silence_at = now + self.call.silence_s(False, now)

    def until_s(self) -> float:
        """When waiting for the head must end: the deadline, but an upload that went past it
        while it made progress leaves the endpoint a window to answer."""
        call = self.call
        if self.uploaded_s <= call.deadline_s:
            return call.deadline_s
        return self.uploaded_s + call.window_s


CURRENT: ContextVar[Attempt | None] = ContextVar("resilient_http_attempt", default=None)


class Superseded(BaseException):
    """Another attempt of the same call got the response.  Never leaves this package."""

    def __init__(self, attempt: Attempt, response: Any) -> None:
        super().__init__()
        self.attempt = attempt
        self.response = response


class Elsewhere(BaseException):
    """A staggered connect was won by another endpoint; its socket is parked in the call."""


class OuterReady(BaseException):
    """An attempt further out got its answer first."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__()
        self.attempt = attempt
