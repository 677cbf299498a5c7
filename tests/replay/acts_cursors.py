"""Whatever cursors can do, before the failover and after it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import class_row, dict_row, scalar_row
from psycopg.types.string import StrDumper

from .acts_going_on import GOING_ON
from .stage import Scene

# ruff: noqa: PT012 (a block that ends with an error is what is tested)


@GOING_ON.act
async def rows_and_types(s: Scene) -> None:
    """Row factories and adapters are the connection's own, whatever its session."""

    class Pair:
        def __init__(self, a: int, b: int) -> None:
            self.a, self.b = a, b

    class Shout(StrDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.upper())

    async with s.block() as conn:
        conn.adapters.register_dumper(str, Shout)
        conn.row_factory = dict_row
        query = "select %s::text as said, 2 as two"
        expected = {"said": "HELLO", "two": 2}
        pairs = conn.cursor(row_factory=class_row(Pair))
        binary = conn.cursor(binary=True, row_factory=scalar_row)
        for when in ("before", "after"):
            assert await s.row(conn, query, ("hello",)) == expected
            await s.do(pairs.execute, "select 1 as a, 2 as b")
            pair = await s.do(pairs.fetchone)
            assert (type(pair), pair.a, pair.b) == (Pair, 1, 2)
            await s.do(binary.execute, "select %s::timestamptz", ("2024-05-06 07:08+00",))
            assert (await s.do(binary.fetchone)).year == 2024
            if when == "before":
                await s.failover()


@GOING_ON.act
async def cursor_factories(s: Scene) -> None:
    prefix = "Async" if s.is_async else ""
    async with s.block() as conn:
        conn.cursor_factory = getattr(psycopg, f"{prefix}ClientCursor")
        for number, when in enumerate(("before", "after")):
            base = 10 * number
            insert = "insert into acts values (%s, %s)"
            await s.do(conn.execute, insert, (s.key, base + 1))
            made = sql.SQL("insert into {} values (%s, %s)").format(sql.Identifier("acts"))
            await s.do(conn.cursor().execute, made, (s.key, base + 2))
            if when == "before":
                await s.failover()
        assert await s.row(conn, "select %s, %s", ("a", 1)) == ("a", 1)
    assert await s.found() == [1, 2, 11, 12]


@GOING_ON.act
async def a_cursor_that_the_library_did_not_make(s: Scene) -> None:
    """What it does isn't seen, so its transaction isn't replayed; the next one is."""
    raw: Any = psycopg.AsyncRawCursor if s.is_async else psycopg.RawCursor
    insert = "insert into acts values ($1, $2)"
    with pytest.raises(psycopg.OperationalError, match="not replayed: "):
        async with s.block() as conn:
            await s.do(raw(conn).execute, insert, (s.key, 99))
            await s.failover()
            await s.insert(conn, 98)
    async with s.block() as conn:
        await s.do(raw(conn).execute, insert, (s.key, 1))
        await s.do(conn.commit)
        await s.insert(conn, 2)
        await s.failover(settled=True)
        await s.insert(conn, 3)
    assert await s.found() == [1, 2, 3]


@GOING_ON.act
async def prepared_statements(s: Scene) -> None:
    """By request, and by use; their names mean nothing on the new server."""
    async with s.block() as conn:
        conn.prepare_threshold = 2
        for number in range(1, 9):
            await s.insert(conn, number)
            row = await s.row(conn, "select %s::int + 1", (number,), prepare=True)
            assert row == (number + 1,)
            if number == 4:
                await s.failover()
        names = "select count(*) > 0 from pg_prepared_statements where statement like 'insert%%'"
        assert await s.row(conn, names) == (True,)
    assert await s.found() == list(range(1, 9))


@GOING_ON.act
async def executemany(s: Scene) -> None:
    insert = "insert into acts values (%s, %s)"
    async with s.block() as conn:
        cursor = conn.cursor()
        await s.do(cursor.executemany, insert, [(s.key, n) for n in (1, 2, 3)])
        assert cursor.rowcount == 3
        many = [(s.key, n) for n in (4, 5)]
        await s.do(cursor.executemany, insert + " returning n * 10", many, returning=True)
        assert await s.rows(cursor) == [(40,)]
        await s.failover()
        await s.do(cursor.executemany, insert, [(s.key, n) for n in (6, 7)])
        more = [(s.key, n) for n in (8, 9)]
        await s.do(cursor.executemany, insert + " returning n", more, returning=True)
        found = await s.rows(cursor)
        while cursor.nextset():
            found += await s.rows(cursor)
        assert found == [(8,), (9,)]
    assert await s.found() == list(range(1, 10))


@GOING_ON.act
async def executemany_struck(s: Scene) -> None:
    """The failover comes between two of its rows."""
    slow = "insert into acts select %s, %s from pg_sleep(0.15) returning n"
    async with s.block() as conn:
        await s.insert(conn, 0)
        cursor = conn.cursor()
        rows = [(s.key, n) for n in (1, 2, 3)]
        (many,) = await s.failover(s.do(cursor.executemany, slow, rows, returning=True))
        await many
        await s.insert(conn, 4)
    assert await s.found() == [0, 1, 2, 3, 4]


@GOING_ON.act
async def executemany_refused(s: Scene) -> None:
    """A violation in the middle of it, behind a savepoint; what it left is rolled back."""
    insert = "insert into keys values (%s, %s)"
    async with s.block() as conn:
        await s.do(conn.execute, insert, (s.key, 2))
        with pytest.raises(psycopg.errors.UniqueViolation):
            async with s.within(conn.transaction()):
                rows = [(s.key, n) for n in (1, 2, 3)]
                await s.do(conn.cursor().executemany, insert, rows)
        await s.failover()
        await s.do(conn.execute, insert, (s.key, 4))
    assert await s.found("select n from keys where act = %s order by n") == [2, 4]


@GOING_ON.act
async def several_statements_in_one(s: Scene) -> None:
    async with s.block() as conn:
        await s.insert(conn, 1)
        several = "select 1 as a; insert into acts values ('{0}', 2) returning n; select 3"
        cursor = await s.do(conn.execute, several.format(s.key))
        await s.failover()
        found = await s.rows(cursor)
        while cursor.nextset():
            found += await s.rows(cursor)
        assert found == [(1,), (2,), (3,)]
        await s.insert(conn, 3)
    assert await s.found() == [1, 2, 3]


@GOING_ON.act
async def values_that_the_caller_changes(s: Scene) -> None:
    """Parameters are replayed as they were sent."""
    async with s.block() as conn:
        raw, numbers = bytearray(b"sent"), [1, 2]
        insert = "insert into acts select %s, x from unnest(%s::int[]) x returning %s::bytea"
        assert await s.row(conn, insert, (s.key, numbers, raw)) == (b"sent",)
        cursor = await s.do(conn.execute, "select length(%b::bytea)", (raw,))
        assert await s.do(cursor.fetchone) == (4,)
        raw[:] = b"changed"
        numbers[:] = [98, 99, 97]
        await s.failover()
        await s.insert(conn, 3)
    assert await s.found() == [1, 2, 3]


@GOING_ON.act
async def a_copy_in_the_transaction_before(s: Scene) -> None:
    """What can't be replayed is over with its transaction."""
    async with s.block() as conn:
        async with s.within(conn.cursor().copy("copy acts from stdin")) as copy:
            await s.do(copy.write_row, (s.key, 1))
        await s.do(conn.commit)
        await s.insert(conn, 2)
        await s.failover()
        await s.insert(conn, 3)
    assert await s.found() == [1, 2, 3]


@GOING_ON.act
async def a_copy_after_the_failover(s: Scene) -> None:
    """It starts on the new session, behind a replay."""
    async with s.block() as conn:
        await s.insert(conn, 1)
        await s.failover()
        await s.insert(conn, 2)
        async with s.within(conn.cursor().copy("copy acts from stdin")) as copy:
            await s.do(copy.write_row, (s.key, 3))
    assert await s.found() == [1, 2, 3]
