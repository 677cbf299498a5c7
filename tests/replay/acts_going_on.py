"""Blocks that go on after the failover as if nothing had been, with the objects they have."""

# ruff: noqa: PT012 (a block that ends with an error is what is tested)

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from .stage import Scene, script

GOING_ON = script("going-on", "crash", "switchover")


@GOING_ON.act
async def same_objects(s: Scene) -> None:
    async with s.block() as conn:
        backend = conn.info.backend_pid
        cursor = conn.cursor()
        await s.do(cursor.execute, "select n, n * 2 from generate_series(1, 3) n")
        assert await s.do(cursor.fetchone) == (1, 2)
        async with s.within(conn.transaction()) as tx:
            await s.insert(conn, 1)
            await s.failover()
            await s.insert(conn, 2)
            assert tx.connection is conn
            assert cursor.connection is conn
        assert await s.rows(cursor) == [(2, 4), (3, 6)], "old results stay readable"
        await s.do(cursor.execute, "select 4")
        assert await s.rows(cursor) == [(4,)]
        assert conn.info.backend_pid != backend
        assert not conn.broken
        assert not conn.closed
        await s.insert(conn, 3)
    assert await s.found() == [1, 2, 3]


@GOING_ON.act
async def savepoints(s: Scene) -> None:
    """One rolled back, one kept, one around the failover, each inside another."""
    async with s.block() as conn:
        await s.insert(conn, 1)
        async with s.within(conn.transaction()):
            with pytest.raises(LookupError):
                async with s.within(conn.transaction()):
                    await s.insert(conn, 99)
                    raise LookupError
            await s.insert(conn, 2)
            async with s.within(conn.transaction("mine")):
                await s.insert(conn, 3)
                await s.failover()
                await s.insert(conn, 4)
            with pytest.raises(LookupError):
                async with s.within(conn.transaction()):
                    await s.insert(conn, 98)
                    raise LookupError
        await s.insert(conn, 5)
    assert await s.found() == [1, 2, 3, 4, 5]


@GOING_ON.act
async def a_savepoint_that_is_rolled_back_over_the_failover(s: Scene) -> None:
    async with s.block() as conn:
        await s.insert(conn, 1)
        with pytest.raises(LookupError):
            async with s.within(conn.transaction()):
                await s.insert(conn, 99)
                await s.failover()
                raise LookupError
        await s.insert(conn, 2)
    assert await s.found() == [1, 2]


@GOING_ON.act
async def a_savepoint_that_ends_over_the_failover(s: Scene) -> None:
    async with s.block() as conn:
        await s.insert(conn, 1)
        async with s.within(conn.transaction()):
            await s.insert(conn, 2)
            await s.failover()
        await s.insert(conn, 3)
    assert await s.found() == [1, 2, 3]


@GOING_ON.act
async def errors_that_were_caught(s: Scene) -> None:
    """A UniqueViolation behind a savepoint, before the failover and after it."""
    insert = "insert into keys values (%s, %s)"
    async with s.block() as conn:
        await s.do(conn.execute, insert, (s.key, 1))
        for when in ("before", "after"):
            with pytest.raises(psycopg.errors.UniqueViolation) as caught:
                async with s.within(conn.transaction()):
                    await s.do(conn.execute, insert, (s.key, 1))
            assert caught.value.diag.constraint_name == "keys_act_n_key"
            if when == "before":
                await s.failover()
        await s.do(conn.execute, insert, (s.key, 2))
    assert await s.found("select n from keys where act = %s order by n") == [1, 2]


@GOING_ON.act
async def a_transaction_that_has_failed(s: Scene) -> None:
    """It can only be rolled back, failover or not; then the connection goes on."""
    async with s.block() as conn:
        await s.insert(conn, 99)
        with pytest.raises(psycopg.errors.UndefinedTable):
            await s.do(conn.execute, "select * from nowhere")
        await s.failover()
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            await s.insert(conn, 98)
        await s.do(conn.rollback)
        await s.insert(conn, 1)
    assert await s.found() == [1]


@GOING_ON.act
async def force_rollback(s: Scene) -> None:
    async with s.block() as conn:
        await s.insert(conn, 1)
        async with s.within(conn.transaction(force_rollback=True)):
            await s.insert(conn, 99)
            await s.failover()
            await s.insert(conn, 98)
        await s.insert(conn, 2)
    assert await s.found() == [1, 2]


@GOING_ON.act
async def a_whole_block_that_is_rolled_back(s: Scene) -> None:
    async with s.block() as conn:
        async with s.within(conn.transaction(force_rollback=True)):
            await s.insert(conn, 99)
            await s.failover()
        await s.insert(conn, 1)
    assert await s.found() == [1]


@GOING_ON.act
async def the_applications_own_exception(s: Scene) -> None:
    with pytest.raises(LookupError):
        async with s.block() as conn:
            await s.insert(conn, 99)
            await s.failover()
            await s.insert(conn, 98)
            raise LookupError
    assert await s.found() == []


@GOING_ON.act
async def a_second_transaction_on_the_checkout(s: Scene) -> None:
    async with s.block() as conn:
        await s.insert(conn, 1)
        await s.do(conn.commit)
        await s.insert(conn, 2)
        await s.failover()
        await s.insert(conn, 3)
        await s.do(conn.commit)
        await s.insert(conn, 99)
        await s.do(conn.rollback)
        await s.insert(conn, 4)
    assert await s.found() == [1, 2, 3, 4]


@GOING_ON.act
async def idle_between_two_transactions(s: Scene) -> None:
    async with s.block() as conn:
        await s.insert(conn, 1)
        await s.do(conn.commit)
        await s.failover()
        await s.insert(conn, 2)
    assert await s.found() == [1, 2]


@GOING_ON.act
async def between_the_last_statement_and_commit(s: Scene) -> None:
    async with s.block() as conn:
        await s.insert(conn, 1)
        await s.failover()
    assert await s.found() == [1]


@GOING_ON.act
async def commit_by_hand(s: Scene) -> None:
    async with s.block() as conn:
        await s.insert(conn, 1)
        await s.failover()
        await s.do(conn.execute, "commit")
        await s.insert(conn, 2)
        await s.do(conn.commit)
    assert await s.found() == [1, 2]


@GOING_ON.act
async def during_a_statement(s: Scene) -> None:
    async with s.block() as conn:
        await s.insert(conn, 1)
        (asleep,) = await s.failover(s.row(conn, "select 7 from pg_sleep(0.5)"))
        assert await asleep == (7,)
        await s.insert(conn, 2)
    assert await s.found() == [1, 2]


@GOING_ON.act
async def during_the_first_statement(s: Scene) -> None:
    """Its BEGIN is in the same message."""
    query = "insert into acts select %s, 1 from pg_sleep(0.5)"
    async with s.block() as conn:
        (asleep,) = await s.failover(s.do(conn.execute, query, (s.key,)))
        await asleep
        await s.insert(conn, 2)
    assert await s.found() == [1, 2]


@GOING_ON.act
async def two_failovers_in_one_block(s: Scene) -> None:
    async with s.block() as conn:
        await s.insert(conn, 1)
        await s.failover()
        await s.insert(conn, 2)
        async with s.within(conn.transaction()):
            await s.insert(conn, 3)
            await s.failover()
            await s.insert(conn, 4)
        await s.insert(conn, 5)
    assert await s.found() == [1, 2, 3, 4, 5]


@GOING_ON.act
async def two_failovers_without_a_statement_between(s: Scene) -> None:
    async with s.block() as conn:
        await s.insert(conn, 1)
        await s.failover(settled=True)
        await s.failover(settled=True)
        await s.insert(conn, 2)
    assert await s.found() == [1, 2]


@GOING_ON.act
async def run_too(s: Scene) -> None:
    """`run` replays first; the function is called once."""
    called = []
    pool = await s.stage.pool()
    if s.is_async:

        async def work(conn: Any) -> str:
            called.append(1)
            await s.insert(conn, 1)
            await s.failover()
            await s.insert(conn, 2)
            return "done"

        assert await pool.run(work) == "done"
        assert len(called) == 1
    else:  # a sync function can't wait for this stage

        def plain(conn: Any) -> str:
            called.append(1)
            conn.execute("insert into acts values (%s, 1)", (s.key,))
            conn.execute("insert into acts select %s, 2 from pg_sleep(0.5)", (s.key,))
            return "done"

        (running,) = await s.failover(s.do(pool.run, plain))
        assert await running == "done"
        assert len(called) == 1
    assert await s.found() == [1, 2]


@GOING_ON.act
async def locks_of_the_transaction(s: Scene) -> None:
    """They are held again; rows that are locked are compared as well."""
    async with s.block() as conn:
        await s.insert(conn, 1)
        await s.do(conn.commit)
        lock = "select pg_advisory_xact_lock(hashtext(%s))"
        await s.do(conn.execute, lock, (s.key,))
        await s.do(conn.execute, "lock table counters in share mode")
        row = await s.row(conn, "select n from acts where act = %s for update", (s.key,))
        assert row == (1,)
        await s.failover()
        held = "select count(*) from pg_locks where pid = pg_backend_pid() and locktype = %s"
        assert await s.row(conn, held, ("advisory",)) == (1,)
        await s.do(conn.execute, "update acts set n = 2 where act = %s", (s.key,))
    assert await s.found() == [2]


@GOING_ON.act
async def a_two_phase_transaction(s: Scene) -> None:
    """Until it is prepared it is a block like any other."""
    async with s.block() as conn:
        await s.do(conn.tpc_begin, conn.xid(1, s.key[:60], "branch"))
        await s.insert(conn, 1)
        await s.failover()
        await s.insert(conn, 2)
        await s.do(conn.tpc_commit)
    assert await s.found() == [1, 2]


@GOING_ON.act
async def a_two_phase_transaction_before(s: Scene) -> None:
    async with s.block() as conn:
        await s.do(conn.tpc_begin, conn.xid(1, s.key[:60], "branch"))
        await s.insert(conn, 1)
        await s.do(conn.tpc_prepare)
        await s.do(conn.tpc_commit)
        await s.insert(conn, 2)
        await s.failover()
        await s.insert(conn, 3)
    assert await s.found() == [1, 2, 3]
