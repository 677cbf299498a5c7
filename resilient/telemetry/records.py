"""The flight recorder: the last failovers of this process, with what happened in each.

In memory only, until `dump`; see `resilient.recorder`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from .._dataclass import dataclass
from ..core.failover import Failover, Step

__all__ = ["KEPT", "Event", "Record", "keep", "kept"]

#: failovers that are kept, of a pool and of the process
KEPT = 20
#: calls of one failover whose waiting, replay or resolution is kept
MOST_MET = 200


@dataclass(frozen=True, slots=True)
class Event:
    """`at`: seconds since the epoch.  `endpoint`: `host:port`, or empty."""

    at: float
    name: str
    endpoint: str = ""
    detail: str = ""


@dataclass(slots=True)
class Record:
    """One failover.  Times are seconds since the epoch; `result`: `under way`, `over`,
    `recovered` or `unfinished`; `phases`: seconds, by name; `calls`: those that waited."""

    id: str
    labels: Mapping[str, str]
    failover: Failover
    offset_s: float
    result: str = "under way"
    ended_at: float | None = None
    calls: int = 0
    met: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)

    @classmethod
    def of(cls, failover_id: str, failover: Failover, labels: Mapping[str, str]) -> Record:
        """One that begins.  `failover_id`: hexadecimal; `labels`: pool and database."""
        return cls(failover_id, dict(labels), failover, time.time() - time.monotonic())

    def end(self, result: str, at_s: float) -> None:
        """It is over, so or so, at `at_s` (monotonic seconds)."""
        self.result, self.ended_at = result, at_s + self.offset_s

    @property
    def started_at(self) -> float:
        """When it was first suspected, seconds since the epoch."""
        return self.failover.started_at + self.offset_s

    @property
    def old(self) -> str:
        """What was lost: `host:port (name)`."""
        return str(self.failover.old.endpoint)

    @property
    def new(self) -> str:
        """What took over; empty while nobody has."""
        return str(self.failover.new.endpoint) if self.failover.new else ""

    @property
    def cause(self) -> str:
        """One of a few words: `refused`, `silent`, `demoted`, …"""
        return self.failover.cause

    @property
    def reason(self) -> str:
        """The same in a server's or our own words."""
        return self.failover.reason

    @property
    def phases(self) -> dict[str, float]:
        """Seconds: `detect_s`, `promote_s`, `reconnect_s`, as far as they have ended."""
        return self.failover.phases()

    @property
    def events(self) -> tuple[Event, ...]:
        """Steps, and what calls met, in their order."""
        steps = [self._event(step) for step in self.failover.steps]
        said = [
            Event(at, name, detail=" ".join(f"{key}={value}" for key, value in more.items()))
            for at, name, more in self.met
        ]
        return tuple(sorted((*steps, *said), key=lambda event: event.at))

    def _event(self, step: Step) -> Event:
        where = step.endpoint.place if step.endpoint is not None else ""
        return Event(step.at_s + self.offset_s, step.name, where, step.detail)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": self.id,
            **self.labels,
            "result": self.result,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "old": self.old,
            "new": self.new,
            "cause": self.cause,
            "reason": self.reason,
            "calls": self.calls,
            "phases": self.phases,
            "events": [
                {
                    "at": event.at,
                    "name": event.name,
                    "endpoint": event.endpoint,
                    "detail": event.detail,
                }
                for event in self.events
            ],
        }


#: no lock: a signal's handler reads it, on a thread that may hold one
_kept: deque[Record] = deque(maxlen=KEPT)


def keep(record: Record) -> None:
    """Among the process's last ones."""
    _kept.append(record)


def kept() -> tuple[Record, ...]:
    """The process's last ones, oldest first."""
    return tuple(_kept.copy())
