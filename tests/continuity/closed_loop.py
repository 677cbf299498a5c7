"""Writers that never pause, in plain blocks, while primaries come and go.

Each transaction is an INSERT of an id that no other has, and an UPDATE that counts: at the
end every id that was acknowledged is there once, with a count of one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg

from resilient.errors import CommitOutcomeUnknown
from resilient.lab import Lab
from resilient.postgres import AsyncConnectionPool, ConnectionPool
from resilient.settings import Settings

THREADS, TASKS = 4, 20
TABLE = "create table if not exists closed_loop (id bigint not null, n int not null)"
INSERT = "insert into closed_loop values (%s, 0)"
COUNT = "update closed_loop set n = n + 1 where id = %s"
SPOIL = "update closed_loop set n = n + 100 where id = %s"


class _Undo(Exception):
    """Rolls a savepoint back."""


@dataclass(slots=True)
class Told:
    """What the callers were told, by id."""

    acked: list[int] = field(default_factory=list)
    unknown: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    def note(self, number: int, error: Exception | None) -> None:
        text = "" if error is None else f"{type(error).__name__}: {error}"
        if error is None:
            self.acked.append(number)
        elif isinstance(error, CommitOutcomeUnknown):
            self.unknown[number] = text
        else:
            self.failed[number] = text


@dataclass(frozen=True, slots=True)
class Report:
    """The multisets of ids compared, and what happened on the way."""

    acked: int
    unknown: int
    failed: dict[int, str]
    lost: list[int]
    duplicated: list[int]
    ghosts: list[int]
    miscounted: list[int]
    steps: Counter[str]
    unknown_texts: Counter[str]

    def __str__(self) -> str:
        found = self.steps["committed"] + self.steps["not-committed"]
        replies = found + self.unknown
        share = self.unknown / replies if replies else 0.0
        return (
            f"{self.acked} acknowledged, {self.unknown} unknown, {len(self.failed)} failed;"
            f" lost {len(self.lost)} (told {self.steps['told lost']}),"
            f" duplicated {len(self.duplicated)}, ghosts {len(self.ghosts)};"
            f" {self.steps['replayed']} replays;"
            f" {replies} replies to COMMIT lost: {self.steps['committed']} committed,"
            f" {self.steps['not-committed']} not, {share:.1%} unknown"
        )


class Steps(logging.Handler):
    """Counts what the library logs of its recoveries."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        words = dict(word.split("=", 1) for word in record.getMessage().split() if "=" in word)
        step = words.get("step", "")
        self.counts[words.get("outcome", step) if step == "resolved" else step] += 1
        if step == "commits-lost":
            self.counts["told lost"] += int(words["count"])


@contextmanager
def counted_steps() -> Iterator[Counter[str]]:
    logger, handler = logging.getLogger("resilient.failover"), Steps()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.counts
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class ClosedLoop:
    """A context manager: inside, the writers run."""

    def __init__(self, lab: Lab, settings: Settings) -> None:
        self.told = Told()
        self._lab, self._settings = lab, settings
        self._ids = itertools.count(1)
        self._ending = threading.Event()
        self._failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        with psycopg.connect(primary_dsn(self._lab), autocommit=True) as conn:
            conn.execute(TABLE)
            conn.execute("truncate closed_loop")
        for work in (self._serve_threads, lambda: asyncio.run(self._serve_tasks())):
            thread = threading.Thread(target=self._guarded, args=(work,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a writer is stuck"

    def wait_for_more(self, count: int, timeout_s: float = 20.0) -> None:
        """Return once so many more transactions were acknowledged."""
        wanted, give_up_at = len(self.told.acked) + count, time.monotonic() + timeout_s
        while len(self.told.acked) < wanted:
            assert not self._failures, self._failures
            assert time.monotonic() < give_up_at, "the writers stand still"
            time.sleep(0.01)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as exc:  # `wait_for_more` shows it
            self._failures.append(exc)

    # -- threads

    def _serve_threads(self) -> None:
        size = {"min_size": THREADS, "max_size": THREADS}
        with ConnectionPool(self._lab.dsn, settings=self._settings, **size) as pool:
            pool.wait(20)
            workers = [threading.Thread(target=self._loop, args=(pool,)) for _ in range(THREADS)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

    def _loop(self, pool: ConnectionPool[Any]) -> None:
        while not self._ending.is_set():
            number, error = next(self._ids), None
            try:
                with pool.connection() as conn:
                    write(conn, number)
            except Exception as exc:  # whatever a caller would see
                error = exc
            self.told.note(number, error)

    # -- tasks

    async def _serve_tasks(self) -> None:
        size = {"min_size": TASKS, "max_size": TASKS}
        async with AsyncConnectionPool(self._lab.dsn, settings=self._settings, **size) as pool:
            await pool.wait(20)
            await asyncio.gather(*(self._loop_async(pool) for _ in range(TASKS)))

    async def _loop_async(self, pool: AsyncConnectionPool[Any]) -> None:
        while not self._ending.is_set():
            number, error = next(self._ids), None
            try:
                async with pool.connection() as conn:
                    await write_async(conn, number)
            except Exception as exc:
                error = exc
            self.told.note(number, error)


def write(conn: psycopg.Connection[Any], number: int) -> None:
    conn.execute(INSERT, (number,))
    if number % 4:
        conn.execute(COUNT, (number,))
        return
    with conn.transaction():
        conn.execute(COUNT, (number,))
    if number % 8:
        return
    try:
        with conn.transaction():
            conn.execute(SPOIL, (number,))
            raise _Undo
    except _Undo:
        pass


async def write_async(conn: psycopg.AsyncConnection[Any], number: int) -> None:
    await conn.execute(INSERT, (number,))
    if number % 4:
        await conn.execute(COUNT, (number,))
        return
    async with conn.transaction():
        await conn.execute(COUNT, (number,))
    if number % 8:
        return
    try:
        async with conn.transaction():
            await conn.execute(SPOIL, (number,))
            raise _Undo
    except _Undo:
        pass


def primary_dsn(lab: Lab) -> str:
    return f"host={lab.primary.address} port={lab.port} user=app dbname=app"


def report(lab: Lab, told: Told, steps: Counter[str]) -> Report:
    """Judge what the callers were told by the rows that the present primary has."""
    with psycopg.connect(primary_dsn(lab)) as conn:
        rows = conn.execute("select id, n from closed_loop").fetchall()
    there = Counter(row[0] for row in rows)
    return Report(
        acked=len(told.acked),
        unknown=len(told.unknown),
        failed=told.failed,
        lost=[number for number in told.acked if not there[number]],
        duplicated=[number for number, count in there.items() if count > 1],
        ghosts=[number for number in told.failed if there[number]],
        miscounted=[number for number, n in rows if n != 1],
        steps=steps,
        unknown_texts=Counter(told.unknown.values()),
    )
