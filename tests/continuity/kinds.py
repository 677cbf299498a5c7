"""Transactions of every kind, each written once for both shells.

A kind is given the pool, a number that is its own, and `armed`, which it calls with its
connection when the cut may come.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row

from resilient.postgres.replay.parser import parser

TABLES = """
create table if not exists cuts (id bigint, n int, note text);
create table if not exists cuts_unique (id bigint primary key);
create sequence if not exists cuts_sequence;
create table if not exists cuts_serial (id bigserial primary key);
truncate cuts, cuts_unique;
"""
INSERT = "insert into cuts values (%s, %s, %s)"

Armed = Callable[[Any], None]
Work = Callable[[Any, int, Armed], Awaitable[None]]


async def call(value: Any) -> Any:
    """What a call gave, in either shell."""
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def both(manager: Any) -> AsyncIterator[Any]:
    """A context manager of either shell."""
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


@dataclass(frozen=True, slots=True)
class Kind:
    """`ends`: how it may end, wherever it is cut: `well`; `unknown` too, truthfully; `refused`
    too, with an error that says why, and nothing done."""

    work: Work
    ends: tuple[str, ...] = ("well",)
    #: for the pool's connections
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


class Abandoned(Exception):
    """What a block raises that changes its mind."""


async def plain(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        await call(conn.execute(INSERT, (number, 1, "one")))
        row = await call((await call(conn.execute("select 40 + 2"))).fetchone())
        await call(conn.execute("update cuts set n = %s where id = %s", (row[0], number)))


async def savepoints(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        async with both(conn.transaction()):
            await call(conn.execute(INSERT, (number, 1, "outer")))
            async with both(conn.transaction()):
                await call(conn.execute(INSERT, (number, 2, "kept")))
            try:
                async with both(conn.transaction("named")):
                    await call(conn.execute(INSERT, (number, 3, "rolled back")))
                    raise Abandoned
            except Abandoned:
                pass
            await call(conn.execute(INSERT, (number, 4, "after")))


async def violation(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        insert = "insert into cuts_unique values (%s)"
        await call(conn.execute(insert, (number,)))
        try:
            async with both(conn.transaction()):
                await call(conn.execute(insert, (number,)))
        except psycopg.errors.UniqueViolation:
            await call(conn.execute(INSERT, (number, 1, "caught")))


async def many(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        cursor = conn.cursor()
        await call(cursor.executemany(INSERT, [(number, n, "many") for n in range(3)]))


async def many_returning(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        cursor = conn.cursor()
        rows = [(number, n, "many") for n in range(3)]
        await call(cursor.executemany(f"{INSERT} returning n", rows, returning=True))
        got = []
        while True:
            got.append((await call(cursor.fetchone()))[0])
            if not cursor.nextset():
                break
        await call(conn.execute(INSERT, (number, 9, str(got))))


async def cursors(pool: Any, number: int, armed: Armed) -> None:
    """Made before, read from in between, used again after."""
    async with both(pool.connection()) as conn:
        armed(conn)
        one, two = conn.cursor(), conn.cursor()
        await call(one.execute("select generate_series(1, 3)"))
        first = await call(one.fetchone())
        await call(two.execute(INSERT, (number, 1, "two")))
        rest = await call(one.fetchall())
        await call(one.execute(INSERT, (number, 2, str([first, *rest]))))


async def dictionaries(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        cursor = conn.cursor(row_factory=dict_row)
        await call(cursor.execute(f"{INSERT} returning *", (number, 1, "dict")))
        row = await call(cursor.fetchone())
        assert row == {"id": number, "n": 1, "note": "dict"}
        await call(cursor.execute("select %s::int as answer", (7,)))
        row = await call(cursor.fetchone())
        await call(conn.execute(INSERT, (number, row["answer"], "answer")))


async def prepared(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        for n in range(3):
            await call(conn.execute(INSERT, (number, n, "prepared"), prepare=True))


async def autocommit(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        await call(conn.execute(INSERT, (number, 1, "autocommit")))


async def autocommit_in_blocks(pool: Any, number: int, armed: Armed) -> None:
    """Each write by itself; what it gave is its own, however often it was sent."""
    async with both(pool.connection()) as conn:
        armed(conn)
        cursor = await call(conn.execute("insert into cuts_serial values (default) returning id"))
        (id_,) = await call(cursor.fetchone())
        assert cursor.rowcount == 1
        with contextlib.suppress(psycopg.errors.UniqueViolation):
            await call(conn.execute("insert into cuts_serial values (%s)", (id_,)))
            raise AssertionError("a key twice")
        status = psycopg.pq.TransactionStatus
        assert conn.info.transaction_status in (status.IDLE, status.UNKNOWN)
        insert = "insert into cuts select %s, count(*), 'blocks' from cuts_serial where id = %s"
        await call(conn.execute(insert, (number, id_)))
        await call(conn.execute("select 1"))


async def autocommit_read(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        row = await call((await call(conn.execute("select count(*) from cuts"))).fetchone())
        assert row is not None


async def autocommit_block(pool: Any, number: int, armed: Armed) -> None:
    """The usual way in Django and others: autocommit, and a block where it matters."""
    async with both(pool.connection()) as conn:
        armed(conn)
        async with both(conn.transaction()):
            await call(conn.execute(INSERT, (number, 1, "in a block")))
            await call(conn.execute(INSERT, (number, 2, "in a block")))


async def read_only(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection(read_only=True)) as conn:
        armed(conn)
        for n in range(2):
            row = await call((await call(conn.execute("select %s::int", (n,)))).fetchone())
            assert row == (n,)


async def reads(pool: Any, number: int, armed: Armed) -> None:
    """A checkout for writing that happens to write nothing."""
    async with both(pool.connection()) as conn:
        armed(conn)
        cursor = await call(conn.execute("select n from cuts where id = %s", (number,)))
        assert await call(cursor.fetchall()) == []
        await call(conn.execute("select 1"))


async def set_local(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        await call(conn.execute("set local statement_timeout = '17s'"))
        value = "current_setting('statement_timeout')"
        await call(conn.execute(f"insert into cuts values (%s, 1, {value})", (number,)))


async def set_before(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        await call(conn.execute("set statement_timeout = '18s'"))
        await call(conn.commit())
        armed(conn)
        value = "current_setting('statement_timeout')"
        await call(conn.execute(f"insert into cuts values (%s, 1, {value})", (number,)))


async def pipeline(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        async with both(conn.pipeline()):
            await call(conn.execute(INSERT, (number, 1, "pipeline")))
            await call(conn.execute(INSERT, (number, 2, "pipeline")))


async def sequence(pool: Any, number: int, armed: Armed) -> None:
    """A number is drawn and not looked at."""
    async with both(pool.connection()) as conn:
        armed(conn)
        drawn = "(nextval('cuts_sequence') > 0)::text"
        await call(conn.execute(f"insert into cuts values (%s, 1, {drawn})", (number,)))
        await call(conn.execute(INSERT, (number, 2, "after")))


async def sequence_seen(pool: Any, number: int, armed: Armed) -> None:
    """A number is drawn and returned: it can't be drawn again."""
    async with both(pool.connection()) as conn:
        armed(conn)
        await call(conn.execute("select nextval('cuts_sequence')"))
        await call(conn.execute(INSERT, (number, 2, "after")))


async def two(pool: Any, number: int, armed: Armed) -> None:
    """Two transactions in one checkout."""
    async with both(pool.connection()) as conn:
        armed(conn)
        await call(conn.execute(INSERT, (number, 1, "first")))
        await call(conn.commit())
        await call(conn.execute(INSERT, (number, 2, "second")))


async def abandoned(pool: Any, number: int, armed: Armed) -> None:
    try:
        async with both(pool.connection()) as conn:
            armed(conn)
            await call(conn.execute(INSERT, (number, 1, "abandoned")))
            await call(conn.execute("select 1"))
            raise Abandoned
    except Abandoned:
        pass


async def by_hand(pool: Any, number: int, armed: Armed) -> None:
    """Without any block."""
    conn = await call(pool.getconn())
    try:
        armed(conn)
        await call(conn.execute(INSERT, (number, 1, "by hand")))
        await call(conn.commit())
    finally:
        await call(pool.putconn(conn))


async def undone_by_hand(pool: Any, number: int, armed: Armed) -> None:
    conn = await call(pool.getconn())
    try:
        armed(conn)
        await call(conn.execute(INSERT, (number, 1, "never")))
        await call(conn.rollback())
    finally:
        await call(pool.putconn(conn))


async def copy(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        await call(conn.execute(INSERT, (number, 1, "before")))
        async with both(conn.cursor().copy("copy cuts from stdin")) as into:
            for n in (2, 3):
                await call(into.write_row((number, n, "copied")))


async def server_side(pool: Any, number: int, armed: Armed) -> None:
    """A cursor that lives in its session."""
    async with both(pool.connection()) as conn:
        armed(conn)
        async with both(conn.cursor("held")) as cursor:
            await call(cursor.execute("select generate_series(1, 3)"))
            first = await call(cursor.fetchone())
            await call(conn.execute(INSERT, (number, first[0], "first")))
            rest = await call(cursor.fetchall())
        await call(conn.execute(INSERT, (number, len(rest), "rest")))


def foreign(conn: Any) -> Any:
    """A cursor that the connection didn't make."""
    is_async = isinstance(conn, psycopg.AsyncConnection)
    return psycopg.AsyncCursor(conn) if is_async else psycopg.Cursor(conn)


async def hand_made(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        await call(conn.execute(INSERT, (number, 1, "own")))
        await call(foreign(conn).execute(INSERT, (number, 2, "hand-made")))
        await call(conn.execute(INSERT, (number, 3, "own")))


async def hand_made_many(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        rows = [(number, n, "hand-made") for n in range(3)]
        await call(foreign(conn).executemany(INSERT, rows))
        await call(conn.execute(INSERT, (number, 3, "own")))


async def hand_made_in_pipeline(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        async with both(conn.pipeline()):
            await call(conn.execute(INSERT, (number, 1, "own")))
            await call(foreign(conn).execute(INSERT, (number, 2, "hand-made")))
            await call(conn.execute(INSERT, (number, 3, "own")))
        await call(conn.execute(INSERT, (number, 4, "own")))


async def many_in_pipeline(pool: Any, number: int, armed: Armed) -> None:
    async with both(pool.connection()) as conn:
        armed(conn)
        async with both(conn.pipeline()):
            rows = [(number, n, "many") for n in range(3)]
            await call(conn.cursor().executemany(INSERT, rows))
        await call(conn.execute(INSERT, (number, 3, "own")))


async def run(pool: Any, number: int, armed: Armed) -> None:
    """A function, run again as a whole where it has to be."""
    if type(pool).__name__.startswith("Async"):

        async def work(conn: Any) -> None:
            armed(conn)
            await conn.execute(INSERT, (number, 1, "run"))
            await conn.execute("select nextval('cuts_sequence')")

        await pool.run(work)
    else:

        def work_now(conn: Any) -> None:
            armed(conn)
            conn.execute(INSERT, (number, 1, "run"))
            conn.execute("select nextval('cuts_sequence')")

        pool.run(work_now)


_AUTOCOMMIT = {"autocommit": True}
WELL, OR_UNKNOWN, OR_REFUSED = ("well",), ("well", "unknown"), ("well", "refused")
ANY = ("well", "unknown", "refused")
#: what holds for each kind, on a server that goes on living
KINDS: dict[str, Kind] = {
    "plain": Kind(plain),
    "savepoints": Kind(savepoints),
    "violation": Kind(violation),
    "many": Kind(many),
    "many-returning": Kind(many_returning),
    "cursors": Kind(cursors),
    "dictionaries": Kind(dictionaries),
    "prepared": Kind(prepared),
    "read-only": Kind(read_only),
    "reads": Kind(reads),
    "set-local": Kind(set_local),
    "set-before": Kind(set_before),
    "sequence": Kind(sequence),
    "two": Kind(two),
    "abandoned": Kind(abandoned),
    "pipeline": Kind(pipeline),
    "many-in-pipeline": Kind(many_in_pipeline),
    "run": Kind(run),
    "by-hand": Kind(by_hand),
    # psycopg's rollback() says so when the connection is lost; the server rolls back as well.
    "undone-by-hand": Kind(undone_by_hand, OR_REFUSED),
    "autocommit-read": Kind(autocommit_read, WELL, _AUTOCOMMIT),
    "autocommit-block": Kind(autocommit_block, WELL, _AUTOCOMMIT),
    # A lost reply of a statement that is its own transaction: nothing is known of it.
    "autocommit": Kind(autocommit, OR_UNKNOWN, _AUTOCOMMIT),
    "autocommit-in-blocks": Kind(autocommit_in_blocks, WELL, _AUTOCOMMIT, {"autocommit": "block"}),
    # What was copied, and where a server's cursor stood, is gone with the session.
    "copy": Kind(copy, ANY),
    "server-side": Kind(server_side, ANY),
    # Of what such a cursor does nothing is known.
    "hand-made": Kind(hand_made, ANY),
    "hand-made-many": Kind(hand_made_many, ANY),
    "hand-made-in-pipeline": Kind(hand_made_in_pipeline, ANY),
    # The caller has seen a number, which isn't drawn again.
    "sequence-seen": Kind(sequence_seen, WELL if parser() else OR_REFUSED),
}
