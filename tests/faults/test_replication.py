"""Servers that acknowledge before any standby has it, and standbys that are behind (FAULTS 11,
17, 18)."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
import pytest

from resilient.core.model import Role
from resilient.errors import CommitOutcomeUnknown
from resilient.lab import Lab, LabOptions
from resilient.lab.wire import WireProxy
from resilient.postgres import AsyncConnectionPool, ConnectionPool
from resilient.settings import Settings
from tests.differential.play import both, call
from tests.replay.held import cut_off

pytestmark = pytest.mark.lab
KINDS = [ConnectionPool, AsyncConnectionPool]
GIVEN: dict[str, Any] = {
    "deadline_s": 10,
    "probe_interval_s": 0.3,
    "probe_timeout_s": 0.2,
    "connect_rate": 1000,
}
INSERT = "insert into acked values (%s)"
WHERE = f"{INSERT} returning host(inet_server_addr())"
#: what is told of a loss, with the range of WAL
TOLD = re.compile(r"step=commits-lost count=(\d+) .*from=\S+ to=\S+ timeline=1 new_timeline=2")
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def servers() -> Iterator[Lab]:
    """Replication is asynchronous: a zombie goes on acknowledging."""
    with Lab(LabOptions(sync=False, http=False)) as running:
        with psycopg.connect(at(running, running.primary.address), autocommit=True) as conn:
            conn.execute("create table acked (id bigint)")
        yield running


def at(lab: Lab, address: str) -> str:
    return f"host={address} port={lab.port} user=app dbname=app"


def present(lab: Lab, address: str) -> list[int]:
    with psycopg.connect(at(lab, address)) as conn:
        return [row[0] for row in conn.execute("select id from acked").fetchall()]


@asynccontextmanager
async def opened(kind: Any, dsn: str, size: int = 1, **given: Any) -> AsyncIterator[Any]:
    settings = Settings(**{**GIVEN, **given})
    pool = kind(dsn, settings=settings, min_size=size, max_size=size, open=False)
    async with both(pool):
        await call(pool.open())
        await call(pool.wait(10))
        yield pool


async def do(kind: Any, step: Any) -> Any:
    """A coroutine of either shell: a sync one in a thread, as it waits for nothing else."""
    return await (asyncio.to_thread(drive, step) if kind is ConnectionPool else step)


def drive(step: Any) -> Any:
    try:
        step.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a sync call waited for the event loop")


async def test_replicas_that_lag(servers: Lab) -> None:
    """FAULTS 18: whichever replica is behind meanwhile, who reads behind his token sees his own
    write; and replicas that aren't behind do serve."""
    lab, stop = servers, threading.Event()
    served: set[str] = set()
    query = "select count(*), host(inet_server_addr()) from acked where id = %s"

    def hold_back() -> None:
        for standby in itertools.cycle(lab.standbys):
            lab.admin(standby.zone, "select pg_wal_replay_pause()")
            if stop.wait(0.03):
                break
            lab.admin(standby.zone, "select pg_wal_replay_resume()")
        for standby in lab.standbys:
            lab.admin(standby.zone, "select pg_wal_replay_resume()")

    async def read_own(pool: Any) -> None:
        for _ in range(40):
            number = next(_numbers)
            async with both(pool.connection()) as conn:
                await call(conn.execute(INSERT, (number,)))
            token = await call(pool.causal_token())
            async with both(pool.reader.connection(after=token)) as conn:
                row = await call((await call(conn.execute(query, (number,)))).fetchone())
            assert row[0] == 1, f"a stale read, served by {row[1]}"
            served.add(row[1])

    thread = threading.Thread(target=hold_back)
    async with AsyncExitStack() as stack:
        pools = [(k, await stack.enter_async_context(opened(k, lab.dsn, 2))) for k in KINDS]
        thread.start()
        try:
            await asyncio.gather(*(do(kind, read_own(pool)) for kind, pool in pools))
        finally:
            stop.set()
            thread.join()
    assert served - {lab.primary.address}, "no replica has served a read"


async def test_a_failover_that_loses(servers: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """FAULTS 17: every acknowledged transaction that is gone is told, with the range of WAL; a
    COMMIT whose reply was lost is never *committed* because the old primary had it."""
    lab, kept, lost = servers, [], []
    outcomes: dict[int, Any] = {}

    async def write(pool: Any, number: int) -> None:
        async with both(pool.connection()) as conn:
            await call(conn.execute(INSERT, (number,)))

    async def struck(kind: Any, pool: Any, number: int) -> None:
        try:
            outcomes[number] = await do(kind, write(pool, number))
        except psycopg.Error as exc:
            outcomes[number] = exc

    async with AsyncExitStack() as stack:
        proxy = stack.enter_context(WireProxy(lab.primary.address, lab.port))
        others = ",".join(member.address for member in lab.standbys)
        ports = f"{proxy.address[1]},{lab.port},{lab.port}"
        dsn = f"host={proxy.address[0]},{others} port={ports} user=app dbname=app"
        pools = [(k, await stack.enter_async_context(opened(k, dsn))) for k in KINDS]
        for kind, pool in pools:
            kept.append(next(_numbers))
            await do(kind, write(pool, kept[-1]))
        stack.enter_context(caplog.at_level(logging.WARNING, "resilient.failover"))
        with cut_off(lab):
            for kind, pool in pools * 5:
                lost.append(next(_numbers))
                await do(kind, write(pool, lost[-1]))
            # the old primary has these, and nobody hears of it
            proxy.cut("server", 1, only_after="COMMIT", kind="silence", side="before", once=False)
            hanging = {next(_numbers): each for each in pools}
            tasks = [asyncio.ensure_future(struck(*each, n)) for n, each in hanging.items()]
            while not set(hanging) <= set(
                await asyncio.to_thread(present, lab, lab.primary.address)
            ):
                await asyncio.sleep(0.01)
            run = lab.inject("crash", promote_after_s=0.1)
            await asyncio.to_thread(run.wait_writable)
            proxy.stop()
            await asyncio.gather(*tasks)
        await asyncio.to_thread(run.wait_done)
        for kind, pool in pools:
            await do(kind, write(pool, next(_numbers)))
    found = present(lab, lab.primary.address)
    assert set(kept) <= set(found)
    assert not set(lost) & set(found)
    for number, outcome in outcomes.items():
        assert found.count(number) == (outcome is None), "a false *committed*, or done twice"
        assert outcome is None or isinstance(outcome, CommitOutcomeUnknown), outcome
    told = [match for r in caplog.records if (match := TOLD.search(r.getMessage()))]
    assert sum(int(match.group(1)) for match in told) == len(lost)
    lab.rejoin()


async def test_an_asynchronous_zombie(servers: Lab) -> None:
    """FAULTS 11: the old primary wakes up, and still takes writes.  Whoever has seen the new one
    hears no acknowledgement of the old one, on connections that he had and on new ones."""
    lab, stop = servers, threading.Event()
    old = lab.primary.address
    acked: dict[Any, list[tuple[float, float, str]]] = {}

    async def write(pool: Any, told: list[tuple[float, float, str]]) -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                async with both(pool.connection(timeout=2)) as conn:
                    cursor = await call(conn.execute(WHERE, (next(_numbers),)))
                    (address,) = await call(cursor.fetchone())
            except psycopg.Error:
                continue
            told.append((began, time.monotonic(), address))

    async with AsyncExitStack() as stack:
        steps = []
        for kind, dsn in itertools.product(KINDS, (lab.dsn, lab.writer_dsn)):
            dns = {"dns_nameservers": lab.dns_address, "dns_search": []}
            pool = await stack.enter_async_context(opened(kind, dsn, 2, **dns))
            told = acked.setdefault((kind.__name__, dsn), [])
            steps += [do(kind, write(pool, told)) for _ in range(2)]
        running = asyncio.gather(*steps)
        await asyncio.sleep(0.2)
        run = lab.inject("zombie", promote_after_s=0.1, dns_after_s=0, resume_after_s=0.3)
        await asyncio.to_thread(run.wait_done)
        await asyncio.sleep(0.5)  # the zombie is up, and would acknowledge
        stop.set()
        await running
    new = lab.primary.address
    for who, told in acked.items():
        assert {address for *_, address in told} == {old, new}, who
        first = min(ended for _, ended, address in told if address == new)
        late = [each for each in told if each[2] == old and each[0] > first]
        assert not late, (who, late)
    with psycopg.connect(at(lab, old), autocommit=True) as conn:  # it would have taken them
        conn.execute("insert into acked values (-1)")
    lab.rejoin()


async def test_a_tie(servers: Lab) -> None:
    """FAULTS 11: two were promoted to one timeline.  Once both are seen, neither is written to."""
    lab = servers
    lab.primary.kill()
    timeline = "select pg_walfile_name(pg_current_wal_insert_lsn()) where not pg_is_in_recovery()"
    names = []
    for standby in lab.standbys:
        standby.promote()
    for standby in lab.standbys:
        while not (rows := standby.execute(timeline)):
            time.sleep(0.01)
        names.append(str(rows[0][0])[:8])
    assert len(set(names)) == 1, names
    for kind in KINDS:
        number, settings = next(_numbers), Settings(**{**GIVEN, "deadline_s": 0.7})
        pool = kind(lab.dsn, settings=settings, min_size=1, max_size=1, open=False)
        try:
            await call(pool.open())
            while [view.role for view in pool.topology.endpoints].count(Role.PRIMARY) < 2:
                await asyncio.sleep(0.01)
            began = time.monotonic()
            with pytest.raises(psycopg.OperationalError) as told:
                async with both(pool.connection(timeout=0.7)) as conn:
                    await call(conn.execute(INSERT, (number,)))
            assert time.monotonic() - began < 1.2
        finally:
            await call(pool.close())
        assert not isinstance(told.value, CommitOutcomeUnknown)
        for standby in lab.standbys:
            assert number not in present(lab, standby.address)
