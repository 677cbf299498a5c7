"""An independent judge: what clients wrote down, against the rows that are there at the end.

It knows nothing of the library; only the classes of errors that callers see.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .work import ACCOUNTS, BALANCE, ITEMS, PARTS, Record


@dataclass(slots=True)
class Rows:
    """What the server has."""

    soak: list[tuple[int, int, int]]
    accounts: dict[int, int]
    transfers: list[tuple[int, int, int, int]]
    parents: list[tuple[int, int]]
    children: list[tuple[int, int]]
    items: set[int]
    taken: list[tuple[int, int]]

    @classmethod
    def read(cls, conn: Any) -> Rows:
        def all_of(query: str) -> list[Any]:
            return list(conn.execute(query).fetchall())

        return cls(
            all_of("select op, part, n from soak_rows"),
            dict(all_of("select id, balance from accounts")),
            all_of("select op, a, b, x from transfers"),
            all_of("select op, id from parents"),
            all_of("select op, parent from children"),
            {row[0] for row in all_of("select id from items")},
            all_of("select item, op from taken"),
        )


@dataclass(slots=True)
class Verdict:
    """Each a list of what is wrong, in words; `lost` by operation."""

    records: int = 0
    told: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    lost: list[Record] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    ghosts: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = ", ".join(f"{count} {word}" for word, count in sorted(self.told.items()))
        wrong = ", ".join(
            f"{name} {len(getattr(self, name))}"
            for name in ("lost", "twice", "torn", "ghosts", "stale", "untrue")
        )
        return f"{self.records} operations: {told}; {wrong}"

    @property
    def wrong(self) -> list[str]:
        """All but what was lost."""
        return [*self.twice, *self.torn, *self.ghosts, *self.stale, *self.untrue]


def judge(records: Iterable[Record], rows: Rows) -> Verdict:
    verdict = Verdict()
    effects = _effects(rows)
    for record in records:
        verdict.records += 1
        verdict.told[record.told] += 1
        if record.error:
            text = " / ".join(record.error.splitlines())
            verdict.errors[f"{record.kind}: {text[:250]}"] += 1
        _one(verdict, record, effects.get(record.op, []))
    _balances(verdict, rows)
    _queue(verdict, rows)
    return verdict


def _effects(rows: Rows) -> dict[int, list[Any]]:
    """What is there of each operation."""
    found: defaultdict[int, list[Any]] = defaultdict(list)
    for op, part, n in rows.soak:
        found[op].append((part, n))
    for op, *rest in rows.transfers:
        found[op].append(tuple(rest))
    for item, op in rows.taken:
        found[op].append(item)
    children = Counter(rows.children)
    for op, parent in rows.parents:
        found[op].append(("parent", parent))
        found[op] += ["child"] * children.pop((op, parent), 0)
    for (op, parent), _ in children.items():
        found[op].append(f"a child of parent {parent}, who isn't there")
    return found


def _one(verdict: Verdict, record: Record, found: list[Any]) -> None:
    text = f"{record}: {found}"
    if record.kind == "own_read":
        if record.told == "done" and record.value is not None and record.value[1] == 0:
            verdict.stale.append(text)
        return
    if record.kind == "rollback":
        if found:
            verdict.ghosts.append(text)
        return
    whole = _whole(record, found)
    if found and not whole:
        (verdict.twice if _doubled(record, found) else verdict.torn).append(text)
    elif found and record.told == "failed":
        verdict.ghosts.append(text)
    elif not found and record.told == "done" and not (record.kind == "take" and not record.value):
        verdict.lost.append(record)
    elif found and record.told == "done":
        _seen(verdict, record, found, text)


def _whole(record: Record, found: list[Any]) -> bool:
    """Is all of it there, once?"""
    if record.kind in PARTS:
        return sorted(found) == [(part, 1) for part in range(PARTS[record.kind])]
    if record.kind == "serials":
        return len(found) == 2 and found[1] == "child"
    return len(found) == 1


def _doubled(record: Record, found: list[Any]) -> bool:
    whole = PARTS.get(record.kind, 2 if record.kind == "serials" else 1)
    counted = any(
        isinstance(each, tuple) and len(each) == 2 and each[1] not in (0, 1)
        for each in found
        if record.kind in PARTS
    )
    return len(found) > whole or counted


def _seen(verdict: Verdict, record: Record, found: list[Any], text: str) -> None:
    """Was what it was given to see the truth?"""
    if record.kind == "serials" and found[0][1] != record.value:
        verdict.untrue.append(text)
    if record.kind == "take" and found[0] != record.value:
        verdict.untrue.append(text)
    if record.kind == "token_read" and record.value not in (1, None):  # None: it saw nothing
        verdict.stale.append(text)


def _balances(verdict: Verdict, rows: Rows) -> None:
    expected = dict.fromkeys(range(1, ACCOUNTS + 1), BALANCE)
    for _, a, b, x in rows.transfers:
        expected[a] -= x
        expected[b] += x
    for number, balance in expected.items():
        if rows.accounts.get(number) != balance:
            found = rows.accounts.get(number)
            verdict.torn.append(f"account {number}: {found}, by its transfers {balance}")


def _queue(verdict: Verdict, rows: Rows) -> None:
    taken = Counter(item for item, _ in rows.taken)
    for item in range(1, ITEMS + 1):
        there = (item in rows.items) + taken[item]
        if there != 1:
            kind = verdict.twice if there > 1 else verdict.torn
            kind.append(f"item {item}: {there} times, in the queue or taken")
