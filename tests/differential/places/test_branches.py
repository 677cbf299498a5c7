"""A replica that still follows the fenced, living primary.

FAULTS 51.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from resilient.lab import Lab
from resilient.lab.postgres import Member
from tests.postgres.conftest import Face
from tests.replay.held import RECEIVES
from tests.replay.held import until as patiently

from .conftest import at, one_shell, opened, settings_of, until

pytestmark = pytest.mark.lab

Branches = tuple[Member, Member, Member]


@pytest.fixture
def branches(lab: Lab, orders: str) -> Iterator[Branches]:
    """(the old primary, the new one, a replica of the old one); both take writes."""
    yield from branched(lab, follows_new=False)


@pytest.fixture
def unheard(lab: Lab, orders: str) -> Iterator[Branches]:
    """The same, and the replica follows the new one."""
    yield from branched(lab, follows_new=True)


def branched(lab: Lab, *, follows_new: bool) -> Iterator[Branches]:
    old = lab.primary
    new, follower = lab.standbys
    if follows_new:  # it must not be past the switch point
        # A restartpoint, due every five minutes, would write the new timeline to its control file.
        follower.execute("alter system set checkpoint_timeout = '1h'")
        follower.execute("select pg_reload_conf()")
        follower.follow(None)
        patiently(lambda: follower.execute(RECEIVES) == [(False,)])
        (reached,) = follower.execute("select pg_last_wal_receive_lsn()::text")[0]
        arrived = f"select pg_last_wal_replay_lsn() >= '{reached}'"
        patiently(lambda: new.execute(arrived) == [(True,)])
    new.promote()
    patiently(new.is_primary)
    for member in (old, new):
        member.execute("alter system set synchronous_standby_names = ''")
        member.execute("select pg_reload_conf()")
    if follows_new:
        follower.follow(new)
    yield old, new, follower
    if follows_new:
        follower.execute("alter system reset checkpoint_timeout")
        follower.execute("select pg_reload_conf()")
    old.execute("alter system reset synchronous_standby_names")
    old.execute("select pg_reload_conf()")


@one_shell
async def test_a_standby_that_follows_a_server_nobody_has_heard_of(
    lab: Lab, orders: str, face: Face, unheard: Branches
) -> None:
    """Its timeline isn't told to this role, and the one of its control file is the highest that
    any of the servers on the list has told."""
    old, new, follower = unheard
    with psycopg.connect(at(lab, new), autocommit=True) as conn:
        for _ in range(50):  # it comes past every position of the old branch
            conn.execute("insert into orders select -generate_series(9000, 9999)")
        (end,) = conn.execute("select pg_current_wal_lsn()::text").fetchone() or ("",)
    arrived = f"select pg_last_wal_replay_lsn() >= '{end}'"
    await until(lambda: follower.execute(arrived) == [(True,)])
    settings = settings_of(lab, zone=follower.zone)
    async with opened(face, at(lab, old, follower), settings) as ours:
        for number in range(-5040, -5030):
            assert await ours.insert(number, timeout=10.0) == old.address
            await until(lambda: len(ours.pool._core.replicas) == 1)
            token = await ours._call(ours.pool.causal_token)
            seen = await ours.query(
                f"select count(*) from orders where id = {number}", read_only=True, after=token
            )
            assert seen[0] >= 1


@pytest.mark.parametrize(
    ("face", "sees"), [("sync", "pg_read_all_stats"), ("async", "nothing")], indirect=["face"]
)
async def test_a_read_after_a_token_never_meets_the_other_branch(
    lab: Lab, orders: str, face: Face, branches: Branches, sees: str
) -> None:
    old, new, follower = branches
    if sees != "nothing":
        for member in (old, new):
            member.execute(f"grant {sees} to app")
    settings = settings_of(lab, zone=follower.zone)
    async with opened(face, at(lab, *lab.members), settings) as ours:
        assert await ours.insert(-1, timeout=10.0) == new.address
        await until(lambda: any(v.role == "replica" for v in ours.pool.topology.endpoints))
        with psycopg.connect(at(lab, old), autocommit=True) as conn:
            for _ in range(50):  # the old branch goes on, past every position of the new one
                conn.execute("insert into orders select -generate_series(9000, 9999)")
        await asyncio.sleep(0.2)
        for number in range(-5020, -5000):
            await ours.insert(number)
            token = await ours._call(ours.pool.causal_token)
            seen = await ours.query(
                f"select count(*) from orders where id = {number}", read_only=True, after=token
            )
            assert seen[0] >= 1
            where = await ours.where(read_only=True, max_staleness_s=5.0)
            assert where == new.address  # whose lag it is, isn't the writer's
