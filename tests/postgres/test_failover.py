"""Forced failovers of real servers, on both shells: what is lost, doubled, late or stuck."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import psycopg
import psycopg_pool
import pytest

from resilient.errors import NoEndpointAvailable
from resilient.lab import Lab
from resilient.lab.pytest_plugin import skip_unless
from resilient.postgres import CommitOutcomeUnknown
from resilient.telemetry.names import RESOLVED

from .conftest import Face, present, settings_of

pytestmark = pytest.mark.lab


class Load:
    """Writers that never stop; each id is written once, by `run`."""

    def __init__(self, face: Face, new_id: Callable[[], int]) -> None:
        self.face, self.new_id = face, new_id
        self.acked: list[tuple[int, float, str]] = []
        self.failed: list[tuple[int, Exception]] = []
        self._stop = False
        self._tasks = [asyncio.create_task(self._write()) for _ in range(3)]

    async def _write(self) -> None:
        while not self._stop:
            number = self.new_id()
            try:
                server = await self.face.insert(number)
                self.acked.append((number, time.monotonic(), server))
            except psycopg.Error as exc:
                self.failed.append((number, exc))
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    def unexpected(self) -> list[tuple[int, Exception]]:
        return [item for item in self.failed if not isinstance(item[1], CommitOutcomeUnknown)]


async def fail_over(
    lab: Lab,
    face: Face,
    new_id: Callable[[], int],
    fault: str,
    dsn: str,
    dns_after_s: float = 0.3,
) -> Load:
    """One fault under load, until writes flow again; the checks that every fault shares."""
    await face.open(dsn, settings_of(lab))
    try:
        await face.wait()
        load = Load(face, new_id)
        await asyncio.sleep(0.5)
        run = lab.inject(fault, promote_after_s=0.5, dns_after_s=dns_after_s)
        await asyncio.to_thread(run.wait_done)
        address = lab.primary.address
        deadline = time.monotonic() + 10
        while not any(server == address for _, _, server in load.acked):
            assert time.monotonic() < deadline, (face.pool.topology, load.failed[-3:])
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        await load.stop()
        events = [event for record in face.pool.failovers for event in record.events]
    finally:
        await face.close()
    numbers = [number for number, _, _ in load.acked]
    found = present(lab, numbers + [number for number, _ in load.failed])
    assert set(numbers) <= set(found), "an acknowledged write is lost"
    assert len(found) == len(set(found)), "a write was applied twice"
    assert load.unexpected() == []
    first = min(at for _, at, server in load.acked if server == address)
    late = [at for _, at, server in load.acked if server != address and at > first]
    # A reply that was lost there may be found out to be a success, on the new one.
    found_out = [e for e in events if e.name == RESOLVED and "outcome=committed" in e.detail]
    assert len(late) <= len(found_out), "the old primary acknowledged after the new one had"
    return load


@pytest.mark.parametrize("fault", ["crash", "switchover", "hang", "blackhole", "zombie"])
async def test_several_hosts(
    lab: Lab, orders: str, face: Face, new_id: Callable[[], int], fault: str
) -> None:
    """FAULTS 1–4."""
    skip_unless(lab, fault)
    await fail_over(lab, face, new_id, fault, lab.dsn)


@pytest.mark.parametrize("fault", ["crash", "hang"])
async def test_one_cname(
    lab: Lab, orders: str, face: Face, new_id: Callable[[], int], fault: str
) -> None:
    """FAULTS 1–4."""
    skip_unless(lab, fault)
    await fail_over(lab, face, new_id, fault, lab.writer_dsn)


async def test_a_name_that_moves_after_the_verdict(
    lab: Lab, orders: str, face: Face, new_id: Callable[[], int]
) -> None:
    """Calls that are stuck on the dead server have nowhere to go until the name moves."""
    skip_unless(lab, "hang")
    await fail_over(lab, face, new_id, "hang", lab.writer_dsn, dns_after_s=2.0)


async def test_a_commit_cut_by_the_deadline_is_still_unknown(
    lab: Lab, orders: str, face: Face, new_id: Callable[[], int]
) -> None:
    """A server that hangs inside a COMMIT, and nobody replaces it."""
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    await face.open(dsn, settings_of(lab, deadline_s=1.0))
    try:
        await face.wait()
        for standby in lab.standbys:
            standby.pause()  # so the COMMIT waits
        writing = asyncio.create_task(face.insert(new_id()))
        await asyncio.sleep(0.4)
        lab.primary.pause()
        with pytest.raises(CommitOutcomeUnknown):
            await asyncio.wait_for(writing, 6)
    finally:
        for member in lab.members:
            member.resume()
        await face.close()


async def test_no_primary_at_all(lab: Lab, orders: str, any_face: Face) -> None:
    """A typed error, with reasons, by the checkout's timeout: Null pools dial for themselves."""
    await any_face.open(lab.dsn, settings_of(lab), timeout=5)
    try:
        await any_face.where()
        lab.primary.kill()
        await asyncio.sleep(0.2)  # a FIN that is under way is a plain block's error
        start = time.monotonic()
        with pytest.raises(psycopg_pool.PoolTimeout) as caught:
            await any_face.where(timeout=0.7)
        took_s = time.monotonic() - start
        assert isinstance(caught.value, NoEndpointAvailable)
        assert str(lab.primary.address) in str(caught.value)
        assert caught.value.topology is not None
        assert took_s <= 0.8
    finally:
        await any_face.close()


async def test_hung_server_and_nowhere_to_go(lab: Lab, orders: str, any_face: Face) -> None:
    """Checkout and statements on a stopped server end by the deadline."""
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    await any_face.open(dsn, settings_of(lab, deadline_s=3.0), timeout=1.0)
    try:
        assert await any_face.where() == lab.primary.address
        lab.primary.pause()
        # Whoever gets an idle connection is cut a deadline after the verdict.  There are two where
        # a probe had borrowed the first one, and while it has one there may be none.
        for _ in range(4):
            ended, took_s = await _failed(any_face)
            assert took_s <= 2.1 + 3.0 + 0.2
        assert any_face.pool.topology.writer is None
        assert isinstance(ended, psycopg_pool.PoolTimeout)
        assert took_s <= 1.1
        lab.primary.resume()
        assert await any_face.where(timeout=5.0) == lab.primary.address
    finally:
        await any_face.close()


async def test_a_slow_statement_is_not_cut(lab: Lab, orders: str, face: Face) -> None:
    await face.open(lab.dsn, settings_of(lab, deadline_s=1.0))
    try:
        row = await face.query("select pg_sleep(3.5), 42")
        assert row[1] == 42
    finally:
        await face.close()


async def test_a_commit_whose_reply_is_lost_is_not_guessed(
    lab: Lab, orders: str, face: Face, new_id: Callable[[], int]
) -> None:
    """The standbys are stopped, so the COMMIT waits; then its server dies, for good."""
    await face.open(lab.dsn, settings_of(lab, deadline_s=2.0))
    number = new_id()
    try:
        await face.wait()
        for standby in lab.standbys:
            standby.pause()
        writing = asyncio.create_task(face.insert(number))
        await asyncio.sleep(0.5)
        assert not writing.done()
        lab.primary.kill()
        with pytest.raises(CommitOutcomeUnknown) as caught:
            await asyncio.wait_for(writing, 5)
        assert caught.value.details["endpoint"].startswith(lab.primary.address)
        assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    finally:
        for standby in lab.standbys:
            standby.resume()
        await face.close()


async def test_reads_stay_in_the_zone(lab: Lab, orders: str, face: Face) -> None:
    near, far = lab.standbys
    await face.open(lab.dsn, settings_of(lab, zone=near.zone))
    try:
        await face.wait()
        await _until(lambda: len(face.pool._core.replicas) == 2)
        assert {await face.where(reader=True) for _ in range(5)} == {near.address}
        assert await face.where() == lab.primary.address
        near.kill()
        await _until(lambda: _health(face, near.address) == "dead")
        assert {await face.where(reader=True) for _ in range(5)} == {far.address}
        far.kill()
        await _until(lambda: _health(face, far.address) == "dead")
        assert await face.where(reader=True) == lab.primary.address
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await face.query("insert into orders values (0) returning 1", reader=True)
    finally:
        await face.close()


async def test_reads_go_on_without_a_primary(lab: Lab, orders: str, face: Face) -> None:
    await face.open(lab.dsn, settings_of(lab, zone=lab.standbys[0].zone))
    try:
        await face.wait()
        await _until(lambda: len(face.pool._core.replicas) == 2)
        lab.primary.kill()
        for _ in range(10):
            assert await face.where(reader=True) == lab.standbys[0].address
            await asyncio.sleep(0.05)
    finally:
        await face.close()


async def _failed(face: Face) -> tuple[BaseException, float]:
    """How a checkout of one second and its statement fail, and after how many seconds."""
    start = time.monotonic()
    with pytest.raises(psycopg.OperationalError) as caught:
        await face.where(timeout=1.0)
    return caught.value, time.monotonic() - start


def _health(face: Face, address: str) -> str:
    found = [view.health for view in face.pool.topology.endpoints if view.address == address]
    return str(found[0])


async def _until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.01)
