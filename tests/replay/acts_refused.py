"""What can't be done again: the error says why, and nothing of it took effect."""

# ruff: noqa: PT012 (a block that ends with an error is what is tested)

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from resilient.postgres import CommitOutcomeUnknown, TransactionReplayMismatch

from .stage import Scene, script

REFUSED = script("refused", "crash")

Prepare = Callable[[Scene, Any], Awaitable[None]]


def refused(reason: str, **settings: Any) -> Callable[[Prepare], Prepare]:
    """A block that does this, and more, before the failover isn't replayed."""

    def add(fn: Prepare) -> Prepare:
        async def act(s: Scene) -> None:
            with pytest.raises(psycopg.OperationalError) as caught:
                async with s.block(**settings) as conn:
                    await s.insert(conn, 98)
                    await fn(s, conn)
                    await s.failover()
                    await s.insert(conn, 99)
            assert f"not replayed: {reason}" in str(caught.value)
            assert not isinstance(caught.value, TransactionReplayMismatch)
            async with s.block(**settings) as conn:
                await s.insert(conn, 1)
            assert await s.found() == [1]

        act.__name__ = fn.__name__
        REFUSED.act(act)
        return fn

    return add


@refused("COPY")
async def copy_in(s: Scene, conn: Any) -> None:
    async with s.within(conn.cursor().copy("copy acts from stdin")) as copy:
        await s.do(copy.write_row, (s.key, 97))


@refused("COPY")
async def copy_out(s: Scene, conn: Any) -> None:
    async with s.within(conn.cursor().copy("copy (select 1) to stdout")) as copy:
        assert await s.do(copy.read) == b"1\n"
        while await s.do(copy.read):
            pass


@refused("COPY, stream(), a server-side cursor")
async def stream(s: Scene, conn: Any) -> None:
    rows = conn.cursor().stream("select generate_series(1, 3)")
    if s.is_async:
        assert [row async for row in rows] == [(1,), (2,), (3,)]
    else:
        assert await s.do(list, rows) == [(1,), (2,), (3,)]


@refused("COPY, stream(), a server-side cursor")
async def server_side_cursor(s: Scene, conn: Any) -> None:
    async with s.within(conn.cursor(name="portal")) as cursor:
        await s.do(cursor.execute, "select generate_series(1, 3)")
        assert await s.do(cursor.fetchone) == (1,)


@refused("a server-side cursor")
async def declare(s: Scene, conn: Any) -> None:
    await s.do(conn.execute, "declare portal cursor for select 1")


@refused("LISTEN")
async def listen(s: Scene, conn: Any) -> None:
    await s.do(conn.execute, "listen news")


@refused("a temporary table")
async def temporary_table(s: Scene, conn: Any) -> None:
    await s.do(conn.execute, "create temporary table mine (n int)")


@refused("a temporary table")
async def temporary_table_by_select(s: Scene, conn: Any) -> None:
    await s.do(conn.execute, "select 1 as n into temp mine")


@refused("a temporary table")
async def temporary_view(s: Scene, conn: Any) -> None:
    await s.do(conn.execute, "create or replace temp view mine as select 1")


@refused("a temporary table")
async def temporary_table_of_the_transaction_before(s: Scene, conn: Any) -> None:
    await s.do(conn.rollback)
    await s.do(conn.execute, "create temp table mine (n int)")
    await s.do(conn.commit)
    await s.insert(conn, 97)


@refused("PREPARE")
async def prepare(s: Scene, conn: Any) -> None:
    await s.do(conn.execute, "prepare mine as select 1")


@refused("a session-level advisory lock")
async def session_lock(s: Scene, conn: Any) -> None:
    await s.do(conn.execute, "select pg_advisory_lock(hashtext(%s))", (s.key,))


@refused("a session-level advisory lock")
async def session_lock_in_autocommit(s: Scene, conn: Any) -> None:
    await s.do(conn.rollback)
    await s.do(conn.set_autocommit, True)
    await s.do(conn.execute, "select pg_try_advisory_lock(hashtext(%s))", (s.key,))
    await s.do(conn.set_autocommit, False)
    await s.insert(conn, 97)


@refused("more than 5 statements (RESILIENT_REPLAY_MAX_STATEMENTS)", replay_max_statements=5)
async def too_many_statements(s: Scene, conn: Any) -> None:
    await s.insert(conn, *range(100, 110))


@refused("more than 5000 bytes (RESILIENT_REPLAY_MAX_BYTES)", replay_max_bytes=5000)
async def too_many_bytes(s: Scene, conn: Any) -> None:
    for _ in range(3):
        await s.do(conn.execute, "select repeat('x', 2500)")


@refused("RESILIENT_REPLAY=off", replay="off")
async def switched_off(s: Scene, conn: Any) -> None:
    await s.insert(conn, 97)


@refused("several statements in one, with transaction control")
async def control_inside_of_a_statement(s: Scene, conn: Any) -> None:
    await s.do(conn.execute, "commit; begin; select 1")
    # what was committed by it stays: this act's own row is not to be lost
    await s.do(conn.execute, f"delete from acts where act = '{s.key}'")
    await s.do(conn.execute, "commit; begin; select 2")


@REFUSED.act
async def a_commit_after_what_cannot_be_replayed(s: Scene) -> None:
    """COMMIT is the first that finds the session gone."""
    with pytest.raises(psycopg.OperationalError) as caught:
        async with s.block() as conn:
            async with s.within(conn.cursor().copy("copy acts from stdin")) as copy:
                await s.do(copy.write_row, (s.key, 99))
            await s.failover()
    assert "not replayed: COPY" in str(caught.value)
    assert await s.found() == []


@REFUSED.act
async def a_copy_that_is_struck(s: Scene) -> None:
    with pytest.raises(psycopg.OperationalError):
        async with s.block() as conn:
            await s.insert(conn, 99)
            async with s.within(conn.cursor().copy("copy acts from stdin")) as copy:
                await s.do(copy.write_row, (s.key, 98))
                await s.failover()
                await s.do(copy.write_row, (s.key, 97))
    assert await s.found() == []


@REFUSED.act
async def a_pipeline_in_autocommit_that_is_struck(s: Scene) -> None:
    """A transaction of its own, which may have been committed."""
    async with s.block() as conn:
        await s.do(conn.set_autocommit, True)

        async def work() -> None:
            async with s.within(conn.pipeline()):
                await s.insert(conn, 1)
                await s.do(conn.execute, "select pg_sleep(0.6)")

        (working,) = await s.failover(work())
        with pytest.raises(CommitOutcomeUnknown):
            await working
    assert await s.found() == []


@REFUSED.act
async def a_server_side_cursor_that_is_struck(s: Scene) -> None:
    with pytest.raises(psycopg.OperationalError):
        async with s.block() as conn:
            await s.insert(conn, 99)
            async with s.within(conn.cursor(name="portal")) as cursor:
                await s.do(cursor.execute, "select generate_series(1, 3)")
                await s.failover()
                await s.do(cursor.fetchone)
    assert await s.found() == []


# -- other results than before


def differs(*named: str) -> Callable[[Prepare], Prepare]:
    """A block that has seen this gets another result from the new primary."""

    def add(fn: Prepare) -> Prepare:
        async def act(s: Scene) -> None:
            called = []
            with pytest.raises(TransactionReplayMismatch) as caught:
                async with s.block() as conn:
                    await s.insert(conn, 98)
                    await fn(s, conn)
                    await s.failover(settled=True)
                    called.append(1)
                    await s.insert(conn, 99)
            for text in named:
                assert text in str(caught.value)
            assert isinstance(caught.value, psycopg.OperationalError)
            async with s.block() as conn:
                await s.insert(conn, 1)
            assert await s.found() == [1]

        act.__name__ = fn.__name__
        REFUSED.act(act)
        return fn

    return add


@differs("column 'number'", "nextval('tickets')", "statement 2")
async def a_sequence(s: Scene, conn: Any) -> None:
    """In an expression: which number was it?  (`acts_kept` has those that are given back)"""
    await s.row(conn, "select nextval('tickets') * 2 as number from generate_series(1, 2)")
    await s.do(conn.execute, "select 1")


@differs("column 'now'", "select now()")
async def the_time(s: Scene, conn: Any) -> None:
    await s.row(conn, "select now() from generate_series(1, 2)")


@differs("column 'here'", "inet_server_addr")
async def where_it_is(s: Scene, conn: Any) -> None:
    await s.row(conn, "select 1 as one, inet_server_addr() as here")


@differs("column 'n'", "from counters")
async def what_another_transaction_changed(s: Scene, conn: Any) -> None:
    # the row is committed by another session, and changed by one before the replay
    async with s.block() as other:
        await s.do(other.execute, "insert into counters values (%s, 1)", (s.key,))
    query = "select act, n from counters where act = %s"
    assert await s.row(conn, query, (s.key,)) == (s.key, 1)
    async with s.block() as other:
        await s.do(other.execute, "update counters set n = 2 where act = %s", (s.key,))


@differs("UPDATE 0 instead of UPDATE 1")
async def how_many_rows_there_were(s: Scene, conn: Any) -> None:
    async with s.block() as other:
        await s.do(other.execute, "insert into counters values (%s, 1)", (s.key,))
    cursor = await s.do(
        conn.execute, "update counters set n = n + 0 where act = %s and n = 1", (s.key,)
    )
    assert cursor.rowcount == 1

    async def change() -> None:
        async with s.block() as other:
            await s.do(other.execute, "update counters set n = 2 where act = %s", (s.key,))

    s.after_strike = change


@differs("SELECT 2 instead of SELECT 1")
async def a_row_more(s: Scene, conn: Any) -> None:
    async with s.block() as other:
        await s.do(other.execute, "insert into keys values (%s, 1)", (s.key,))
    assert await s.row(conn, "select n from keys where act = %s", (s.key,)) == (1,)
    async with s.block() as other:
        await s.do(other.execute, "insert into keys values (%s, 2)", (s.key,))


@differs("duplicate key value")
async def a_violation_that_was_none(s: Scene, conn: Any) -> None:
    """What succeeded at first meets a key that somebody has put there since."""
    await s.do(conn.execute, "insert into keys values (%s, 1)", (s.key,))

    async def change() -> None:
        async with s.block() as other:
            await s.do(other.execute, "insert into keys values (%s, 1)", (s.key,))

    s.after_strike = change


@REFUSED.act
async def a_mismatch_names_its_cause(s: Scene) -> None:
    with pytest.raises(TransactionReplayMismatch) as caught:
        async with s.block() as conn:
            await s.row(conn, "select now() from generate_series(1, 2)")
            await s.failover()
            await s.row(conn, "select 1")
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


@REFUSED.act
async def a_mismatch_that_is_caught_inside(s: Scene) -> None:
    """The block has failed, and can't be committed any more: its caller was told so."""
    with suppress(psycopg.OperationalError):
        async with s.block() as conn:
            await s.insert(conn, 99)
            await s.row(conn, "select n from counters where act = %s", (s.key,))
            await s.failover(settled=True)
            async with s.block() as other:
                await s.do(other.execute, "insert into counters values (%s, 1)", (s.key,))
            with pytest.raises(TransactionReplayMismatch):
                await s.insert(conn, 98)
            async with s.block() as other:  # and now it would be equal again
                await s.do(other.execute, "delete from counters where act = %s", (s.key,))
    assert await s.found() == []


@REFUSED.act
async def a_refusal_that_is_caught_inside(s: Scene) -> None:
    with suppress(psycopg.OperationalError):
        async with s.block() as conn:
            await s.insert(conn, 99)
            await copy_out(s, conn)
            await s.failover(settled=True)
            for number in (98, 97):
                with pytest.raises(psycopg.OperationalError, match="not replayed: COPY"):
                    await s.insert(conn, number)
    assert await s.found() == []


@REFUSED.act
async def a_deadline_that_is_caught_inside(s: Scene) -> None:
    """It passed before there was a primary again; later there is one."""
    with suppress(psycopg.OperationalError):
        async with s.block(deadline_s=0.02) as conn:
            await s.insert(conn, 99)
            await s.failover()
            with pytest.raises(psycopg.OperationalError):
                await s.insert(conn, 98)
            await s.stage.settled[0].wait()
    assert await s.found() == []


@REFUSED.act
async def between_the_two_phases(s: Scene) -> None:
    """What is prepared is the server's: it outlives the session, and is never done twice."""
    async with s.block() as conn:
        gid = conn.xid(1, f"{s.key}"[:60], "branch")
        await s.do(conn.tpc_begin, gid)
        await s.insert(conn, 1)
        await s.do(conn.tpc_prepare)
        await s.failover()
        with pytest.raises(psycopg.OperationalError):
            await s.do(conn.tpc_commit)
    assert await s.found() == []
    async with s.block() as conn:
        (prepared,) = [x for x in await s.do(conn.tpc_recover) if x.gtrid == gid.gtrid]
        await s.do(conn.tpc_commit, prepared)
    assert await s.found() == [1]


@differs("other values")
async def a_large_result(s: Scene, conn: Any) -> None:
    """Kept as a digest: the error can't name the column."""
    query = "select repeat('x', 1000) || n, now() from generate_series(1, 500) n"
    await s.do(conn.execute, query)
