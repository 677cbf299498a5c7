"""SQLAlchemy's ways to end a session, and to begin one: as with its own pool."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="no SQLAlchemy")

import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.postgresql import HSTORE
from sqlalchemy.ext import asyncio as sa_asyncio

from resilient.lab import Lab

from .test_sqlalchemy import url

pytestmark = pytest.mark.lab

PID = sa.text("select pg_backend_pid()")
LEFT = sa.text("select set_config('app.tenant', '42', false), pg_advisory_lock(7)")
FOUND = sa.text("select current_setting('app.tenant', true), count(l) from (select) a left join"
                " pg_locks l on l.locktype = 'advisory' and l.objid = 7")  # fmt: skip


@pytest.fixture
def engine(lab: Lab) -> Iterator[Any]:
    made = sa.create_engine(url(lab), pool_size=1, max_overflow=0)
    yield made
    made.dispose()


def left(conn: Any) -> int:
    conn.execute(LEFT)
    pid = conn.scalar(PID)
    conn.commit()
    return int(pid)


def nothing_left(engine: Any, pid: int) -> None:
    with engine.connect() as conn:
        assert conn.scalar(PID) != pid
        tenant, locks = conn.execute(FOUND).one()
        assert (tenant or "", locks) == ("", 0)


def test_an_invalidated_connection_is_nobodys(engine: Any) -> None:
    with engine.connect() as conn:
        pid = left(conn)
        conn.invalidate()
        assert conn.scalar(PID) != pid
    nothing_left(engine, pid)


def test_its_isolation_level_goes_with_it(engine: Any) -> None:
    with engine.connect() as conn:
        conn = conn.execution_options(isolation_level="SERIALIZABLE")
        conn.invalidate()
        assert conn.connection.is_valid
        assert conn.get_isolation_level() == "READ COMMITTED"


def test_a_softly_invalidated_one_ends_with_its_checkout(engine: Any) -> None:
    with engine.connect() as conn:
        pid = left(conn)
        conn.connection._connection_record.invalidate(soft=True)
        assert conn.scalar(PID) == pid
    nothing_left(engine, pid)


def test_a_detached_one_is_its_callers_alone(engine: Any) -> None:
    with engine.connect() as conn:
        pid = left(conn)
        conn.detach()
    nothing_left(engine, pid)


def test_a_detached_one_takes_no_place(engine: Any) -> None:
    with engine.connect() as conn:
        driver = conn.connection.driver_connection
        conn.detach()
        assert engine.pool.checkedout() == 0
        with engine.connect() as other:  # of a pool of one
            assert other.scalar(PID) != conn.scalar(PID)
    assert driver.closed


def test_who_closes_the_drivers_connection_closes_it(engine: Any) -> None:
    with engine.connect() as conn:
        pid = left(conn)
        conn.connection.driver_connection.close()
        with pytest.raises(sa.exc.OperationalError):
            conn.scalar(PID)
        assert conn.invalidated
    nothing_left(engine, pid)


def test_the_first_checkout_opens_one_session(lab: Lab, engine: Any) -> None:
    """The dialect learns from the first session what the others are opened with."""
    opened: list[str] = []
    event.listen(engine, "connect", lambda conn, record: opened.append(conn.info.hostaddr))
    for _ in range(3):
        with engine.connect() as conn:
            conn.execute(PID)
    assert opened.count(lab.primary.address) == 1


def test_a_handler_has_the_record_of_its_connection(engine: Any) -> None:
    @event.listens_for(engine, "do_connect")
    def tell(dialect: Any, record: Any, cargs: Any, cparams: Any) -> None:
        record.info["source"] = "vault"

    with engine.connect() as conn:
        assert conn.info == {"source": "vault"}


def test_every_session_knows_what_was_learnt_from_the_first(lab: Lab) -> None:
    """The primary's and the replicas' first sessions are opened at the same time."""
    with psycopg.connect(f"{lab.primary.conninfo} dbname=app", autocommit=True) as admin:
        admin.execute("create extension hstore")
        try:
            for _ in range(15):
                engine = sa.create_engine(url(lab), use_native_hstore=True)
                with engine.connect() as conn:
                    value = conn.scalar(sa.select(sa.cast({"a": "b"}, HSTORE)))
                engine.dispose()
                assert value == {"a": "b"}
        finally:
            admin.execute("drop extension hstore")


def test_a_handlers_mistake_is_told_at_once(engine: Any) -> None:
    @event.listens_for(engine, "connect")
    def fail(conn: Any, record: Any) -> None:
        conn.execute("select nothing_such()")

    started = time.monotonic()
    with pytest.raises(sa.exc.ProgrammingError, match="nothing_such"):
        engine.connect()
    assert time.monotonic() - started < 10  # pool_timeout is 30 s


def test_an_engines_mistake_is_told_at_once(lab: Lab) -> None:
    engine = sa.create_engine(url(lab), isolation_level="FOO")
    try:
        with pytest.raises(sa.exc.ArgumentError, match="FOO"):
            engine.connect()
    finally:
        engine.dispose()


async def test_so_it_is_with_asyncio(lab: Lab) -> None:
    engine = sa_asyncio.create_async_engine(url(lab), pool_size=1, max_overflow=0)
    failing = False

    @event.listens_for(engine.sync_engine, "connect")
    def fail(conn: Any, record: Any) -> None:
        if failing:
            raise LookupError

    try:
        async with engine.connect() as conn:
            await conn.execute(LEFT)
            pid = await conn.scalar(PID)
            await conn.commit()
            await conn.invalidate()
        async with engine.connect() as conn:
            assert await conn.scalar(PID) != pid
            assert (await conn.execute(FOUND)).one()[1] == 0
            failing = True
            await conn.invalidate()
        async with asyncio.timeout(10):
            with pytest.raises(LookupError):
                await engine.connect().start()
    finally:
        failing = False
        await engine.dispose()


def forget(held: list[Any]) -> None:
    held.clear()
    gc.collect()


async def test_what_a_task_forgot_takes_no_place(lab: Lab) -> None:
    """Collected with its connection, which can't be given back there."""
    engine = sa_asyncio.create_async_engine(url(lab), pool_size=1, max_overflow=0)
    try:
        held = [await engine.connect()]
        pid = await held[0].scalar(PID)
        with pytest.warns(sa.exc.SAWarning, match="garbage collector"):
            forget(held)
        async with asyncio.timeout(10), engine.connect() as conn:
            assert await conn.scalar(PID) != pid
    finally:
        await engine.dispose()
