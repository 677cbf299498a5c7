"""Stopping to wait: in any state the connection ends up clean or closed, and quickly."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from typing import Any

import psycopg
import pytest

from resilient.lab import Lab
from resilient.postgres import AsyncConnectionPool, ConnectionPool

from .conftest import settings_of

pytestmark = pytest.mark.lab


async def _cancel_at_random(lab: Lab, times: int) -> None:
    settings = settings_of(lab, standby_min_size=0)  # the numbers are the writer's alone
    async with AsyncConnectionPool(lab.dsn, settings=settings, min_size=4, max_size=8) as pool:
        await pool.wait()
        crossed = []

        async def one(number: int) -> None:
            async with pool.connection() as conn:
                sql = "select %s::int, pg_sleep(%s)" if number % 3 else "select %s::int, %s"
                cursor = await conn.execute(sql, (number, random.random() * 0.004))
                row = await cursor.fetchone()
                if row is None or row[0] != number:
                    crossed.append((number, row))

        async def cancelled(number: int) -> None:
            task = asyncio.create_task(one(number))
            await asyncio.sleep(random.random() * 0.006)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

        for start in range(0, times, 16):
            await asyncio.gather(*(cancelled(n) for n in range(start, min(start + 16, times))))
        assert crossed == []
        deadline = time.monotonic() + 10
        while pool.get_stats()["pool_available"] < 4:
            assert time.monotonic() < deadline, pool.get_stats()
            await asyncio.sleep(0.02)
        stats = pool.get_stats()
        assert stats["pool_size"] <= 8
        assert stats["requests_waiting"] == 0
    left = "select count(*) from pg_stat_activity where usename = 'app'"
    deadline = time.monotonic() + 5
    while lab.admin(None, left) != [(0,)]:
        assert time.monotonic() < deadline, lab.admin(None, left)
        await asyncio.sleep(0.05)


async def test_cancelled_tasks_cross_no_replies_and_leak_nothing(lab: Lab, orders: str) -> None:
    await _cancel_at_random(lab, 1_000)


async def test_a_return_that_is_cancelled_while_the_lock_is_promised(lab: Lab, orders: str) -> None:
    """An asyncio lock that was released for somebody isn't taken, and yet can't be had."""
    async with AsyncConnectionPool(lab.dsn, settings=settings_of(lab), min_size=1) as pool:
        await pool.wait()
        conn = await pool.getconn()

        async def holds() -> None:
            async with pool._lock:
                pass

        await pool._lock.acquire()
        waiting = asyncio.create_task(holds())
        await asyncio.sleep(0)
        returning = asyncio.create_task(pool.putconn(conn))
        # It runs first once the lock is released, and is cancelled where it waits.
        pool._lock.release()
        waiting.get_loop().call_soon(returning.cancel)
        await asyncio.wait([returning, waiting])
        async with pool.connection(timeout=1) as again:
            assert again is conn


@pytest.mark.soak
async def test_ten_thousand_cancellations(lab: Lab, orders: str) -> None:
    await _cancel_at_random(lab, 10_000)


async def test_cancelling_on_a_hung_server_takes_no_ten_seconds(lab: Lab, orders: str) -> None:
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    async with AsyncConnectionPool(dsn, settings=settings_of(lab), min_size=1) as pool:
        await pool.wait()
        async with pool.connection() as conn:
            await conn.execute("select 1")
        lab.primary.pause()
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), pool.connection() as conn:
                await conn.execute("select 1")
        assert time.monotonic() - start < 1.0
        lab.primary.resume()


async def test_leaving_a_block_on_a_hung_server_ends_with_the_verdict(
    lab: Lab, orders: str
) -> None:
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    async with AsyncConnectionPool(dsn, settings=settings_of(lab), min_size=1) as pool:
        await pool.wait()
        with pytest.raises(LookupError):  # noqa: PT012
            async with pool.connection() as conn:
                await conn.execute("select 1")
                lab.primary.pause()
                start = time.monotonic()
                raise LookupError
        assert time.monotonic() - start < 2.0 + 0.5
        lab.primary.resume()


def test_ctrl_c_leaves_a_clean_connection(lab: Lab, orders: str) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        with ConnectionPool(lab.dsn, settings=settings_of(lab), min_size=1) as pool:
            pool.wait()
            with pool.connection() as conn:
                backend = conn.info.backend_pid
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            start = time.monotonic()
            with pytest.raises(KeyboardInterrupt), pool.connection() as conn:
                conn.execute("select pg_sleep(20)")
            assert time.monotonic() - start < 1.5
            with pool.connection() as conn:
                assert conn.execute("select 7").fetchone() == (7,)
                assert conn.info.backend_pid == backend
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


async def test_no_cancel_request_during_a_commit(lab: Lab, orders: str) -> None:
    """A COMMIT that waits for the standbys: cancelling must not make it a false success."""
    async with AsyncConnectionPool(lab.dsn, settings=settings_of(lab), min_size=1) as pool:
        await pool.wait()
        for standby in lab.standbys:
            standby.pause()
        try:

            async def write() -> None:
                async with pool.connection() as conn:
                    await conn.execute("insert into orders values (-1)")

            task = asyncio.create_task(write())
            await asyncio.sleep(0.4)
            wait = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"
            assert lab.admin(None, wait) == [(1,)]
            task.cancel()
            with pytest.raises((asyncio.CancelledError, psycopg.OperationalError)):
                await task
            assert lab.admin(None, wait) == [(1,)], "the server was asked to cancel a COMMIT"
        finally:
            for standby in lab.standbys:
                standby.resume()
