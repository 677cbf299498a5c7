"""What the client under test records, and how it travels over the pipe.

One JSON array a record, the first element says which kind.  All moments are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Read", "Record", "Request", "Snapshot", "Trace", "Write", "from_wire", "to_wire"]

Shell = Literal["sync", "async"]
#: how a write is made: `pool.run(fn)`, or a plain `with pool.connection()` block
Way = Literal["run", "plain"]
#: `unknown`: the caller was told CommitOutcomeUnknown, which claims neither success nor failure
Outcome = Literal["ok", "unknown", "error"]


@dataclass(frozen=True, slots=True)
class Write:
    """One INSERT of a unique id.  `server`: address that acknowledged its COMMIT."""

    id: int
    shell: Shell
    way: Way
    began_at: float
    ended_at: float
    outcome: Outcome
    server: str | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """One query through `pool.reader`, in a plain block or by its `run`."""

    shell: Shell
    way: Way
    began_at: float
    ended_at: float
    server: str | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One GET.  `deadline_s` is what it was given."""

    shell: Shell
    began_at: float
    ended_at: float
    deadline_s: float
    zone: str | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The library's topology as it was from `at` on.

    `writer` is the address of the published writer; `health`, `role` and `zone` (of those that
    have one) are by address.
    """

    at: float
    version: int
    writer: str | None
    health: dict[str, str] = field(default_factory=dict)
    role: dict[str, str] = field(default_factory=dict)
    zone: dict[str, str] = field(default_factory=dict)


Record = Write | Read | Request | Snapshot

_KINDS: dict[str, type[Any]] = {"w": Write, "r": Read, "h": Request, "t": Snapshot}
_TAGS = {kind: tag for tag, kind in _KINDS.items()}


def to_wire(record: Record) -> list[Any]:
    """As a JSON array."""
    return [_TAGS[type(record)], *(getattr(record, name) for name in record.__slots__)]


def from_wire(row: Sequence[Any]) -> Record:
    """The inverse of `to_wire`; ValueError for anything else."""
    kind = _KINDS.get(row[0]) if row else None
    if kind is None:
        raise ValueError(f"not a record: {row!r}")
    record: Record = kind(*row[1:])
    return record


@dataclass(slots=True)
class Trace:
    """Everything that one run recorded, in order of arrival."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Append to the list of its kind."""
        if isinstance(record, Write):
            self.writes.append(record)
        elif isinstance(record, Read):
            self.reads.append(record)
        elif isinstance(record, Request):
            self.requests.append(record)
        else:
            self.snapshots.append(record)
