"""What is done in each case, once for threads and once for tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["AWS", "CASES", "DELAYED", "POOL", "POOL_ASYNC", "Case"]

INSERT, SELECT = "insert into bench values (1)", "select 1"


@dataclass(frozen=True, slots=True)
class Case:
    """`count`: operations in a batch; `inner`: how many are timed as one, where a clock's reading
    would be a large part of one."""

    text: str
    count: int
    inner: int = 1
    several: bool = True


CASES = {
    "checkout": Case("checkout: a connection taken and given back", 400),
    "autocommit": Case("a SELECT in autocommit", 200),
    "query": Case("one SELECT in a block", 60),
    "transaction": Case("INSERT and SELECT in a block", 20),
    "http": Case("GET over a kept connection", 20),
    "dns": Case("a cached name", 20, inner=100, several=False),
}
#: repeated with a network in between
DELAYED = ("autocommit", "transaction")


# ---- threads -------------------------------------------------------------------------


@contextmanager
def checkout(pool: Any) -> Iterator[Callable[[], Any]]:
    def operate() -> None:
        with pool.connection():
            pass

    yield operate


@contextmanager
def autocommit(pool: Any) -> Iterator[Callable[[], Any]]:
    with pool.connection() as conn:
        conn.autocommit = True
        yield lambda: conn.execute(SELECT).fetchone()
        conn.autocommit = False


@contextmanager
def query(pool: Any) -> Iterator[Callable[[], Any]]:
    def operate() -> None:
        with pool.connection() as conn:
            conn.execute(SELECT).fetchone()

    yield operate


@contextmanager
def transaction(pool: Any) -> Iterator[Callable[[], Any]]:
    def operate() -> None:
        with pool.connection() as conn:
            conn.execute(INSERT)
            conn.execute(SELECT).fetchone()

    yield operate


# ---- tasks ---------------------------------------------------------------------------


@asynccontextmanager
async def checkout_async(pool: Any) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    async def operate() -> None:
        async with pool.connection():
            pass

    yield operate


@asynccontextmanager
async def autocommit_async(pool: Any) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    async with pool.connection() as conn:

        async def operate() -> None:
            await (await conn.execute(SELECT)).fetchone()

        await conn.set_autocommit(True)
        yield operate
        await conn.set_autocommit(False)


@asynccontextmanager
async def query_async(pool: Any) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    async def operate() -> None:
        async with pool.connection() as conn:
            await (await conn.execute(SELECT)).fetchone()

    yield operate


@asynccontextmanager
async def transaction_async(pool: Any) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    async def operate() -> None:
        async with pool.connection() as conn:
            await conn.execute(INSERT)
            await (await conn.execute(SELECT)).fetchone()

    yield operate


# ---- the AWS wrapper: a connection, no pool; each worker keeps its own -----------------


@contextmanager
def aws_autocommit(connections: Any) -> Iterator[Callable[[], Any]]:
    with connections() as conn:

        def operate() -> None:
            with conn.cursor() as cursor:
                cursor.execute(SELECT)
                cursor.fetchone()

        conn.autocommit = True
        yield operate
        conn.autocommit = False


@contextmanager
def aws_transaction(connections: Any) -> Iterator[Callable[[], Any]]:
    with connections() as conn:

        def operate() -> None:
            with conn.cursor() as cursor:
                cursor.execute(INSERT)
                cursor.execute(SELECT)
                cursor.fetchone()
            conn.commit()

        yield operate


POOL = {
    "checkout": checkout,
    "autocommit": autocommit,
    "query": query,
    "transaction": transaction,
}
POOL_ASYNC = {
    "checkout": checkout_async,
    "autocommit": autocommit_async,
    "query": query_async,
    "transaction": transaction_async,
}
AWS = {"autocommit": aws_autocommit, "transaction": aws_transaction}
