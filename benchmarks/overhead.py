"""What the pools cost while nothing fails: ours against psycopg_pool, in one run.

    python benchmarks/overhead.py [--rounds N] [--json]

Batches alternate between the two, so that a noisy machine hits both; the ratio is that of
the medians.  Everything runs against one real server of the embedded lab.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg_pool

from resilient.lab import Lab, LabOptions
from resilient.postgres import AsyncConnectionPool, ConnectionPool
from resilient.settings import Settings

#: case → operations per batch
CASES = {"checkout": 1000, "query": 200, "transaction": 100}


def sync_case(pool: Any, case: str, count: int) -> float:
    """Seconds per operation."""
    start = time.perf_counter()
    for _ in range(count):
        with pool.connection() as conn:
            if case != "checkout":
                conn.execute("select 1").fetchone()
            if case == "transaction":
                conn.execute("insert into bench values (1)")
    return (time.perf_counter() - start) / count


async def async_case(pool: Any, case: str, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        async with pool.connection() as conn:
            if case != "checkout":
                await (await conn.execute("select 1")).fetchone()
            if case == "transaction":
                await conn.execute("insert into bench values (1)")
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


def measure_sync(dsn: str, rounds: int) -> list[dict[str, Any]]:
    rows = []
    with (
        psycopg_pool.ConnectionPool(dsn, min_size=2, open=True) as bare,
        ConnectionPool(dsn, min_size=2, open=True, settings=Settings()) as ours,
    ):
        bare.wait()
        ours.wait()
        with bare.connection() as conn:
            conn.execute("create unlogged table if not exists bench (i int)")
        for case, count in CASES.items():
            one, two = [], []
            for _ in range(rounds):
                one.append(sync_case(bare, case, count))
                two.append(sync_case(ours, case, count))
            rows.append(row("sync", case, one, two))
    return rows


async def measure_async(dsn: str, rounds: int) -> list[dict[str, Any]]:
    rows = []
    async with (
        psycopg_pool.AsyncConnectionPool(dsn, min_size=2, open=False) as bare,
        AsyncConnectionPool(dsn, min_size=2, open=False, settings=Settings()) as ours,
    ):
        await bare.wait()
        await ours.wait()
        for case, count in CASES.items():
            one, two = [], []
            for _ in range(rounds):
                one.append(await async_case(bare, case, count))
                two.append(await async_case(ours, case, count))
            rows.append(row("async", case, one, two))
    return rows


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
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with Lab(LabOptions(zones=2, sync=False, http=False)) as lab:
        dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
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
