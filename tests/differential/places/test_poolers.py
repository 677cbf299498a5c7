"""Behind a real PgBouncer: in its queue is not dead.

FAULTS 47.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from contextlib import contextmanager

import psycopg
import pytest

from resilient.core.model import Health
from resilient.lab import Lab
from resilient.postgres import Gap
from tests.postgres.conftest import Face

from .conftest import at, one_shell, opened, other_shell, settings_of, until
from .pooler import LOGIN_RETRY, Bouncer, bouncer
from .test_branches import branched

pytestmark = pytest.mark.lab

#: longer than the window and the pause before a suspicion together
BUSY_S = 4.0


def create(lab: Lab) -> None:
    with psycopg.connect(at(lab, lab.primary), autocommit=True) as conn:
        conn.execute("create sequence if not exists attempts")


async def watched(face: Face, seen: set[Health], done: asyncio.Event) -> None:
    while not done.is_set():
        seen |= {view.health for view in face.pool.topology.endpoints}
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("mode", ["transaction", "session"])
@one_shell
async def test_it_is_recognised_and_serves(lab: Lab, orders: str, face: Face, mode: str) -> None:
    # as psycopg's manual says of transaction pooling; names of our own are none of the caller's
    kwargs = {"prepare_threshold": None} if mode == "transaction" else {}
    with bouncer(lab, lab.primary, mode, 4) as pooler:
        async with opened(face, pooler.dsn, settings_of(lab, zone=None), kwargs=kwargs) as ours:
            assert await ours.insert(-1) == lab.primary.address
            await until(lambda: any(view.pooled for view in ours.pool.topology.endpoints))
            for _ in range(20):
                assert await ours.where() == lab.primary.address
            version = ours.pool.topology.version
            await asyncio.sleep(1.5)
            assert ours.pool.topology.version == version


@one_shell
async def test_it_is_recognised_where_its_server_tells_no_incarnation(
    lab: Lab, orders: str, face: Face
) -> None:
    functions = ("pg_control_system()", "pg_control_checkpoint()", "pg_postmaster_start_time()")
    with psycopg.connect(
        lab.primary.conninfo.replace("dbname=postgres", "dbname=app"), autocommit=True
    ) as admin:
        for name in functions:
            admin.execute(f"revoke execute on function pg_catalog.{name} from public")
        try:
            with bouncer(lab, lab.primary, "transaction", 2) as pooler:
                async with opened(face, pooler.dsn, settings_of(lab, zone=None)) as ours:
                    assert await ours.insert(-3) == lab.primary.address
                    await until(lambda: any(view.pooled for view in ours.pool.topology.endpoints))
        finally:
            for name in functions:
                admin.execute(f"grant execute on function pg_catalog.{name} to public")


@other_shell
async def test_saturated_it_lives_and_nothing_is_begun_twice(
    lab: Lab, orders: str, face: Face
) -> None:
    with bouncer(lab, lab.primary, "transaction", 2) as pooler:
        async with opened(face, pooler.dsn, settings_of(lab, zone=None), min_size=4) as ours:
            await ours.wait()
            await until(lambda: any(view.pooled for view in ours.pool.topology.endpoints))
            create(lab)
            before = (await ours.query("select nextval('attempts')"))[0]
            seen: set[Health] = set()
            done = asyncio.Event()
            watching = asyncio.create_task(watched(ours, seen, done))
            started = time.monotonic()
            busy = f"select nextval('attempts'), pg_sleep({BUSY_S})"
            await asyncio.gather(*(ours.query(busy, timeout=20.0) for _ in range(2)))
            took = time.monotonic() - started
            done.set()
            await watching
            after = (await ours.query("select nextval('attempts')"))[0]
            assert Health.DEAD not in seen
            assert took < BUSY_S + 1.0
            assert after == before + 3  # each was begun once


@one_shell
async def test_a_pooler_that_is_gone_is_found_out_and_comes_back(
    lab: Lab, orders: str, face: Face
) -> None:
    with bouncer(lab, lab.primary, "transaction", 2) as pooler:
        async with opened(face, pooler.dsn, settings_of(lab, zone=None)) as ours:
            assert await ours.insert(-1) == lab.primary.address
            pooler.stop()
            await until(lambda: ours.pool.topology.writer is None, 3.0)
            pooler.start()
            assert await ours.insert(-2, timeout=10.0) == lab.primary.address


def say_to(pooler: Bouncer, *commands: str) -> None:
    """On its console, with a while between them."""
    dsn = pooler.dsn.replace("dbname=app", "dbname=pgbouncer")
    with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor) as conn:
        for number, command in enumerate(commands):
            time.sleep(0.5 if number else 0)
            conn.execute(command.encode())


OPERATORS = [
    ["PAUSE", "RESUME"],
    ["SUSPEND", "RESUME"],
    ["KILL app", "RESUME app"],
    ["RECONNECT"],
    ["DISABLE app", "ENABLE app"],
]


@pytest.mark.parametrize("commands", OPERATORS, ids=lambda each: str(each[0]))
async def test_what_an_operator_does_there_is_no_failure(
    lab: Lab, orders: str, face: Face, commands: list[str]
) -> None:
    """A bare pool fails in some of these; here each write is there once, and none fails."""
    more = f"{LOGIN_RETRY}\nadmin_users = app"
    done: list[int] = []
    over = asyncio.Event()

    async def write(first: int, ours: Face) -> None:
        for number in itertools.count(first, 2):
            if over.is_set():
                return
            row = await ours.query(f"insert into orders values ({number}) returning id")
            done.append(row[0])

    with bouncer(lab, lab.primary, "transaction", 4, more) as pooler:
        kwargs = {"prepare_threshold": None}
        async with opened(face, pooler.dsn, settings_of(lab, zone=None), kwargs=kwargs) as ours:
            writers = [asyncio.create_task(write(1000 + n, ours)) for n in range(2)]
            await asyncio.sleep(0.3)
            before = len(done)
            await asyncio.to_thread(say_to, pooler, *commands)
            await asyncio.sleep(0.5)
            over.set()
            await asyncio.gather(*writers)
    assert len(done) > before > 0
    with psycopg.connect(at(lab, lab.primary)) as conn:
        rows = conn.execute("delete from orders where id >= 1000 returning id").fetchall()
    assert sorted(row[0] for row in rows) == sorted(done)


def pooled(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("event=pooler.recognised")]


@one_shell
async def test_a_read_in_autocommit_makes_nobody_elses_session_read_only(
    lab: Lab, orders: str, face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="resilient.monitor")
    with bouncer(lab, lab.primary, "transaction", 1) as pooler:
        settings = settings_of(lab, zone=None)
        kwargs = {"autocommit": True, "prepare_threshold": None}
        async with opened(face, pooler.dsn, settings, kwargs=kwargs) as ours:
            await ours.wait()
            with ours.pool.connection(read_only=True) as reading:
                reading.execute("select 1")
                with psycopg.connect(pooler.dsn, autocommit=True) as conn:
                    conn.execute("insert into orders values (-30)")
    assert len(pooled([record.getMessage() for record in caplog.records])) == 1


def deaf(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.getMessage().startswith("event=listen.pooled") for record in caplog.records)


@pytest.mark.parametrize("acknowledged", [False, True])
async def test_a_listener_is_told_that_a_pooler_is_in_between(
    lab: Lab, orders: str, face: Face, acknowledged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In session mode it hears; whether there is another mode nobody can see from here."""
    with bouncer(lab, lab.primary, "session", 10) as pooler:
        async with opened(face, pooler.dsn, settings_of(lab, zone=None)) as ours:
            events = ours.pool.listen("a", "b", gap_first=True, session_pooler=acknowledged)

            async def heard() -> object:
                if face.is_async:
                    return await anext(events)
                return await asyncio.to_thread(next, events)

            assert isinstance(await heard(), Gap)
            await ours.query("select pg_notify('a', 'one')")
            assert str(getattr(await heard(), "payload", None)) == "one"
            again = ours.pool.listen("b", session_pooler=acknowledged)
            waiting = asyncio.ensure_future(
                anext(again) if face.is_async else asyncio.to_thread(next, again)
            )
            await asyncio.sleep(0.3)
            await ours.query("select pg_notify('b', 'two')")
            assert (await waiting).payload == "two"
            assert deaf(caplog) == (0 if acknowledged else 1)
            more = ours.pool.listen("b", "c", gap_first=True, session_pooler=acknowledged)
            first = await (anext(more) if face.is_async else asyncio.to_thread(next, more))
            assert isinstance(first, Gap)
    assert deaf(caplog) == (0 if acknowledged else 2)


@one_shell
async def test_what_a_transaction_was_written_on_is_asked_in_it(
    lab: Lab, orders: str, face: Face
) -> None:
    """The pooler's server changes, and the client's session stays: what its first server said of
    itself is said of another one's transactions no more, or a lost COMMIT would be judged by the
    wrong history."""
    with bouncer(lab, lab.primary, "transaction", 2) as pooler:
        settings = settings_of(lab, zone=None)
        kwargs = {"prepare_threshold": None}
        async with opened(face, pooler.dsn, settings, kwargs=kwargs, min_size=1) as ours:

            def write(conn: psycopg.Connection, number: int) -> tuple[str, int]:
                row = conn.execute(
                    "insert into orders values (%s) returning host(inet_server_addr())", (number,)
                ).fetchone()
                assert row is not None
                return row[0], conn._resilient.judge.journal.written[2].timeline  # type: ignore[attr-defined]

            with ours.pool.connection() as conn:
                server, timeline = write(conn, -40)
                assert server == lab.primary.address
                with contextmanager(branched)(lab, follows_new=False) as (_, new, _):
                    conn.commit()
                    pooler.move(new.address)
                    give_up_at = time.monotonic() + 5
                    while server != new.address:
                        assert time.monotonic() < give_up_at
                        server, there = write(conn, -41)
                        conn.commit()
                    assert there == timeline + 1
