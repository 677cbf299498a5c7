"""A connection that its user has closed is closed: nothing ends there as if it had gone well."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from .play import Play, both, call

pytestmark = pytest.mark.lab

ROWS = "select n from generate_series(1, 3) as n"


async def _stream(conn: Any) -> None:
    rows = conn.cursor().stream(ROWS)
    if hasattr(rows, "__aiter__"):
        async for _ in rows:
            await call(conn.close())
    else:
        for _ in rows:
            conn.close()


async def _copy(conn: Any) -> None:
    async with both(conn.cursor().copy(f"copy ({ROWS}) to stdout")) as copy:
        await call(copy.read())
        await call(conn.close())
        while await call(copy.read()):
            pass


async def _copy_in(conn: Any) -> None:
    async with both(conn.cursor().copy("copy marks from stdin")) as copy:
        await call(copy.write("1\n"))
        await call(conn.close())


async def _named(conn: Any) -> None:
    async with both(conn.cursor("named")) as cur:
        await call(cur.execute(ROWS))
        await call(cur.fetchone())
        await call(conn.close())
        await call(cur.fetchall())


async def _in_pipeline(conn: Any) -> None:
    async with both(conn.pipeline()):
        await call(conn.execute("select 1"))
        await call(conn.close())
        await call(conn.execute("select 1"))


def _then(use: Callable[[Any], Any], *before: str) -> Callable[[Any], Any]:
    async def closed_first(conn: Any) -> None:
        for statement in before:
            await call(conn.execute(statement))
        await call(conn.close())
        await call(use(conn))

    return closed_first


USES: dict[str, Callable[[Any], Any]] = {
    "rows that come one by one": _stream,
    "rows of a COPY": _copy,
    "a COPY into a table": _copy_in,
    "a cursor on the server": _named,
    "a pipeline": _in_pipeline,
    "execute": _then(lambda conn: conn.execute("select 1")),
    "execute in a block": _then(lambda conn: conn.execute("select 1"), "select 1"),
    "commit": _then(lambda conn: conn.commit()),
    "commit of a write": _then(lambda conn: conn.commit(), "insert into marks values (1)"),
    "rollback": _then(lambda conn: conn.rollback()),
    "rollback of a write": _then(lambda conn: conn.rollback(), "insert into marks values (1)"),
    "autocommit": _then(lambda conn: conn.set_autocommit(True)),
    "read only": _then(lambda conn: conn.set_read_only(True)),
    "isolation": _then(lambda conn: conn.set_isolation_level(2)),
}


@pytest.mark.parametrize("name", USES)
async def test_what_is_asked_of_it_fails(play: Play, name: str) -> None:
    async def work() -> None:
        conn = await call(pool.getconn())
        try:
            await USES[name](conn)
        finally:
            with suppress(psycopg.Error):
                await call(pool.putconn(conn))

    async with play.pool(max_size=1) as pool:
        end = await play.attempt(work)
        assert (type(end.error), end.sqlstate) == (psycopg.OperationalError, None), str(end)
        assert "closed" in str(end.error)
        async with both(pool.connection()) as conn:  # and its place is free again
            rows = await call(conn.execute("select count(*) from marks where n = 1"))
            assert await call(rows.fetchone()) == (0,)
