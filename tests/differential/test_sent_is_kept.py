"""What was sent is what is kept: nothing that the caller may change is looked at again.

FAULTS 52.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types import json, string

from .play import Play, both, call

pytestmark = pytest.mark.lab

FIRST, THEN = b"first", b"later"


def binary(buffer: bytearray) -> Any:
    return psycopg.Binary(buffer)


def itself(buffer: bytearray) -> Any:
    return buffer


def view(buffer: bytearray) -> Any:
    return memoryview(buffer)


class Reused:
    """What a user's own dumper may hand out: the same buffer each time."""

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer


class ReusedDumper(psycopg.adapt.Dumper):
    oid = psycopg.adapters.types["bytea"].oid
    format = psycopg.pq.Format.BINARY

    def dump(self, obj: Reused) -> Any:
        return obj.buffer


def python_dumpers(conn: Any) -> None:
    """Those of psycopg's Python implementation, in whichever one this is."""
    for kind in (bytes, bytearray, memoryview):
        conn.adapters.register_dumper(kind, string.BytesDumper)
        conn.adapters.register_dumper(kind, string.BytesBinaryDumper)
    conn.adapters.register_dumper(Reused, ReusedDumper)


async def table(play: Play, columns: str) -> str:
    name = f"kept_{play.n}"
    play.admin(f"set role app; create table {name} ({columns})")
    return name


@pytest.mark.parametrize(
    ("wrap", "dumpers", "placeholder"),
    [
        *itertools.product([binary, itself, view], ["default"], ["%s", "%b", "%t"]),
        *itertools.product([itself, view], ["python"], ["%s", "%b", "%t"]),
        (Reused, "python", "%b"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_a_buffer_that_is_filled_again(
    play: Play, wrap: Callable[[bytearray], Any], dumpers: str, placeholder: str
) -> None:
    name = await table(play, "n int, b bytea")
    insert = f"insert into {name} values (%s, {placeholder}::bytea)"

    async def work() -> None:
        async with both(pool.connection()) as conn:
            if dumpers == "python":
                python_dumpers(conn)
            buffer = bytearray(5)
            for n, content in enumerate((FIRST, THEN)):
                buffer[:] = content
                await call(conn.execute(insert, (n, wrap(buffer))))
            buffer[:] = b"wrong"
            play.cut_off(conn)
            await call(conn.execute("select 1"))

    async with play.pool() as pool:
        end = await play.attempt(work)
    rows = play.admin(f"select b from {name} order by n")
    if end.well:
        assert not play.bare
        assert rows == [(FIRST,), (THEN,)]
    else:
        assert isinstance(end.error, psycopg.OperationalError), end
        assert rows == []


async def test_a_buffer_in_executemany(play: Play) -> None:
    name = await table(play, "n int, b bytea")

    async def work() -> None:
        async with both(pool.connection()) as conn:
            python_dumpers(conn)
            buffer = bytearray(FIRST)
            rows = [[0, buffer], [1, bytearray(THEN)]]
            cursor = conn.cursor()
            await call(cursor.executemany(f"insert into {name} values (%s, %b)", rows))
            buffer[:] = b"wrong"
            rows.clear()
            play.cut_off(conn)
            await call(conn.execute("select 1"))

    async with play.pool() as pool:
        end = await play.attempt(work)
    expected = [(FIRST,), (THEN,)] if end.well else []
    assert end.well != play.bare or not play.bare, end
    assert play.admin(f"select b from {name} order by n") == expected


@pytest.mark.parametrize("what", ["list", "dict", "json", "query", "parameters"])
async def test_what_the_caller_changes_later(play: Play, what: str) -> None:
    kinds = {"list": "int[]", "json": "jsonb", "dict": "jsonb"}
    name = await table(play, f"v {kinds.get(what, 'int')}")
    value: Any = {"list": [1, 2], "dict": {"a": 1}, "json": {"a": 1}}.get(what, 1)
    parameters = [json.Jsonb(value) if what in ("json", "dict") else value]
    query = sql.Composed([sql.SQL(f"insert into {name} values ("), sql.SQL("%s"), sql.SQL(")")])

    async def work() -> None:
        async with both(pool.connection()) as conn:
            await call(conn.execute(query, parameters))
            if what == "query":
                query._obj.clear()
            elif what == "parameters":
                parameters[0] = 99
            elif what == "list":
                value.append(99)
            else:
                value["a"] = 99
            play.cut_off(conn)
            await call(conn.execute("select 1"))

    async with play.pool() as pool:
        end = await play.attempt(work)
    first = {"list": [1, 2], "dict": {"a": 1}, "json": {"a": 1}}.get(what, 1)
    assert end.well != play.bare, end
    assert play.admin(f"select v from {name}") == ([(first,)] if end.well else [])


async def test_rows_that_the_caller_changes(play: Play) -> None:
    """They aren't what a replay is compared with."""

    async def work() -> Any:
        async with both(pool.connection()) as conn:
            cursor = conn.cursor(row_factory=dict_row)
            await call(cursor.execute("select n, note from plain where n < 3 order by n"))
            row = await call(cursor.fetchone())
            row.clear()
            await call(conn.execute(f"insert into marks values ({play.n})"))
            play.cut_off(conn)
            await call(conn.execute("select 1"))
            return await call(cursor.fetchall())

    async with play.pool() as pool:
        end = await play.attempt(work)
    assert end.well != play.bare, end
    assert play.bare or end.value == [{"n": 2, "note": "row 2"}]
    assert play.struck() == int(end.well)
