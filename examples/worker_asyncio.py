"""A worker that takes jobs from a table and does each of them once, through failovers.

    RESILIENT_DATABASE_URL=postgresql://… python examples/worker_asyncio.py [SECONDS]

A job is taken and done in one transaction. When the database dies in the middle, the transaction is
done again on the new primary; when the reply to its COMMIT is lost, what became of it is found out.
"""

from __future__ import annotations

import asyncio
import sys
import time

import psycopg

from resilient.postgres import AsyncConnectionPool, CommitOutcomeUnknown

TABLES = """\
CREATE TABLE IF NOT EXISTS jobs (id bigserial PRIMARY KEY, payload text NOT NULL);
CREATE TABLE IF NOT EXISTS done (id bigint NOT NULL, result text NOT NULL)"""
TAKE = """\
DELETE FROM jobs WHERE id = (SELECT id FROM jobs ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
 RETURNING id, payload"""


async def work(conn: psycopg.AsyncConnection) -> bool:
    """One job, if there is one."""
    job = await (await conn.execute(TAKE)).fetchone()
    if job is None:
        return False
    number, payload = job
    result = payload.upper()  # the job
    await conn.execute("INSERT INTO done VALUES (%s, %s)", (number, result))
    return True


async def worker(pool: AsyncConnectionPool, until: float) -> int:
    """Job after job; how many."""
    count = 0
    while time.monotonic() < until:
        try:
            found = await pool.run(work)
        except CommitOutcomeUnknown:
            continue  # it is there or not; the job is still in the table if it isn't
        count += found
        if not found:
            await asyncio.sleep(0.05)
    return count


async def main(seconds: float) -> None:
    """Four workers for so long."""
    async with AsyncConnectionPool(min_size=4) as pool:
        await pool.wait()
        async with pool.connection() as conn:
            await conn.execute(TABLES)
        print("working", flush=True)
        until = time.monotonic() + seconds
        counts = await asyncio.gather(*(worker(pool, until) for _ in range(4)))
        print(f"{sum(counts)} jobs done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0))
