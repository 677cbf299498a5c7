"""What type checkers make of a realistic program: `make types` has both read it.

It isn't run.  Where a line is a user's mistake, both have to find it: an unnecessary `ignore`
is an error as well.
"""

# pyright: strict, enableTypeIgnoreComments=false, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

import httpx2
import psycopg
import psycopg_pool
from psycopg import AsyncConnection, Connection
from psycopg.rows import DictRow, TupleRow, class_row, dict_row

import resilient
from resilient import Settings
from resilient.core.model import CausalToken, Topology
from resilient.dns import Answer, AsyncResolver, Resolver
from resilient.errors import ConfigError
from resilient.http import AsyncClient, Client
from resilient.postgres import (
    AsyncConnectionPool,
    AsyncNullConnectionPool,
    ConnectionPool,
    NullConnectionPool,
)


@dataclass
class Account:
    number: int
    balance: float


# -- settings


def settings() -> Settings:
    given = Settings(deadline_s=5, database_readers="r1,r2", zones={"az1": ["10.0.0.0/8"]})
    assert_type(given.deadline_s, float)
    assert_type(given.database_readers, tuple[str, ...])
    assert_type(given.max_staleness_s, float | None)
    assert_type(given.replace(dns_tries="3"), Settings)
    assert_type(resilient.Settings(), Settings)
    Settings(dedline_s=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Settings(deadline_s=[5])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Settings(replay="maybe")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert given.deadline_ms  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    return given


# -- pools without annotation: their rows are psycopg's tuples


def plain() -> int:
    with ConnectionPool() as pool:
        assert_type(pool, ConnectionPool[Connection[TupleRow]])
        with pool.connection() as conn:
            assert_type(conn, Connection[TupleRow])
            row = conn.execute("select count(*) from account").fetchone()
            assert_type(row, TupleRow | None)
        with pool.connection(read_only=True, max_staleness_s=1.0) as conn:
            conn.execute("select 1")
        token = pool.causal_token()
        assert_type(token, CausalToken)
        with pool.reader.connection(after=token) as conn:
            assert_type(conn, Connection[TupleRow])
        assert_type(pool.topology, Topology)
        as_theirs: psycopg_pool.ConnectionPool[Connection[TupleRow]] = pool
        as_theirs.wait(timeout=5)
        pool.connection(readonly=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    return 0 if row is None else int(row[0])


# -- generics: the rows are what the connection class says


def accounts() -> list[Account]:
    pool: ConnectionPool[Connection[DictRow]] = ConnectionPool(
        "dbname=bank", kwargs={"row_factory": dict_row}, min_size=1, open=False
    )
    with pool, pool.connection() as conn:
        assert_type(conn.execute("select 1").fetchone(), DictRow | None)
        with conn.transaction(), conn.cursor(row_factory=class_row(Account)) as cursor:
            found = cursor.execute("select number, balance from account").fetchall()
            assert_type(found, list[Account])
    return found


class Audited(Connection[DictRow]):
    """A user's own class."""

    def audit(self, what: str) -> None:
        self.execute("insert into audit values (%s)", [what])


def audited() -> None:
    pool = NullConnectionPool("", connection_class=Audited, settings=settings())
    assert_type(pool, NullConnectionPool[Audited])
    with pool.connection() as conn:
        conn.audit("read")
        assert_type(conn.execute("select 1").fetchone(), DictRow | None)

    def configure(conn: Audited) -> None:
        conn.audit("made")

    ConnectionPool("", connection_class=Audited, configure=configure)


# -- run


def transfer(conn: Connection[TupleRow], source: int, target: int, *, amount: float) -> float:
    conn.execute("update account set balance = balance - %s where number = %s", [amount, source])
    conn.execute("update account set balance = balance + %s where number = %s", [amount, target])
    return amount


def transfers(pool: ConnectionPool[Connection[TupleRow]]) -> float:
    moved = pool.run(transfer, 1, 2, amount=3.0)
    assert_type(moved, float)
    assert_type(pool.run(transfer, 1, 2, amount=3.0, timeout=5), float)
    assert_type(pool.run(transfer, 1, 2, amount=3.0, read_only=False), float)
    assert_type(pool.reader.run(lambda conn: conn.info.server_version), int)
    pool.run(transfer, 1, 2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    pool.run(transfer, "1", 2, amount=3.0)  # type: ignore[arg-type]  # pyright: ignore
    pool.run(len)  # type: ignore[call-overload]  # pyright: ignore
    return moved


# -- the same, awaited


async def transfer_async(conn: AsyncConnection[TupleRow], amount: float) -> float:
    await conn.execute("select %s", [amount])
    return amount


async def awaited() -> None:
    async with AsyncConnectionPool("", open=False) as pool:
        assert_type(pool, AsyncConnectionPool[AsyncConnection[TupleRow]])
        async with pool.connection() as conn:
            assert_type(conn, AsyncConnection[TupleRow])
            cursor = await conn.execute("select 1")
            assert_type(await cursor.fetchone(), TupleRow | None)
        async with pool.reader.connection() as conn:
            assert_type(conn, AsyncConnection[TupleRow])
        assert_type(await pool.run(transfer_async, 1.0), float)
        assert_type(await pool.run(transfer_async, 1.0, timeout=2.0), float)
        assert_type(await pool.causal_token(), CausalToken)
        await pool.run(transfer_async)  # type: ignore[call-overload]  # pyright: ignore
        conn = await pool.getconn()
        await pool.putconn(conn)
    assert_type(AsyncNullConnectionPool(), AsyncNullConnectionPool[AsyncConnection[TupleRow]])


# -- HTTP and names


def fetch(url: str) -> Any:
    with Client(base_url=url, timeout=5.0, settings=settings()) as client:
        response = client.get("/accounts", params={"page": 1})
        assert_type(response, httpx2.Response)
        as_theirs: httpx2.Client = client
        as_theirs.post("/accounts", json={"number": 1})
        Client(base_urls=url)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    return response.json()


async def fetch_async(url: str) -> bytes:
    async with AsyncClient(settings=Settings(zone="auto")) as client:
        response = await client.get(url)
        assert_type(response, httpx2.Response)
        async with client.stream("GET", url) as streamed:
            async for part in streamed.aiter_bytes():
                assert_type(part, bytes)
    return response.content


async def names() -> None:
    with Resolver() as resolver:
        assert_type(resolver.resolve("db.example", "any"), Answer)
    async with AsyncResolver(Settings(dns_nameservers=["10.0.0.1"])) as other:
        assert_type(await other.resolve("db.example"), Answer)


def errors() -> None:
    try:
        plain()
    except resilient.errors.CommitOutcomeUnknown as unknown:
        assert_type(unknown, resilient.errors.CommitOutcomeUnknown)
    except ConfigError as wrong:
        raise SystemExit(str(wrong)) from wrong
    except psycopg.Error as exc:
        assert_type(exc.sqlstate, str | None)
