"""How long answers take, as far as a hedge needs to know it: the last ones' 95th percentile.

Kept in a ring, sorted only when asked for and only once in a while.  Not a value: it is added to
by every request, from any thread, and a lost sample does no harm.
"""

from __future__ import annotations

#: how many answers are remembered
KEPT = 128
#: so many must be known before the percentile counts
ENOUGH = 20
#: what is assumed until then, in seconds
ASSUMED_S = 0.25
#: a hedge is never sent sooner, in seconds
LEAST_S = 0.005


class Latencies:
    """The last `KEPT` durations, in seconds."""

    __slots__ = ("_at", "_known", "_p95_s", "_ring")

    def __init__(self) -> None:
        self._ring: list[float] = []
        self._at = 0
        self._known = -1
        self._p95_s = ASSUMED_S

    def add(self, seconds: float) -> None:
        """One more answer."""
        if len(self._ring) < KEPT:
            self._ring.append(seconds)
        else:
            self._ring[self._at % KEPT] = seconds
        self._at += 1

    def p95_s(self) -> float:
        """What one answer in twenty takes longer than, in seconds."""
        if len(self._ring) < ENOUGH:
            return ASSUMED_S
        if self._at - self._known >= ENOUGH or self._known < 0:
            ordered = sorted(self._ring)
            self._p95_s = max(LEAST_S, ordered[int(0.95 * (len(ordered) - 1) + 0.5)])
            self._known = self._at
        return self._p95_s
