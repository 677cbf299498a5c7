"""What a standby says of its lag, where it could be mistaken for none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import waiting

from resilient.lab import Lab
from resilient.postgres.role import observe

from .conftest import Face, settings_of

pytestmark = pytest.mark.lab


def lag_of(lab: Lab, address: str) -> float | None:
    with psycopg.connect(f"host={address} port={lab.port} user=app dbname=app") as conn:
        return waiting.wait(observe(conn.pgconn), conn.pgconn.socket).lag_s


@pytest.fixture
def behind(lab: Lab) -> Iterator[str]:
    """A standby that was started again, is behind, and has replayed no transaction since; its
    address."""
    standby = lab.standbys[0]
    lab.primary.execute("checkpoint")
    time.sleep(0.2)
    standby.execute("checkpoint")
    standby.execute("alter system set recovery_min_apply_delay = '10min'")
    try:
        standby.stop()
        standby.start()
        deadline = time.monotonic() + 20
        while standby.execute("select count(*) from pg_stat_wal_receiver") != [(1,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        lab.primary.execute("select pg_logical_emit_message(true, 'lag', 'a transaction')")
        query = "select pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()"
        while standby.execute(query) != [(True,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if standby.execute("select pg_last_xact_replay_timestamp()") != [(None,)]:
            pytest.skip("a transaction was replayed on the way to consistency")
        yield standby.address
    finally:
        standby.execute("alter system reset recovery_min_apply_delay")
        standby.stop()
        standby.start()


def test_it_is_unknown_and_not_nothing(lab: Lab, behind: str) -> None:
    assert lag_of(lab, behind) is None
    other = next(s.address for s in lab.standbys if s.address != behind)
    lag_s = lag_of(lab, other)
    assert lag_s is None or lag_s >= 0  # it may have begun just now as well


async def test_a_read_with_a_bound_goes_elsewhere(lab: Lab, face: Face, behind: str) -> None:
    """Though it is the replica in the reader's own zone."""
    zone = next(member.zone for member in lab.standbys if member.address == behind)
    await face.open(lab.dsn, settings_of(lab, zone=zone, probe_interval_s=0.2))
    try:
        await face.wait()
        async with asyncio.timeout(20):
            while await face.where(read_only=True) != behind:
                await asyncio.sleep(0.05)
        for _ in range(5):
            assert await face.where(read_only=True, max_staleness_s=5.0) != behind
    finally:
        await face.close()
