"""What the pools cost while nothing fails: ours against psycopg_pool, in one run.

    python benchmarks/overhead.py [--rounds N] [--json]

Small batches alternate in a random order, so that a noisy machine hits all alike; the ratio is
that of the medians.  Everything runs against one real server of the embedded lab, which flushes
its WAL.  `transaction` is an INSERT and a SELECT in a plain block.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import psycopg
import psycopg_pool

from resilient.lab import Lab, LabOptions
from resilient.postgres import AsyncConnectionPool, ConnectionPool, ledger
from resilient.settings import Settings

#: case → operations per batch
CASES = {"checkout": 400, "autocommit": 200, "query": 60, "transaction": 20}
#: how a lost COMMIT would be resolved → its settings
WAYS = {"lsn": {}, "ledger": {"commit_resolver": "ledger"}, "off": {"commit_resolver": "off"}}


def sync_case(pool: Any, case: str, count: int) -> float:
    """Seconds per operation."""
    if case == "autocommit":
        with pool.connection() as conn:
            conn.autocommit = True
            start = time.perf_counter()
            for _ in range(count):
                conn.execute("select 1").fetchone()
            spent = time.perf_counter() - start
            conn.autocommit = False
        return spent / count
    start = time.perf_counter()
    for _ in range(count):
        with pool.connection() as conn:
            if case == "transaction":
                conn.execute("insert into bench values (1)")
            if case != "checkout":
                conn.execute("select 1").fetchone()
    return (time.perf_counter() - start) / count


async def async_case(pool: Any, case: str, count: int) -> float:
    if case == "autocommit":
        async with pool.connection() as conn:
            await conn.set_autocommit(True)
            start = time.perf_counter()
            for _ in range(count):
                await (await conn.execute("select 1")).fetchone()
            spent = time.perf_counter() - start
            await conn.set_autocommit(False)
        return spent / count
    start = time.perf_counter()
    for _ in range(count):
        async with pool.connection() as conn:
            if case == "transaction":
                await conn.execute("insert into bench values (1)")
            if case != "checkout":
                await (await conn.execute("select 1")).fetchone()
    return (time.perf_counter() - start) / count


def row(shell: str, case: str, bare: list[float], ours: list[float]) -> dict[str, Any]:
    one, two = statistics.median(bare), statistics.median(ours)
    return {
        "shell": shell,
        "case": case,
        "bare_us": round(one * 1e6, 2),
        "ours_us": round(two * 1e6, 2),
        "added_us": round((two - one) * 1e6, 2),
        "ratio": round(two / one, 3),
    }


def rows_of(shell: str, samples: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    """One row for each case and way; `transaction` with every way, the others with `lsn`."""
    return [
        row(shell, case if way == "lsn" else f"{case}, {way}", samples[case, "bare"], taken)
        for (case, way), taken in samples.items()
        if way != "bare"
    ]


def wanted(rounds: int) -> list[tuple[str, str]]:
    """Every (case, way) `rounds` times, shuffled within a round: noise hits all alike."""
    pairs = [(case, way) for case in CASES for way in ("bare", "lsn")]
    pairs += [("transaction", way) for way in WAYS if way != "lsn"]
    order: list[tuple[str, str]] = []
    for _ in range(rounds):
        order += random.sample(pairs, len(pairs))
    return order


def prepare(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table if not exists bench (i int)")
        conn.execute("grant all on bench to public")
        conn.execute(ledger.DDL.encode())


def measure_sync(dsn: str, rounds: int) -> list[dict[str, Any]]:
    samples: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        pools = {"bare": psycopg_pool.ConnectionPool(dsn, min_size=2, open=True)}
        for way, kwargs in WAYS.items():
            pools[way] = ConnectionPool(dsn, min_size=2, open=True, settings=Settings(**kwargs))
        for pool in pools.values():
            stack.enter_context(pool)
            pool.wait()
        for case, way in wanted(rounds):
            taken = sync_case(pools[way], case, CASES[case])
            samples.setdefault((case, way), []).append(taken)
    return rows_of("sync", samples)


async def measure_async(dsn: str, rounds: int) -> list[dict[str, Any]]:
    samples: dict[tuple[str, str], list[float]] = {}
    async with AsyncExitStack() as stack:
        pools = {"bare": psycopg_pool.AsyncConnectionPool(dsn, min_size=2, open=False)}
        for way, kwargs in WAYS.items():
            settings = Settings(**kwargs)
            pools[way] = AsyncConnectionPool(dsn, min_size=2, open=False, settings=settings)
        for pool in pools.values():
            await stack.enter_async_context(pool)
            await pool.wait()
        for case, way in wanted(rounds):
            taken = await async_case(pools[way], case, CASES[case])
            samples.setdefault((case, way), []).append(taken)
    return rows_of("async", samples)


def import_seconds(statement: str) -> float:
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return float(done.stdout)


def measure_import(rounds: int) -> dict[str, Any]:
    """Importing ours against importing what it stands on, in fresh interpreters."""
    below = (
        "import psycopg_pool, httpx2, httpcore2, dns.message, opentelemetry.trace,"
        " opentelemetry.metrics, pydantic_settings"
    )
    one, two = [], []
    for _ in range(max(3, rounds // 4)):
        one.append(import_seconds(below))
        two.append(import_seconds("import resilient.postgres, resilient.http"))
    return row("-", "import", one, two)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with Lab(LabOptions(zones=2, sync=False, http=False)) as lab:
        dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
        prepare(f"host={lab.primary.address} port={lab.port} user=postgres dbname=app")
        gc.disable()
        rows = measure_sync(dsn, options.rounds)
        run: Callable[[Awaitable[Any]], Any] = asyncio.run  # type: ignore[assignment]
        rows += run(measure_async(dsn, options.rounds))
    rows.append(measure_import(options.rounds))
    if options.json:
        print(json.dumps(rows))
        return 0
    print("| shell | case | psycopg_pool µs | resilient µs | added µs | ratio |")
    print("|---|---|---|---|---|---|")
    for item in rows:
        print("| {shell} | {case} | {bare_us} | {ours_us} | {added_us} | {ratio} |".format(**item))
    return 0


if __name__ == "__main__":
    sys.exit(main())
