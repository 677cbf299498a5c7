"""What readers did on a replica stays with them when it is promoted; a replica that cancels
a query is left for the next one.  The bare pool knows of no replicas (FAULTS 42, 45)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import psycopg
import pytest

from resilient.lab import Lab
from resilient.settings import Settings

from .play import Play, both, call

pytestmark = pytest.mark.lab

#: what a reader may leave on its connection
LEFT: dict[str, list[str]] = {
    "role": ["set role promoted_reader"],
    "tenant": ["select set_config('app.tenant', 'theirs', false)"],
    "limit": ["set statement_timeout = '77s'"],
    "read only": ["set default_transaction_read_only = on"],
    "prepared": ["prepare mine as select 1"],
    "prepared by the driver": [f"select {n} as theirs" for n in range(4)],
    "cursor with hold": ["declare mine cursor with hold for select 1"],
    "advisory lock": ["select pg_advisory_lock_shared(77)"],
}
SHOW = """select current_user::text, current_setting('app.tenant', true),
current_setting('statement_timeout'), current_setting('default_transaction_read_only'),
(select count(*) from pg_prepared_statements where name = 'mine'),
(select count(*) from pg_cursors where name = 'mine'),
(select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())"""
ADDRESS = "select host(inet_server_addr())"


@pytest.fixture
def tables(lab: Lab) -> Lab:
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write", autocommit=True) as conn:
        conn.execute("create table if not exists promoted (name text)")
        conn.execute("create table if not exists conflict (n int)")
        conn.execute("insert into conflict values (1)")
    with contextlib.suppress(psycopg.errors.DuplicateObject):
        lab.admin(None, "create role promoted_reader")
        lab.admin(None, "grant promoted_reader to app")
    return lab


class Readers:
    """A pool whose readers have left something on each replica, and a block of its writer."""

    def __init__(self, play: Play, lab: Lab, name: str) -> None:
        self.play, self.lab, self.name = play, lab, name
        self.wrong: list[str] = []

    async def leave(self, pool: Any) -> None:
        self.pool = pool
        left: set[str] = set()
        give_up_at = time.monotonic() + 5
        while time.monotonic() < give_up_at:
            await asyncio.sleep(0.005)
            async with both(pool.reader.connection()) as conn:
                (address,) = await self.play.one(conn, ADDRESS)
                if address != self.lab.primary.address and address not in left:
                    for statement in LEFT[self.name]:
                        await call(conn.execute(statement))
                    await call(conn.commit())
                    left.add(address)
            if len(left) == len(self.lab.standbys):
                return
        raise AssertionError(f"readers came to {left} only")

    async def look(self, conn: Any, fresh: Any, where: str) -> None:
        try:
            seen = await self.play.one(conn, SHOW)
            if seen != fresh:
                self.wrong.append(f"{where}: {self.name}: {seen} and not {fresh}")
            for n in range(3):
                await call(conn.execute(f"select {n} as ours", prepare=True))
        except psycopg.Error as exc:
            self.wrong.append(f"{where}: {self.name}: {type(exc).__name__} {exc}")


async def test_what_readers_left_is_not_the_writers(ours: Play, tables: Lab) -> None:
    lab = tables
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write") as conn:
        fresh = conn.execute(SHOW.encode()).fetchone()
    crowd = [Readers(ours, lab, name) for name in LEFT]
    async with contextlib.AsyncExitStack() as stack, contextlib.AsyncExitStack() as blocks:
        for one in crowd:
            options = {"kwargs": {"prepare_threshold": 0}, "settings": Settings()}
            await one.leave(await stack.enter_async_context(ours.pool(lab.dsn, **options)))
        conns = []
        for one in crowd:
            conns.append(await blocks.enter_async_context(both(one.pool.connection())))
            await call(conns[-1].execute("insert into promoted values (%s)", (one.name,)))
        lab.inject("crash", promote_after_s=0.2).wait_done()
        for one, block in zip(crowd, conns, strict=True):
            await one.look(block, fresh, "open block")
        with contextlib.suppress(psycopg.Error):
            await blocks.aclose()
        for one in crowd:
            for _ in range(2):
                async with both(one.pool.connection()) as conn:
                    await one.look(conn, fresh, "fresh checkout")
    assert not [text for one in crowd for text in one.wrong]


async def test_a_recovery_conflict_leads_to_the_next_replica_then_the_primary(
    ours: Play, tables: Lab
) -> None:
    lab = tables
    where: list[str] = []
    stop = threading.Event()

    def truncate() -> None:
        dsn = lab.primary.conninfo.replace("dbname=postgres", "dbname=app")
        with psycopg.connect(dsn, autocommit=True) as conn:
            while not stop.wait(0.05):
                conn.execute("truncate conflict")

    async def read(conn: Any) -> int:
        where.append((await ours.one(conn, ADDRESS))[0])
        await call(conn.execute("select n from conflict"))
        await call(conn.execute("select pg_sleep(0.6)"))
        return 1

    for standby in lab.standbys:
        standby.execute("alter system set max_standby_streaming_delay = '20ms'")
        standby.execute("select pg_reload_conf()")
    thread = threading.Thread(target=truncate)
    try:
        async with ours.pool(lab.dsn, settings=Settings()) as pool:
            thread.start()
            end = await ours.attempt(lambda: pool.run(ours.once(read), read_only=True))
    finally:
        stop.set()
        thread.join()
        for standby in lab.standbys:
            standby.execute("alter system reset max_standby_streaming_delay")
            standby.execute("select pg_reload_conf()")
    assert end.well, end
    assert len(set(where)) == len(where) == 3, where
    assert where[-1] == lab.primary.address
