"""A task that is cancelled at any of its awaits, or just when what it awaits is done.

With psycopg_pool and with ours: the cancellation arrives, no place of the pool and no session of
the server is lost, the next caller is served at once, and nothing runs on behind it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import psycopg
import psycopg_pool
import pytest

from resilient import postgres
from resilient.lab import Lab

from ..cancelled import Cancelled

pytestmark = [
    pytest.mark.lab,
    # psycopg's, of one whose closing was cancelled
    pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning"),
]

Scenario = Callable[[Any, int], Coroutine[Any, Any, None]]
INSERT = "insert into orders (id) values (%s)"
NAME = "cancelled"
FIND = f"select state from pg_stat_activity where application_name = '{NAME}'"
#: more awaits than any scenario has
MOST = 60
#: ids of earlier runs are others
BASE = 7_000_000


def sever(conn: Any) -> None:
    """Its socket ends, as far as this side knows."""
    with socket.socket(fileno=os.dup(conn.pgconn.socket)) as end:
        end.shutdown(socket.SHUT_RDWR)


async def block(pool: Any, n: int) -> None:
    async with pool.connection() as conn:
        await conn.execute(INSERT, (n,))
        await conn.execute("select count(*) from orders where id = 0")


async def savepoint(pool: Any, n: int) -> None:
    async with pool.connection() as conn, conn.transaction():
        await conn.execute(INSERT, (n,))
        async with conn.transaction():
            await conn.execute("select 1")


async def autocommit(pool: Any, n: int) -> None:
    async with pool.connection() as conn:
        await conn.set_autocommit(True)
        await conn.execute(INSERT, (n,))
        await conn.set_autocommit(False)


async def pipeline(pool: Any, n: int) -> None:
    async with pool.connection() as conn, conn.pipeline():
        await conn.execute(INSERT, (n,))
        await conn.execute("select 1")


async def many_rows(pool: Any, n: int) -> None:
    async with pool.connection() as conn, conn.cursor() as cur:
        await cur.executemany(INSERT, [(n,)])


async def copied(pool: Any, n: int) -> None:
    async with (
        pool.connection() as conn,
        conn.cursor() as cur,
        cur.copy("copy orders (id) from stdin") as copy,
    ):
        await copy.write_row((n,))


async def streamed(pool: Any, n: int) -> None:
    async with pool.connection() as conn:
        async with conn.cursor() as cur:
            async for _ in cur.stream("select generate_series(1, 300)"):
                pass
        await conn.execute(INSERT, (n,))


async def server_side(pool: Any, n: int) -> None:
    async with pool.connection() as conn:
        async with conn.cursor("some") as cur:
            await cur.execute("select generate_series(1, 300)")
            async for _ in cur:
                pass
        await conn.execute(INSERT, (n,))


async def refused(pool: Any, n: int) -> None:
    with suppress(psycopg.errors.DivisionByZero):
        async with pool.connection() as conn:
            await conn.execute(INSERT, (n,))
            await conn.execute("select 1/0")


async def by_hand(pool: Any, n: int) -> None:
    conn = await pool.getconn()
    try:
        await conn.execute(INSERT, (n,))
        await conn.commit()
    finally:
        await pool.putconn(conn)


async def two_at_once(pool: Any, n: int) -> None:
    async with pool.connection() as conn, pool.connection() as other:
        await conn.execute(INSERT, (n,))
        await other.execute("select 1")


async def run(pool: Any, n: int) -> None:
    async def work(conn: Any) -> None:
        await conn.execute(INSERT, (n,))

    await pool.run(work)


async def read(pool: Any, n: int) -> None:
    async with pool.connection(read_only=True) as conn:
        await conn.execute("select 1")
    async with pool.reader.connection() as conn:
        await conn.execute("select 1")


async def lock(pool: Any, n: int) -> None:
    async with pool.lock("orders"):
        pass


async def listen(pool: Any, n: int) -> None:
    async def first() -> None:
        async for _ in pool.listen("orders"):
            return

    with suppress(TimeoutError):
        await asyncio.wait_for(first(), 0.1)


async def struck(pool: Any, n: int) -> None:
    async with pool.connection() as conn:
        await conn.execute(INSERT, (n,))
        sever(conn)
        await conn.execute(f"select {n}")


async def struck_in_a_savepoint(pool: Any, n: int) -> None:
    async with pool.connection() as conn, conn.transaction():
        await conn.execute(INSERT, (n,))
        async with conn.transaction():
            await conn.execute("select 1")
            sever(conn)
            await conn.execute(f"select {n}")


async def struck_before_commit(pool: Any, n: int) -> None:
    async with pool.connection() as conn:
        await conn.execute(INSERT, (n,))
        sever(conn)


async def struck_in_a_pipeline(pool: Any, n: int) -> None:
    async with pool.connection() as conn:
        await conn.execute(INSERT, (n,))
        sever(conn)
        async with conn.pipeline():
            await conn.execute(f"select {n}")
            await conn.execute("select 1")


async def struck_while_it_reads(pool: Any, n: int) -> None:
    async with pool.connection() as conn:
        await conn.set_autocommit(True)
        sever(conn)
        await conn.execute(f"select {n}")
        await conn.set_autocommit(False)


async def struck_in_run(pool: Any, n: int) -> None:
    cut = []

    async def work(conn: Any) -> None:
        await conn.execute(INSERT, (n,))
        if not cut:
            cut.append(sever(conn))
        await conn.execute(f"select {n}")

    await pool.run(work)


BOTH = [block, savepoint, autocommit, pipeline, many_rows, copied, streamed, server_side, refused,
        by_hand, two_at_once]  # fmt: skip
OURS = [run, read, lock, listen, struck, struck_in_a_savepoint, struck_before_commit,
        struck_in_a_pipeline, struck_while_it_reads, struck_in_run]  # fmt: skip
CASES = [(psycopg_pool, each) for each in BOTH] + [(postgres, each) for each in BOTH + OURS]


async def until(holds: Callable[[], Any]) -> bool:
    for _ in range(200):
        if await asyncio.to_thread(holds):
            return True
        await asyncio.sleep(0.01)
    return False


async def well(use: Awaitable[Any]) -> str:
    try:
        async with asyncio.timeout(3):
            await use
    except Exception as exc:
        return f"{exc!r}"
    return ""


@pytest.mark.parametrize("done", [False, True], ids=["waiting", "done"])
@pytest.mark.parametrize(
    ("module", "scenario"),
    CASES,
    ids=[f"{module.__name__}-{scenario.__name__}" for module, scenario in CASES],
)
async def test_cancelled(
    lab: Lab, orders: str, module: Any, scenario: Scenario, done: bool
) -> None:
    zone = lab.primary.zone
    others, wrong, number = asyncio.all_tasks(), [], 0
    kept = []  # whoever looks at what was raised keeps what it has seen
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: wrong.append((number, "loop", context)))
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app application_name={NAME}"
    base = BASE + 10_000 * CASES.index((module, scenario)) + 1_000 * done
    pool = module.AsyncConnectionPool(dsn, min_size=2, max_size=2, timeout=5, open=False)
    await pool.open(wait=True)
    try:
        await scenario(pool, base)
        for number in range(1, MOST):
            cancelled = Cancelled(scenario(pool, base + number), number, done)
            kept.append(cancelled)
            await asyncio.wait([cancelled.task])
            reached = cancelled.awaits >= number
            if not cancelled.task.cancelled() and (reached or cancelled.task.exception()):
                wrong.append((number, "not cancelled", cancelled.task.exception()))
            if failure := await well(two_at_once(pool, 0)):
                wrong.append((number, "the next use", failure))
            if not await until(lambda: set(lab.admin(zone, FIND)) <= {("idle",)}):
                wrong.append((number, "left", lab.admin(zone, FIND)))
            if not reached:
                break
        assert (number > 1, number < MOST) == (True, True)
        stats = pool.get_stats()
        assert (stats["pool_size"], stats["pool_available"]) == (2, 2)
        sessions = lab.admin(zone, FIND)  # one may be the monitor's
        assert len(sessions) <= 3, sessions
    finally:
        await pool.close()
        kept.clear()
        gc.collect()
    assert wrong == []
    assert await until(lambda: not lab.admin(zone, FIND)), lab.admin(zone, FIND)
    assert asyncio.all_tasks() <= others
    twice = f"select id from orders where id between {base} and {base + MOST} group by id having"
    with psycopg.connect(dsn) as conn:
        assert conn.execute(f"{twice} count(*) > 1").fetchall() == []
