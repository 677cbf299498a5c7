"""Reading one's own writes from replicas that lag."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from resilient.core.outcome import lsn
from resilient.errors import ConfigError
from resilient.lab import Lab
from resilient.postgres import ConnectionPool
from resilient.settings import Settings

from .conftest import Face, settings_of


@pytest.fixture
def paused(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Stop a standby's replay; every one of them goes on at the end."""
    yield lambda zone: _pause(lab, zone)
    for standby in lab.standbys:
        lab.admin(standby.zone, "select pg_wal_replay_resume()")


def _pause(lab: Lab, zone: str) -> None:
    lab.admin(zone, "select pg_wal_replay_pause()")
    while lab.admin(zone, "select pg_get_wal_replay_pause_state()") != [("paused",)]:
        pass


@pytest.mark.lab
async def test_a_read_after_a_token_sees_the_commit(
    lab: Lab,
    orders: str,
    face: Face,
    new_id: Callable[[], int],
    paused: Callable[[str], None],
) -> None:
    """FAULTS 18."""
    near, far = lab.standbys
    await face.open(lab.dsn, settings_of(lab, zone=near.zone))
    try:
        await face.wait()
        while len(face.pool._core.replicas) < 2:
            await face.where()
        where = "select count(*), host(inet_server_addr()) from orders where id = "
        for stopped, server in (
            (None, near.address),
            (near.zone, far.address),
            (far.zone, lab.primary.address),
        ):
            if stopped is not None:
                paused(stopped)
            number = new_id()
            await face.insert(number)
            token = await face._call(face.pool.causal_token)
            if stopped is None:  # the near one needs a moment, and may be passed over
                for _ in range(200):
                    seen = await face.query(f"{where}{number}", reader=True, after=token)
                    assert seen[0] == 1
                    if seen[1] == server:
                        break
            else:
                seen = await face.query(f"{where}{number}", reader=True, after=token)
                assert seen[0] == 1
                if stopped == far.zone:
                    assert seen[1] == server
    finally:
        await face.close()


@pytest.mark.lab
async def test_a_token_of_before_a_failover_is_read_on_a_replica_that_has_it(
    lab: Lab, orders: str, face: Face, new_id: Callable[[], int]
) -> None:
    """The new primary has said where its timeline began."""
    lab.admin(lab.primary.zone, "grant pg_read_all_stats to app")
    await face.open(lab.dsn, settings_of(lab, zone=None))
    try:
        await face.wait()
        number = new_id()
        await face.insert(number)
        token = await face._call(face.pool.causal_token)
        lab.inject("switchover").wait_done()
        await face.insert(new_id())
        assert token.timeline == face.pool.topology.timeline - 1
        query = f"select count(*), host(inet_server_addr()) from orders where id = {number}"
        for _ in range(500):
            seen = await face.query(query, read_only=True, after=token)
            assert seen[0] == 1
            if seen[1] != lab.primary.address:
                break
            await asyncio.sleep(0.01)
        assert seen[1] != lab.primary.address
    finally:
        await face.close()
        lab.admin(lab.primary.zone, "revoke pg_read_all_stats from app")


@pytest.mark.lab
async def test_a_token_from_behind_the_switch_point_is_read_on_the_primary(
    lab: Lab, orders: str, face: Face
) -> None:
    """FAULTS 51: what it stands for was lost with the old primary, however far replicas are."""
    await face.open(lab.dsn, settings_of(lab, zone=lab.standbys[0].zone))
    try:
        await face.wait()
        token = await face._call(face.pool.causal_token)
        assert token.timeline == face.pool.topology.timeline
        token = replace(token, lsn=token.lsn + 2**30)
        run = lab.inject("switchover")
        run.wait_done()
        assert await face.where() == lab.primary.address
        assert await face.where(reader=True, after=token) == lab.primary.address
    finally:
        await face.close()


def test_positions_are_bytes() -> None:
    assert lsn("0/0") == 0
    assert lsn("16/B374D848") == 0x16B374D848


@pytest.mark.parametrize("variable", ["RESILIENT_DATABASE_URL", "DATABASE_URL"])
def test_a_malformed_url_of_the_environment_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("RESILIENT_DATABASE_URL", raising=False)
    monkeypatch.setenv(variable, "postgresql://app:s3cret@[::1/db")
    with pytest.raises(ConfigError, match=f"^{variable}=") as caught:
        ConnectionPool(open=False, settings=Settings())
    assert "s3cret" not in str(caught.value)
