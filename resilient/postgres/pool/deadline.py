"""Times of a pool, in monotonic seconds."""

from __future__ import annotations

import time

#: a maintenance task that found nobody to dial tries again after this long, in seconds,
#: unless a new topology wakes it before
RETRY_DELAY_S = 1.0


def deadline_in(timeout: float) -> float:
    """When so many seconds are over."""
    return time.monotonic() + timeout


def remaining(deadline_at: float) -> float:
    """Seconds until then."""
    return deadline_at - time.monotonic()
