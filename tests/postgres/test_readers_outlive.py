"""A block that only reads, and whose replica dies in the middle of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from resilient.errors import TransactionReplayMismatch
from resilient.lab import Lab
from tests.replay.stage import Shell

pytestmark = pytest.mark.lab

WHERE = "select host(inet_server_addr())"
ROWS = "select n from read_here order by n"


@pytest.fixture(params=["sync", "async"])
def shell(request: pytest.FixtureRequest) -> Shell:
    return Shell(request.param)


@pytest.fixture
def rows(lab: Lab) -> list[tuple[int]]:
    """A table that every replica has."""
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("set synchronous_commit = remote_apply")
        conn.execute("create table if not exists read_here (n int)")
        conn.execute("truncate read_here")
        conn.execute("insert into read_here select generate_series(1, 3)")
    return [(1,), (2,), (3,)]


def member_at(lab: Lab, address: str) -> Any:
    return next(member for member in lab.members if member.address == address)


def crash(lab: Lab, address: str) -> None:
    member_at(lab, address).kill()


def hang(lab: Lab, address: str) -> None:
    member_at(lab, address).pause()


@asynccontextmanager
async def reading(shell: Shell, lab: Lab, **settings: Any) -> AsyncIterator[tuple[Any, str]]:
    """A block on a replica, and the replica's address; nothing of it was seen."""
    near = lab.standbys[0]
    async with shell.opened(lab, zone=near.zone, **settings) as pool:
        await until_known(shell, lab, pool, near.address)
        async with shell.within(pool.connection(read_only=True)) as conn:
            assert str(conn._resilient.link.endpoint.address) == near.address
            yield conn, near.address


async def until_known(shell: Shell, lab: Lab, pool: Any, address: str) -> None:
    """All replicas are known, so that one can stand in for the other."""
    for _ in range(500):
        views = [v for v in pool.topology.endpoints if v.role.value == "replica" and v.lag_s == 0]
        if {v.address for v in views} == {standby.address for standby in lab.standbys}:
            async with shell.within(pool.connection(read_only=True)) as conn:
                if (await shell.row(conn, WHERE))[0] == address:
                    return
        await asyncio.sleep(0.02)
    raise AssertionError(f"the replicas were never known: {pool.topology}")


@pytest.mark.parametrize("strike", [crash, hang])
async def test_it_goes_on_elsewhere(
    lab: Lab, shell: Shell, rows: list[Any], strike: Callable[[Lab, str], None]
) -> None:
    async with reading(shell, lab) as (conn, address):
        assert await shell.rows(await shell.do(conn.execute, ROWS)) == rows
        await asyncio.to_thread(strike, lab, address)
        assert await shell.rows(await shell.do(conn.execute, ROWS)) == rows
        (elsewhere,) = await shell.row(conn, WHERE)
        assert elsewhere != address
        assert await shell.row(conn, "show transaction_read_only") == ("on",)


async def test_the_end_of_the_block_is_no_unknown_commit(
    lab: Lab, shell: Shell, rows: list[Any]
) -> None:
    async with reading(shell, lab) as (conn, address):
        assert await shell.rows(await shell.do(conn.execute, ROWS)) == rows
        await asyncio.to_thread(crash, lab, address)


async def test_with_all_replicas_gone_the_primary_serves(
    lab: Lab, shell: Shell, rows: list[Any]
) -> None:
    async with reading(shell, lab) as (conn, _):
        assert await shell.rows(await shell.do(conn.execute, ROWS)) == rows
        for standby in lab.standbys:
            await asyncio.to_thread(standby.kill)
        assert await shell.rows(await shell.do(conn.execute, ROWS)) == rows
        assert await shell.row(conn, WHERE) == (lab.primary.address,)
        assert await shell.row(conn, "show transaction_read_only") == ("on",)


async def test_what_differs_there_is_said(lab: Lab, shell: Shell, rows: list[Any]) -> None:
    with pytest.raises(TransactionReplayMismatch, match="column 'host'"):  # noqa: PT012
        async with reading(shell, lab) as (conn, address):
            assert await shell.row(conn, WHERE) == (address,)
            await asyncio.to_thread(crash, lab, address)
            await shell.do(conn.execute, ROWS)


async def test_switched_off_it_says_so(lab: Lab, shell: Shell, rows: list[Any]) -> None:
    off = {"replay": "off", "commit_resolver": "off"}
    with pytest.raises(psycopg.OperationalError, match="not replayed: RESILIENT_REPLAY=off"):  # noqa: PT012
        async with reading(shell, lab, **off) as (conn, address):
            assert await shell.rows(await shell.do(conn.execute, ROWS)) == rows
            await asyncio.to_thread(crash, lab, address)
            await shell.do(conn.execute, ROWS)
