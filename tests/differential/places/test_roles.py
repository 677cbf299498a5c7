"""What the user said about roles: in the connection string, and on the server."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import psycopg_pool
import pytest

from resilient.errors import ConfigError
from resilient.lab import Lab
from resilient.postgres import NoEndpointAvailable
from resilient.postgres.target import parse
from resilient.settings import Settings
from tests.postgres.conftest import Face

from .conftest import WHERE, at, one_shell, opened, other_shell, plainly, until

pytestmark = pytest.mark.lab

READ_ONLY = "alter role app set default_transaction_read_only = on"


@pytest.fixture(params=["role", "database", "server"])
def read_only(request: pytest.FixtureRequest, lab: Lab) -> Iterator[str]:
    """New sessions write nothing by default; until the end of the test."""
    where: str = request.param
    what = {"role": "role app", "database": "database app", "server": "system"}[where]
    admin = lab.primary
    admin.execute(f"alter {what} set default_transaction_read_only = on")
    admin.execute("select pg_reload_conf()")
    yield where
    admin.execute("set default_transaction_read_only = off")
    with admin.connect() as conn:  # one statement a session would be read-only again
        conn.execute("set default_transaction_read_only = off")
        conn.execute(f"alter {what} reset default_transaction_read_only")
        conn.execute("select pg_reload_conf()")


@pytest.mark.parametrize("attrs", ["standby", "prefer-standby", "read-only"])
async def test_the_default_intent_is_what_the_conninfo_says(
    lab: Lab, orders: str, face: Face, attrs: str
) -> None:
    dsn = at(lab, lab.primary, *lab.standbys, target_session_attrs=attrs)
    first = lab.standbys[0].address
    assert plainly(dsn) == first
    async with opened(face, dsn) as ours:
        await ours.wait()
        stats = ours.pool.get_stats()
        assert stats["pool_size"] >= stats["pool_min"] == 2
        assert {await ours.where() for _ in range(5)} == {first}
        assert await ours.query("show transaction_read_only") == ("on",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await ours.query("create table never (n int)")
        # what a caller says is another matter
        assert await ours.where(read_only=False) == lab.primary.address
        await ours.query("insert into orders values (-1)  returning id", read_only=False)


@pytest.mark.parametrize("attrs", ["any", "primary", "prefer-primary", "read-write"])
@one_shell
async def test_and_writing_is_what_it_was(lab: Lab, orders: str, face: Face, attrs: str) -> None:
    dsn = at(lab, *lab.standbys, lab.primary, target_session_attrs=attrs)
    async with opened(face, dsn) as ours:
        assert await ours.where() == lab.primary.address
        assert await ours.where(read_only=False) == lab.primary.address


@other_shell
async def test_libpqs_variable_says_it_as_well(
    lab: Lab, orders: str, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "standby")
    dsn = at(lab, lab.primary, *lab.standbys)
    assert plainly(dsn) == lab.standbys[0].address
    async with opened(face, dsn) as ours:
        assert await ours.where() == lab.standbys[0].address


async def test_a_standby_is_waited_for_and_a_preferred_one_is_not(
    lab: Lab, orders: str, face: Face
) -> None:
    alone = at(lab, lab.primary, target_session_attrs="standby")
    assert issubclass(plainly(alone), psycopg_pool.PoolTimeout)
    async with opened(face, alone) as ours:
        with pytest.raises(NoEndpointAvailable, match=r"'read'.*target_session_attrs=standby"):
            await ours.where(timeout=0.5)
    preferred = at(lab, lab.primary, target_session_attrs="prefer-standby")
    assert plainly(preferred) == lab.primary.address
    async with opened(Face("async" if face.is_async else "sync"), preferred) as ours:
        assert await ours.where() == lab.primary.address
        await ours.query("insert into orders values (-2) returning id")  # as in libpq


@one_shell
async def test_the_order_of_hosts_is_libpqs(lab: Lab, orders: str, face: Face) -> None:
    dsn = at(lab, *reversed(lab.standbys), target_session_attrs="standby")
    both = {member.address for member in lab.standbys}
    async with opened(face, dsn, min_size=4) as ours:
        await ours.wait()
        held = [conn._resilient.link.endpoint.address for conn in ours.pool._pool]
        assert set(held) == {lab.standbys[1].address}
    evenly = Face("async" if face.is_async else "sync")
    async with opened(evenly, f"{dsn} load_balance_hosts=random", min_size=16) as ours:
        await ours.wait()
        assert {conn._resilient.link.endpoint.address for conn in ours.pool._pool} == both


async def test_a_list_of_replicas_reads(lab: Lab, orders: str, face: Face) -> None:
    dsn = at(lab, *lab.standbys)
    assert plainly(dsn) == lab.standbys[0].address
    async with opened(face, dsn) as ours:
        await ours.wait(5.0)
        assert ours.pool.topology.replicas_only
        addresses = {member.address for member in lab.standbys}
        assert await ours.where() in addresses
        assert await ours.where(read_only=True) in addresses
        assert await ours.where(reader=True) in addresses
        with pytest.raises(NoEndpointAvailable, match=r"'write'.*a replica"):
            await ours.where(read_only=False, timeout=0.5)


@one_shell
async def test_it_goes_on_reading_when_one_is_gone(lab: Lab, orders: str, face: Face) -> None:
    near, far = lab.standbys
    async with opened(face, at(lab, near, far)) as ours:
        await ours.wait(5.0)
        assert await ours.where() == near.address
        near.kill()
        for _ in range(20):
            assert await ours.where(timeout=5.0) == far.address


@other_shell
async def test_when_one_of_them_is_promoted_it_writes(lab: Lab, orders: str, face: Face) -> None:
    async with opened(face, at(lab, *lab.standbys)) as ours:
        await ours.wait(5.0)
        run = lab.inject("crash")
        run.wait_done()
        await until(lambda: ours.pool.topology.writer is not None)
        assert not ours.pool.topology.replicas_only
        await ours.insert(-3, timeout=10.0)
        assert await ours.where() == lab.primary.address


async def test_read_only_by_default_is_served(
    lab: Lab, orders: str, face: Face, read_only: str
) -> None:
    dsn = at(lab, lab.primary)
    assert plainly(dsn) == lab.primary.address
    refused = psycopg.errors.ReadOnlySqlTransaction
    assert plainly(dsn, "insert into orders values (-4) returning id") is refused
    async with opened(face, dsn) as ours:
        assert await ours.where(timeout=5.0) == lab.primary.address
        assert await ours.where(read_only=True, timeout=5.0) == lab.primary.address
        version = ours.pool.topology.version
        with pytest.raises(refused):
            await ours.query("insert into orders values (-5) returning id", timeout=5.0)
        assert ours.pool.topology.version == version
        with pytest.raises(NoEndpointAvailable, match="default_transaction_read_only"):
            await ours.query(WHERE, read_only=False, timeout=0.5)


async def test_who_insists_on_writing_waits_for_it(lab: Lab, orders: str, face: Face) -> None:
    lab.primary.execute(READ_ONLY)
    dsn = at(lab, lab.primary, target_session_attrs="read-write")
    try:
        assert issubclass(plainly(dsn), psycopg_pool.PoolTimeout)
        async with opened(face, dsn) as ours:
            with pytest.raises(NoEndpointAvailable, match="default_transaction_read_only"):
                await ours.where(timeout=0.5)
            lab.primary.execute("alter role app reset default_transaction_read_only")
            assert await ours.where(timeout=10.0) == lab.primary.address
            await ours.insert(-6)
    finally:
        lab.primary.execute("alter role app reset default_transaction_read_only")


def test_what_isnt_an_attribute_is_named() -> None:
    for words in ("target_session_attrs=both", "load_balance_hosts=even"):
        with pytest.raises(ConfigError, match=words.split("=")[0]):
            parse(f"host=a {words}", {}, Settings())
