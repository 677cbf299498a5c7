"""A promotion is heard of at once: by an answer that was kept back, or by what readers are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
import pytest

from resilient.core.model import Role
from resilient.lab import Lab
from resilient.monitor.cluster import Cluster
from resilient.postgres import role
from resilient.postgres.pool import borrowing
from resilient.settings import Settings

from .conftest import Face, settings_of
from .in_band import InBand, backends, sides, until

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("soon_idle", "patient_hops")]


@pytest.fixture
def patient_hops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no reason for a dedicated probe."""
    monkeypatch.setattr(borrowing, "HOP_S", 1.0)


#: between two probes of a burst: they would hear of a promotion later
RARELY_S = 1.0


async def lost(lab: Lab, face: Face, promote_after_s: float) -> Any:
    """A crash, and the client knows of it: somebody wanted to write."""
    run = lab.inject("crash", promote_after_s=promote_after_s)
    await asyncio.to_thread(run.wait_struck)
    with suppress(psycopg.OperationalError):
        await face.query("select 1", timeout=0.1)
    await until(lambda: face.pool.topology.writer is None, 5)
    return run


async def told_s(face: Face, run: Any) -> float:
    """Seconds from the new primary's first write until it is the pool's writer."""
    while not run.done and run.writable_at is None:
        await asyncio.sleep(0.001)
    while face.pool.topology.writer is None:
        await asyncio.sleep(0.001)
    known_at = time.monotonic()
    await asyncio.to_thread(run.wait_done)
    return known_at - float(run.writable_at)


async def ready(lab: Lab, face: Face, settings: Settings, **kwargs: Any) -> None:
    await face.open(lab.dsn, settings, min_size=2, **kwargs)
    await face.wait()
    await until(lambda: sides(lab) == [0, 0, 0] and backends(lab) == [2, 1, 1], 8)


async def test_a_standby_keeps_its_answer_back(
    lab: Lab, orders: str, face: Face, in_band: InBand
) -> None:
    """Its only connection serves, no backend is opened, and no more is asked than before."""
    await ready(lab, face, settings_of(lab))
    try:
        run = await lost(lab, face, 1.2)
        await until(lambda: bool(in_band.held_s), 2)
        before, since = in_band.taken, time.monotonic()
        await asyncio.sleep(0.6)
        spent_s = time.monotonic() - since
        assert await asyncio.to_thread(sides, lab) == [0, 0]
        # Two standbys, each kept back for nearly as long as it would not have been asked.
        assert in_band.taken - before <= 2 * spent_s / role.STEP_S / 2
        assert max(in_band.held_s) == pytest.approx(0.05)
        assert await told_s(face, run) < 1.0
        assert any(seen.role is Role.PRIMARY for seen in in_band.seen)
    finally:
        await face.close()


@asynccontextmanager
async def reading(face: Face, count: int) -> AsyncIterator[None]:
    """So many read all the time, from whatever replica there is."""
    over = False

    async def read() -> None:
        while not over:
            await face.query("select 1", read_only=True)
            await asyncio.sleep(0.005)

    readers = [asyncio.create_task(read()) for _ in range(count)]
    try:
        yield
    finally:
        over = True
        await asyncio.gather(*readers)


async def test_readers_hear_of_it_first(
    lab: Lab, orders: str, face: Face, in_band: InBand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their connections tell them: nobody has to be asked."""
    asked: list[Any] = []
    ask_now = Cluster.ask_now
    monkeypatch.setattr(Cluster, "ask_now", lambda *args: (asked.append(args[1]), ask_now(*args)))
    settings = settings_of(lab, zone=lab.primary.zone, probe_burst_interval_s=RARELY_S)
    await face.open(lab.dsn, settings, min_size=1, max_size=1)
    try:
        await face.wait()
        await until(lambda: len(face.pool._core.replicas) == 2, 5)
        async with reading(face, 4):
            await asyncio.sleep(0.3)
            run = await lost(lab, face, 2.0)
            assert asked == []
            assert await told_s(face, run) < RARELY_S / 4
            assert {endpoint.address for endpoint in asked} == {lab.primary.address}
        assert len(asked) <= 3  # a connection tells it once
    finally:
        await face.close()


@pytest.mark.parametrize("script", ["discard all", "set statement_timeout = 20"])
async def test_whatever_the_session_does_it_is_asked(
    lab: Lab, orders: str, face: Face, in_band: InBand, script: str
) -> None:
    """Prepared questions are gone, or may not take as long: neither costs a backend."""
    settings = settings_of(lab, probe_interval_s=0.1)
    await ready(lab, face, settings)
    try:
        await until(lambda: in_band.taken > 20, 5)
        for replica in face.pool._core.replicas.values():
            await tell(face, replica.pool, script)
        run = await lost(lab, face, 0.5)
        in_band.refusals.clear()
        before = in_band.taken
        await told_s(face, run)
        old = lab.cluster.member(run.old_primary).address
        # A busy machine may need longer than the limit, now and then.
        refused = sum(address != old for address in in_band.refusals)
        assert refused < (in_band.taken - before) / 4
    finally:
        await face.close()


async def tell(face: Face, pool: Any, script: str) -> None:
    """To the one connection of a pool, for good."""
    if face.is_async:
        async with pool.connection() as conn:
            await conn.set_autocommit(True)
            await conn.execute(script)
            await conn.set_autocommit(False)
        return
    with pool.connection() as conn:
        conn.autocommit = True
        conn.execute(script)
        conn.autocommit = False


async def test_behind_a_pooler_nothing_is_prepared(
    lab: Lab, orders: str, face: Face, in_band: InBand
) -> None:
    settings = settings_of(lab, probe_interval_s=0.05)
    names = "select count(*) from pg_prepared_statements where name like '%resilient%'"
    for threshold, expected in ((None, 0), (5, 1)):
        own = Face("async" if face.is_async else "sync")
        await own.open(
            lab.dsn, settings, min_size=1, max_size=1, kwargs={"prepare_threshold": threshold}
        )
        try:
            await own.wait()
            before = in_band.taken
            await until(lambda n=before: in_band.taken > n + 12, 5)
            assert await own.query(names, read_only=True) == (expected,)
        finally:
            await own.close()


async def test_what_readers_had_is_nobody_elses(lab: Lab, orders: str, face: Face) -> None:
    """The replica's connection that becomes the writer's is one that no caller has had: its
    blocks have marks as any other's."""
    await face.open(lab.dsn, settings_of(lab, zone=lab.primary.zone), min_size=1, max_size=1)
    try:
        await face.wait()
        await until(lambda: len(face.pool._core.replicas) == 2, 5)
        readers = {await face.query("select pg_backend_pid()", read_only=True) for _ in range(30)}
        run = await lost(lab, face, 0.5)
        await told_s(face, run)
        (conn,) = await marked(face)
        assert (conn.info.backend_pid,) not in readers
    finally:
        await face.close()


async def marked(face: Face) -> list[Any]:
    """The connection of a block that writes; it is rolled back."""
    if face.is_async:
        async with face.pool.connection(timeout=10) as conn:
            await conn.execute("insert into orders values (0)")
            assert conn._resilient.judge.journal.mark is not None
            await conn.rollback()
            return [conn]
    with face.pool.connection(timeout=10) as conn:
        conn.execute("insert into orders values (0)")
        assert conn._resilient.judge.journal.mark is not None
        conn.rollback()
        return [conn]
