"""Connections, cursors and views in the hands of other people's code."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any, ClassVar

import psycopg
import psycopg_pool
import pytest

from resilient import postgres
from resilient.lab import Lab
from resilient.postgres import AsyncConnectionPool, ConnectionPool
from resilient.postgres.session.cursor import MOST_CLASSES

from .conftest import settings_of

pytestmark = pytest.mark.lab

KILL = "select pg_terminate_backend(pg_backend_pid())"
#: its COMMIT takes a while
SLOW_COMMIT = """
create table slowly (n int);
create or replace function linger() returns trigger language plpgsql as
  $$ begin perform pg_sleep(1); return null; end $$;
create constraint trigger lingering after insert on slowly
  deferrable initially deferred for each row execute function linger();
"""
SIZE = 2


def writer(lab: Lab) -> str:
    return f"{lab.dsn} target_session_attrs=read-write"


# -- close() gives back: psycopg's recipe for SQLAlchemy


def test_a_connection_that_was_killed_comes_back(lab: Lab) -> None:
    with ConnectionPool(
        lab.dsn, settings=settings_of(lab), min_size=SIZE, max_size=SIZE, close_returns=True
    ) as pool:
        for _ in range(2 * SIZE):
            conn = pool.getconn(5)
            with pytest.raises(psycopg.OperationalError):
                conn.execute(KILL)
            conn.close()
            conn.close()  # once more changes nothing
        first, second = pool.getconn(5), pool.getconn(5)
        assert pool.get_stats()["pool_size"] <= SIZE + 2  # a replica each
        assert pool._nconns == SIZE
        first.close()
        second.close()


async def test_an_asyncio_connection_that_was_killed_comes_back(lab: Lab) -> None:
    async with AsyncConnectionPool(
        lab.dsn, settings=settings_of(lab), min_size=SIZE, max_size=SIZE, close_returns=True
    ) as pool:
        for _ in range(2 * SIZE):
            conn = await pool.getconn(5)
            with pytest.raises(psycopg.OperationalError):
                await conn.execute(KILL)
            await conn.close()
            await conn.close()
        first, second = await pool.getconn(5), await pool.getconn(5)
        assert pool._nconns == SIZE
        await first.close()
        await second.close()


@pytest.mark.parametrize("kind", [AsyncConnectionPool, psycopg_pool.AsyncConnectionPool])
async def test_requests_that_are_cancelled_in_their_commit_cost_no_connection(
    lab: Lab, kind: Any
) -> None:
    with psycopg.connect(writer(lab), autocommit=True) as conn:
        conn.execute(SLOW_COMMIT)
    try:
        await _cancel_commits(lab, kind)
    finally:
        with psycopg.connect(writer(lab), autocommit=True) as conn:
            conn.execute("drop table slowly")


async def _cancel_commits(lab: Lab, kind: Any) -> None:
    ours = {"settings": settings_of(lab)} if kind is AsyncConnectionPool else {}

    async def request() -> None:
        conn = await pool.getconn(5)
        try:
            await conn.execute("insert into slowly values (1)")
            await conn.commit()
        finally:
            await conn.close()

    async with kind(writer(lab), min_size=SIZE, max_size=SIZE, close_returns=True, **ours) as pool:
        for _ in range(2 * SIZE):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(request(), 0.1)
        first, second = await pool.getconn(5), await pool.getconn(5)
        await first.close()
        await second.close()


def test_a_connection_that_ended_broken_is_reset_and_replaced_by_a_worker(lab: Lab) -> None:
    """With `reset=` it is a worker that takes it back."""
    with ConnectionPool(
        lab.dsn,
        settings=settings_of(lab),
        min_size=1,
        max_size=1,
        close_returns=True,
        reset=lambda conn: None,
    ) as pool:
        for _ in range(2):
            conn = pool.getconn(5)
            with pytest.raises(psycopg.OperationalError):
                conn.execute(KILL)
            conn.close()
        pool.getconn(5).close()


# -- cursor classes of others


def counting(base: Any) -> Any:
    """A cursor class that overrides whatever psycopg documents, as an instrumentation's does."""
    calls: list[str] = []

    class Cursor(base):
        announced: ClassVar[list[str]] = []

        def __init_subclass__(cls, *, name: str) -> None:  # as registries have it
            Cursor.announced.append(name)

        def execute(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("execute")
            return super().execute(*args, **kwargs)

        def executemany(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("executemany")
            return super().executemany(*args, **kwargs)

        def copy(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("copy")
            return super().copy(*args, **kwargs)

        def stream(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("stream")
            return super().stream(*args, **kwargs)

        def fetchone(self) -> Any:
            calls.append("fetchone")
            return super().fetchone()

        def fetchmany(self, size: int = 0) -> Any:
            calls.append("fetchmany")
            return super().fetchmany(size)

        def fetchall(self) -> Any:
            calls.append("fetchall")
            return super().fetchall()

        def nextset(self) -> Any:
            calls.append("nextset")
            return super().nextset()

        def close(self) -> Any:
            calls.append("close")
            return super().close()

    Cursor.calls = calls
    return Cursor


def used(pool: Any, kind: Any) -> list[Any]:
    """What such a class sees, and what its cursor says of itself, of one pool's connection."""
    seen: list[Any] = []
    with pool.connection() as conn:
        conn.cursor_factory = kind
        notices: list[str] = []
        conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        with conn.cursor() as cur:
            cur.execute("create temp table there (n int)")
            cur.executemany("insert into there values (%s)", [(1,), (2,)])
            with cur.copy("copy there from stdin") as copy:
                copy.write_row((3,))
            seen.append(list(cur.stream("select n from there order by n")))
            cur.execute("select 1; select 2")
            seen += [cur.fetchone(), cur.nextset(), cur.fetchall(), cur.fetchmany(1)]
            seen.append([isinstance(cur, kind), type(cur).__name__, type(cur).__module__])
            cur.row_factory = psycopg.rows.dict_row
            cur.execute("do $$ begin raise notice 'heard'; end $$")
            seen.append(cur.execute("select 1 as n").fetchone())
        conn.cursor_factory = psycopg.Cursor
        seen += [notices, kind.announced, *kind.calls]
        conn.rollback()
    return seen


@pytest.mark.parametrize("base", [psycopg.Cursor, psycopg.ClientCursor])
def test_a_cursor_class_is_called_as_without_us(lab: Lab, base: Any) -> None:
    sides = []
    for kind, options in (
        (psycopg_pool.ConnectionPool, {}),
        (ConnectionPool, {"settings": settings_of(lab)}),
    ):
        cursors = counting(base)
        with kind(writer(lab), min_size=1, max_size=1, **options) as pool:
            sides.append(used(pool, cursors))
    assert sides[0] == sides[1]
    assert "executemany" in sides[1]


async def test_an_asyncio_cursor_class_is_called_as_without_us(lab: Lab) -> None:
    calls = []

    class Cursor(psycopg.AsyncCursor[Any]):
        async def executemany(self, *args: Any, **kwargs: Any) -> None:
            calls.append("executemany")
            await super().executemany(*args, **kwargs)

    async with (
        AsyncConnectionPool(
            lab.dsn, settings=settings_of(lab), min_size=1, kwargs={"cursor_factory": Cursor}
        ) as pool,
        pool.connection() as conn,
        conn.cursor() as cur,
    ):
        await cur.execute("create temp table there (n int)")
        await cur.executemany("insert into there values (%s)", [(1,), (2,)])
        await cur.execute("select count(*) from there")
        assert await cur.fetchone() == (2,)
        assert isinstance(cur, Cursor)
        await conn.rollback()
    assert calls == ["executemany"]


def test_what_such_a_class_executes_survives_its_server(lab: Lab) -> None:
    kind = counting(psycopg.Cursor)
    with ConnectionPool(
        lab.dsn, settings=settings_of(lab), min_size=1, kwargs={"cursor_factory": kind}
    ) as pool:
        pool.wait(10)
        with pool.connection() as conn:
            conn.execute("create table if not exists kept (n int)")
        with pool.connection() as conn, conn.cursor() as cur:
            cur.executemany("insert into kept values (%s)", [(1,), (2,)])
            lab.inject("crash", promote_after_s=0.1).wait_struck()
            cur.executemany("insert into kept values (%s)", [(3,)])
        with pool.connection() as conn:
            assert conn.execute("select array_agg(n order by n) from kept").fetchone() == (
                [1, 2, 3],
            )
            conn.execute("drop table kept")


def test_a_class_that_is_made_for_each_connection_goes_with_it(lab: Lab) -> None:
    made: list[Any] = []

    def configure(conn: Any) -> None:  # as OpenTelemetry's instrumentation does
        kind = counting(psycopg.Cursor)
        made.append(weakref.ref(kind))
        conn.cursor_factory = kind

    with ConnectionPool(
        lab.dsn, settings=settings_of(lab), min_size=1, configure=configure
    ) as pool:
        for _ in range(12):  # a class for each cursor even
            with pool.connection() as conn:
                conn.execute("select 1")
                configure(conn)
                conn.execute("select 1")
        gc.collect()
        assert sum(kind() is not None for kind in made) <= MOST_CLASSES + 4
    del conn
    gc.collect()
    assert [kind for kind in made if kind() is not None] == []


def test_a_connection_class_that_is_made_for_each_pool_goes_with_it(lab: Lab) -> None:
    kind = type("Mine", (psycopg.Connection,), {})
    gone = weakref.ref(kind)
    with ConnectionPool(
        lab.dsn, settings=settings_of(lab), min_size=1, connection_class=kind
    ) as pool:
        with pool.connection() as conn:
            assert isinstance(conn, kind)
        again = ConnectionPool(lab.dsn, connection_class=kind, open=False)
        assert again.connection_class is pool.connection_class
    del kind, conn, pool, again
    gc.collect()
    assert gone() is None


def test_opentelemetrys_own_instrumentation_sees_every_statement(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.psycopg")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    for owner in (psycopg.Connection, psycopg.AsyncConnection):
        # What it leaves there when it goes is bound to the class, whatever calls it.
        monkeypatch.setattr(owner, "connect", vars(owner)["connect"])
    instrumentor = instrumentation.PsycopgInstrumentor()
    instrumentor.instrument(tracer_provider=provider, skip_dep_check=True)
    counts = []
    try:
        for kind, options in (
            (psycopg_pool.ConnectionPool, {}),
            (ConnectionPool, {"settings": settings_of(lab)}),
        ):
            with kind(writer(lab), min_size=1, **options) as pool, pool.connection() as conn:
                spans.clear()
                conn.execute("create temp table there (n int)")
                with conn.cursor() as cur:
                    cur.executemany("insert into there values (%s)", [(1,), (2,)])
                conn.rollback()
                counts.append([span.name for span in spans.get_finished_spans()])
    finally:
        instrumentor.uninstrument()
        provider.shutdown()
    assert counts[0] == counts[1] == ["create", "insert"]
    # Now connections come that are of no class of ours; reading works with them all the same.
    with ConnectionPool(lab.dsn, settings=settings_of(lab), min_size=1) as pool:
        _reads(pool.reader)


# -- a reader is a pool


NAMES = ("ConnectionPool", "NullConnectionPool")


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_is_a_pool_of_the_class(lab: Lab, name: str) -> None:
    kind: Any = getattr(postgres, name)
    sizes = {"min_size": 1} if name == "ConnectionPool" else {"max_size": 2}
    with kind(lab.dsn, settings=settings_of(lab), **sizes) as pool:
        with pool.reader as reader:
            assert isinstance(reader, kind)
            assert isinstance(reader, getattr(psycopg_pool, name))
            reader.wait(10)
            _reads(reader)
            conn = reader.getconn()
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                conn.execute("create table never (n int)")
            reader.putconn(conn)
            with pytest.raises(ValueError, match="reader"):
                reader.getconn(read_only=False)
            assert reader.name == pool.name
            assert reader.get_stats()["pool_max"] == pool.max_size == reader.max_size
            reader.check()
            reader.drain()
            _reads(reader.reader)
        assert reader.closed
        with pytest.raises(psycopg_pool.PoolClosed):
            reader.getconn()
        with pool.connection() as conn:  # its pool goes on
            assert conn.execute("show transaction_read_only").fetchone() == ("off",)
        del reader
        gc.collect()
        _reads(pool.reader)


def _reads(reader: Any) -> None:
    with reader.connection() as conn:
        assert conn.execute("show transaction_read_only").fetchone() == ("on",)
    row = reader.run(lambda conn: conn.execute("show transaction_read_only").fetchone())
    assert row == ("on",)


@pytest.mark.parametrize("name", NAMES)
async def test_an_asyncio_reader_is_a_pool_of_the_class(lab: Lab, name: str) -> None:
    kind: Any = getattr(postgres, f"Async{name}")
    sizes = {"min_size": 1} if name == "ConnectionPool" else {"max_size": 2}
    async with kind(lab.dsn, settings=settings_of(lab), **sizes) as pool:
        async with pool.reader as reader:
            assert isinstance(reader, kind)
            assert isinstance(reader, getattr(psycopg_pool, f"Async{name}"))
            await reader.wait(10)
            async with reader.connection() as conn:
                cur = await conn.execute("show transaction_read_only")
                assert await cur.fetchone() == ("on",)
            await reader.check()
            await reader.drain()
        assert reader.closed
        with pytest.raises(psycopg_pool.PoolClosed):
            await reader.getconn()
        async with pool.connection() as conn:
            cur = await conn.execute("show transaction_read_only")
            assert await cur.fetchone() == ("off",)


def test_a_reader_that_opened_its_pool_closes_it(lab: Lab) -> None:
    pool = ConnectionPool(lab.dsn, settings=settings_of(lab), min_size=1, open=False)
    with pool.reader as reader:
        _reads(reader)
        assert not pool.closed
    assert pool.closed
    with pytest.raises(psycopg_pool.PoolClosed):
        pool.reader.open()


def test_a_reader_that_finds_nobody_ends_alone(lab: Lab) -> None:
    with ConnectionPool(
        "host=127.0.0.1 port=1 user=app", settings=settings_of(lab), min_size=1
    ) as pool:
        reader = pool.reader
        with pytest.raises(psycopg_pool.PoolTimeout):
            reader.wait(0.2)
        assert reader.closed
        assert not pool.closed


def test_a_reader_of_a_users_pool_class(lab: Lab) -> None:
    class Mine(ConnectionPool[Any]):
        def mine(self) -> str:
            return self.name

    with Mine(lab.dsn, settings=settings_of(lab), min_size=1, name="m") as pool:
        assert pool.reader.mine() == "m"
        _reads(pool.reader)


# -- client-side cursors: what Django has


@pytest.mark.parametrize("kind", [psycopg_pool.ConnectionPool, ConnectionPool])
def test_a_transaction_of_a_client_cursor_takes_no_more_round_trips(
    lab: Lab, kind: Any, tmp_path: Any
) -> None:
    ours = {"settings": settings_of(lab)} if kind is ConnectionPool else {}
    kwargs = {"cursor_factory": psycopg.ClientCursor}
    with kind(writer(lab), min_size=1, kwargs=kwargs, **ours) as pool:
        with pool.connection() as conn:
            conn.execute("create table if not exists trips (n int)")
        with pool.connection() as conn, (tmp_path / "trace").open("w") as trace:
            conn.execute("insert into trips values (%s)", (0,))
            conn.commit()
            conn.pgconn.trace(trace.fileno())
            conn.execute("insert into trips values (%s)", (1,))
            conn.commit()
            conn.pgconn.untrace()
            several = conn.execute("select 1; select %s", (2,))
            assert several.fetchone() == (1,)
            assert several.nextset()
            assert several.fetchone() == (2,)
            assert conn.execute("select ';'").fetchone() == (";",)
            with pytest.raises(psycopg.errors.SyntaxError):
                conn.execute("select from where")
            conn.rollback()
            assert conn.execute("select sum(n) from trips").fetchone() == (1,)
        with pool.connection() as conn:
            conn.execute("drop table trips")
    sent = [line.split("\t") for line in (tmp_path / "trace").read_text().splitlines()]
    trips = [line for line in sent if line[1:2] == ["F"] and line[3] in ("Query", "Sync")]
    assert len(trips) <= 3  # BEGIN, INSERT, COMMIT
