"""What follows a stream: libpq goes on to give rows one by one at the start of a pipeline.

psycopg uses pipelines for `executemany` and its caller's own, ours for each statement of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from .play import OURS, PLAYS, Play, both, call

pytestmark = pytest.mark.lab
ROWS = "select g from generate_series(1, 3) g"


async def _streams(play: Play, cur: Any) -> list[Any]:
    if play.shell == "tasks":
        return [row async for row in cur.stream(ROWS)]
    return list(cur.stream(ROWS))


async def _select(conn: Any) -> Any:
    return await call((await call(conn.execute("select 1, %s", (2,)))).fetchall())


async def _many(conn: Any) -> Any:
    cur = conn.cursor()
    await call(cur.executemany("select %s::int", [(1,), (2,)], returning=True))
    return await call(cur.fetchall())


async def _pipeline(conn: Any) -> Any:
    async with both(conn.pipeline()):
        return await _select(conn)


def _own(play: Play, conn: Any) -> Any:
    return conn.cursor()


def _foreign(play: Play, conn: Any) -> Any:
    """One that the connection didn't make."""
    return (psycopg.AsyncCursor if play.shell == "tasks" else psycopg.Cursor)(conn)


CURSORS = pytest.mark.parametrize("cursor", [_own, _foreign])


@CURSORS
@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("play", PLAYS, indirect=True)
async def test_a_statement_follows_a_stream(
    play: Play, autocommit: bool, cursor: Callable[[Play, Any], Any]
) -> None:
    async with play.pool() as pool, both(pool.connection()) as conn:
        await call(conn.set_autocommit(autocommit))
        assert len(await _streams(play, cursor(play, conn))) == 3
        async with both(conn.transaction()):
            assert await _select(conn) == [(1, 2)]
            assert len(await _streams(play, cursor(play, conn))) == 3
            assert await _select(conn) == [(1, 2)]


@CURSORS
@pytest.mark.parametrize("then", [_many, _pipeline])
@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("play", OURS, indirect=True)
async def test_a_pipeline_follows_a_stream(
    play: Play, autocommit: bool, then: Callable[[Any], Any], cursor: Callable[[Play, Any], Any]
) -> None:
    """On the bare pool it fails: `unexpected result status from query: SINGLE_TUPLE`."""
    async with play.pool() as pool, both(pool.connection()) as conn:
        await call(conn.set_autocommit(autocommit))
        await _streams(play, cursor(play, conn))
        assert (await then(conn))[0][0] == 1


@pytest.mark.parametrize("play", [f"{each}-ledger" for each in OURS], indirect=True)
async def test_a_stream_is_committed_with_the_ledger(play: Play) -> None:
    async with play.pool() as pool, both(pool.connection()) as conn:
        await call(conn.execute("insert into marks values (%s)", (play.n,)))
        await _streams(play, conn.cursor())
    assert play.struck() == 1
