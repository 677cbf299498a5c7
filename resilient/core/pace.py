"""How quickly a process refills its pools after a failover: the first connections go first.

A thousand processes that lost the same primary all dial the new one.  It accepts so many
connections a second; what counts is who waits in that queue.  A process's *first* connection
ends the outage for all its callers, the others only give them more room.  So, without asking
each other:

* A pool's first dial never waits.  Until it is answered, nobody else of the pool dials.
* A quick answer means an idle server: one more dial may be under way at a time (additive
  increase), and none is held back.  A full pool is a matter of a few dials' time.
* A slow answer means a queue.  Seconds in the queue are what the dial took beyond the usual;
  one dial at a time then, and before it a pause of `HOLD` times those seconds.  Closed loop:
  with N processes and c connections per second the queue settles at N / (c · (1 + HOLD))
  seconds instead of growing with the pools' sizes, and the server is never idle meanwhile.
* CONNECT_RATE bounds all of it: a token bucket of `burst` tokens, for `PACED_S`.

Time in a queue as the excess over the least ever taken is how TCP Vegas (Brakmo, Peterson,
1995) and LEDBAT (RFC 6817) see congestion before loss.  What can't be known: a server farther
away than any that was dialled before looks like a loaded one until it has been calm.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field, replace

from .._dataclass import dataclass
from .model import Endpoint

#: an endpoint's connections are paced this long after the loss, or after its last slow answer
PACED_S = 30.0
#: a dial that takes no longer is quick, whatever the usual is
QUICK_S = 0.02
#: a dial that takes no longer than so many times the least is quick
USUAL = 2.0
#: seconds of pause for a second in the queue, and how long one may be, before its jitter
HOLD, HOLD_MOST_S = 1.0, 1.0
#: a dial under way for longer holds nobody back: its packet may be lost
STUCK_S = 3.0
#: who waits for another's dial asks again after half the time that it has taken, at least this
LOOK_S = 0.002
#: what is left by rounding is no wait
CLOSE_S = 1e-6


@dataclass(frozen=True, slots=True)
class Refill:
    """The dials of one endpoint since the loss.  Monotonic seconds.

    `window`: how many may be under way; `flying`: how many are; `taken`: tokens, see `_bucket`.
    """

    until_s: float
    taken: float = 0.0
    burst: float = 1.0
    window: int = 1
    flying: int = 0
    began_s: float = float("-inf")
    next_s: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Pacing:
    """All endpoints of a cluster, as one process sees them.  Every method returns a new one.

    `losses` counts them, so that a pool knows whether it has dialled since.  `since_s`: the
    last one, or when somebody else was promoted; None: there was none, nothing is paced.
    `least_s`: the quickest dial to each endpoint while it was calm.
    """

    losses: int = 0
    since_s: float | None = None
    refills: dict[Endpoint, Refill] = field(default_factory=dict)
    least_s: dict[Endpoint, float] = field(default_factory=dict)

    def follow(self, steps: Iterable[str], now: float) -> Pacing:
        """Steps of a failover, by their names, as `core.failover` tells them."""
        state = self
        for step in steps:
            if step in ("lost", "lost again"):
                state = state.lost(now)
            elif step == "promoted":
                state = state.promoted(now)
        return state

    def lost(self, now: float) -> Pacing:
        """The writer is gone: whoever is dialled from here on is dialled with care."""
        return replace(self, losses=self.losses + 1, since_s=now, refills={})

    def promoted(self, now: float) -> Pacing:
        """There is a writer again; dials that are under way stay counted."""
        state = self if self.since_s is not None else self.lost(now)
        kept = {
            where: replace(refill, taken=float(refill.flying), until_s=now + PACED_S)
            for where, refill in state.refills.items()
        }
        return replace(state, since_s=now, refills=kept)

    def ask(
        self, endpoint: Endpoint, rate_s: float, burst: int, now: float, first: bool
    ) -> tuple[Pacing, float]:
        """May a worker dial?  0 seconds: it does, and says so with `ended`; else ask again then.

        `first`: of its pool since the loss.
        """
        if self.since_s is None:
            return self, 0.0
        refill = self.refills.get(endpoint) or Refill(self.since_s + PACED_S)
        # The largest of the pools that share this cluster gives the burst.
        refill = replace(refill, burst=max(refill.burst, float(burst)))
        if now >= refill.until_s:
            return self, 0.0
        taken, wait_s = _bucket(refill, rate_s, now - self.since_s)
        if not first:
            wait_s = max(wait_s, refill.next_s - now)
            age_s = now - refill.began_s
            if refill.flying >= refill.window and age_s < STUCK_S:
                wait_s = max(wait_s, LOOK_S, age_s / 2)
            if wait_s > CLOSE_S:
                return self, wait_s
        refill = replace(refill, taken=taken, flying=refill.flying + 1, began_s=now)
        return replace(self, refills={**self.refills, endpoint: refill}), 0.0

    def ended(
        self, endpoint: Endpoint, took_s: float, connected: bool, now: float, draw: float
    ) -> Pacing:
        """A dial is over.  `draw` is a number from [0, 1)."""
        refill = self.refills.get(endpoint)
        queued_s = took_s - self.usual_s(endpoint)
        state = self
        if connected and (refill is None or queued_s <= 0):
            least_s = min(took_s, self.least_s.get(endpoint, took_s))
            state = replace(self, least_s={**self.least_s, endpoint: least_s})
        if refill is None:
            return state
        refill = replace(refill, flying=max(0, refill.flying - 1))
        if connected and queued_s <= 0:
            refill = replace(refill, window=refill.window + 1)
        elif queued_s > 0:
            pause_s = min(HOLD * queued_s, HOLD_MOST_S) * (0.5 + draw)
            next_s = max(refill.next_s, now + pause_s)
            refill = replace(refill, window=1, next_s=next_s, until_s=now + PACED_S)
        return replace(state, refills={**state.refills, endpoint: refill})

    def usual_s(self, endpoint: Endpoint) -> float:
        """A dial that takes no longer was in no queue."""
        known = self.least_s
        least_s = known.get(endpoint, min(known.values(), default=0.0))
        return max(QUICK_S, USUAL * least_s)


def _bucket(refill: Refill, rate_s: float, elapsed_s: float) -> tuple[float, float]:
    """One token: (taken then, seconds until it is there)."""
    if elapsed_s > PACED_S:
        return refill.taken, 0.0
    # Tokens that were not used don't add up beyond the burst.
    taken = max(refill.taken + 1.0, elapsed_s * rate_s + 1.0)
    return taken, max(0.0, (taken - refill.burst) / rate_s - elapsed_s)
