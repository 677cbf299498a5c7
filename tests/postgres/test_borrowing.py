"""A connection that is lent to a probe: nobody sees it missing, and nothing gets lost."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import psycopg
import psycopg_pool
import pytest

from resilient.lab import Lab
from resilient.postgres import AsyncConnectionPool, ConnectionPool
from resilient.postgres.pool import borrowing

from .conftest import Face, settings_of
from .in_band import InBand, backends, settled, sides, sockets, until

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("soon_idle")]


async def test_who_finds_it_lent_gets_it_when_it_is_back(
    lab: Lab,
    orders: str,
    face: Face,
    slowly: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(borrowing, "OVERDUE_S", 1.0)
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    await face.open(dsn, settings_of(lab), min_size=1, max_size=4)
    try:
        await face.wait()
        core = face.pool._core
        slowly(0.2)
        await until(lambda: bool(core.lent), 3)
        # Nobody sees it missing: neither the numbers nor `wait`, and the pool doesn't grow.
        assert face.pool.get_stats()["pool_available"] == 1
        began = time.monotonic()
        assert await asyncio.gather(*(face.query("select 1") for _ in range(1))) == [(1,)]
        assert 0.0 < time.monotonic() - began < 0.3
        slowly(0.0)
        stats = face.pool.get_stats()
        assert (stats["pool_size"], stats["connections_num"]) == (1, 1)
        assert stats["requests_num"] == 1
        # One that is late is as one that is checked out: the pool grows.
        monkeypatch.setattr(borrowing, "OVERDUE_S", 0.05)
        slowly(1.5)
        await until(lambda: bool(core.lent), 3)
        began = time.monotonic()
        assert await face.query("select 2") == (2,)
        assert time.monotonic() - began < 0.6
        slowly(0.0)
        assert face.pool.get_stats()["pool_size"] == 2
        await until(lambda: face.pool.get_stats()["pool_available"] == 2, 4)
    finally:
        await face.close()


async def test_a_late_answer_brings_it_back(lab: Lab, orders: str, face: Face) -> None:
    """Stopped for less than the window: slow, not dead; nothing is closed or made anew."""
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    await face.open(dsn, settings_of(lab, probe_interval_s=0.3), min_size=1, max_size=1)
    try:
        await face.wait()
        before = await face.query("select pg_backend_pid()")
        core = face.pool._core
        await until(lambda: sides(lab)[0] == 0, 4)
        lab.primary.pause()
        try:
            await until(lambda: len(face.pool._pool) == 0, 1)
            # As soon as the answer is late, and long before the window is over.
            await until(lambda: str(face.pool.topology.writer.health) == "suspect", 1)
            await until(lambda: not core.lent, 1)  # as good as checked out
        finally:
            lab.primary.resume()
        assert await face.query("select pg_backend_pid()") == before
        assert face.pool.get_stats()["connections_num"] == 1
    finally:
        lab.primary.resume()
        await face.close()


async def test_a_drained_pool_keeps_no_lent_one(
    lab: Lab, orders: str, face: Face, slowly: Callable[[float], None]
) -> None:
    await face.open(lab.dsn, settings_of(lab, standby_min_size=0), min_size=1, max_size=1)
    try:
        await face.wait()
        before = await face.query("select pg_backend_pid()")
        slowly(0.3)
        await until(lambda: len(face.pool._pool) == 0, 3)
        await face._call(face.pool.drain)
        slowly(0.0)
        assert await face.query("select pg_backend_pid()") != before
    finally:
        await face.close()


async def test_closing_while_one_is_lent_to_a_hung_server(
    lab: Lab, orders: str, face: Face
) -> None:
    settings = settings_of(lab)
    await face.open(lab.dsn, settings, min_size=1)
    await face.wait()
    await until(lambda: len(face.pool._core.replicas) == 2, 15)
    before = sockets()
    lab.primary.pause()
    try:
        await until(lambda: len(face.pool._pool) == 0, 10)
        began = time.monotonic()
        await face.close()
        assert time.monotonic() - began < 1.5
        assert sockets() < before
        assert "resilient-monitor" not in [thread.name for thread in threading.enumerate()]
    finally:
        lab.primary.resume()
    await until(lambda: backends(lab) == [0, 0, 0], 15)


def test_dropping_a_pool_while_one_is_lent(
    lab: Lab, orders: str, slowly: Callable[[float], None]
) -> None:
    pool = ConnectionPool(lab.dsn, settings=settings_of(lab), min_size=1, open=True)
    pool.wait()
    core = pool._core
    slowly(0.3)
    asyncio.run(until(lambda: bool(core.lent), 3))
    del pool
    gc.collect()
    asyncio.run(until(lambda: backends(lab) == [0, 0, 0], 5))
    assert not core.lent


def test_a_fork_while_one_is_lent(lab: Lab, orders: str, slowly: Callable[[float], None]) -> None:
    settings = settings_of(lab, standby_min_size=0)
    with ConnectionPool(lab.dsn, settings=settings, min_size=1, max_size=1) as pool:
        pool.wait()
        with pool.connection() as conn:
            mine = conn.info.backend_pid
        slowly(0.3)
        asyncio.run(until(lambda: bool(pool._core.lent), 3))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                slowly(0.0)
                with pool.connection() as conn:
                    assert conn.execute("select pg_backend_pid()").fetchone() != (mine,)
                pool.close()
                gc.collect()
                status = 0
            finally:
                os._exit(status)
        slowly(0.0)
        assert os.waitpid(child, 0)[1] == 0
        with pool.connection() as conn:
            assert conn.execute("select pg_backend_pid()").fetchone() == (mine,)


@pytest.mark.parametrize("lock", ["free", "promised", "held"])
async def test_a_loop_may_end_with_the_return(lab: Lab, orders: str, lock: str) -> None:
    """It takes one step; or a worker does it, if somebody is inside the pool's state."""
    settings = settings_of(lab, standby_min_size=0, probe_interval_s=60)

    async def held(lock: asyncio.Lock) -> None:
        async with lock:
            pass

    async with AsyncConnectionPool(lab.dsn, settings=settings, min_size=1) as pool:
        await pool.wait()
        await until(lambda: pool.topology.writer is not None, 3)
        answer: Future[Any] = Future()
        pool._lend(pool.topology.writer.endpoint, answer)
        conn = answer.result()
        assert conn is not None
        assert len(pool._pool) == 0
        if lock != "free":
            await pool._lock.acquire()
            waiting = asyncio.create_task(held(pool._lock))
            await asyncio.sleep(0)
        if lock == "promised":
            pool._lock.release()
        pool._take_back(conn)
        assert list(pool._pool) == ([] if lock == "held" else [conn])
        if lock == "held":
            pool._lock.release()
        if lock != "free":
            await waiting
            await until(lambda: len(pool._pool) > 0, 2)
        assert list(pool._pool) == [conn]


LEFT_OPEN = """
import sys, time, asyncio
from resilient.postgres import AsyncConnectionPool, ConnectionPool
if sys.argv[1] == "sync":
    pool = ConnectionPool(min_size=2, open=True)
    pool.wait()
    time.sleep(0.3)
else:
    async def main():
        global pool
        pool = AsyncConnectionPool(min_size=2, open=False)
        await pool.open(wait=True)
        await asyncio.sleep(0.3)
    asyncio.run(main())
    time.sleep(0.3)
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_interpreter_ends_quietly(kind: str, lab: Lab, orders: str) -> None:
    command = [sys.executable, "-c", LEFT_OPEN, kind]
    env = {**os.environ, **lab.env(), "RESILIENT_PROBE_INTERVAL_S": "0.005"}
    env["RESILIENT_PROBE_TIMEOUT_S"] = "5"  # a busy machine is no failure, which is told
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=env)
        assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_lost_between_threads(lab: Lab, orders: str, in_band: InBand) -> None:
    """Probes all the time, callers who give up, and as many connections as before."""
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    settings = settings_of(lab, probe_interval_s=0.002)
    crossed: list[Any] = []
    gave_up: list[float] = []
    with ConnectionPool(dsn, settings=settings, min_size=2, max_size=4) as pool:
        pool.wait()
        over = in_band.enough(100)

        def work(seed: int) -> None:
            rng = random.Random(seed)
            while not over():
                number = rng.randrange(10**9)
                try:
                    with pool.connection(rng.choice((0.0003, 0.002, 5.0))) as conn:
                        row = conn.execute("select %s::int", (number,)).fetchone()
                        if row != (number,):
                            crossed.append((number, row))
                except psycopg_pool.PoolTimeout:
                    gave_up.append(number)
                time.sleep(rng.random() * 0.002)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert crossed == []
        assert gave_up
        settled(pool)
    asyncio.run(until(lambda: backends(lab) == [0, 0, 0], 5))


async def test_nothing_is_lost_between_tasks(lab: Lab, orders: str, in_band: InBand) -> None:
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    settings = settings_of(lab, probe_interval_s=0.002)
    crossed: list[Any] = []
    async with AsyncConnectionPool(dsn, settings=settings, min_size=2, max_size=4) as pool:
        await pool.wait()

        async def one(number: int) -> None:
            async with pool.connection() as conn:
                cursor = await conn.execute("select %s::int", (number,))
                row = await cursor.fetchone()
                if row != (number,):
                    crossed.append((number, row))

        async def cancelled(number: int) -> None:
            task = asyncio.create_task(one(number))
            await asyncio.sleep(random.random() * 0.006)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

        over = in_band.enough(100)
        while not over():
            await asyncio.gather(*(cancelled(number) for number in range(8)))
            await asyncio.sleep(random.random() * 0.004)
        assert crossed == []
        await asyncio.to_thread(settled, pool)
    await until(lambda: backends(lab) == [0, 0, 0], 5)


@pytest.mark.parametrize("fault", ["crash", "hang", "switchover"])
async def test_nothing_is_lost_over_a_failover(
    lab: Lab, orders: str, face: Face, in_band: InBand, fault: str
) -> None:
    """Probes all the time while the primary goes and another comes."""
    settings = settings_of(lab, probe_interval_s=0.01, probe_timeout_s=0.2)
    await face.open(lab.dsn, settings, min_size=2, max_size=4)
    try:
        await face.wait()
        over = asyncio.Event()

        async def work(seed: int) -> None:
            rng = random.Random(seed)
            while not over.is_set():
                with suppress(psycopg.Error):
                    await face.query("select 1", timeout=2.0, reader=rng.random() < 0.3)
                await asyncio.sleep(rng.random() * 0.005)

        tasks = [asyncio.create_task(work(seed)) for seed in range(5)]
        await asyncio.sleep(0.3)
        run = lab.inject(fault, promote_after_s=0.3)
        await asyncio.to_thread(run.wait_done)
        await asyncio.sleep(1.0)
        over.set()
        await asyncio.gather(*tasks)
        assert in_band.taken > 50
        await asyncio.to_thread(settled, face.pool)
        for replica in face.pool._replica_pools():
            await asyncio.to_thread(settled, replica)
    finally:
        await face.close()
    await until(lambda: sum(backends(lab)) == 0, 5)
