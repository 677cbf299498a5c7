"""The randomized soak: everything at once, judged by who reads only the servers and what the
clients wrote down.

    make soak ARGS='-s tests/soak'

`RESILIENT_TEST_SEED` repeats what was drawn (kinds of operation, cancellations, faults, their
moments; which thread comes first isn't ours to draw), `RESILIENT_TEST_FAILOVERS` says how many.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, nullcontext
from typing import Any, Self

import psycopg
import pytest

from resilient.errors import CommitOutcomeUnknown
from resilient.lab import POSTGRES_FAULTS, Lab, LabOptions
from resilient.postgres import AsyncConnectionPool, ConnectionPool
from resilient.postgres.commit.ledger import DDL
from resilient.settings import Settings
from tests.differential.play import as_sync
from tests.replay.held import cut_off

from . import work
from .judge import Rows, Verdict, judge
from .work import KINDS, Client, Record

pytestmark = [pytest.mark.lab, pytest.mark.soak]

THREADS, TASKS = 2, 5
RESOLVERS, NAMES = ("lsn", "ledger"), ("hosts", "cname")
#: of a task's operations, so many are cancelled
CANCELLED = 0.04
#: those that leave no mark of their own, and so can't be missed one by one
UNMARKED = ("autocommit", "copy", "take", "serials")
#: what may fail: it isn't recorded, or what it saw may be another's on the next server
MAY_FAIL = ("copy", "take", "serials")
LOST = re.compile(r"step=commits-lost .*?\bcount=(\d+)")


class Reported(logging.Handler):
    """How many acknowledged transactions the application was told it has lost."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        if found := LOST.search(record.getMessage()):
            self.count += int(found.group(1))

    @contextmanager
    def listening(self) -> Iterator[Self]:
        logger = logging.getLogger("resilient.failover")
        logger.addHandler(self)
        try:
            yield self
        finally:
            logger.removeHandler(self)


class Crowd:
    """A context manager: inside, clients of all kinds work without a pause."""

    def __init__(self, lab: Lab, seed: int, kinds: list[str], cancels: bool) -> None:
        self.lab, self.seed, self.kinds, self.cancels = lab, seed, kinds, cancels
        self.records: list[Record] = []
        self.done: Counter[str] = Counter()
        self._ops = itertools.count(1)
        self._ending = threading.Event()
        self._accidents: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for target in (self._serve_threads, lambda: asyncio.run(self._serve_tasks())):
            thread = threading.Thread(target=self._guarded, args=(target,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive(), "a client is stuck"
        assert not self._accidents, self._accidents

    def wait_for_more(self, count: int, timeout_s: float = 40.0) -> None:
        """Return once each pool has told of so many more operations that are done."""
        wanted = {name: self.done[name] + count for name, *_ in self._pools("threads")}
        wanted |= {name: self.done[name] + count for name, *_ in self._pools("tasks")}
        give_up_at = time.monotonic() + timeout_s
        while left := [name for name, most in wanted.items() if self.done[name] < most]:
            assert not self._accidents, self._accidents
            assert time.monotonic() < give_up_at, f"{left} stand still"
            time.sleep(0.01)

    def _guarded(self, target: Any) -> None:
        try:
            target()
        except BaseException as exc:
            self._accidents.append(exc)

    def _pools(self, shell: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Its name, its conninfo and its options."""
        size = THREADS if shell == "threads" else TASKS
        for resolver, names in itertools.product(RESOLVERS, NAMES):
            settings = Settings(
                *(),
                commit_resolver=resolver,
                dns_nameservers=self.lab.dns_address,
                dns_search=[],
                database_readers=self.lab.READER if names == "cname" else "",
                deadline_s=20,
                probe_interval_s=0.3,
                probe_timeout_s=0.2,
                connect_rate=1_000,
                retry_budget=1.0,
                retry_budget_floor=10_000,
            )
            dsn = self.lab.dsn if names == "hosts" else self.lab.writer_dsn
            options = {"settings": settings, "min_size": size, "max_size": size}
            yield f"{shell}-{resolver}-{names}", dsn, options

    # -- the two shells

    def _serve_threads(self) -> None:
        with ExitStack() as stack:
            workers = []
            for name, dsn, options in self._pools("threads"):
                pool = stack.enter_context(ConnectionPool(dsn, **options))
                pool.wait(20)
                for number in range(THREADS):
                    rng = random.Random(f"{self.seed}/{name}/{number}")
                    args = (name, Client(pool, rng, tasks=False))
                    workers.append(threading.Thread(target=self._loop, args=args))
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

    def _loop(self, name: str, client: Client) -> None:
        while not self._ending.is_set():
            record, fn = self._next(name, client)
            try:
                record.value = as_sync(fn)(client, record.op)
            except Exception as exc:
                self._failed(record, exc)
            self._told(record, client)

    async def _serve_tasks(self) -> None:
        async with AsyncExitStack() as stack:
            workers = []
            for name, dsn, options in self._pools("tasks"):
                pool = await stack.enter_async_context(AsyncConnectionPool(dsn, **options))
                await pool.wait(20)
                for number in range(TASKS):
                    rng = random.Random(f"{self.seed}/{name}/{number}")
                    workers.append(self._loop_async(name, Client(pool, rng, tasks=True)))
            await asyncio.gather(*workers)

    async def _loop_async(self, name: str, client: Client) -> None:
        while not self._ending.is_set():
            record, fn = self._next(name, client)
            limit_s = None
            if self.cancels and client.rng.random() < CANCELLED:
                limit_s = client.rng.random() ** 2 * 0.05
            task = asyncio.ensure_future(fn(client, record.op))
            if limit_s is not None:
                asyncio.get_running_loop().call_later(limit_s, task.cancel)
            try:
                record.value = await task
            except asyncio.CancelledError:
                record.told = record.told or "cancelled"
                record.error = record.error or ("" if limit_s is not None else "CancelledError")
            except Exception as exc:
                self._failed(record, exc)
            self._told(record, client)

    # -- what is written down

    def _next(self, name: str, client: Client) -> tuple[Record, Any]:
        kind = client.rng.choice(self.kinds)
        client.record = work.begin(next(self._ops), kind, name)
        return client.record, KINDS[kind]

    @staticmethod
    def _failed(record: Record, exc: Exception) -> None:
        record.error = f"{type(exc).__name__}: {exc}"
        if not record.told:
            record.told = "unknown" if isinstance(exc, CommitOutcomeUnknown) else "failed"

    def _told(self, record: Record, client: Client) -> None:
        record.told = record.told or "done"
        record.ended = time.monotonic()
        if record.told == "done" and record.kind in work.PARTS:
            client.known[:] = [record.op]
        self.records.append(record)
        self.done[record.pool] += record.told == "done"


def primary(lab: Lab) -> str:
    return f"host={lab.primary.address} port={lab.port} user=app dbname=app"


def soak(
    lab: Lab, failovers: int, seed: int, kinds: list[str], *, cancels: bool, behind: bool = False
) -> tuple[Verdict, int]:
    """`behind`: what the old primary acknowledges last has reached no standby."""
    rng = random.Random(seed)
    skipped = {*lab.skipped_faults, *(["switchover"] if behind else [])}
    faults = [fault for fault in POSTGRES_FAULTS if fault not in skipped]
    with psycopg.connect(primary(lab), autocommit=True) as conn:
        conn.execute(work.TABLES.encode())
        conn.execute(DDL.encode())
    began = time.monotonic()
    with Reported().listening() as reported:
        with Crowd(lab, seed, kinds, cancels) as crowd:
            crowd.wait_for_more(10)
            for number in range(1, failovers + 1):
                fault = faults[(number - 1) % len(faults)]
                with cut_off(lab) if behind else nullcontext():
                    time.sleep(rng.random() * 0.3)
                    run = lab.inject(
                        fault,
                        promote_after_s=rng.choice((0.0, 0.1, 0.3)),
                        dns_after_s=rng.choice((0.0, 0.2)),
                        resume_after_s=rng.random(),
                    )
                    run.wait_writable()
                run.wait_done()
                crowd.wait_for_more(8)
                lab.rejoin()
                crowd.wait_for_more(4)
                if number % 5 == 0 or number == failovers:
                    told = Counter(record.told for record in crowd.records)
                    took = time.monotonic() - began
                    print(f"{number}/{failovers} {fault} {took:.0f} s {dict(told)}", flush=True)
        with psycopg.connect(primary(lab)) as conn:
            verdict = judge(crowd.records, Rows.read(conn))
    print(f"seed {seed}, {failovers} failovers: {verdict}; {reported.count} reported lost")
    for text, count in verdict.errors.most_common(20):
        print(f"  {count} × {text}")
    for text in verdict.wrong[:10]:
        print(f"  WRONG {text}")
    return verdict, reported.count


def chosen(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


def seed() -> int:
    drawn = chosen("RESILIENT_TEST_SEED", random.SystemRandom().randrange(1_000_000))
    print(f"\nRESILIENT_TEST_SEED={drawn}")
    return drawn


def check_errors(verdict: Verdict) -> None:
    """Only what may fail does, with the errors that callers know."""
    surprising = {
        text: count
        for text, count in verdict.errors.items()
        if text.partition(":")[0] not in MAY_FAIL and "CommitOutcomeUnknown" not in text
    }
    assert not surprising, surprising


def test_synchronous(lab: Lab) -> None:
    verdict, reported = soak(
        lab, chosen("RESILIENT_TEST_FAILOVERS", 60), seed(), list(KINDS), cancels=True
    )
    assert not verdict.wrong, verdict.wrong[:5]
    assert not verdict.lost, verdict.lost[:5]
    assert reported == 0, "nothing was lost, and it was said"
    check_errors(verdict)


@pytest.fixture
def behind() -> Iterator[Lab]:
    """Servers that acknowledge before any standby has the transaction."""
    with Lab(LabOptions(sync=False, http=False)) as running:
        yield running


def test_asynchronous(behind: Lab) -> None:
    """Each block that is lost is reported, and no other."""
    kinds = [kind for kind in KINDS if kind not in UNMARKED]
    failovers = max(chosen("RESILIENT_TEST_FAILOVERS", 60) // 4, 1)
    verdict, reported = soak(behind, failovers, seed(), kinds, cancels=False, behind=True)
    wrong = [text for text in verdict.wrong if text not in verdict.stale]
    assert not wrong, wrong[:5]
    assert verdict.lost, "nothing was lost: nothing was tried"
    assert reported == len(verdict.lost)
