"""Sessions that an operator ends or cancels, on a server that lives: it is obeyed, and what was
in flight took effect once or not at all."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from itertools import count
from typing import Any

import psycopg
import pytest

from resilient.lab import Lab
from resilient.postgres import CommitOutcomeUnknown

from .held import Held
from .stage import Shell, numbers

pytestmark = pytest.mark.lab

_names = (f"terminated-{number}" for number in count())
INSERT = "insert into acts values (%s, %s)"


async def block(shell: Shell, pool: Any, act: str, *, by_hand: str = "") -> None:
    async with shell.within(pool.connection()) as conn:
        await shell.do(conn.execute, INSERT, (act, 1))
        if by_hand:
            await shell.do(conn.execute, by_hand)


@pytest.mark.parametrize("by_hand", ["", "commit"])
async def test_a_cancelled_wait_for_the_standbys_is_no_success(
    tables: Lab, lab: Lab, shell: Shell, by_hand: str
) -> None:
    """FAULTS 16: The server says COMMIT, and warns: only it has the transaction."""
    act = next(_names)
    async with shell.opened(lab) as pool:
        with Held(lab) as held:
            writing = asyncio.create_task(block(shell, pool, act, by_hand=by_hand))
            await held.ask("pg_cancel_backend")
            with pytest.raises(CommitOutcomeUnknown) as caught:
                await writing
        details = caught.value.details
        assert details["committed_locally"] is True
        assert str(details["endpoint"]).startswith(lab.primary.address)
        assert "standbys" in str(details["reason"])
        await block(shell, pool, next(_names))
    assert numbers(lab, act) == [1]


async def test_nor_is_it_in_autocommit(tables: Lab, lab: Lab, shell: Shell) -> None:
    act = next(_names)

    async def write() -> None:
        async with shell.within(pool.connection()) as conn:
            await shell.do(conn.set_autocommit, True)
            await shell.do(conn.execute, INSERT, (act, 1))

    async with shell.opened(lab) as pool:
        with Held(lab) as held:
            writing = asyncio.create_task(write())
            await held.ask("pg_cancel_backend")
            with pytest.raises(CommitOutcomeUnknown):
                await writing


async def test_ended_while_its_commit_waits(tables: Lab, lab: Lab, shell: Shell) -> None:
    """Without any reply; the same server tells, and a standby has it before that is believed."""
    act = next(_names)
    async with shell.opened(lab) as pool:
        with Held(lab) as held:
            writing = asyncio.create_task(block(shell, pool, act))
            await held.ask("pg_terminate_backend")
            await asyncio.sleep(0.3)
            assert not writing.done(), "no standby has it"
        await writing
    assert numbers(lab, act) == [1]


async def test_ended_while_its_commit_waits_for_good(tables: Lab, lab: Lab, shell: Shell) -> None:
    """No standby ever confirms: what is known is said at the deadline."""
    act = next(_names)
    async with shell.opened(lab, deadline_s=0.5) as pool:
        with Held(lab) as held:
            writing = asyncio.create_task(block(shell, pool, act))
            await held.ask("pg_terminate_backend")
            done, _ = await asyncio.wait([writing], timeout=3.0)
        with pytest.raises(CommitOutcomeUnknown):
            await writing
        assert done


async def test_a_text_with_a_commit_in_it(tables: Lab, lab: Lab, shell: Shell) -> None:
    act = next(_names)
    text = f"insert into acts values ('{act}', 2); commit"
    async with shell.opened(lab) as pool:
        with Held(lab) as held:
            writing = asyncio.create_task(block(shell, pool, act, by_hand=text))
            await held.ask("pg_terminate_backend")
        with suppress(CommitOutcomeUnknown):
            await writing
    assert numbers(lab, act) == [1, 2]


async def test_ended_at_any_moment(tables: Lab, lab: Lab, shell: Shell) -> None:
    """Idle, in a statement, before COMMIT, in it: a block whose caller hears of it isn't done
    again, any other is applied exactly once."""
    act, rng = next(_names), random.Random(7)
    done: list[int] = []
    often = {"retry_budget": 1.0, "retry_budget_floor": 1000, "connect_rate": 1000}
    often["retry_attempts"] = 20  # one block may be met several times
    ended = 0

    async def write(number: int) -> None:
        async with shell.within(pool.connection()) as conn:
            await shell.do(conn.execute, INSERT, (act, number))
            async with shell.within(conn.transaction()):
                await shell.do(conn.execute, "select pg_sleep(0.002)")
            await shell.do(conn.execute, INSERT, (act, -number))

    async def end() -> None:
        nonlocal ended
        with psycopg.connect(lab.primary.conninfo, autocommit=True) as admin:
            while not writing.done():
                await asyncio.sleep(rng.random() * 0.02)
                rows = admin.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'"
                    " and xact_start is not null and query not like '%pg_postmaster_start%'"
                    " limit 1"
                ).fetchall()
                ended += len(rows)

    async def write_all() -> None:
        for number in range(1, 61):
            with suppress(psycopg.errors.AdminShutdown):
                await write(number)
                done.append(number)

    async with shell.opened(lab, **often) as pool:
        writing = asyncio.create_task(write_all())
        await asyncio.gather(writing, end())
    assert ended > 5
    assert 0 < len(done) < 60
    assert numbers(lab, act) == sorted([*done, *(-number for number in done)])
