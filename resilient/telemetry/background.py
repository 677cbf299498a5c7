"""A thread for what exporters do: spans are begun and ended there, never on a caller's or the
monitor's, whatever an exporter takes for it.  It is there while something is to be done.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable

from .._logs import Line

__all__ = ["Background", "background"]

logger = logging.getLogger("resilient.failover")


class Background:
    """Calls in order, some of them later."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._thread: threading.Thread | None = None
        self._busy = False

    def call(self, do: Callable[[], None], delay_s: float = 0.0) -> None:
        """Do this, in so many seconds."""
        with self._news:
            heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._numbers), do))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="resilient-telemetry", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads, or the interpreter ends
                    self._due.clear()
                    return
                self._thread = thread
            self._news.notify_all()

    def forget(self, wanted: Callable[[Callable[[], None]], bool]) -> None:
        """Drop the calls that are wanted no more."""
        with self._news:
            self._due = [item for item in self._due if not wanted(item[2])]
            heapq.heapify(self._due)
            self._news.notify_all()

    def hurry(self, wanted: Callable[[Callable[[], None]], bool]) -> None:
        """These calls are due now, in their order."""
        with self._news:
            now = time.monotonic()
            self._due = [(now if wanted(d) else at, n, d) for at, n, d in self._due]
            heapq.heapify(self._due)
            self._news.notify_all()

    def flush(self, limit_s: float) -> bool:
        """Wait until all that is due now is done; False: that took longer."""
        until = time.monotonic() + limit_s
        if threading.current_thread() is self._thread:
            return True
        with self._news:
            now = time.monotonic()
            while self._busy or (self._due and self._due[0][0] <= now):
                if not self._news.wait(until - time.monotonic()):
                    return False
        return True

    def _run(self) -> None:
        while True:
            with self._news:
                self._busy = False
                self._news.notify_all()
                while self._due and self._due[0][0] > (now := time.monotonic()):
                    self._news.wait(self._due[0][0] - now)
                if not self._due:
                    self._thread = None
                    return
                do = heapq.heappop(self._due)[2]
                self._busy = True
            try:
                do()
            except Exception:
                logger.exception("%s", Line(event="telemetry.failed"))


background = Background()


def _after_fork_in_child() -> None:
    background.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_after_fork_in_child)
