"""An hour at moderate load with a failover a minute: does anything grow?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from resilient.errors import ResilientError
from resilient.lab import Lab, LabOptions

from ..failover.sessions import Sizes
from ..failover.subject import Job
from ..failover.work import CREATE
from ..judge.checker import judge
from ..progress import say
from ..rows import Row
from ..subject.parent import Subject

__all__ = ["flat", "soak"]

FAULTS = ("crash", "switchover", "hang", "crash", "switchover", "zombie")
EVERY_S, PROMOTE_AFTER_S = 60.0, 1.0
WARM_S = 5.0
#: what may grow between the first quarter and the last: allocators and caches settle
RSS_MB, COUNT = 8.0, 2
SIZES = Sizes(insert_pace_s=0.05, append_pace_s=0.1, read_pace_s=0.2)


def soak(minutes: float, client: str = "resilient", every_s: float = EVERY_S) -> Iterator[Row]:
    """A row for each minute, taken just before its failover."""
    with Lab(LabOptions(http=False)) as lab:
        _prepare(lab)
        hosts = tuple(member.address for member in lab.members)
        subject = Subject(
            "benchmarks.failover.subject", Job(client, "run", hosts, lab.port, SIZES).to_json()
        )
        try:
            subject.wait("loaded", 20)
            subject.tell("open", "ready", 20)
            subject.tell("go", "running", 5)
            _pump(subject, WARM_S)
            for number in range(max(1, round(minutes * 60 / every_s))):
                yield _minute(lab, subject, number, every_s)
            subject.tell("stop", "stopped", 20)
        finally:
            subject.kill()
        yield _minute_end(lab, subject, minutes)


def _minute(lab: Lab, subject: Subject, number: int, every_s: float) -> Row:
    began_at = time.monotonic()
    row = _sizes(subject.pid)
    fault = FAULTS[number % len(FAULTS)]
    try:
        run = lab.inject(fault, promote_after_s=PROMOTE_AFTER_S)
        while not run.done:
            subject.pump(0.05)
        run.wait_done()
        lab.rejoin()
    except ResilientError as error:  # a lab that can't go on is no leak of the client's
        say(f"{fault}: {error}")
        lab.rejoin()
    _pump(subject, every_s - (time.monotonic() - began_at))
    outcomes = [op.outcome for op in subject.ops]
    return {
        "key": f"soak/{number}",
        "minute": round((number + 1) * every_s / 60, 2),
        "fault": fault,
        "failovers": number + 1,
        "acked": sum(op.is_write and op.outcome == "ok" for op in subject.ops),
        "errors": outcomes.count("error"),
        "unknown": outcomes.count("unknown"),
        **row,
    }


def _minute_end(lab: Lab, subject: Subject, minutes: float) -> Row:
    """The judgement over all of it."""
    with _admin(lab) as connection:
        rows = [row[0] for row in connection.execute("SELECT id FROM public.bench_rows")]
        lists = dict(connection.execute("SELECT key, items FROM public.bench_lists").fetchall())
    verdict = judge(subject.ops, rows, lists)
    sizes = {"rss_mb": "–", "threads": "–", "sockets": "–", "files": "–"}
    errors = sum(op.outcome == "error" for op in subject.ops)
    return {"key": "soak/end", "minute": minutes, "failovers": "all", "errors": errors} | {
        **sizes,
        **verdict.as_dict(),
        "broken": verdict.broken,
    }


def flat(rows: Sequence[Row]) -> list[str]:
    """What isn't, in words; nothing: all is well."""
    why = [f"the judge found {row['broken']}" for row in rows if row.get("broken")]
    taken = [row for row in rows if isinstance(row["rss_mb"], float)]
    quarter = max(1, len(taken) // 4)
    for name, allowed in (("rss_mb", RSS_MB), ("threads", COUNT), ("sockets", COUNT),
                          ("files", COUNT)):  # fmt: skip
        # the least of each: what was there at all times
        first = min(row[name] for row in taken[:quarter])
        last = min(row[name] for row in taken[-quarter:])
        if last > first + allowed:
            why.append(f"{name} grew from {first:g} to {last:g}")
    return why


def _sizes(pid: int) -> dict[str, Any]:
    """Resident memory, threads, sockets and descriptors of the client."""
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if ":" in line
    )
    links = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(entry.path))
        except OSError:  # closed in this moment
            continue
    return {
        "rss_mb": round(int(status["VmRSS"].split()[0]) / 1024, 1),
        "threads": int(status["Threads"]),
        "sockets": sum(link.startswith("socket:") for link in links),
        "files": len(links),
    }


def _prepare(lab: Lab) -> None:
    with _admin(lab) as connection:
        for statement in filter(None, map(str.strip, CREATE.split(";"))):
            connection.execute(statement.encode())


def _admin(lab: Lab) -> psycopg.Connection[tuple[Any, ...]]:
    conninfo = make_conninfo(lab.primary.conninfo, dbname="app")
    options = "-c synchronous_commit=local"
    return psycopg.connect(conninfo, autocommit=True, options=options)


def _pump(subject: Subject, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        subject.pump(min(left, 0.5))
