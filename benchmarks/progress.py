"""What is said while it goes."""

from __future__ import annotations

import sys
import time

__all__ = ["Clock", "say"]


class Clock:
    """`[3/84, 12 min left]`"""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._began_at = total, 0, time.monotonic()

    def tick(self) -> str:
        """One more is done."""
        self._done += 1
        each_s = (time.monotonic() - self._began_at) / self._done
        left_min = each_s * (self._total - self._done) / 60
        return f"[{self._done}/{self._total}, {left_min:.0f} min left]"


def say(text: str) -> None:
    """To standard error: standard output is for the results."""
    print(text, file=sys.stderr, flush=True)
