"""Pipelines of the caller's, with the failover at any of their points."""

from __future__ import annotations

import psycopg
import pytest

from .acts_going_on import GOING_ON
from .stage import Scene

# ruff: noqa: PT012 (a block that ends with an error is what is tested)


@GOING_ON.act
async def a_pipeline_in_the_transaction_before(s: Scene) -> None:
    async with s.block() as conn:
        async with s.within(conn.pipeline()):
            await s.insert(conn, 1)
        await s.do(conn.commit)
        await s.insert(conn, 2)
        await s.failover()
        await s.insert(conn, 3)
    assert await s.found() == [1, 2, 3]


@GOING_ON.act
async def a_pipeline_before(s: Scene) -> None:
    """It is over, and part of the block that is done again."""
    async with s.block() as conn:
        async with s.within(conn.pipeline()):
            await s.insert(conn, 1)
            cursor = await s.do(conn.execute, "select 7")
        assert await s.do(cursor.fetchone) == (7,)
        await s.failover()
        await s.insert(conn, 2)
    assert await s.found() == [1, 2]


@GOING_ON.act
async def a_pipeline_around(s: Scene) -> None:
    """Some of it is answered when the failover comes, some is not, some comes later."""
    async with s.block() as conn:
        await s.insert(conn, 1)
        async with s.within(conn.pipeline()) as pipeline:
            await s.insert(conn, 2)
            first = await s.do(conn.execute, "select 10")
            assert await s.do(first.fetchone) == (10,)
            await s.insert(conn, 3)
            second = await s.do(conn.execute, "select 20")
            await s.failover()
            await s.insert(conn, 4)
            third = await s.do(conn.execute, "select 30")
            await s.do(pipeline.sync)
            assert await s.do(second.fetchone) == (20,)
            assert await s.do(third.fetchone) == (30,)
            await s.insert(conn, 5)
        await s.insert(conn, 6)
    assert await s.found() == [1, 2, 3, 4, 5, 6]


@GOING_ON.act
async def a_pipeline_that_is_slow(s: Scene) -> None:
    """The failover comes while its answers are waited for."""
    async with s.block() as conn:

        async def work() -> None:
            async with s.within(conn.pipeline()):
                await s.insert(conn, 1)
                await s.do(conn.execute, "select pg_sleep(0.6)")
                await s.insert(conn, 2)

        (working,) = await s.failover(work())
        await working
        await s.insert(conn, 3)
    assert await s.found() == [1, 2, 3]


@GOING_ON.act
async def a_transaction_inside_of_a_pipeline(s: Scene) -> None:
    async with s.block() as conn:
        await s.do(conn.set_autocommit, True)
        async with s.within(conn.pipeline()):
            async with s.within(conn.transaction()):
                await s.insert(conn, 1)
                await s.failover()
                await s.insert(conn, 2)
            await s.insert(conn, 3)
        await s.do(conn.set_autocommit, False)
    assert await s.found() == [1, 2, 3]


@GOING_ON.act
async def an_executemany_inside_of_a_pipeline(s: Scene) -> None:
    insert = "insert into acts values (%s, %s)"
    async with s.block() as conn, s.within(conn.pipeline()):
        cursor = conn.cursor()
        await s.do(cursor.executemany, insert, [(s.key, n) for n in (1, 2)])
        await s.failover()
        await s.do(cursor.executemany, insert, [(s.key, n) for n in (3, 4)])
    assert await s.found() == [1, 2, 3, 4]


@GOING_ON.act
async def a_pipeline_that_failed(s: Scene) -> None:
    """Its error is the application's own; the block is rolled back, and the next one lives."""
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with s.block() as conn, s.within(conn.pipeline()):
            await s.insert(conn, 99)
            await s.do(conn.execute, "select 1/0")
            await s.insert(conn, 98)
    async with s.block() as conn:
        await s.insert(conn, 1)
        await s.failover()
        async with s.within(conn.pipeline()):
            await s.insert(conn, 2)
    assert await s.found() == [1, 2]


@GOING_ON.act
async def prepared_statements_in_pipelines(s: Scene) -> None:
    async with s.block() as conn:
        for number in range(4):
            async with s.within(conn.pipeline()):
                for _ in range(3):
                    insert = "insert into acts values (%s, %s)"
                    await s.do(conn.execute, insert, (s.key, number), prepare=True)
            if number == 1:
                await s.failover()
    assert await s.found() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
