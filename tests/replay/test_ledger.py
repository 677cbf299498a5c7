"""COMMIT_RESOLVER=ledger on real servers: a lost COMMIT reply is resolved in every case."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Self

import psycopg
import pytest

from resilient.core.outcome import Outcome
from resilient.errors import ConfigError
from resilient.lab import Lab
from resilient.postgres import CommitOutcomeUnknown
from resilient.postgres.commit import ledger

from .held import Held, backend_that_waits, cut, cut_off, stopped, until
from .stage import Shell, numbers

pytestmark = pytest.mark.lab

_names = (f"ledger-{number}" for number in count())
INSERT = "insert into acts values (%s, %s)"


@pytest.fixture(scope="module")
def installed(tables: Lab) -> Lab:
    with psycopg.connect(f"{tables.dsn} target_session_attrs=read-write") as conn:
        conn.execute(ledger.DDL.encode())
    return tables


@pytest.fixture
def verdicts(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What COMMITs were resolved to, in words of the log."""
    found: list[str] = []

    class Listen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if text.startswith("step=resolved"):
                found.append(text.split()[1].removeprefix("outcome="))

    logger, handler = logging.getLogger("resilient.failover"), Listen()
    logger.addHandler(handler)
    with caplog.at_level(logging.INFO, logger.name):
        yield found
    logger.removeHandler(handler)


def tokens(lab: Lab) -> int:
    where = lab.primary.conninfo.replace("dbname=postgres", "dbname=app")
    with psycopg.connect(where) as conn:
        row = conn.execute("select count(*) from resilient.commits").fetchone()
    assert row is not None
    return int(row[0])


class Writer:
    """One block that writes once, and what is known of its session."""

    def __init__(self, shell: Shell, lab: Lab, **values: Any) -> None:
        self.shell, self.lab, self.act = shell, lab, next(_names)
        self.values: dict[str, Any] = {"commit_resolver": "ledger", **values}
        self.conn: Any = None

    @asynccontextmanager
    async def block(self) -> AsyncIterator[Any]:
        async with self.shell.within(self.pool.connection()) as conn:
            await self.shell.do(conn.execute, INSERT, (self.act, 1))
            self.conn = conn
            yield conn

    async def write(self) -> None:
        async with self.block():
            pass

    async def __aenter__(self) -> Self:
        self.pool = await self.shell.open(self.lab, **self.values)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shell.do(self.pool.close)


async def test_one_row_for_each_commit_that_writes(installed: Lab, lab: Lab, shell: Shell) -> None:
    async with Writer(shell, lab) as writer:
        async with shell.within(writer.pool.connection()) as conn:
            await shell.row(conn, "select 1")
        known = writer.pool._core.known  # the catalogue proves that it only reads
        await asyncio.to_thread(until, lambda: bool(known.proved))
        before = await asyncio.to_thread(tokens, lab)
        await writer.write()
        await writer.write()
        async with shell.within(writer.pool.connection()) as conn:
            await shell.row(conn, "select 1")
        with pytest.raises(LookupError):
            async with writer.block():
                raise LookupError
    assert tokens(lab) == before + 2
    assert numbers(lab, writer.act) == [1, 1]


async def test_committed_on_a_server_that_was_killed(
    installed: Lab, lab: Lab, shell: Shell, verdicts: list[str]
) -> None:
    """The standbys have received it, and one of them is the primary now."""
    async with Writer(shell, lab) as writer:
        with Held(lab):
            writing = asyncio.create_task(writer.write())
            await backend_that_waits(lab)
            await asyncio.to_thread(lab.primary.kill)
        run = lab.inject("crash", promote_after_s=0.1, dns_after_s=0)
        await writing
        await asyncio.to_thread(run.wait_done)
    assert verdicts == ["committed"]
    assert numbers(lab, writer.act) == [1]


async def test_not_committed_on_a_server_that_was_killed(
    installed: Lab, lab: Lab, shell: Shell, verdicts: list[str]
) -> None:
    """No standby ever had it; it is done again on the one that is the primary now."""
    async with Writer(shell, lab) as writer:
        with cut_off(lab):
            writing = asyncio.create_task(writer.write())
            await backend_that_waits(lab)
            run = lab.inject("crash", promote_after_s=0.1, dns_after_s=0)
            await asyncio.to_thread(run.wait_writable)
        await writing
        await asyncio.to_thread(run.wait_done)
    assert verdicts == ["not-committed"]
    assert numbers(lab, writer.act) == [1]


async def test_the_session_is_ended_in_its_commit(
    installed: Lab, lab: Lab, shell: Shell, verdicts: list[str]
) -> None:
    async with Writer(shell, lab) as writer:
        with Held(lab) as held:
            writing = asyncio.create_task(writer.write())
            await held.ask("pg_terminate_backend")
        await writing
    assert verdicts == ["committed"]
    assert numbers(lab, writer.act) == [1]


async def test_the_original_still_runs(
    installed: Lab, lab: Lab, shell: Shell, verdicts: list[str]
) -> None:
    """It waits for its standbys, we can't hear it any more: its token is asked for until it
    is there."""
    async with Writer(shell, lab) as writer:
        with Held(lab):
            writing = asyncio.create_task(writer.write())
            await backend_that_waits(lab)
            cut(writer.conn)
            await asyncio.sleep(0.7)
            assert not writing.done(), "a COMMIT that runs was called something else"
        await writing
    assert verdicts == ["committed"]
    assert numbers(lab, writer.act) == [1]


@pytest.mark.parametrize("resolver", ["ledger", "lsn"])
async def test_a_late_original_is_fenced(
    installed: Lab, lab: Lab, shell: Shell, verdicts: list[str], resolver: str
) -> None:
    """Its COMMIT lies unread before a backend that is stopped.  With a ledger the block is done
    again at once, and the original fails when it wakes up; else its end is waited for."""
    async with Writer(shell, lab, commit_resolver=resolver) as writer:
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def write() -> None:
            async with writer.block():
                inside.set()
                await go_on.wait()

        writing = asyncio.create_task(write())
        await inside.wait()
        pid = writer.conn.info.backend_pid
        with stopped(pid):
            go_on.set()
            await asyncio.sleep(0.2)
            cut(writer.conn)
            if resolver == "ledger":
                await writing
            else:
                await asyncio.sleep(0.5)
                assert not writing.done()
        await writing
        there = f"select from pg_stat_activity where pid = {pid}"
        await asyncio.to_thread(until, lambda: lab.admin(None, there) == [])
    assert verdicts == ["not-committed"]
    assert numbers(lab, writer.act) == [1]


async def test_a_cancelled_wait_is_no_success(installed: Lab, lab: Lab, shell: Shell) -> None:
    async with Writer(shell, lab) as writer:
        with Held(lab) as held:
            writing = asyncio.create_task(writer.write())
            await held.ask("pg_cancel_backend")
            with pytest.raises(CommitOutcomeUnknown) as caught:
                await writing
    assert caught.value.details["committed_locally"] is True
    assert numbers(lab, writer.act) == [1]


async def test_the_applications_own_errors_at_commit(
    installed: Lab, lab: Lab, shell: Shell
) -> None:
    """A deferred constraint; a transaction that has failed before, whose COMMIT is psycopg's
    rollback without a word."""
    async with Writer(shell, lab) as writer:
        deferred = "alter table {0} add unique (n) deferrable initially deferred"
        with pytest.raises(psycopg.errors.UniqueViolation):  # noqa: PT012
            async with writer.block() as conn:
                await shell.do(conn.execute, "create table twice (n int)")
                await shell.do(conn.execute, deferred.format("twice"))
                await shell.do(conn.execute, "insert into twice values (1), (1)")
        assert await asyncio.to_thread(numbers, lab, writer.act) == []
        await writer.write()
    assert numbers(lab, writer.act) == [1]


async def test_commit_of_a_failed_transaction(installed: Lab, lab: Lab, shell: Shell) -> None:
    async with Writer(shell, lab) as writer:
        async with writer.block() as conn:
            with pytest.raises(psycopg.errors.DivisionByZero):
                await shell.do(conn.execute, "select 1/0")
        await writer.write()
    assert numbers(lab, writer.act) == [1]


async def test_without_the_table_the_error_names_the_command(
    tables: Lab, lab: Lab, shell: Shell
) -> None:
    lab.admin(None, "create database bare owner app")
    dsn = lab.dsn.replace("dbname=app", "dbname=bare")
    try:
        async with shell.opened(lab, dsn, commit_resolver="ledger") as pool:
            async with shell.within(pool.connection()) as conn:
                assert await shell.row(conn, "select 1") == (1,)
            with pytest.raises(ConfigError, match="resilient install-ledger --dsn"):
                async with shell.within(pool.connection()) as conn:
                    await shell.do(conn.execute, "create table t (n int)")
            async with shell.within(pool.connection()) as conn:
                assert await shell.row(conn, "select to_regclass('t')") == (None,)
    finally:
        lab.admin(None, "drop database bare with (force)")


async def test_a_resolver_whose_own_reply_was_lost_asks_again(installed: Lab, lab: Lab) -> None:
    """What it has fenced off is not the original."""
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    with psycopg.connect(dsn, autocommit=True) as conn:
        token, other = ledger.new_token(), ledger.new_token()
        for _ in range(3):
            assert conn.wait(ledger.verdict(conn.pgconn, token)).outcome is Outcome.NOT_COMMITTED
        conn.pgconn.exec_params(ledger.INSERT, [other])
        for _ in range(2):
            assert conn.wait(ledger.verdict(conn.pgconn, other)).outcome is Outcome.COMMITTED
