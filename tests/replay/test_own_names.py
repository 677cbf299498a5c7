"""What a session knows of ours and may forget, and sessions that end while nobody looks."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from resilient.lab import Lab

from .stage import Shell, numbers

pytestmark = pytest.mark.lab

_names = (f"own-names-{number}" for number in count())
INSERT = "insert into acts values (%s, %s)"
NAMES = "select count(*) from pg_prepared_statements where name like '%piggyback%'"


@pytest.mark.parametrize(
    "script", [["discard all"], ["prepare mine as select 1", "deallocate mine"]]
)
async def test_statements_of_ours_that_may_be_gone(
    tables: Lab, lab: Lab, shell: Shell, script: list[str]
) -> None:
    """They are prepared anew, under a name that is free whether or not they are gone."""
    act = next(_names)
    async with shell.opened(lab) as pool, shell.within(pool.connection()) as conn:
        for number in range(3):
            await shell.do(conn.execute, INSERT, (act, number))
            assert conn._resilient.judge.journal.mark is not None
            await shell.do(conn.commit)
            await shell.do(conn.set_autocommit, True)
            for statement in script:
                await shell.do(conn.execute, statement, prepare=False)
            await shell.do(conn.set_autocommit, False)
        await shell.do(conn.execute, INSERT, (act, 3))
        assert await shell.row(conn, NAMES, prepare=False) >= (1,)
    assert sorted(numbers(lab, act)) == [0, 1, 2, 3]


async def test_a_write_of_its_own_is_not_sent_to_a_session_that_has_ended(
    tables: Lab, lab: Lab, shell: Shell
) -> None:
    """Sent there, nobody could tell what became of it."""
    act = next(_names)
    async with shell.opened(lab) as pool, shell.within(pool.connection()) as conn:
        await shell.do(conn.set_autocommit, True)
        await shell.do(conn.execute, INSERT, (act, 0))
        pid = conn.info.backend_pid
        await asyncio.to_thread(lab.admin, None, f"select pg_terminate_backend({pid})")
        while not conn._resilient.link.readable(0):
            await asyncio.sleep(0.005)
        await shell.do(conn.execute, INSERT, (act, 1))
        assert conn.info.backend_pid != pid
    assert sorted(numbers(lab, act)) == [0, 1]


@pytest.mark.parametrize("autocommit", [False, True])
async def test_an_executemany_in_a_block_asks_behind_its_last_row(
    tables: Lab, lab: Lab, shell: Shell, autocommit: bool
) -> None:
    """COMMIT needs no round trip of its own for it."""
    act = next(_names)
    async with shell.opened(lab) as pool, shell.within(pool.connection()) as conn:
        journal = conn._resilient.judge.journal
        await shell.do(conn.set_autocommit, autocommit)
        async with shell.within(conn.transaction()):
            rows = [(act, number) for number in range(40)]
            await shell.do(conn.cursor().executemany, INSERT, rows)
            assert journal.mark is not None
            assert not journal.blind
            assert journal.marked == len(journal.entries) - 1
        await shell.do(conn.set_autocommit, False)
    assert sorted(numbers(lab, act)) == list(range(40))
