"""What one client was told, operation by operation.

One JSON array an operation on the wire, its fields in the order of `Op`.  Moments are
`time.monotonic()`, which all processes of a machine share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

__all__ = ["Kind", "Op", "Outcome", "from_wire", "to_wire"]

#: insert: one unique id.  append: in one transaction a unique id, and the same id at the end of a
#: list.  read: a whole list.  order: an HTTP side effect with a unique id.  get: an HTTP read.
Kind = Literal["insert", "append", "read", "order", "get"]
#: `unknown`: told, by an error that means just this, that the write may or may not have happened.
#: `stuck`: told nothing until the end
Outcome = Literal["ok", "error", "unknown", "stuck"]


@dataclass(frozen=True, slots=True)
class Op:
    """One operation and its outcome.

    `session`: operations of one session follow each other.  `id`: unique per write, 0 for reads.
    `key`: which list, for append and read.  `items`: what a read returned.  `server`: who took the
    write, by that server's own note.  `attempts`: how often it was tried; `first_error_at`: when
    the first attempt failed, None if it didn't.  `error`: what the caller was told in the end.
    """

    session: str
    kind: Kind
    began_at: float
    ended_at: float
    outcome: Outcome
    id: int = 0
    key: int = 0
    items: tuple[int, ...] | None = None
    server: str | None = None
    attempts: int = 1
    first_error_at: float | None = None
    error: str = ""

    @property
    def is_write(self) -> bool:
        """Whether it has an id of its own."""
        return self.kind in ("insert", "append", "order")


_NAMES = tuple(field.name for field in fields(Op))


def to_wire(op: Op) -> list[Any]:
    """As a JSON array."""
    return [getattr(op, name) for name in _NAMES]


def from_wire(row: Sequence[Any]) -> Op:
    """The inverse of `to_wire`; ValueError for anything else."""
    if len(row) != len(_NAMES):
        raise ValueError(f"not an operation: {row!r}")
    given = dict(zip(_NAMES, row, strict=True))
    if given["items"] is not None:
        given["items"] = tuple(given["items"])
    return Op(**given)
