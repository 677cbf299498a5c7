"""The sides of the database's cases: psycopg_pool's pools, ours, and the AWS wrapper."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import psycopg_pool

from resilient.postgres import AsyncConnectionPool, ConnectionPool
from resilient.postgres.commit import ledger
from resilient.settings import Settings

from ..failover.clients import CLIENTS
from ..failover.target import Target
from ..failover.work import CREATE
from .batches import AsyncSession, Session
from .cases import AWS, POOL, POOL_ASYNC

__all__ = ["AWS_CLIENT", "Place", "prepare", "sides", "sides_async"]

#: how a lost COMMIT would be resolved
WAYS = ("lsn", "ledger", "off")
#: with its two failover plugins in stock, as `make bench-failover` runs it
AWS_CLIENT = "aws"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the servers are; `hosts` begin with the primary."""

    hosts: tuple[str, ...]
    port: int

    def conninfo(self, hosts: int = 1, user: str = "app") -> str:
        """For libpq; so many of the hosts."""
        known = ",".join(self.hosts[:hosts])
        return f"host={known} port={self.port} user={user} dbname=app"


def prepare(place: Place) -> None:
    """The tables, and what clients want to find."""
    with psycopg.connect(place.conninfo(user="postgres"), autocommit=True) as conn:
        for statement in filter(None, map(str.strip, CREATE.split(";"))):
            conn.execute(statement.encode())
        conn.execute("create table if not exists bench (i int)")
        conn.execute("grant all on bench to public")
        conn.execute(ledger.DDL.encode())


def _known(cases: Sequence[str], table: Any) -> list[tuple[str, str]]:
    """(case, side): the transaction in every way, the others in the default one."""
    found = []
    for case in cases:
        if case in table:
            ways = WAYS if case == "transaction" else WAYS[:1]
            found += [(case, side) for side in ("bare", "again", *ways)]
    return found


@contextmanager
def sides(
    place: Place, cases: Sequence[str], workers: int
) -> Iterator[dict[tuple[str, str], Session]]:
    """For threads; inside, everything is connected."""
    with ExitStack() as stack:
        places = _known(cases, POOL)
        size: dict[str, Any] = dict.fromkeys(("min_size", "max_size"), workers + 1)
        pools: dict[str, Any] = {}
        for side in dict.fromkeys(side for _, side in places if side != "again"):
            if side == "bare":
                pool: Any = psycopg_pool.ConnectionPool(place.conninfo(), open=True, **size)
            else:
                settings = Settings(commit_resolver=side)
                pool = ConnectionPool(place.conninfo(), open=True, settings=settings, **size)
            pools[side] = stack.enter_context(pool)
            pool.wait()
        if pools:
            pools["again"] = pools["bare"]
        found: dict[tuple[str, str], Session] = {
            (case, side): partial(POOL[case], pools[side]) for case, side in places
        }
        if not CLIENTS[AWS_CLIENT].missing() and any(case in AWS for case in cases):
            connections = partial(_lent, stack.enter_context(_aws(place, workers)))
            found |= {
                (case, "aws"): partial(AWS[case], connections) for case in cases if case in AWS
            }
        yield found


@contextmanager
def _aws(place: Place, workers: int) -> Iterator[queue.LifoQueue[Any]]:
    client = CLIENTS[AWS_CLIENT].make(Target(place.hosts, place.port))
    free: queue.LifoQueue[Any] = queue.LifoQueue()
    for _ in range(workers):
        free.put(client.connect())
    try:
        yield free
    finally:
        while not free.empty():
            free.get().close()
        client.close()


@contextmanager
def _lent(free: queue.LifoQueue[Any]) -> Iterator[Any]:
    conn = free.get()
    try:
        yield conn
    finally:
        free.put(conn)


@asynccontextmanager
async def sides_async(
    place: Place, cases: Sequence[str], workers: int
) -> AsyncIterator[dict[tuple[str, str], AsyncSession]]:
    """For tasks.  The AWS wrapper is used by threads only here."""
    async with AsyncExitStack() as stack:
        places = _known(cases, POOL_ASYNC)
        size: dict[str, Any] = dict.fromkeys(("min_size", "max_size"), workers + 1)
        pools: dict[str, Any] = {}
        for side in dict.fromkeys(side for _, side in places if side != "again"):
            if side == "bare":
                pool: Any = psycopg_pool.AsyncConnectionPool(place.conninfo(), open=False, **size)
            else:
                settings = Settings(commit_resolver=side)
                pool = AsyncConnectionPool(place.conninfo(), open=False, settings=settings, **size)
            pools[side] = await stack.enter_async_context(pool)
            await pool.wait()
        if pools:
            pools["again"] = pools["bare"]
        yield {(case, side): partial(POOL_ASYNC[case], pools[side]) for case, side in places}
