"""A pool's life: threads, forks, closing, configuration, statistics."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any

import psycopg
import psycopg_pool
import pytest

from resilient.errors import ConfigError, NoEndpointAvailable
from resilient.lab import Lab
from resilient.postgres import AsyncConnectionPool, ConnectionPool, NullConnectionPool
from resilient.settings import Settings

from .conftest import Face, settings_of

pytestmark = pytest.mark.lab


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def _sockets() -> int:
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        except OSError:
            continue
    return count


def _backends(lab: Lab) -> int:
    rows = [
        lab.admin(member.zone, "select count(*) from pg_stat_activity where usename = 'app'")
        for member in lab.members
    ]
    return sum(int(str(row[0][0])) for row in rows)


async def test_closing_leaves_nothing(lab: Lab, orders: str, any_face: Face) -> None:
    sockets, threads = _sockets(), set(_threads())
    await any_face.open(lab.dsn, settings_of(lab))
    await any_face.where()
    await asyncio.sleep(0.5)
    assert _backends(lab) > 0
    await any_face.close()
    if any_face.is_async:
        tasks = [task.get_name() for task in asyncio.all_tasks() if task.get_name() != ""]
        assert not [name for name in tasks if "pool" in name]
    deadline = time.monotonic() + 5
    while _backends(lab) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert _backends(lab) == 0
    assert [name for name in _threads() if name not in threads and "asyncio" not in name] == []
    assert _sockets() <= sockets


def test_what_was_started_while_dialling_keeps_no_session(lab: Lab, orders: str) -> None:
    """A timer or a task has the context that it was made in."""
    contexts: list[Context] = []

    def configure(conn: Any) -> None:
        contexts.append(copy_context())

    settings = settings_of(lab, standby_min_size=0)
    pool = ConnectionPool(lab.dsn, settings=settings, min_size=1, configure=configure, open=True)
    pool.wait()
    assert contexts
    del pool
    gc.collect()
    _until(lambda: _backends(lab) == 0)


async def test_who_closes_a_connection_that_is_asked_something_harms_nobody(
    lab: Lab, orders: str
) -> None:
    """`configure` has given it away.  psycopg's generators would read from memory that is gone:
    when the number of its socket is somebody else's, this process would crash."""
    kept: list[Any] = []

    async def configure(conn: Any) -> None:
        if not kept:
            kept.append(conn)
            os.kill(conn.info.backend_pid, signal.SIGSTOP)

    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    pool = AsyncConnectionPool(
        dsn, settings=settings_of(lab), min_size=1, configure=configure, open=False
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        await pool.open()
        while not kept or kept[0].pgconn.transaction_status != psycopg.pq.TransactionStatus.ACTIVE:
            await asyncio.sleep(0.01)
        pid, number = kept[0].info.backend_pid, kept[0].pgconn.socket
        try:
            kept[0].pgconn.finish()
            used_again = [os.urandom(1200) for _ in range(4000)]
            os.dup2(ours.fileno(), number)
            theirs.send(b"x")
            await pool.wait(10)
            async with pool.connection() as conn:
                assert await (await conn.execute("select 1")).fetchone() == (1,)
            assert used_again
        finally:
            os.kill(pid, signal.SIGCONT)
            await pool.close()
            os.close(number)


def test_one_thread_of_our_own_for_many_pools(lab: Lab, orders: str) -> None:
    settings = settings_of(lab)
    pools = [ConnectionPool(lab.dsn, settings=settings, min_size=1, open=True) for _ in range(5)]
    try:
        for pool in pools:
            pool.wait()
        _until(lambda: all(len(pool._core.replicas) == 2 for pool in pools))
        names = _threads()
        assert names.count("resilient-monitor") == 1
        for pool in pools:
            own = [name for name in names if name.startswith(f"{pool.name}-")]
            # psycopg_pool's four, and two for each of the two replicas.
            assert len(own) <= 4 + 2 * 2
    finally:
        for pool in pools:
            pool.close()
    assert "resilient-monitor" not in _threads()


def test_a_dropped_pool_ends_its_monitor(lab: Lab, orders: str) -> None:
    pool = ConnectionPool(lab.dsn, settings=settings_of(lab), min_size=1, open=True)
    pool.wait()
    del pool
    gc.collect()
    _until(lambda: "resilient-monitor" not in _threads())
    _until(lambda: not [name for name in _threads() if name.startswith("pool-")])


def test_a_forked_child_gets_connections_of_its_own(lab: Lab, orders: str) -> None:
    """FAULTS 33."""
    with ConnectionPool(lab.dsn, settings=settings_of(lab), min_size=2) as pool:
        pool.wait()
        with pool.connection() as held:
            mine = held.info.backend_pid
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                _in_child(pool, mine, write)
            os.close(write)
            assert os.waitpid(child, 0)[1] == 0
            with os.fdopen(read) as pipe:
                assert pipe.read() == "ok"
            assert held.execute("select 42").fetchone() == (42,)
        with pool.connection() as conn:
            assert conn.execute("select 43").fetchone() == (43,)


def _in_child(pool: Any, parents: int, write: int) -> None:
    status = 1
    try:
        with pool.connection() as conn:
            row = conn.execute("select pg_backend_pid()").fetchone()
            assert row[0] != parents
        pool.close()
        os.write(write, b"ok")
        status = 0
    finally:
        os._exit(status)


def test_the_environment_names_the_database(
    lab: Lab, orders: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in lab.env().items():
        monkeypatch.setenv(key, value)
    with ConnectionPool(min_size=1) as pool, pool.connection() as conn:
        row = conn.execute("select host(inet_server_addr())").fetchone()
        assert row == (lab.primary.address,)
    monkeypatch.delenv("RESILIENT_DATABASE_URL")
    monkeypatch.setenv("DATABASE_URL", lab.dsn)
    with NullConnectionPool(max_size=1) as pool, pool.connection() as conn:
        assert conn.execute("select 1").fetchone() == (1,)


def test_readers_of_their_own_name(lab: Lab, orders: str) -> None:
    """One name for writing, another for reading, as managed databases have them."""
    settings = settings_of(lab, zone=None, database_readers=lab.READER)
    with ConnectionPool(lab.writer_dsn, settings=settings, min_size=1) as pool:
        pool.wait()
        _until(lambda: len(pool._core.replicas) == 1)
        with pool.reader.connection() as conn:
            row = conn.execute("select host(inet_server_addr())").fetchone()
        assert row == (lab.standbys[0].address,)


@pytest.mark.parametrize(
    ("conninfo", "values", "words"),
    [
        ("host=a,b,c port=1,2", {}, "host"),
        ("host=a port=99999", {}, "port"),
        ("host=a", {"database_readers": "b:x"}, "RESILIENT_DATABASE_READERS"),
    ],
)
def test_bad_configuration_is_told_at_the_start(
    conninfo: str, values: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        ConnectionPool(conninfo, settings=Settings(**values), open=True)
    assert not [name for name in _threads() if name.startswith("pool-")]


def test_a_name_that_does_not_exist_is_named_in_the_error(lab: Lab, orders: str) -> None:
    dsn = f"host=nowhere.db.test port={lab.port} user=app dbname=app"
    with (
        ConnectionPool(dsn, settings=settings_of(lab), min_size=1) as pool,
        pytest.raises(NoEndpointAvailable, match=r"nowhere\.db\.test"),
    ):
        pool.getconn(0.5)


async def test_a_wrong_password_is_no_outage(lab: Lab, orders: str, face: Face) -> None:
    dsn = f"{lab.dsn} dbname=no_such_database"
    await face.open(dsn, settings_of(lab))
    try:
        with pytest.raises(psycopg_pool.PoolTimeout, match="does not exist"):
            await face.where(timeout=0.5)
        assert {str(view.health) for view in face.pool.topology.endpoints} != {"dead"}
    finally:
        await face.close()


async def test_run_reruns_conflicts_and_leaves_the_rest_alone(
    lab: Lab, orders: str, face: Face
) -> None:
    await face.open(lab.dsn, settings_of(lab))
    calls: list[int] = []
    try:
        conflict = "do $$ begin raise sqlstate '40001'; end $$"

        if face.is_async:

            async def twice(conn: Any) -> int:
                calls.append(1)
                if len(calls) == 1:
                    await conn.execute(conflict)
                return len(calls)

            async def broken(conn: Any) -> None:
                calls.append(1)
                await conn.execute("select 1/0")

        else:

            def twice(conn: Any) -> int:  # type: ignore[misc]
                calls.append(1)
                if len(calls) == 1:
                    conn.execute(conflict)
                return len(calls)

            def broken(conn: Any) -> None:  # type: ignore[misc]
                calls.append(1)
                conn.execute("select 1/0")

        assert await face._call(face.pool.run, twice) == 2
        calls.clear()
        with pytest.raises(psycopg.errors.DivisionByZero):
            await face._call(face.pool.run, broken)
        assert len(calls) == 1
    finally:
        await face.close()


async def test_the_callers_numbers_stay_exact(lab: Lab, orders: str, face: Face) -> None:
    """Sizes as given; elsewhere sums with the replicas' pools; probes and checks nowhere."""
    await face.open(lab.dsn, settings_of(lab), min_size=2, max_size=3)
    try:
        await face.wait()
        for _ in range(5):
            await face.where()
        for _ in range(3):
            await face.where(reader=True)
        await asyncio.sleep(1.5)  # probes have come and gone
        stats = face.pool.get_stats()
        assert (stats["pool_min"], stats["pool_max"]) == (2, 3)
        assert stats["requests_num"] == 8
        # A replica that was read from has the connection that was lent, and its reserve.
        replicas = [len(each.pool._pool) for each in face.pool._core.replicas.values()]
        assert len(replicas) == 2
        assert {1, 2} >= set(replicas)
        assert stats["connections_num"] == 2 + sum(replicas)
        assert stats["pool_size"] == stats["pool_available"] == 2 + sum(replicas)
        assert stats == face.pool.pop_stats()
        assert "requests_num" not in face.pool.get_stats()
    finally:
        await face.close()


def test_the_four_classes_are_generic() -> None:
    class Mine(psycopg.AsyncConnection[dict[str, Any]]):
        pass

    assert issubclass(AsyncConnectionPool, psycopg_pool.AsyncConnectionPool)
    pool: AsyncConnectionPool[Mine] = AsyncConnectionPool(
        "host=a", connection_class=Mine, open=False, settings=Settings()
    )
    assert issubclass(pool.connection_class, Mine)


def _until(condition: Any, timeout_s: float = 8.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, _threads()
        time.sleep(0.02)


async def test_a_secret_that_cannot_be_had_is_not_asked_for_without_pause(
    lab: Lab, orders: str, face: Face
) -> None:
    """The conninfo is a function that fails once the pool is up: its refills are paced."""
    asked = 0
    broken = False

    def conninfo() -> str:
        nonlocal asked
        asked += 1
        if broken:
            raise RuntimeError("no secret")
        return lab.dsn

    await face.open(conninfo, settings_of(lab), min_size=1, max_size=1)
    try:
        await face.wait()
        (pid,) = await face.query("select pg_backend_pid()")
        asked, broken = 0, True
        lab.admin(None, f"select pg_terminate_backend({pid}, 5000)")  # waits for its end
        with pytest.raises(psycopg_pool.PoolTimeout):
            await face.query("select 1", timeout=0.5)
        assert 0 < asked < 50
        broken = False
        assert await face.query("select 1", timeout=10) == (1,)
    finally:
        await face.close()


async def test_a_null_pool_keeps_nobody_for_whom_nobody_waits_any_more(
    lab: Lab, orders: str
) -> None:
    """Its client gave up while a connection was on its way to it."""
    for kind in ("null-sync", "null-async"):
        face = await Face(kind).open(lab.dsn, settings_of(lab), max_size=1)
        try:
            conn = await face._call(face.pool.getconn)
            await face._call(face.pool._add_to_pool, conn)
            assert conn.closed
            assert not face.pool._pool
            assert await face.where() == lab.primary.address  # its place is free again
        finally:
            await face.close()


def test_a_loop_ends_although_a_worker_connects(lab: Lab, orders: str) -> None:
    """A pool that nobody closes: its workers are cancelled, and psycopg_pool's take that for the
    failure of what they do."""
    pools: list[AsyncConnectionPool[Any]] = []
    connects = threading.Event()

    async def slow(conn: psycopg.AsyncConnection[Any]) -> None:
        connects.set()
        await asyncio.sleep(60)

    async def main() -> None:
        pool = AsyncConnectionPool(
            lab.dsn, settings=settings_of(lab), min_size=1, open=False, configure=slow
        )
        pools.append(pool)
        await pool.open()
        assert await asyncio.to_thread(connects.wait, 10)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    thread.join(15)
    for pool in pools:
        pool._core.detach()
    assert not thread.is_alive()


@pytest.mark.parametrize("prepared", [True, False])
async def test_who_is_in_a_two_phase_transaction_serves_nobody(
    lab: Lab, orders: str, face: Face, prepared: bool
) -> None:
    """psycopg_pool hands such a connection on, and its next caller's COMMIT is refused."""
    await face.open(lab.dsn, settings_of(lab), min_size=1, max_size=1)

    async def call(fn: Any, *args: Any) -> Any:
        result = fn(*args)
        return await result if face.is_async else result

    try:
        await face.wait()
        conn = await call(face.pool.getconn)
        await call(conn.tpc_begin, "ours")
        await call(conn.execute, "select 1")
        if prepared:
            with suppress(psycopg.Error):  # the server prepares none
                await call(conn.tpc_prepare)
        await call(face.pool.putconn, conn)
        assert (await face.query("select 2"))[0] == 2
    finally:
        await face.close()
