"""Pools that were made before a fork, and tasks that are cancelled (FAULTS 33, 34)."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

import pytest

from resilient.lab import Lab
from resilient.postgres import AsyncConnectionPool, ConnectionPool, NullConnectionPool
from resilient.settings import Settings
from tests.differential.pg import Server

pytestmark = pytest.mark.lab
PIDS = "select array_agg(pid) from pg_stat_activity where usename = 'app' and client_port <> -1"


# -- fork


@pytest.mark.parametrize("kind", [ConnectionPool, NullConnectionPool])
def test_children_of_a_process_with_a_pool(lab: Lab, kind: Any) -> None:
    """FAULTS 33: no backend is used by two processes, be it a caller's, the pool's or the
    monitor's; the parent's go on, and a child has a monitor of its own."""
    options: dict[str, Any] = {"settings": Settings(probe_interval_s=0.2)}
    if kind is ConnectionPool:
        options |= {"min_size": 3, "max_size": 4}
    else:
        options |= {"max_size": 4}
    with kind(lab.dsn, **options) as pool:
        with pool.connection() as held:
            held.execute("create temporary table mine as select 1 as n")
            parents = backends(lab)
            assert held.info.backend_pid in parents
            told = [in_a_child(lab, pool, parents) for _ in range(2)]
            assert told == [b"ok", b"ok"]
            assert held.execute("select n from mine").fetchone() == (1,)
            assert held.info.backend_pid in backends(lab)
        with pool.connection() as conn:
            assert conn.execute("select 2").fetchone() == (2,)


def backends(lab: Lab) -> set[int]:
    """Of each server, as they are counted there."""
    found: set[int] = set()
    for member in lab.members:
        rows = lab.admin(member.zone, PIDS)
        found |= set(rows[0][0] or ())  # type: ignore[arg-type]
    return found


def in_a_child(lab: Lab, pool: Any, parents: set[int]) -> bytes:
    """What it says: `ok`, or what went wrong."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            says = b"ok"
            mine = set()
            for _ in range(4):
                with pool.connection() as conn:
                    mine.add(conn.info.backend_pid)
            if mine & parents:
                says = b"a backend of the parent's"
            pool.wait(5) if isinstance(pool, ConnectionPool) else None
            if pool.topology.writer is None:
                says = b"no monitor"
            pool.close()
            os.write(write, says)
            status = 0
        except BaseException as exc:
            os.write(write, repr(exc).encode())
        finally:
            os._exit(status)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0, os.read(read, 1000)
    with os.fdopen(read, "rb") as pipe:
        return pipe.read()


# -- cancellation

#: what is cancelled: each shows whose it is
WORK = ("statement", "slow statement", "block", "rows", "many", "pipeline", "run", "checkout")


async def one(pool: Any, number: int, kind: str) -> list[int]:
    """The numbers that it was given to see: its own only."""
    if kind == "run":

        async def work(conn: Any) -> list[int]:
            return await seen(conn, "select %s::int", number)

        return list(await pool.run(work))
    async with pool.connection() as conn:
        if kind == "slow statement":
            return await seen(conn, "select %s::int, pg_sleep(0.003)", number)
        if kind == "block":
            await conn.execute("insert into orders values (%s)", (number,))
            return await seen(conn, "select id from orders where id = %s", number)
        if kind == "rows":
            return await seen(conn, "select %s::int from generate_series(1, 500)", number)
        if kind == "many":
            cursor = conn.cursor()
            given = [(number,)] * 5
            await cursor.executemany("select %s::int", given, returning=True)
            found = []
            while True:
                found += [row[0] for row in await cursor.fetchall()]
                if not cursor.nextset():
                    return found
        if kind == "pipeline":
            async with conn.pipeline():
                cursors = [await conn.execute("select %s::int", (number,)) for _ in range(3)]
                return [(await cursor.fetchone())[0] for cursor in cursors]
        if kind == "checkout":
            return [number]
        return await seen(conn, "select %s::int", number)


async def seen(conn: Any, query: str, number: int) -> list[int]:
    return [row[0] for row in await (await conn.execute(query, (number,))).fetchall()]


async def test_tasks_cancelled_at_any_moment(lone: Server) -> None:
    """FAULTS 34: nobody reads another's reply, nothing that was cancelled is half there, and the
    pool has all its connections afterwards.  (`make soak` cancels 10 000.)"""
    rng, crossed = random.Random(34), []
    given: list[int] = []
    first = 1_000_000
    async with AsyncConnectionPool(
        lone.dsn, settings=Settings(), min_size=4, max_size=4, open=False
    ) as pool:
        await pool.open()
        await pool.wait(5)

        async def cancelled(number: int) -> None:
            task = asyncio.create_task(one(pool, number, rng.choice(WORK)))
            await asyncio.sleep(rng.random() * 0.006)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                given.append(number)
                found = task.result()
                if set(found) != {number}:
                    crossed.append((number, found))

        for start in range(first, first + 300, 12):
            await asyncio.gather(*(cancelled(start + n) for n in range(12)))
        assert not crossed
        assert given, "none came to its end"
        assert len(given) < 300, "none was cancelled"
        give_up_at = time.monotonic() + 10
        while pool.get_stats()["pool_available"] < 4:
            assert time.monotonic() < give_up_at, pool.get_stats()
            await asyncio.sleep(0.01)
        assert pool.get_stats()["pool_size"] == 4
        assert pool.get_stats()["requests_waiting"] == 0
        wrong = f"select id from orders where id >= {first} group by id having count(*) > 1"
        assert lone.admin(wrong) == []
    give_up_at = time.monotonic() + 5
    while lone.admin("select 1 from pg_stat_activity where usename = 'app'"):
        assert time.monotonic() < give_up_at, "a backend is left"
        await asyncio.sleep(0.01)
