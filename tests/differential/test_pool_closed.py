"""A pool that is closed while a connection is out: what ends there ends as with psycopg_pool."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from resilient.errors import CommitOutcomeUnknown

from .play import OURS, Play, both, call

pytestmark = pytest.mark.lab

INSERT = "insert into marks values ({})"
Step = Callable[[Any], Awaitable[Any]]


async def _nothing(conn: Any) -> None: ...


async def _autocommit(conn: Any) -> None:
    await call(conn.set_autocommit(True))


async def _read(conn: Any) -> None:
    await call(conn.execute("select 1"))


async def _write(conn: Any) -> None:
    await call(conn.execute("insert into marks values (-1)"))


async def _savepoint(conn: Any) -> None:
    await _write(conn)
    await call(conn.execute("savepoint s"))


async def _execute(conn: Any) -> None:
    await call(conn.execute("select 2"))


async def _many(conn: Any) -> None:
    await call(conn.cursor().executemany("insert into marks values (%s)", [(-1,), (-1,)]))


async def _pipeline(conn: Any) -> None:
    async with both(conn.pipeline()):
        await call(conn.execute("select 2"))
        await call(conn.execute("select 3"))


async def _commit(conn: Any) -> None:
    await call(conn.commit())


async def _block(conn: Any) -> None:
    async with both(conn.transaction()):
        await call(conn.execute("select 2"))


BEFORE: dict[str, Step] = {
    "nothing": _nothing,
    "autocommit": _autocommit,
    "a read": _read,
    "a write": _write,
    "a savepoint": _savepoint,
}
USES: dict[str, Step] = {
    "execute": _execute,
    "executemany": _many,
    "pipeline": _pipeline,
    "commit": _commit,
    "transaction()": _block,
}
ENDS = ["terminated", "reset", "stopped", "nothing"]


async def end_it(play: Play, conn: Any, how: str) -> None:
    """The session's end, seen by nobody yet."""
    pid = conn.info.backend_pid
    if how == "terminated":
        play.admin(f"select pg_terminate_backend({pid})")
        play.wait_gone(pid)
    elif how == "reset":
        play.proxy.reset(pid)
    elif how == "stopped":
        play.server.stop("fast")
    await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("use", USES)
async def test_as_the_bare_pool(play: Play, how: str, before: str, use: str) -> None:
    async with play.pool(max_size=1) as pool:
        conn = await call(pool.getconn())
        await BEFORE[before](conn)
        await call(pool.close())
        try:
            await end_it(play, conn, how)
            end = await play.attempt(lambda: USES[use](conn))
        finally:
            if how == "stopped":
                play.server.start()
            with suppress(psycopg.Error):
                await call(pool.putconn(conn))
    if how == "nothing" or (use == "commit" and before in ("nothing", "autocommit")):
        assert end.well, str(end)
        return
    error = end.error
    if isinstance(error, CommitOutcomeUnknown):  # nobody can be asked any more
        assert use == "commit" or (before == "autocommit" and use != "execute"), str(end)
        return
    assert isinstance(error, psycopg.OperationalError), str(end)
    assert end.sqlstate in ({"reset": (None,)}.get(how) or ("57P01", None)), str(end)
    if not play.bare:
        assert "not replayed: the pool is closed" in str(end.error) or use == "commit", str(end)


@pytest.mark.parametrize("play", OURS, indirect=True)
async def test_closing_ends_the_waiting_for_a_server(play: Play) -> None:
    """A block that was struck waits for somebody to go on with: not for a pool that is closed."""
    async with play.pool(max_size=1) as pool:
        conn = await call(pool.getconn())
        await _write(conn)
        play.server.stop("fast")
        try:
            if play.shell == "threads":
                work = asyncio.to_thread(asyncio.run, play.attempt(lambda: _execute(conn)))
            else:
                work = play.attempt(lambda: _execute(conn))
            struck = asyncio.create_task(work)
            await asyncio.sleep(0.3)
            assert not struck.done()
            if play.shell == "threads":
                await asyncio.to_thread(pool.close)
            else:
                await pool.close()
            end = await asyncio.wait_for(struck, 3)
        finally:
            play.server.start()
    assert isinstance(end.error, psycopg.OperationalError), str(end)
    assert "closed" in str(end.error)
