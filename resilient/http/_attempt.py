"""One try at one endpoint, and the signals between attempts of one call."""

from __future__ import annotations

import os
import random
import time
from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._call import Call
    from ._origin import Slot

clock = time.monotonic
# Of our own, so that nobody who seeds or watches the global one meets us there.
_rng = random.Random()
os.register_at_fork(after_in_child=_rng.seed)
#: a number from [0, 1)
draw = _rng.random
#: silence before a hedge, a trial or the next address of a staggered connect, in seconds
STAGGER_S = 0.25
#: pause between two looks whether an endpoint has died that owes an answer, in seconds
LOOK_S = 0.05
#: a write that ends later than this after the start moves the moment of silence, in seconds
_QUICK_S = 0.1


class Attempt:
    """One try at one endpoint.

    Making one occupies the endpoint, `leave` ends that.

    `sent`: bytes of the request may have reached the endpoint.  `silence_at`: monotonic
    time at which another endpoint is asked as well, or for a request that can't be sent again,
    at which it is looked whether this one has died; `inf` for never.  `outer`: the
    attempts (with their streams) that wait meanwhile, for a blocking shell.  `nobody`: all
    addresses were dialled and refused.  `stranded`: given up, as the endpoint is dead.
    """

    __slots__ = (
        "began_s",
        "call",
        "dialled",
        "left",
        "local_fault",
        "nobody",
        "number",
        "outer",
        "sent",
        "silence_at",
        "slot",
        "stranded",
        "uploaded_s",
    )

    def __init__(self, call: Call, slot: Slot, trial: bool, now: float) -> None:
        self.call = call
        self.slot = slot
        self.began_s = self.uploaded_s = now
        self.sent = self.local_fault = self.nobody = self.left = self.stranded = False
        self.outer: tuple[tuple[Attempt, Any], ...] = ()
        self.dialled = 0
        origin = call.origin
        call.seen = origin.improvements
        call.attempts = self.number = number = call.attempts + 1
        if number == 1 and call.parked is None:
            next(origin.calls)
        if not call.repeatable:
            self.silence_at = now + call.window_s if origin.config.active else inf
        elif number < call.limit:
            silence_s = call.window_s
            if trial or call.hedge or call.deadline_s - now < 2 * silence_s:
                silence_s = call.silence_s(trial, now)
            self.silence_at = now + silence_s
        else:
            self.silence_at = inf
        if not slot.flying or slot.heard_at >= slot.asked_at:
            slot.asked_at = now
        slot.flying.add(id(self))

    def leave(self) -> None:
        """It occupies its endpoint no longer.  Idempotent."""
        self.left = True
        self.slot.flying.discard(id(self))

    def wrote(self, now: float) -> None:
        """The endpoint took bytes; it is silent from now on at the earliest."""
        self.uploaded_s = now
        if now - self.began_s > _QUICK_S and self.silence_at < inf:
            call = self.call
            wait_s = call.silence_s(False, now) if call.repeatable else call.window_s
            self.silence_at = now + wait_s

    def look(self, now: float) -> None:
        """Is it stuck at an endpoint that is dead?  Then a timeout; else it waits on."""
        self.stranded = self.call.origin.proved_dead(self.slot, now)
        if self.stranded:
            raise self.call.library.core_error("ReadTimeout", TimeoutError("the endpoint is dead"))
        self.silence_at = now + LOOK_S

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
