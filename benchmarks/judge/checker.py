"""Compares what a client was told with what is there.

Pure, and independent of the library that is being judged.  Of the unique ids, as multisets:

    lost       = acknowledged − rows
    duplicated = in rows more than once
    ghosts     = rows ∩ told that it failed      (an honest "unknown", and silence, claim nothing)
    strangers  = rows − everything that was ever tried

An append writes its id twice in one transaction, as a row and at the end of a list:

    torn       = ids whose count differs between the rows and the list
    forked     = reads that are no prefix of the list as it is at the end
    backwards  = reads that a session's earlier read of the same list is no prefix of
    unseen     = reads that lack an append which the same session was told was done

Every session writes its lists alone and waits for each outcome, so no interleaving excuses any.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from .history import Op, Outcome

__all__ = ["BROKEN", "Verdict", "judge"]

#: columns of a verdict that must be 0 whenever the servers themselves lose nothing
BROKEN = ("lost", "duplicated", "ghosts", "strangers", "torn", "forked", "backwards", "unseen")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts; see the module.  `unknown_present`: of the unknown, how many took effect; `silent`:
    writes that nobody was told anything about."""

    acked: int = 0
    failed: int = 0
    unknown: int = 0
    unknown_present: int = 0
    silent: int = 0
    reads: int = 0
    lost: int = 0
    duplicated: int = 0
    ghosts: int = 0
    strangers: int = 0
    torn: int = 0
    forked: int = 0
    backwards: int = 0
    unseen: int = 0

    @property
    def broken(self) -> dict[str, int]:
        """What must not be and is, by column."""
        return {name: value for name in BROKEN if (value := getattr(self, name))}

    def as_dict(self) -> dict[str, int]:
        """All columns."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def judge(
    history: Iterable[Op], rows: Iterable[int], lists: Mapping[int, Sequence[int]] | None = None
) -> Verdict:
    """`rows`: the ids that are there, repeated ones too; `lists`: key → ids, at the end."""
    ops = sorted(history, key=lambda op: op.began_at)
    final = {key: tuple(items) for key, items in (lists or {}).items()}
    count = Counter(rows)
    ids = {outcome: _ids(ops, outcome) for outcome in ("ok", "error", "unknown", "stuck")}
    tried = set().union(*ids.values())
    reads = [op for op in ops if op.kind == "read" and op.outcome == "ok"]
    return Verdict(
        acked=len(ids["ok"]),
        failed=len(ids["error"]),
        unknown=len(ids["unknown"]),
        unknown_present=len(ids["unknown"] & count.keys()),
        silent=len(ids["stuck"]),
        reads=len(reads),
        lost=len(ids["ok"] - count.keys()),
        duplicated=sum(number > 1 for number in count.values()),
        ghosts=len(ids["error"] & count.keys()),
        strangers=len(count.keys() - tried),
        torn=_torn(ops, count, final),
        forked=sum(not _is_prefix(op.items or (), final.get(op.key, ())) for op in reads),
        backwards=_backwards(reads),
        unseen=_unseen(ops),
    )


def _ids(ops: Iterable[Op], outcome: Outcome | str) -> set[int]:
    return {op.id for op in ops if op.is_write and op.outcome == outcome}


def _torn(ops: Iterable[Op], count: Counter[int], final: Mapping[int, Sequence[int]]) -> int:
    listed = Counter(number for items in final.values() for number in items)
    appends = {op.id for op in ops if op.kind == "append"}
    return sum(count[number] != listed[number] for number in appends | listed.keys())


def _is_prefix(items: Sequence[int], of: Sequence[int]) -> bool:
    return tuple(items) == tuple(of[: len(items)])


def _backwards(reads: Iterable[Op]) -> int:
    """Reads of one session must only grow."""
    seen: dict[tuple[str, int], tuple[int, ...]] = {}
    found = 0
    for op in reads:
        items = op.items or ()
        found += not _is_prefix(seen.get((op.session, op.key), ()), items)
        seen[op.session, op.key] = items
    return found


def _unseen(ops: Iterable[Op]) -> int:
    """A session sees what it was told it had appended."""
    done: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    found = 0
    for op in ops:
        mine = op.session, op.key
        if op.outcome != "ok":
            continue
        if op.kind == "append":
            done[mine].add(op.id)
        elif op.kind == "read":
            found += not done[mine] <= set(op.items or ())
    return found
