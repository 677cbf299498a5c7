"""What asynchronous replication lost is told: once, and as many as there are."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from resilient.core.outcome import lsn
from resilient.lab import Lab
from resilient.postgres import CommitOutcomeUnknown
from tests.replay.held import cut_off, forget_settings, until
from tests.replay.stage import Shell

from .closed_loop import primary_dsn

pytestmark = pytest.mark.lab

TABLE = "create table if not exists losses (id bigint not null)"
#: the position lies behind the row's record, and before the mark of its block
INSERT = "insert into losses values (%s) returning pg_current_wal_insert_lsn()::text"
_ids = itertools.count(1)


@pytest.fixture(params=["sync", "async"])
def shell(request: pytest.FixtureRequest) -> Shell:
    return Shell(request.param)


@dataclass
class Writer:
    """One pool, and what was acknowledged to it."""

    shell: Shell
    pool: Any
    #: id → the position behind its row
    acked: dict[int, int] = field(default_factory=dict)

    @asynccontextmanager
    async def block(self) -> AsyncIterator[Any]:
        async with self.shell.within(self.pool.connection()) as conn:
            yield conn

    async def insert(self, conn: Any) -> tuple[int, int]:
        number = next(_ids)
        (position,) = await self.shell.row(conn, INSERT, (number,))
        return number, lsn(position)

    async def write(self, times: int = 1) -> None:
        for _ in range(times):
            async with self.block() as conn:
                number, position = await self.insert(conn)
            self.acked[number] = position

    async def write_plainly(self) -> None:
        """What can be done again: nobody sees where it lies."""
        number = next(_ids)
        with suppress(CommitOutcomeUnknown):  # which acknowledges nothing
            async with self.block() as conn:
                await self.shell.do(conn.execute, "insert into losses values (%s)", (number,))
            self.acked[number] = 0

    async def meet_often(self) -> None:
        """Many sessions at once with a server that nobody has met."""
        await asyncio.gather(*(self.write() for _ in range(12)))

    def missing(self, lab: Lab) -> set[int]:
        """What was acknowledged, and isn't there."""
        with psycopg.connect(primary_dsn(lab)) as conn:
            rows = conn.execute("select id from losses").fetchall()
        return set(self.acked) - {row[0] for row in rows}


@asynccontextmanager
async def writing(shell: Shell, lab: Lab, **settings: Any) -> AsyncIterator[Writer]:
    with psycopg.connect(primary_dsn(lab), autocommit=True) as conn:
        conn.execute(TABLE)
    async with shell.opened(lab, **settings) as pool:
        yield Writer(shell, pool)


def told(caplog: pytest.LogCaptureFixture, step: str = "commits-lost") -> list[dict[str, str]]:
    """The words of each such line."""
    lines = [r.getMessage() for r in caplog.records if r.name == "resilient.failover"]
    words = [dict(w.split("=", 1) for w in line.split() if "=" in w) for line in lines]
    return [found for found in words if found["step"] == step]


def received_all(lab: Lab) -> bool:
    """Has every standby all that the primary has flushed?"""
    flushed = str(lab.primary.execute("select pg_current_wal_flush_lsn()::text")[0][0])
    query = "select pg_last_wal_receive_lsn()::text"
    return all(lsn(str(s.execute(query)[0][0])) >= lsn(flushed) for s in lab.standbys)


async def crash(lab: Lab) -> None:
    def strike() -> None:
        run = lab.inject("crash", promote_after_s=0, dns_after_s=0)
        run.wait_writable()
        forget_settings(lab)
        run.wait_done()

    await asyncio.to_thread(strike)


async def test_every_lost_transaction_is_counted(
    asynchronous: Lab, shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    lab = asynchronous
    caplog.set_level(logging.INFO, logger="resilient.failover")
    async with writing(shell, lab) as writer:
        await writer.write(5)
        async with writer.block() as conn:
            # its mark is replicated, its COMMIT will not be
            number, position = await writer.insert(conn)
            await writer.write()  # which flushes the log
            await asyncio.to_thread(until, lambda: received_all(lab))
            cutting = cut_off(lab)
            await asyncio.to_thread(cutting.__enter__)
        writer.acked[number] = position
        await writer.write(7)
        await crash(lab)
        await asyncio.to_thread(cutting.__exit__, None, None, None)
        await writer.meet_often()
        missing = writer.missing(lab)
        assert len(missing) == 8
        (event,) = told(caplog)
        assert int(event["count"]) == len(missing)
        assert "at_least" not in event
        assert int(event["new_timeline"]) == int(event["timeline"]) + 1
        start, end = lsn(event["from"]), lsn(event["to"])
        beyond = {n for n in missing if writer.acked[n] > start}
        assert missing - beyond == {number}, "only its COMMIT lies behind the switch point"
        assert all(writer.acked[n] <= end for n in missing)
    await asyncio.to_thread(lab.rejoin)


async def test_a_late_acknowledgement_is_asked_about_without_any_session(
    asynchronous: Lab, shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    """Its mark lies before the switch point, and its process hears of it behind the judgement."""
    lab, late = asynchronous, []
    caplog.set_level(logging.INFO, logger="resilient.failover")
    async with writing(shell, lab) as writer:
        await writer.write()
        async with writer.block() as conn:
            number, position = await writer.insert(conn)
            await writer.write()  # which flushes the log
            await asyncio.to_thread(until, lambda: received_all(lab))
            cutting = cut_off(lab)
            await asyncio.to_thread(cutting.__enter__)
            known = conn._resilient.link.commit_facts.flushed
            known.acknowledged = late.append
        known.acknowledged = known.marks.append
        writer.acked[number] = position
        await crash(lab)
        await asyncio.to_thread(cutting.__exit__, None, None, None)
        await writer.meet_often()
        assert writer.missing(lab) == {number}
        assert told(caplog) == []
        (written,) = late
        known.acknowledged(written)
        await asyncio.to_thread(until, lambda: told(caplog))
        assert [event["count"] for event in told(caplog)] == ["1"]
    await asyncio.to_thread(lab.rejoin)


async def test_a_failover_that_lost_nothing_is_no_news(
    asynchronous: Lab, shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    lab = asynchronous
    async with writing(shell, lab) as writer:
        await writer.write(5)
        await asyncio.to_thread(until, lambda: received_all(lab))
        await crash(lab)
        await writer.meet_often()
        assert writer.missing(lab) == set()
        assert told(caplog) == []
    await asyncio.to_thread(lab.rejoin)


async def test_what_carries_no_mark_is_a_range(
    asynchronous: Lab, shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    """Autocommit writes: how many were lost isn't known, that WAL is gone is."""
    lab = asynchronous
    caplog.set_level(logging.INFO, logger="resilient.failover")
    async with writing(shell, lab) as writer:
        await writer.write()
        await asyncio.to_thread(until, lambda: received_all(lab))
        with cut_off(lab):
            async with writer.block() as conn:
                await shell.do(conn.set_autocommit, True)
                await writer.insert(conn)
            async with writer.block() as conn:
                # its piggyback reads how far the server has flushed; it never commits
                await writer.insert(conn)
                await shell.do(conn.rollback)
            await crash(lab)
        await writer.meet_often()
        assert told(caplog) == []
        (event,) = told(caplog, "wal-lost")
        assert lsn(event["from"]) < lsn(event["to"])
    await asyncio.to_thread(lab.rejoin)


@pytest.mark.parametrize("fault", ["crash", "hang"])
async def test_synchronous_replication_loses_nothing(
    lab: Lab, shell: Shell, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    """Writers that go on all the time: a COMMIT that was never acknowledged isn't lost."""
    async with writing(shell, lab) as writer:
        ending = asyncio.Event()

        async def write_on() -> None:
            while not ending.is_set():
                await writer.write_plainly()

        writers = [asyncio.create_task(write_on()) for _ in range(6)]
        await asyncio.sleep(0.2)
        run = lab.inject(fault, promote_after_s=0.1, dns_after_s=0)
        await asyncio.to_thread(run.wait_done)
        await asyncio.sleep(0.2)
        ending.set()
        await asyncio.gather(*writers)
        assert writer.missing(lab) == set()
        assert told(caplog) == []
