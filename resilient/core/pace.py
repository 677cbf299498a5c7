"""How quickly a process reconnects after a failover: a token bucket per endpoint.

Two hundred processes that lost the same primary would otherwise all dial the new one in the
same millisecond.  A bucket of `burst` tokens is filled at `rate_s` tokens per second; who
finds none waits for the next.  It only counts while an endpoint is new as the writer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

#: an endpoint's connections are paced this long after it became the writer, in seconds
PACED_S = 30.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """`since_s`: when the endpoint became the writer.  Monotonic seconds."""

    rate_s: float
    burst: float
    since_s: float
    taken: float = 0.0

    def take(self, now: float) -> tuple[Bucket, float]:
        """One connection: (the bucket after it, seconds to wait before dialling)."""
        elapsed_s = now - self.since_s
        if elapsed_s > PACED_S:
            return self, 0.0
        # Tokens that were not used don't add up beyond the burst.
        taken = max(self.taken + 1.0, elapsed_s * self.rate_s + 1.0)
        wait_s = max(0.0, (taken - self.burst) / self.rate_s - elapsed_s)
        return replace(self, taken=taken), wait_s
