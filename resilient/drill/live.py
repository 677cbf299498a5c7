"""What is said while it goes: a line per phase, each at the moment that it tells of."""

from __future__ import annotations

from collections.abc import Callable

from .records import Record, Request, Snapshot, Write

__all__ = ["Live"]

Say = Callable[[float, str], None]


class Live:
    """Follows one run.  `say(at, text)` prints; moments are monotonic."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.fault_at: float | None = None
        self.writable_at: float | None = None
        self.old_primary: str | None = None
        self.new_primary: str | None = None
        #: shell → first acknowledgement from the new primary
        self.good: dict[str, float] = {}
        self._told: set[str] = set()
        self._early: list[Write] = []

    def record(self, record: Record) -> None:
        """A record of the client's arrived."""
        if self.fault_at is None:
            return
        if isinstance(record, Snapshot):
            self._snapshot(record)
        elif isinstance(record, Write):
            self._write(record)
        elif isinstance(record, Request) and record.error:
            self._once("http", record.ended_at, f"a request failed: {record.error}")

    def promoted(self, new_primary: str, writable_at: float) -> None:
        """The lab's observer could write."""
        self.new_primary, self.writable_at = new_primary, writable_at
        for write in self._early:
            self._write(write)
        self._early.clear()

    def _snapshot(self, seen: Snapshot) -> None:
        since = seen.at - (self.fault_at or 0.0)
        old = self.old_primary
        if old is None or since < 0:
            return
        health = seen.health.get(old, "gone")
        if health in ("suspect", "dead", "gone"):
            self._once(f"old {health}", seen.at, f"client: {old} is {health}, after {since:.3f} s")
        if seen.writer is None:
            self._once("none", seen.at, "client: no writer, callers wait")
        elif seen.writer != old:
            self._once(f"writer {seen.writer}", seen.at, f"client: {seen.writer} is the writer")

    def _write(self, write: Write) -> None:
        if write.outcome == "unknown":
            self._once("unknown", write.ended_at, f"{write.shell} {write.way}: {write.error}")
        if write.outcome == "error":
            self._once(f"error {write.way}", write.ended_at, f"{write.shell} {write.way} block"
                       f" failed: {write.error}")  # fmt: skip
        if write.outcome != "ok" or write.ended_at < (self.fault_at or 0.0):
            return
        if self.new_primary is None:
            if write.server != self.old_primary:
                self._early.append(write)
        elif write.server == self.new_primary and write.shell not in self.good:
            self.good[write.shell] = write.ended_at
            # one that came before the observer's own took no time
            after_s = max(0.0, write.ended_at - (self.writable_at or write.ended_at))
            self._say(write.ended_at, f"first good write ({write.shell}) +{after_s:.3f} s")

    def _once(self, key: str, at: float, text: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self._say(at, text)
