"""One address with several servers behind it.

FAULTS 46.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator

import pytest

from resilient.lab import Lab
from resilient.lab.balancer import Balancer
from resilient.postgres import NoEndpointAvailable, probe
from resilient.settings import Settings
from tests.differential.play import both, call
from tests.postgres.conftest import Face

from .conftest import one_shell, opened, other_shell, settings_of, until

pytestmark = pytest.mark.lab

ADDRESS = "127.0.7.10"
#: how long it is at rest, in seconds, and the connections that probes may make meanwhile
REST_S, FEW = 3.0, 3


@pytest.fixture
def replicas(lab: Lab) -> Iterator[Balancer]:
    """Each new connection meets another standby."""
    backends = [(member.address, lab.port) for member in lab.standbys]
    with Balancer.round_robin(ADDRESS, lab.port, *backends) as balancer:
        yield balancer


async def at_rest(balancer: Balancer) -> int:
    """New connections while nobody does anything."""
    await asyncio.sleep(1.0)
    before = balancer.accepted
    await asyncio.sleep(REST_S)
    return balancer.accepted - before


@one_shell
async def test_a_group_of_standbys_is_at_rest_and_serves_the_reads(
    lab: Lab, orders: str, face: Face, replicas: Balancer
) -> None:
    hosts = f"host={lab.primary.address},{ADDRESS} port={lab.port} user=app dbname=app"
    async with opened(face, hosts, settings_of(lab, zone=None)) as ours:
        assert await ours.insert(-1) == lab.primary.address
        await until(lambda: len(ours.pool._core.replicas) == 1)
        reads = [ours.where(read_only=True) for _ in range(20)]
        await asyncio.gather(*reads)  # it grows, and meets both
        assert await at_rest(replicas) <= FEW
        standbys = {member.address for member in lab.standbys}
        where = [await ours.where(read_only=True) for _ in range(100)]
        assert set(where) <= standbys
        view = next(v for v in ours.pool.topology.endpoints if v.address == ADDRESS)
        assert view.group or len(set(where)) == 1


@other_shell
async def test_its_readers_name_alone_reads(
    lab: Lab, orders: str, face: Face, replicas: Balancer
) -> None:
    dsn = f"host={ADDRESS} port={lab.port} user=app dbname=app"
    async with opened(face, dsn, min_size=4) as ours:
        await ours.wait(5.0)
        assert await at_rest(replicas) <= FEW
        standbys = {member.address for member in lab.standbys}
        assert {await ours.where() for _ in range(8)} <= standbys


async def test_a_token_is_checked_on_the_connection(
    lab: Lab, orders: str, face: Face, replicas: Balancer
) -> None:
    late = lab.standbys[0]
    settings = settings_of(lab, zone=None)
    hosts = f"host={lab.primary.address},{ADDRESS} port={lab.port} user=app dbname=app"
    async with opened(face, hosts, settings) as ours:
        await ours.insert(-1)
        await until(lambda: len(ours.pool._core.replicas) == 1)
        await asyncio.gather(*(ours.where(read_only=True) for _ in range(20)))
        late.execute("select pg_wal_replay_pause()")
        try:
            while late.execute("select pg_get_wal_replay_pause_state()") != [("paused",)]:
                await asyncio.sleep(0.01)
            for number in range(-1020, -1000):
                await ours.insert(number)
                token = await ours._call(ours.pool.causal_token)
                seen = await ours.query(
                    f"select count(*) from orders where id = {number}", read_only=True, after=token
                )
                assert seen[0] >= 1
        finally:
            late.execute("select pg_wal_replay_resume()")


@one_shell
async def test_a_mixed_group_reads_everywhere_and_rests(
    lab: Lab, orders: str, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "LIFE_S", 0.3)  # it is found out by the sessions of probes
    backends = [(member.address, lab.port) for member in lab.members]
    with Balancer.round_robin(ADDRESS, lab.port, *backends) as mixed:
        dsn = f"host={ADDRESS} port={lab.port} user=app dbname=app"
        async with opened(face, dsn, Settings(), min_size=6, timeout=10.0) as ours:
            await ours.wait(10.0)
            assert await at_rest(mixed) <= FEW


@other_shell
async def test_one_that_always_leads_to_the_primary_writes(
    lab: Lab, orders: str, face: Face
) -> None:
    with Balancer(ADDRESS, lab.port, lambda: (lab.primary.address, lab.port)) as proxy:
        dsn = f"host={ADDRESS} port={lab.port} user=app dbname=app"
        async with opened(face, dsn, settings_of(lab, zone=None)) as ours:
            assert await ours.insert(-1) == lab.primary.address
            lab.inject("crash").wait_done()
            assert await ours.insert(-2, timeout=20.0) == lab.primary.address
            assert await at_rest(proxy) <= FEW


@pytest.fixture
def mixed(lab: Lab) -> Iterator[Balancer]:
    """Each new connection meets another member, the primary among them."""
    backends = [(member.address, lab.port) for member in lab.members]
    with Balancer.round_robin(ADDRESS, lab.port, *backends) as balancer:
        yield balancer


@pytest.mark.parametrize(
    ("face", "attrs"),
    [
        ("sync", "read-write"),
        ("async", "primary"),
        ("null-sync", "read-write"),
        ("null-async", "primary"),
        ("sync", "read-only"),
        ("async", "standby"),
        ("null-async", "standby"),
    ],
    indirect=["face"],
)
async def test_in_a_mixed_group_everybody_gets_what_was_asked_for(
    lab: Lab, orders: str, face: Face, mixed: Balancer, attrs: str
) -> None:
    """A bare pool dials until it meets it."""
    dsn = f"host={ADDRESS} port={lab.port} user=app dbname=app target_session_attrs={attrs}"
    fits = {lab.primary.address}
    if attrs in ("standby", "read-only"):
        fits = {member.address for member in lab.standbys}
    async with opened(face, dsn, Settings(), timeout=20.0) as ours:
        if not face.null:
            await ours.wait(20.0)
        assert {await ours.where() for _ in range(6)} <= fits


async def test_an_explicit_write_meets_the_primary_or_waits(
    lab: Lab, orders: str, face: Face, mixed: Balancer
) -> None:
    """Also while nobody knows yet that it is a group."""
    dsn = f"host={ADDRESS} port={lab.port} user=app dbname=app"
    for _ in range(6):
        fresh = Face("async" if face.is_async else "sync")
        async with opened(fresh, dsn, Settings(), min_size=4, timeout=20.0) as ours:
            for _ in range(5):
                assert await ours.where(read_only=False) == lab.primary.address


async def test_an_explicit_write_goes_on_at_the_primary(
    lab: Lab, orders: str, face: Face, mixed: Balancer
) -> None:
    """Its session is lost when it is known that the address leads to standbys, too."""
    dsn = f"host={ADDRESS} port={lab.port} user=app dbname=app"
    for number in range(8):
        fresh = Face("async" if face.is_async else "sync")
        async with (
            opened(fresh, dsn, Settings(), min_size=4, timeout=20.0) as ours,
            both(ours.pool.connection(read_only=False)) as conn,
        ):
            await call(conn.execute("insert into orders (id) values (%s)", (-number,)))
            await until(lambda pool=ours.pool: pool.topology.replicas_only)
            with socket.socket(fileno=os.dup(conn.pgconn.socket)) as end:
                end.shutdown(socket.SHUT_RDWR)
            found = await call(conn.execute("select host(inet_server_addr())"))
            assert await call(found.fetchone()) == (lab.primary.address,)


@one_shell
async def test_and_says_why_it_waits(lab: Lab, orders: str, face: Face, replicas: Balancer) -> None:
    dsn = f"host={ADDRESS} port={lab.port} user=app dbname=app"
    async with opened(face, dsn, Settings()) as ours:
        await ours.wait(10.0)
        before = replicas.accepted
        with pytest.raises(NoEndpointAvailable, match="a replica"):
            await ours.where(read_only=False, timeout=3.0)
        assert replicas.accepted - before <= 3 * FEW  # nor does it dial without end


@one_shell
async def test_a_readers_group_with_a_fenced_primary_in_it(
    lab: Lab, orders: str, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the old primary still shows is nobody's data any more."""
    monkeypatch.setattr(probe, "LIFE_S", 0.3)
    old = lab.primary
    lab.inject("zombie").wait_done()
    (third,) = [member for member in lab.standbys if member is not old]
    backends = [(member.address, lab.port) for member in (old, third)]
    with Balancer.round_robin(ADDRESS, lab.port, *backends) as readers:
        settings = settings_of(lab, zone=None, database_readers=f"{readers.address}:{lab.port}")
        dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
        async with opened(face, dsn, settings) as ours:
            assert await ours.insert(-1, timeout=10.0) == lab.primary.address
            await until(lambda: any(view.group for view in ours.pool.topology.endpoints))
            reads = [asyncio.create_task(ours.where(read_only=True)) for _ in range(30)]
            assert old.address not in await asyncio.gather(*reads)


@other_shell
async def test_an_address_that_answered_as_a_fenced_primary_is_dialled_again(
    lab: Lab, orders: str, face: Face
) -> None:
    """It led to the new primary, then to the old one, and leads to the new one again."""
    old = lab.primary
    lab.inject("zombie").wait_done()
    there = [lab.primary]
    with Balancer(ADDRESS, lab.port, lambda: (there[0].address, lab.port)) as moving:
        dsn = f"host={moving.address} port={lab.port} user=app dbname=app"
        async with opened(face, dsn, settings_of(lab, zone=None)) as ours:
            assert await ours.insert(-1, timeout=10.0) == lab.primary.address
            there[0] = old
            await ours._call(ours.pool.drain)  # its sessions are made anew, and refused
            await until(lambda: any(view.fenced for view in ours.pool.topology.endpoints))
            await asyncio.sleep(0.5)  # probes have a session of theirs there, and keep it
            there[0] = lab.primary
            started = time.monotonic()
            assert await ours.insert(-2, timeout=10.0) == lab.primary.address
            assert time.monotonic() - started < probe.LIFE_S / 2
