"""Thirteen kinds of operation, and what a client writes down of each.

An operation has a number that no other has; whatever it writes carries it.  It is written once,
for threads and tasks: `call` awaits only what can be awaited.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.differential.play import as_sync, both, call

ACCOUNTS, BALANCE, ITEMS = 40, 1000, 20_000
TABLES = f"""
drop table if exists soak_rows, accounts, transfers, parents, children, items, taken;
create table soak_rows (op bigint not null, part int not null, n int not null);
create index on soak_rows (op);
create table accounts (id int primary key, balance bigint not null);
insert into accounts select g, {BALANCE} from generate_series(1, {ACCOUNTS}) g;
create table transfers (op bigint not null, a int not null, b int not null, x int not null);
create table parents (id bigserial primary key, op bigint not null);
create table children (op bigint not null, parent bigint not null);
create table items (id bigint primary key);
insert into items select g from generate_series(1, {ITEMS}) g;
create table taken (item bigint not null, op bigint not null);
"""
INSERT = "insert into soak_rows values (%s, %s, 0)"
COUNT = "update soak_rows set n = n + 1 where op = %s and part = %s"
FOUND = "select count(*) from soak_rows where op = %s"
MOVE = "update accounts set balance = balance + %s where id = %s"
TAKE = """delete from items where id = (
select id from items order by id for update skip locked limit 1) returning id"""


class Undo(Exception):
    """Rolls back, on purpose."""


@dataclass(slots=True)
class Record:
    """What the client knows of one operation.  `told`: done, unknown, failed or cancelled.
    `value`: what it was given to see.  Moments are monotonic seconds."""

    op: int
    kind: str
    pool: str
    began: float
    told: str = ""
    error: str = ""
    value: Any = None
    ended: float = 0.0


@dataclass(slots=True)
class Client:
    """One worker's view: a pool, its own random numbers, and the last that it was told."""

    pool: Any
    rng: random.Random
    tasks: bool
    known: list[int] = field(default_factory=list)
    #: a number for each operation's first execution within the application's function
    record: Record | None = None

    def once(self, fn: Callable[..., Awaitable[Any]]) -> Any:
        return fn if self.tasks else as_sync(fn)


async def block(client: Client, op: int) -> None:
    async with both(client.pool.connection()) as conn:
        await call(conn.execute(INSERT, (op, 0)))
        await call(conn.execute(COUNT, (op, 0)))


async def savepoints(client: Client, op: int) -> None:
    async with both(client.pool.connection()) as conn:
        await call(conn.execute(INSERT, (op, 0)))
        async with both(conn.transaction()):
            await call(conn.execute(COUNT, (op, 0)))
        try:
            async with both(conn.transaction()):
                await call(conn.execute(COUNT, (op, 0)))
                raise Undo
        except Undo:
            pass


async def autocommit(client: Client, op: int) -> None:
    async with both(client.pool.connection()) as conn:
        try:  # a cancelled task may find that it has set it
            await call(conn.set_autocommit(True))
            await call(conn.execute("insert into soak_rows values (%s, 0, 1)", (op,)))
        finally:
            if not conn.closed:
                await call(conn.set_autocommit(False))


async def run(client: Client, op: int) -> None:
    async def work(conn: Any) -> None:
        await call(conn.execute(INSERT, (op, 0)))
        await call(conn.execute(COUNT, (op, 0)))

    await call(client.pool.run(client.once(work)))


async def executemany(client: Client, op: int) -> None:
    async with both(client.pool.connection()) as conn:
        cursor = conn.cursor()
        rows = [(op, part) for part in range(3)]
        await call(cursor.executemany("insert into soak_rows values (%s, %s, 1)", rows))


async def pipeline(client: Client, op: int) -> None:
    async with both(client.pool.connection()) as conn, both(conn.pipeline()):
        await call(conn.execute(INSERT, (op, 0)))
        await call(conn.execute(COUNT, (op, 0)))


async def copy(client: Client, op: int) -> None:
    async with (
        both(client.pool.connection()) as conn,
        both(conn.cursor().copy("copy soak_rows from stdin")) as rows,
    ):
        for part in range(3):
            await call(rows.write_row((op, part, 1)))


async def transfer(client: Client, op: int) -> None:
    a, b = sorted(client.rng.sample(range(1, ACCOUNTS + 1), 2))  # in order: no deadlocks
    x = client.rng.choice((-7, -1, 1, 3))
    async with both(client.pool.connection()) as conn:
        await call(conn.execute(MOVE, (-x, a)))
        await call(conn.execute(MOVE, (x, b)))
        await call(conn.execute("insert into transfers values (%s, %s, %s, %s)", (op, a, b, x)))


async def serials(client: Client, op: int) -> int:
    async with both(client.pool.connection()) as conn:
        cursor = await call(
            conn.execute("insert into parents (op) values (%s) returning id", (op,))
        )
        (parent,) = await call(cursor.fetchone())
        await call(conn.execute("insert into children values (%s, %s)", (op, parent)))
    return int(parent)


async def take(client: Client, op: int) -> int | None:
    async with both(client.pool.connection()) as conn:
        row = await call((await call(conn.execute(TAKE))).fetchone())
        if row is None:
            return None
        await call(conn.execute("insert into taken values (%s, %s)", (row[0], op)))
    return int(row[0])


async def rollback(client: Client, op: int) -> str:
    try:
        async with both(client.pool.connection()) as conn:
            was = f"autocommit {conn.autocommit}, then {conn.info.transaction_status.name}"
            await call(conn.execute(INSERT, (op, 0)))
            was += f", {conn.info.transaction_status.name} pid {conn.info.backend_pid}"
            raise Undo
    except Undo:
        return was


async def token_read(client: Client, op: int) -> int:
    """Writes, takes a token, and reads behind it, from whoever may answer."""
    async with both(client.pool.connection()) as conn:
        await call(conn.execute(INSERT, (op, 0)))
        await call(conn.execute(COUNT, (op, 0)))
    record = client.record
    assert record is not None
    record.told = "done"  # the write is; what follows only reads
    token = await call(client.pool.causal_token())
    async with both(client.pool.reader.connection(after=token)) as conn:
        (seen,) = await call((await call(conn.execute(FOUND, (op,)))).fetchone())
    return int(seen)


async def own_read(client: Client, op: int) -> tuple[int, int] | None:
    """What it was told before, on the primary."""
    if not client.known:
        return None
    before = client.known[-1]
    async with both(client.pool.connection()) as conn:
        (seen,) = await call((await call(conn.execute(FOUND, (before,)))).fetchone())
    return before, int(seen)


KINDS: dict[str, Callable[[Client, int], Awaitable[Any]]] = {
    work.__name__: work
    for work in (
        *(block, savepoints, autocommit, run, executemany, pipeline, copy),
        *(transfer, serials, take, rollback, token_read, own_read),
    )
}
#: parts of the table `soak_rows` that each writes
PARTS = {
    **dict.fromkeys(("block", "savepoints", "autocommit", "run", "pipeline", "token_read"), 1),
    **dict.fromkeys(("executemany", "copy"), 3),
}


def begin(op: int, kind: str, pool: str) -> Record:
    return Record(op, kind, pool, time.monotonic())
