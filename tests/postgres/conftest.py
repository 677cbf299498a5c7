"""The lab for the pools' tests, and one face for the sync and the async shell."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg import generators

from resilient import postgres
from resilient.lab import Lab
from resilient.postgres import probe
from resilient.postgres.role import question
from resilient.settings import Settings

from .in_band import InBand

INSERT = "insert into orders (id) values (%s) returning host(inet_server_addr())"
#: nobody else's: tests that only write take small ones
_ids = itertools.count(1_000_000)


@pytest.fixture(scope="session")
def orders(session_lab: Lab) -> str:
    """A table without any constraint: duplicates must be seen."""
    dsn = f"{session_lab.dsn} target_session_attrs=read-write"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table if not exists orders (id bigint)")
    return "orders"


def settings_of(lab: Lab, zone: str = "az1", **values: Any) -> Settings:
    """The lab's environment as settings."""
    env = {
        key.removeprefix("RESILIENT_").lower(): value
        for key, value in lab.env(zone).items()
        if key != "RESILIENT_DATABASE_URL"
    }
    return Settings(**{**env, **values})


class Face:
    """Both shells under one set of names; each call runs the shell's own code."""

    def __init__(self, kind: str) -> None:
        self.is_async = kind.endswith("async")
        self.null = kind.startswith("null")

    async def open(self, dsn: Any, settings: Settings, **kwargs: Any) -> Face:
        name = ("Async" if self.is_async else "") + ("Null" if self.null else "")
        cls: Any = getattr(postgres, f"{name}ConnectionPool")
        if not self.null:
            kwargs.setdefault("min_size", 2)
        self.pool: Any = cls(dsn, settings=settings, open=False, **kwargs)
        await self._call(self.pool.open)
        return self

    async def close(self) -> None:
        await self._call(self.pool.close)

    async def wait(self, timeout: float = 10.0) -> None:
        await self._call(self.pool.wait, timeout)

    async def insert(self, number: int, timeout: float | None = None) -> str:
        """Insert through `run`; the address of the server that did it."""
        if self.is_async:

            async def work(conn: Any) -> Any:
                return await (await conn.execute(INSERT, (number,))).fetchone()

        else:

            def work(conn: Any) -> Any:  # type: ignore[misc]
                return conn.execute(INSERT, (number,)).fetchone()

        row = await self._call(self.pool.run, work, timeout=timeout)
        return str(row[0])

    async def query(self, sql: str, *, reader: bool = False, **options: Any) -> Any:
        """One query in a plain `with` block; its first row."""
        pool = self.pool.reader if reader else self.pool
        if self.is_async:
            async with pool.connection(**options) as conn:
                return await (await conn.execute(sql)).fetchone()

        def plain() -> Any:
            with pool.connection(**options) as conn:
                return conn.execute(sql).fetchone()

        return await asyncio.to_thread(plain)

    async def where(self, **options: Any) -> str:
        row = await self.query("select host(inet_server_addr())", **options)
        return str(row[0])

    async def _call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.is_async:
            return await fn(*args, **kwargs)
        return await asyncio.to_thread(fn, *args, **kwargs)


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> Face:
    return Face(request.param)


@pytest_asyncio.fixture(params=["sync", "async", "null-sync", "null-async"])
async def any_face(request: pytest.FixtureRequest) -> AsyncIterator[Face]:
    yield Face(request.param)


@pytest.fixture
def new_id() -> Callable[[], int]:
    return lambda: next(_ids)


def present(lab: Lab, numbers: list[int]) -> list[int]:
    """Which of these ids the present primary has, duplicates kept."""
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    with psycopg.connect(dsn) as conn:
        rows = conn.execute("select id from orders where id = any(%s)", (numbers,)).fetchall()
    return [row[0] for row in rows]


@pytest.fixture
def soon_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dedicated connection that isn't needed is closed after a second."""
    monkeypatch.setattr(probe, "IDLE_S", 1.0)


@pytest.fixture
def in_band(monkeypatch: pytest.MonkeyPatch) -> InBand:
    return InBand(monkeypatch)


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Make the role query of an in-band probe take some time on the server."""
    seconds = 0.0

    def slow(pgconn: Any, *args: Any) -> Any:
        if seconds:
            pgconn.send_query(b"select pg_sleep(%f)" % seconds)
            yield from generators.execute(pgconn)
        return (yield from question(pgconn, *args))

    def take(pause_s: float) -> None:
        nonlocal seconds
        seconds = pause_s

    monkeypatch.setattr(probe, "question", slow)
    yield take
    seconds = 0.0
