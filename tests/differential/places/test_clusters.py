"""Which cluster is meant: by the writer's name, and by nobody else's.

FAULTS 48–50.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import psycopg
import pytest

from resilient.lab import Lab
from resilient.lab.balancer import Balancer
from resilient.lab.dns_server import DnsFaults
from resilient.lab.postgres import Member
from resilient.postgres import CommitOutcomeUnknown, ConnectionPool
from resilient.settings import Settings
from tests.postgres.conftest import INSERT, Face

from .conftest import at, beside, one_shell, opened, other_shell, settings_of, until

pytestmark = pytest.mark.lab

TTL_S = 1.0
#: what a busy machine may add to a bound
GRACE_S = 0.4


def count(lab: Lab, member: Member, number: int) -> int:
    with psycopg.connect(at(lab, member)) as conn:
        row = conn.execute("select count(*) from orders where id = %s", (number,)).fetchone()
    assert row is not None
    return int(row[0])


async def moved(to: str, since: float, where: Callable[[], Awaitable[str]]) -> float:
    """Seconds from then until a block was served there.  One that was under way on the old one
    may fail; whether it has taken effect is known."""
    while time.monotonic() < since + 10:
        try:
            if await where() == to:
                return time.monotonic() - since
        except CommitOutcomeUnknown:
            raise
        except psycopg.OperationalError:
            pass
        await asyncio.sleep(0.01)
    raise AssertionError(f"never served at {to}")


async def test_the_writers_name_moves_to_another_cluster_and_back(
    lab: Lab, orders: str, face: Face, green: Member, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="resilient")
    settings = settings_of(lab, zone=None, database_readers=lab.READER)
    async with opened(face, lab.writer_dsn, settings) as ours:
        write = partial(ours.insert, -13, timeout=5.0)
        assert await ours.insert(-11) == lab.primary.address
        token = await ours._call(ours.pool.causal_token)
        await until(lambda: len(ours.pool._core.replicas) == 1)
        since = lab.dns.flip(lab.WRITER, "green.db.test")
        assert await moved(green.address, since, write) < TTL_S + 0.1 + GRACE_S
        assert "another cluster" in caplog.text
        # readers of the old cluster are used no more, and its tokens lead to the new primary
        assert await ours.where(read_only=True) == green.address
        assert await ours.where(read_only=True, after=token) == green.address
        # so does every new process
        fresh = ConnectionPool(lab.writer_dsn, settings=settings, min_size=1)
        with fresh as pool, pool.connection() as conn:
            assert conn.execute(INSERT, (-12,)).fetchone() == (green.address,)
        since = lab.dns.flip(lab.WRITER, lab.member_name(lab.primary.zone))
        assert await moved(lab.primary.address, since, write) < TTL_S + 0.1 + GRACE_S
        assert await ours.where(read_only=True) != green.address


async def test_no_commit_goes_to_the_old_one_afterwards(
    lab: Lab, orders: str, face: Face, green: Member
) -> None:
    async with opened(face, lab.writer_dsn, settings_of(lab, zone=None)) as ours:
        await ours.wait()
        number = -int(time.time())

        async def block() -> None:
            if not ours.is_async:
                await asyncio.to_thread(hold)
                return
            async with ours.pool.connection() as conn:
                await conn.execute(INSERT, (number,))
                inside.set()
                while not let_go.is_set():
                    await asyncio.sleep(0.01)

        def hold() -> None:
            with ours.pool.connection() as conn:
                conn.execute(INSERT, (number,))
                loop.call_soon_threadsafe(inside.set)
                while not let_go.is_set():
                    time.sleep(0.01)

        loop = asyncio.get_running_loop()
        inside, let_go = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(block())
        await inside.wait()
        lab.dns.flip(lab.WRITER, "green.db.test")
        await until(lambda: getattr(ours.pool.topology.writer, "address", "") == green.address)
        let_go.set()
        with pytest.raises(psycopg.OperationalError) as failure:
            await task
        assert not isinstance(failure.value, CommitOutcomeUnknown)
        assert count(lab, lab.primary, number) == 0
        assert count(lab, green, number) == 0  # nor is it replayed across identifiers


@one_shell
async def test_a_read_only_old_one_and_a_readers_name_that_stays_behind(
    lab: Lab, orders: str, face: Face, green: Member
) -> None:
    settings = settings_of(lab, zone=None, database_readers=lab.READER)
    async with opened(face, lab.writer_dsn, settings) as ours:
        assert await ours.insert(-14) == lab.primary.address
        lab.primary.execute("alter system set default_transaction_read_only = on")
        lab.primary.execute("select pg_reload_conf()")
        try:
            since = lab.dns.flip(lab.WRITER, "green.db.test")
            where = partial(ours.where, timeout=5.0)
            assert await moved(green.address, since, where) < TTL_S + 0.1 + GRACE_S
            assert await ours.insert(-15, timeout=5.0) == green.address
        finally:
            with lab.primary.connect() as conn:
                conn.execute("set default_transaction_read_only = off")
                conn.execute("alter system reset default_transaction_read_only")
                conn.execute("select pg_reload_conf()")


@other_shell
async def test_a_list_with_a_foreign_server_stays_refused(
    lab: Lab, orders: str, face: Face, green: Member
) -> None:
    async with opened(face, at(lab, lab.primary, green)) as ours:
        assert await ours.insert(-16) == lab.primary.address
        await until(lambda: any(view.fenced for view in ours.pool.topology.endpoints))
        (refused,) = [view for view in ours.pool.topology.endpoints if view.fenced]
        assert refused.address == green.address
        (one,), (other,) = (
            member.execute("select system_identifier from pg_control_system()")[0]
            for member in (lab.primary, green)
        )
        assert str(one) in refused.reason
        assert str(other) in refused.reason


async def test_a_lists_names_move_together(
    lab: Lab, orders: str, face: Face, green: Member
) -> None:
    """As every new process does: it finds the other cluster alone."""
    old = lab.standbys[0]
    lab.dns.set_records("second.db.test", "A", [old.address], 1)
    hosts = f"host={lab.WRITER},second.db.test port={lab.port} user=app dbname=app"
    async with opened(face, hosts, settings_of(lab, zone=None)) as ours:
        assert await ours.insert(-17) == lab.primary.address
        lab.dns.flip(lab.WRITER, "green.db.test")
        await until(lambda: any(view.fenced for view in ours.pool.topology.endpoints))
        assert await ours.insert(-18) == lab.primary.address  # one of them is no agreement
        write = partial(ours.insert, -19, timeout=5.0)
        lab.dns.set_records("second.db.test", "A", [green.address], 1)
        assert await moved(green.address, time.monotonic(), write) < 2 * TTL_S + GRACE_S
        lab.dns.set_records("second.db.test", "A", [old.address], 1)
        lab.dns.flip(lab.WRITER, lab.member_name(lab.primary.zone))
        assert await moved(lab.primary.address, time.monotonic(), write) < 2 * TTL_S + GRACE_S


# -- readers' names


@one_shell
async def test_a_promoted_readers_name_gets_no_write(lab: Lab, orders: str, face: Face) -> None:
    clone = lab.standbys[0]
    settings = settings_of(lab, zone=None, database_readers=f"{clone.address}:{lab.port}")
    async with opened(face, at(lab, lab.primary), settings) as ours:
        assert await ours.insert(-21) == lab.primary.address
        clone.promote()
        await until(clone.is_primary)
        clone.execute("checkpoint")
        await until(lambda: any(view.astray for view in ours.pool.topology.endpoints))
        for number in range(-40, -22):
            assert await ours.insert(number, timeout=5.0) == lab.primary.address
        assert await ours.where(read_only=True) == lab.primary.address
        fresh = Face("async" if face.is_async else "sync")
        async with opened(fresh, at(lab, lab.primary), settings) as other:
            assert await other.insert(-41, timeout=5.0) == lab.primary.address


# -- the fence of a process


@other_shell
async def test_pools_of_one_server_share_a_fence(lab: Lab, orders: str, face: Face) -> None:
    old = lab.primary
    alone = Face("async" if face.is_async else "sync")
    async with (
        opened(face, lab.dsn, settings_of(lab)) as all_of_them,
        opened(alone, at(lab, old), settings_of(lab)) as only_the_old,
    ):
        assert await all_of_them.insert(-51) == old.address
        assert await only_the_old.insert(-52) == old.address
        run = lab.inject("zombie")
        run.wait_done()
        assert lab.primary is not old
        assert await all_of_them.insert(-53, timeout=10.0) == lab.primary.address
        with pytest.raises(psycopg.OperationalError):
            await only_the_old.insert(-54, timeout=1.0)
        assert count(lab, old, -54) == 0


@one_shell
async def test_a_restored_copy_stops_nobody(lab: Lab, orders: str, face: Face) -> None:
    copy = beside(lab, "copy", "127.0.8.10")
    copy.base_backup(lab.primary)
    copy.follow(lab.primary)
    copy.start()
    try:
        copy.promote()
        await until(copy.is_primary)
        other = Face("async" if face.is_async else "sync")
        async with (
            opened(face, at(lab, lab.primary), settings_of(lab)) as production,
            opened(other, at(lab, copy), settings_of(lab)) as restored,
        ):
            assert await production.insert(-61) == lab.primary.address
            assert await restored.insert(-62) == copy.address
            assert (restored.pool.topology.timeline or 0) > (production.pool.topology.timeline or 0)
            await asyncio.sleep(0.1)
            assert await production.insert(-63, timeout=5.0) == lab.primary.address
    finally:
        copy.remove()
        lab.primary.execute("select 1")


# -- the first one


@pytest.fixture
def zombie(lab: Lab, orders: str) -> Iterator[Member]:
    """The old primary, which acknowledges whatever it is told, beside the new one."""
    old = lab.primary
    run = lab.inject("zombie")
    run.wait_done()
    old.execute("alter system set synchronous_standby_names = ''")
    old.execute("select pg_reload_conf()")
    yield old
    old.execute("alter system reset synchronous_standby_names")
    old.execute("select pg_reload_conf()")


@other_shell
async def test_a_fresh_process_beside_a_zombie_hears_the_others_first(
    lab: Lab, face: Face, zombie: Member
) -> None:
    new = lab.primary
    with Balancer("127.0.7.10", lab.port, lambda: (new.address, lab.port), 0.008) as slow:
        hosts = f"host={zombie.address},{slow.address} port={lab.port} user=app dbname=app"
        async with opened(face, hosts, settings_of(lab)) as ours:
            assert await ours.insert(-71, timeout=5.0) == new.address


async def test_and_those_whose_name_is_answered_a_moment_later(
    lab: Lab, face: Face, zombie: Member
) -> None:
    lab.dns.set_records("late.db.test", "A", [lab.primary.address], 1)
    lab.dns.faults = DnsFaults(names=frozenset({"late.db.test"}), delay_s=0.05)
    hosts = f"host={zombie.address},late.db.test port={lab.port} user=app dbname=app"
    try:
        async with opened(face, hosts, settings_of(lab)) as ours:
            assert await ours.insert(-72, timeout=5.0) == lab.primary.address
    finally:
        lab.dns.faults = DnsFaults()


@one_shell
async def test_who_says_nothing_for_a_fair_time_holds_nobody_up(
    lab: Lab, orders: str, face: Face
) -> None:
    with Balancer("127.0.7.10", lab.port, lambda: ("127.0.7.11", 1), 0.0) as _:
        pass
    with Balancer("127.0.7.10", lab.port, lambda: (lab.primary.address, lab.port), 60.0) as mute:
        hosts = f"host={lab.primary.address},{mute.address} port={lab.port} user=app dbname=app"
        started = time.monotonic()
        async with opened(face, hosts, settings_of(lab)) as ours:
            assert await ours.where(timeout=5.0) == lab.primary.address
            assert time.monotonic() - started < 0.5 + GRACE_S


# -- servers that tell nothing


TELLING = ("pg_control_system()", "pg_control_checkpoint()", "pg_postmaster_start_time()")


@pytest.fixture(params=[TELLING, (*TELLING, "pg_is_in_recovery()")], ids=["timeline", "role"])
def mute(request: pytest.FixtureRequest, green: Member) -> Iterator[Member]:
    """A primary that tells no timeline, and then no role either."""
    functions: tuple[str, ...] = request.param
    with psycopg.connect(green.conninfo.replace("dbname=postgres", "dbname=app")) as conn:
        for name in functions:
            conn.execute(f"revoke execute on function pg_catalog.{name} from public")
    yield green
    with psycopg.connect(green.conninfo.replace("dbname=postgres", "dbname=app")) as conn:
        for name in functions:
            conn.execute(f"grant execute on function pg_catalog.{name} to public")


@other_shell
async def test_a_host_without_timeline_gets_no_write_beside_others(
    lab: Lab, orders: str, face: Face, mute: Member
) -> None:
    for members in ((mute, *lab.members), (*lab.members, mute)):
        fresh = Face("async" if face.is_async else "sync")
        async with opened(fresh, at(lab, *members), Settings()) as ours:
            assert await ours.insert(-81, timeout=5.0) == lab.primary.address


@one_shell
async def test_servers_that_tell_nothing_are_written_to(
    lab: Lab, orders: str, face: Face, mute: Member
) -> None:
    """Two of them are no conflict: there are databases whose nodes all take writes."""
    with Balancer("127.0.7.10", lab.port, lambda: (mute.address, lab.port)) as other:
        hosts = f"host={mute.address},{other.address} port={lab.port} user=app dbname=app"
        async with opened(face, hosts) as ours:
            assert await ours.insert(-91, timeout=5.0) == mute.address
            assert ours.pool.topology.conflict == ""
