"""A checkout where nothing is the matter, and each way in which something is: as psycopg_pool's."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg import generators

from resilient import postgres

from .play import PLAYS, Play, both, call

pytestmark = pytest.mark.lab

every = pytest.mark.parametrize("play", PLAYS, indirect=True)
PID = "select pg_backend_pid()"


async def pid_of(play: Play, pool: Any) -> int:
    async with both(pool.connection()) as conn:
        return int((await play.one(conn, PID))[0])


def told(caplog: pytest.LogCaptureFixture, pool: Any) -> list[str]:
    """What psycopg_pool's logger has said, without the names of pools and connections."""
    lines = [r.getMessage() for r in caplog.records if r.name == "psycopg.pool"]
    caplog.clear()
    return [line.replace(repr(pool.name), "POOL").partition(": <")[0] for line in lines]


@every
async def test_what_is_counted(play: Play) -> None:
    async with play.pool(max_size=1) as pool:
        before = pool.get_stats()
        for _ in range(5):
            await pid_of(play, pool)
        stats = pool.get_stats()
    changed = {name: stats[name] - before.get(name, 0) for name in stats}
    del changed["usage_ms"]
    assert {name: by for name, by in changed.items() if by} == {"requests_num": 5}


@every
async def test_what_is_logged(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async with play.pool(max_size=1) as pool:
        with caplog.at_level(logging.INFO, "psycopg.pool"):
            await pid_of(play, pool)
            lines = told(caplog, pool)
    given = ["connection requested from POOL", "connection given by POOL"]
    assert lines == [*given, "returning connection to POOL"]


@every
@pytest.mark.parametrize("how", ["expired", "drained"])
async def test_one_that_nobody_is_to_get_any_more(play: Play, how: str) -> None:
    async with play.pool(max_size=1) as pool:
        first = await pid_of(play, pool)
        assert await pid_of(play, pool) == first
        async with both(pool.connection()) as conn:
            if how == "drained":
                await call(pool.drain())
            else:
                conn._expire_at = 0.0
        assert await pid_of(play, pool) != first
        assert pool.get_stats()["pool_size"] == 1


@every
@pytest.mark.parametrize("left", ["in a transaction", "in a failed one", "without its server"])
async def test_one_that_comes_back_otherwise(
    play: Play, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with play.pool(max_size=1, kwargs={"autocommit": True}) as pool:
        first = await pid_of(play, pool)
        conn = await call(pool.getconn())
        await call(conn.execute("begin"))
        if left == "in a failed one":
            await play.attempt(lambda: conn.execute("select 1 / 0"))
        elif left == "without its server":
            play.admin(f"select pg_terminate_backend({conn.info.backend_pid})")
            await play.attempt(lambda: conn.execute("select 1"))
        caplog.clear()
        await call(pool.putconn(conn))
        lines = told(caplog, pool)
        again = await pid_of(play, pool)
        async with both(pool.connection()) as conn:
            assert conn.info.transaction_status == 0
        stats = pool.get_stats()
    gone = left == "without its server"
    assert lines == ["discarding closed connection" if gone else "rolling back returned connection"]
    assert (again == first) == (not gone)
    assert stats.get("returns_bad", 0) == gone


@every
async def test_whoever_waits_gets_the_one_that_comes_back(play: Play) -> None:
    async with play.pool(max_size=1) as pool:
        conn = await call(pool.getconn())
        pid, got = conn.info.backend_pid, []
        if play.shell == "tasks":
            late = asyncio.create_task(pid_of(play, pool))
        else:
            late = threading.Thread(target=lambda: got.append(taken(pool)))
            late.start()
        while not pool.get_stats().get("requests_waiting"):
            await asyncio.sleep(0.001)
        await call(pool.putconn(conn))
        if play.shell == "tasks":
            got.append(await late)
        else:
            late.join(5)
        stats = pool.get_stats()
    assert got == [pid]
    assert (stats["requests_num"], stats["requests_queued"], stats["pool_size"]) == (2, 1, 1)


def taken(pool: Any) -> int:
    with pool.connection() as conn:
        return int(conn.info.backend_pid)


@every
async def test_one_of_another_pool(play: Play) -> None:
    async with play.pool(max_size=1) as pool, play.pool(max_size=1) as other:
        conn = await call(pool.getconn())
        with pytest.raises(ValueError, match="can't return connection to pool"):
            await call(other.putconn(conn))
        await call(pool.putconn(conn))
        with pytest.raises(ValueError, match="it doesn't come from any pool"):
            await call(pool.putconn(conn))
        assert pool.get_stats()["pool_available"] == 1


@every
async def test_a_pool_that_was_closed_meanwhile(play: Play) -> None:
    async with play.pool(max_size=1) as pool:
        conn = await call(pool.getconn())
        await call(pool.close())
        await call(pool.putconn(conn))
        assert conn.closed
        with pytest.raises(psycopg_pool.PoolClosed):
            await call(pool.getconn())


@every
async def test_each_is_checked_where_that_is_asked_for(play: Play) -> None:
    seen: list[int] = []

    async def check(conn: Any) -> None:
        seen.append(conn.info.backend_pid)

    async with play.pool(max_size=1, check=check) as pool:
        pids = [await pid_of(play, pool) for _ in range(3)]
    assert seen == pids


@every
async def test_each_is_reset_where_that_is_asked_for(play: Play) -> None:
    seen: list[int] = []

    async def reset(conn: Any) -> None:
        seen.append(conn.info.backend_pid)

    async with play.pool(max_size=1, reset=reset) as pool:
        pids = [await pid_of(play, pool) for _ in range(3)]
        await pid_of(play, pool)
    assert seen[:3] == pids


@pytest.mark.parametrize("module", [psycopg_pool, postgres], ids=["bare", "ours"])
def test_a_pool_that_opens_by_itself_warns(play: Play, module: Any) -> None:
    pool = module.ConnectionPool(play.dsn, min_size=1, max_size=1)
    try:
        while not pool.get_stats()["pool_available"]:
            threading.Event().wait(0.001)
        with pytest.warns(DeprecationWarning, match="'open' parameter"), pool.connection():
            pass
    finally:
        pool.close()


@pytest.mark.parametrize("play", PLAYS, indirect=True)
async def test_a_generator_of_psycopgs_on_a_session_that_ends(play: Play) -> None:
    """Whatever is waited for, its end is told as that."""
    play.settings |= {"replay": "off", "commit_resolver": "off"}
    async with play.pool(max_size=1) as pool, both(pool.connection()) as conn:
        conn.pgconn.send_query(b"select pg_sleep(5)")
        play.cut_off(conn)
        with pytest.raises(psycopg.OperationalError):
            await call(conn.wait(generators.execute(conn.pgconn)))
