"""Threads that run ORM transactions, failovers among them, and the judgement of what came of it.

A transaction is *struck* when it has a connection before the next primary serves, and ends after
the fault.  It goes on when its caller hears nothing of that.  What a caller was told (ids, times)
has to be what is there.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg

from resilient import postgres
from resilient.lab import Lab
from resilient.settings import Settings

from . import orms

PROMOTE_S = 0.3
#: what has to be well again before the next failover, in seconds
BACK_S = 20.0


@dataclass(slots=True)
class Done:
    """One transaction: `end` is empty, or the error; `told`: what its caller has."""

    number: int
    began_at: float
    ended_at: float
    end: str = ""
    text: str = ""
    told: orms.Told | None = None


@dataclass(slots=True)
class Result:
    """`ends`: of those that were struck; `broken`: what isn't true of what was told."""

    struck: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    elsewhere: Counter[str] = field(default_factory=Counter)
    transactions: int = 0
    lost: int = 0
    duplicates: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of the struck ones that went on."""
        return self.ends[""] / self.struck if self.struck else 0.0


class Workers:
    """So many threads, one connection each from one pool of ours."""

    def __init__(self, pool: Any, kind: Any, threads: int, think_s: float) -> None:
        self._pool, self._kind, self._think_s = pool, kind, think_s
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self.done: list[Done] = []
        kind()  # what threads share is made before them
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        kind = self._kind()
        while not self._stop.is_set():
            one = Done(next(self._numbers), 0.0, 0.0)
            try:
                with self._pool.connection() as conn:
                    one.began_at = time.monotonic()
                    one.told = kind.transact(conn, one.number, lambda: time.sleep(self._think_s))
            except Exception as exc:
                one.end, one.text = _named(exc), str(exc).partition("\n")[0]
                one.began_at = one.began_at or time.monotonic()
            one.ended_at = time.monotonic()
            self.done.append(one)

    def all_back(self, since: float) -> bool:
        """Has each thread ended a transaction well since then?"""
        give_up_at = time.monotonic() + BACK_S
        while time.monotonic() < give_up_at:
            well = [one for one in self.done[-500:] if not one.end and one.began_at > since]
            if len(well) >= 2 * len(self._threads):
                return True
            time.sleep(0.02)
        return False

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(BACK_S)


def _named(exc: BaseException) -> str:
    """A driver's error by its own name, also inside of an ORM's."""
    inner = getattr(exc, "orig", None) or exc.__cause__ or exc
    return type(inner if isinstance(inner, psycopg.Error) else exc).__name__


def play(
    lab: Lab,
    settings: Settings,
    kind: Any,
    *,
    failovers: int,
    threads: int = 8,
    think_s: float = 0.05,
    faults: tuple[str, ...] = ("crash", "switchover"),
    chance: random.Random | None = None,
) -> Result:
    """So many failovers under load, on a lab whose members are well; judged."""
    chance = chance or random.Random(1)
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write", autocommit=True) as conn:
        conn.execute(orms.TABLES.encode())
        conn.execute("truncate orm_orders, orm_lines, orm_stock")
    strikes: list[tuple[float, float]] = []
    pool = postgres.ConnectionPool(
        lab.dsn, settings=settings, min_size=threads, max_size=threads + 2, open=False
    )
    pool.open()
    pool.wait(10)
    try:
        workers = Workers(pool, kind, threads, think_s)
        try:
            for number in range(failovers):
                assert workers.all_back(time.monotonic()), "they didn't come back"
                time.sleep(chance.random() * think_s * 4)
                fault = faults[number % len(faults)]
                run = lab.inject(fault, promote_after_s=PROMOTE_S, dns_after_s=0)
                run.wait_done()
                strikes.append((run.fault_at, run.writable_at or run.fault_at))
                lab.rejoin()
            workers.all_back(time.monotonic())
        finally:
            workers.stop()
    finally:
        pool.close()
    return judged(lab, workers.done, strikes)


def judged(lab: Lab, done: list[Done], strikes: list[tuple[float, float]]) -> Result:
    """What became of them, and whether what their callers were told is there."""
    result = Result(transactions=len(done))
    for one in done:
        struck = any(one.began_at < new and one.ended_at > old for old, new in strikes)
        result.struck += struck
        (result.ends if struck else result.elsewhere)[one.end] += 1
        result.duplicates += "UniqueViolation" in one.end or "duplicate key" in one.text
        if one.end:
            result.texts[f"{one.end}: {one.text[:300]}"] += 1
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write") as conn:
        for one in done:
            found = conn.execute(orms.FOUND.encode(), (one.number,)).fetchall()
            if one.told is None:
                if found and one.end != "CommitOutcomeUnknown":
                    result.broken.append(f"{one.number}: there although it failed ({one.end})")
                continue
            if not found:
                result.lost += 1  # acknowledged; none may be where replication is synchronous
                continue
            order, at, lines = one.told
            if len(found) != 1 or found[0][0] != order or found[0][2] != lines:
                result.broken.append(f"{one.number}: told {one.told}, there is {found}")
            elif at is not None and found[0][1] != at:
                result.broken.append(f"{one.number}: told {at}, there is {found[0][1]}")
    return result
