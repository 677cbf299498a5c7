"""Table and JSON from the rows: one line a client, summed over its rounds."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..failover.clients import CLIENTS
from ..judge.checker import BROKEN
from ..rows import Rows
from .plan import TOLD_LOST

__all__ = ["report", "sums", "table"]

Row = dict[str, Any]
#: summed over the rounds
SUMS = ("acked", "errors", "told", "stuck", "stalled", "unknown_all", "unknown_present", *BROKEN)
HEAD = (
    "client", "way", "sessions", "failovers", "acknowledged", "lost", "duplicated", "ghosts",
    "wrong", "attempts failed", "errors to the caller", "unknown (told)", "stuck", "stalled",
    "replays", "resolved: committed / not",
    "losses told of",
)  # fmt: skip
REPLICATIONS = {
    "sync": "Synchronous replication: nothing may be lost",
    "async": "Asynchronous replication: what the old primary alone had is lost, whoever asks",
}
NOTES = """\
*attempts failed*: by a naive loop (any error, 50 ms, again, for up to 30 s) or, of ours, by the
library's caller, who has no loop. *unknown*: told by an error that means just this. *wrong*:
torn, forked, backwards, unseen, strangers (`judge/checker.py`). *stalled*: failovers after which
some session had no write acknowledged until the servers were repaired. *losses told of*: the sum of
the library's own `commits-lost` events.
"""


def report(out: Path, as_json: bool) -> int:
    """Write it beside the rows, and print it."""
    rows = Rows(out / "continuity.jsonl").read()
    found = sums(rows)
    if not found:
        print("no rows yet", file=sys.stderr)
        return 1
    broken_off = {row["key"]: row["trouble"] for row in rows if row["trouble"]}
    text = table(found, broken_off, rows)
    summary = {
        "clients": found,
        "broken_off": broken_off,
        "postgresql": rows[-1].get("postgresql"),
        "machine": rows[-1].get("machine"),
    }
    (out / "continuity.json").write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
    (out / "continuity.md").write_text(text)
    print(json.dumps(summary, ensure_ascii=False) if as_json else text)
    return 0


def sums(rows: Sequence[Row]) -> list[Row]:
    """One for each replication and client.  A round that was broken off is left out."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if not row["trouble"] and row["client"] in CLIENTS:
            groups.setdefault((row["replication"], row["client"]), []).append(row)
    order = list(CLIENTS)
    return [
        _sum(*key, groups[key])
        for key in sorted(groups, key=lambda key: (key[0] != "sync", order.index(key[1])))
    ]


def _sum(replication: str, client: str, rows: Sequence[Row]) -> Row:
    steps: Counter[str] = Counter()
    texts: Counter[str] = Counter()
    for row in rows:
        steps.update(row["steps"])
        texts.update(row["texts"])
    faults = Counter(fault for row in rows for fault in row["faults"])
    return {
        "replication": replication,
        "client": client,
        "ours": CLIENTS[client].ours,
        "way": rows[0]["way"],
        "sessions": rows[0]["sessions"],
        "failovers": faults.total(),
        "faults": dict(faults),
        **{name: sum(row[name] for row in rows) for name in SUMS},
        "steps": dict(steps),
        "texts": dict(texts.most_common(4)),
        "versions": rows[-1]["versions"],
    }


def table(found: Sequence[Row], broken_off: dict[str, str], rows: Sequence[Row]) -> str:
    """Markdown."""
    return "\n".join([*_tables(found), *_rest(found, broken_off, rows)]) + "\n"


def _tables(found: Sequence[Row]) -> Iterator[str]:
    for replication, title in REPLICATIONS.items():
        group = [row for row in found if row["replication"] == replication]
        if group:
            yield f"### {title}\n"
            yield f"| {' | '.join(HEAD)} |"
            yield f"|{' --- |' * len(HEAD)}"
            for row in group:
                yield f"| {' | '.join(map(str, _line(row)))} |"
            yield ""
    yield NOTES


def _line(row: Row) -> Iterator[object]:
    def mark(value: int, forbidden: bool = True) -> str:
        return f"{value} ◄" if value and row["ours"] and forbidden else str(value)

    yield f"**{row['client']}**" if row["ours"] else row["client"]
    yield from (row["way"], row["sessions"], row["failovers"], row["acked"])
    may_lose = row["replication"] == "async"
    yield mark(row["lost"], not may_lose)
    yield mark(row["duplicated"])
    yield mark(row["ghosts"])
    # a torn list, or a read that goes back, may be what a lost write leaves behind
    yield mark(sum(row[name] for name in BROKEN[3:]), not may_lose)
    yield row["errors"]
    yield mark(row["told"] - row["unknown_all"])
    yield row["unknown_all"]
    yield row["stuck"]
    yield row["stalled"]
    steps = row["steps"]
    yield steps.get("replayed", 0) if row["ours"] else "–"
    resolved = f"{steps.get('committed', 0)} / {steps.get('not-committed', 0)}"
    yield resolved if row["ours"] else "–"
    yield steps.get(TOLD_LOST, 0) if row["ours"] else "–"


def _rest(found: Sequence[Row], broken_off: dict[str, str], rows: Sequence[Row]) -> Iterator[str]:
    texts = [(row["client"], text, n) for row in found for text, n in row["texts"].items()]
    if texts:
        yield "### What callers were told\n"
        yield from (f"- {client}, {count} ×: {text}" for client, text, count in texts)
        yield ""
    if broken_off:
        yield "### Rounds that came to no end\n"
        yield from (f"- {key}: {trouble}" for key, trouble in broken_off.items())
        yield ""
    named = sorted({part for row in found for part in row["versions"].split(", ")})
    where = rows[-1].get("machine") or {}
    yield (
        f"PostgreSQL {rows[-1].get('postgresql')}, Python {where.get('python')}, "
        f"{where.get('cores')} cores. {'; '.join(named)}."
    )
