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
    from ._slot import Route, Slot

clock = time.monotonic
# Of our own, so that nobody who seeds or watches the global one meets us there.
_rng = random.Random()
os.register_at_fork(after_in_child=_rng.seed)
#: a number from [0, 1)
draw = _rng.random
#: silence before the next address of a staggered connect, in seconds
STAGGER_S = 0.25
#: pause between two looks whether an endpoint has died that owes an answer, in seconds
LOOK_S = 0.025


class Attempt:
    """One try at one endpoint.

    Making one occupies the endpoint, `leave` ends that.

    `sent`: bytes of the request may have reached the endpoint. `look_at`: monotonic time at which
    it is looked whether the endpoint has died; `hedge_at`: at which another endpoint is asked as
    well; `inf` for never. `headed`: the head of the response has come. `ended`: its endpoint
    ended the connection. `primaries`: the attempts (with their streams) that wait meanwhile, for a
    blocking shell. `nobody`: all addresses were dialled and refused. `stranded`: given up, as the
    endpoint is dead. `bound`: it has to be this endpoint, no other.
    """

    __slots__ = (
        "began_s",
        "bound",
        "call",
        "dialled",
        "ended",
        "headed",
        "hedge_at",
        "left",
        "local_fault",
        "look_at",
        "nobody",
        "number",
        "primaries",
        "sent",
        "slot",
        "stranded",
        "uploaded_s",
    )

    def __init__(self, call: Call, slot: Slot, now: float) -> None:
        self.call = call
        self.slot = slot
        self.began_s = self.uploaded_s = now
        self.sent = self.local_fault = self.nobody = self.left = False
        self.stranded = self.headed = self.bound = self.ended = False
        self.primaries: tuple[tuple[Attempt, Any], ...] = ()
        self.dialled = 0
        origin = call.origin
        call.seen = origin.improvements
        call.attempts = self.number = number = call.attempts + 1
        if number == 1 and call.handed_over is None:
            next(origin.calls)
        self.look_at = self._next_look(now) if origin.config.active else inf
        self.hedge_at = now + origin.hedge_s() if call.hedge and number < call.limit else inf
        self._arrive(now)

    def _arrive(self, now: float) -> None:
        slot = self.slot
        if not slot.flying or slot.heard_at >= slot.asked_at:
            slot.asked_at = now
        slot.flying.add(id(self))

    def go_to(self, route: Route) -> bool:
        """Go to this endpoint instead, as it has a connection that is free; False when it
        must not.  Called while it waits for a connection, by whoever lets go of one."""
        slot = self.call.origin.equal(route)
        if slot is None or self.bound or self.call.handed_over or slot in self.call.tried:
            return False
        self.slot.flying.discard(id(self))
        self.slot = slot
        self._arrive(clock())
        return True

    def leave(self) -> None:
        """It occupies its endpoint no longer.  Idempotent."""
        self.left = True
        self.slot.flying.discard(id(self))

    def _next_look(self, now: float) -> float:
        """The endpoint can't be proved dead before a window after its last sign of life."""
        slot = self.slot
        return max(now + LOOK_S, max(slot.checked_at, slot.byte_at) + self.call.window_s)

    def is_dead(self, now: float) -> bool:
        """Is it stuck at an endpoint that health checks prove dead?"""
        call = self.call
        if call.repeatable:
            elsewhere = call.origin.others((*call.tried, self.slot))
            self.stranded = bool(elsewhere) and call.origin.is_hung(self.slot, now)
        else:
            self.stranded = call.origin.proved_dead(self.slot, now)
        self.look_at = self._next_look(now)
        return self.stranded

    def look(self, now: float) -> None:
        """`is_dead`, as the core library's ReadTimeout."""
        if self.is_dead(now):
            raise self.call.library.core_error("ReadTimeout", TimeoutError("the endpoint is dead"))

    def until_s(self) -> float:
        """When waiting for the head must end: the deadline, but an upload that went past it
        while it made progress leaves the endpoint a window to answer."""
        call = self.call
        if self.headed:
            return inf
        if self.uploaded_s <= call.deadline_s:
            return call.deadline_s
        return self.uploaded_s + call.window_s


CURRENT: ContextVar[Attempt | None] = ContextVar("resilient_http_attempt", default=None)


class Flow:
    """What belongs together for a caller: the requests of one `send` of a client, with its
    redirects and its authentication.

    `buffered`: the client reads the body at once, so it belongs to the attempt, and a
    connection lost in the middle of it can be repaired (not where a hook of the caller's sees
    the response first: it may not want the body).  `slots`: who answered, by origin.
    """

    __slots__ = ("buffered", "slots")

    def __init__(self, buffered: bool) -> None:
        self.buffered = buffered
        self.slots: dict[Any, Slot] = {}


#: set by a client around a request; None: the transport is used by itself
FLOW: ContextVar[Flow | None] = ContextVar("resilient_http_flow", default=None)


class Superseded(BaseException):
    """Another attempt of the same call got the response.  Never leaves this package."""

    def __init__(self, attempt: Attempt, response: Any) -> None:
        super().__init__()
        self.attempt = attempt
        self.response = response


class Elsewhere(BaseException):
    """A staggered connect was won by another endpoint; its socket was handed over to the call."""


class PrimaryReady(BaseException):
    """A primary attempt got its answer first."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__()
        self.attempt = attempt
