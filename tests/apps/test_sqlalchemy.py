"""SQLAlchemy itself, over our pools, while a primary dies."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="no SQLAlchemy")

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.ext import asyncio as sa_asyncio
from sqlalchemy.pool import NullPool, QueuePool

from resilient import errors, sqlalchemy
from resilient.lab import Lab

from ..postgres.conftest import settings_of

pytestmark = pytest.mark.lab

WHERE = sa.text("select host(inet_server_addr())")
SERVER_READS = sa.text("show transaction_read_only")


class Base(orm.MappedAsDataclass, orm.DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "sa_orders"
    key: orm.Mapped[uuid.UUID] = orm.mapped_column(primary_key=True)
    item: orm.Mapped[str]


def url(lab: Lab) -> sa.URL:
    """The lab's as a URL: each member is a host."""
    hosts = tuple(f"{member.address}:{lab.port}" for member in lab.members)
    return sa.URL.create("postgresql+resilient", "app", database="app", query={"host": hosts})


@pytest.fixture
def engine(lab: Lab) -> Iterator[Any]:
    made = sqlalchemy.create_engine(url(lab), settings=settings_of(lab), pool_pre_ping=True)
    Base.metadata.create_all(made)
    yield made
    Base.metadata.drop_all(made)
    made.dispose()


def items(engine: Any) -> list[str]:
    with engine.connect() as conn:
        return sorted(conn.scalars(sa.select(Order.item)))


def test_a_unit_of_work_goes_on_through_a_crash(lab: Lab, engine: Any) -> None:
    sessions = orm.sessionmaker(engine)
    with sessions() as session, session.begin():
        session.add(Order(uuid.uuid4(), "book"))
        session.flush()
        lab.inject("crash", promote_after_s=0.2).wait_struck()
        session.add(Order(uuid.uuid4(), "pen"))
        session.flush()
        assert session.scalar(sa.select(sa.func.count()).select_from(Order)) == 2
    assert items(engine) == ["book", "pen"]


def test_run_takes_the_function_again(lab: Lab, engine: Any) -> None:
    sessions = orm.sessionmaker(engine)
    count = []

    def work(session: Any, item: str) -> str:
        count.append(item)
        session.add(Order(uuid.uuid4(), item))
        session.flush()
        if len(count) == 1:
            raise_serialization(session)
        return item

    assert sqlalchemy.run(sessions, work, "ink") == "ink"
    assert count == ["ink", "ink"]
    assert items(engine) == ["ink"]
    with pytest.raises(sa.exc.IntegrityError):
        sqlalchemy.run(engine, lambda conn: conn.execute(DUPLICATE))
    assert sqlalchemy.run(engine, lambda conn: conn.scalar(sa.text("select 7"))) == 7


DUPLICATE = sa.text(
    "insert into sa_orders values ('00000000-0000-4000-8000-000000000001', 'a'),"
    " ('00000000-0000-4000-8000-000000000001', 'b')"
)


def raise_serialization(session: Any) -> None:
    session.execute(sa.text("do $$ begin raise sqlstate '40001'; end $$"))


def test_reads_go_to_replicas(lab: Lab, engine: Any) -> None:
    reading = engine.execution_options(read_only=True)
    with engine.connect() as conn:
        writer = conn.scalar(WHERE)
    places = set()
    for _ in range(4):
        with reading.connect() as conn:
            assert conn.scalar(SERVER_READS) == "on"
            places.add(conn.scalar(WHERE))
    assert writer not in places
    with engine.connect().execution_options(read_only=True) as conn:
        assert conn.scalar(SERVER_READS) == "on"
        assert conn.scalar(WHERE) != writer
    with orm.Session(reading) as session:
        assert session.scalar(SERVER_READS) == "on"
    with engine.connect() as conn:
        assert conn.scalar(SERVER_READS) == "off"
    with engine.begin() as conn, pytest.raises(sa.exc.InvalidRequestError):
        conn.execution_options(read_only=True)


def test_errors_are_ours_and_sqlalchemys(lab: Lab) -> None:
    dead = sqlalchemy.create_engine(
        "postgresql+psycopg://app@127.0.0.1:1/app", settings=settings_of(lab), pool_timeout=0.2
    )
    try:
        with pytest.raises(sa.exc.OperationalError) as caught:
            dead.connect()
    finally:
        dead.dispose()
    assert isinstance(caught.value, errors.NoEndpointAvailable)
    assert "127.0.0.1:1" in caught.value.reasons


def test_a_new_session_is_greeted_once(lab: Lab) -> None:
    """Handlers, notices and JSON: per session, and again in the one that replaces it."""
    engine = sqlalchemy.create_engine(
        url(lab),
        settings=settings_of(lab),
        pool_size=1,
        max_overflow=0,
        json_serializer=lambda value: json.dumps({"wrapped": value}),
    )
    greeted = []

    @event.listens_for(engine, "connect")
    def greet(dbapi_connection: Any, record: Any) -> None:
        greeted.append(dbapi_connection)
        with dbapi_connection.cursor() as cursor:
            cursor.execute("set search_path to pg_catalog")

    cast = sa.select(sa.cast({"a": 1}, sa.JSON))
    try:
        for _ in range(5):
            with engine.connect() as conn:
                assert conn.scalar(sa.text("show search_path")) == "pg_catalog"
                assert conn.scalar(cast) == {"wrapped": {"a": 1}}
                driver = conn.connection.driver_connection
                assert len(driver._notice_handlers) == 1
        assert len(greeted) <= 3  # one, and the replicas'
        with engine.begin() as conn:
            conn.execute(sa.text("select 1"))
            lab.inject("crash", promote_after_s=0.1).wait_struck()
            assert conn.scalar(sa.text("show search_path")) == "pg_catalog"
            assert conn.scalar(cast) == {"wrapped": {"a": 1}}
    finally:
        engine.dispose()


@pytest.mark.parametrize("kind", [NullPool, QueuePool])
def test_whatever_pool_is_asked_for_it_is_ours(lab: Lab, kind: Any) -> None:
    engine = sa.create_engine(url(lab), poolclass=kind)
    assert isinstance(engine.pool, sqlalchemy.Pool)
    try:
        with engine.begin() as conn:
            conn.execute(sa.text("create temp table t (n int)"))
            assert engine.pool.checkedout() == 1
        assert engine.pool.checkedout() == 0
        with engine.connect() as conn, pytest.raises(sa.exc.OperationalError):
            conn.execute(sa.text("select pg_terminate_backend(pg_backend_pid())"))
        with engine.connect() as conn:
            assert conn.scalar(sa.text("select 1")) == 1
    finally:
        engine.dispose()


def test_tokens_are_fetched_for_each_dial(lab: Lab) -> None:
    engine = sa.create_engine(url(lab).set(username="nobody"))
    asked = []

    @event.listens_for(engine, "do_connect")
    def provide(dialect: Any, record: Any, cargs: Any, cparams: Any) -> None:
        asked.append(1)
        cparams["user"] = "app"

    try:
        with engine.connect() as conn:
            assert conn.scalar(sa.text("select current_user")) == "app"
    finally:
        engine.dispose()
    assert asked


def test_the_dialect_is_found_by_its_name(lab: Lab) -> None:
    pyproject = Path(sqlalchemy.__file__).parents[2] / "pyproject.toml"
    assert '"postgresql.resilient" = "resilient.sqlalchemy:Dialect"' in pyproject.read_text()
    assert sa.make_url("postgresql+resilient://").get_dialect() is sqlalchemy.Dialect


async def test_asyncio_goes_on_through_a_crash(lab: Lab, engine: Any) -> None:
    made = sqlalchemy.create_async_engine(url(lab), settings=settings_of(lab))
    sessions = sa_asyncio.async_sessionmaker(made)

    async def work(session: Any) -> None:
        session.add(Order(uuid.uuid4(), "again"))
        await session.flush()

    try:
        async with sessions() as session, session.begin():
            session.add(Order(uuid.uuid4(), "book"))
            await session.flush()
            lab.inject("crash", promote_after_s=0.2).wait_struck()
            session.add(Order(uuid.uuid4(), "pen"))
        await sqlalchemy.run(sessions, work)
        reading = made.execution_options(read_only=True)
        async with reading.connect() as conn:
            assert await conn.scalar(SERVER_READS) == "on"
    finally:
        await made.dispose()
    assert await asyncio.to_thread(items, engine) == ["again", "book", "pen"]


async def test_cancelled_tasks_use_no_place_up(lab: Lab) -> None:
    made = sqlalchemy.create_async_engine(
        url(lab), settings=settings_of(lab), pool_size=1, max_overflow=1
    )

    async def request() -> None:
        async with made.begin() as conn:
            await conn.execute(sa.text("select pg_sleep(5)"))

    try:
        for _ in range(4):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await request()
        async with made.connect() as conn:
            assert await conn.scalar(sa.text("select 1")) == 1
            other = made.connect()
            await other.start()
            await other.close()
        give_up_at = time.monotonic() + 5
        while made.pool.checkedout() and time.monotonic() < give_up_at:
            await asyncio.sleep(0.01)  # those that ended are being replaced
        assert made.pool.checkedout() == 0
    finally:
        await made.dispose()
    gc.collect()


ENVIRONMENT = """
from alembic import context
with context.config.attributes["engine"].connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
MIGRATION = """
from alembic import context, op
import sqlalchemy as sa

revision, down_revision = "1", None

def upgrade():
    op.add_column("sa_orders", sa.Column("note", sa.Text))
    context.config.attributes["crash"]()
    op.execute("update sa_orders set note = ''")
    with op.get_context().autocommit_block():
        op.execute("create index concurrently noted on sa_orders (note)")
    op.execute("comment on column sa_orders.note is 'noted'")
"""


def test_alembic_migrates_through_a_crash(lab: Lab, engine: Any, tmp_path: Path) -> None:
    pytest.importorskip("alembic", reason="no Alembic")
    from alembic import command
    from alembic.config import Config

    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENVIRONMENT)
    (tmp_path / "versions" / "1.py").write_text(MIGRATION)
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("path_separator", "os")
    config.attributes["engine"] = engine
    config.attributes["crash"] = lambda: lab.inject("crash", promote_after_s=0.1).wait_struck()
    command.upgrade(config, "head")
    with engine.begin() as conn:
        assert conn.scalar(sa.text("select version_num from alembic_version")) == "1"
        columns = {column["name"]: column for column in sa.inspect(conn).get_columns("sa_orders")}
        assert columns["note"]["comment"] == "noted"
        assert [index["name"] for index in sa.inspect(conn).get_indexes("sa_orders")] == ["noted"]
        conn.execute(sa.text("drop table alembic_version"))
