"""What a session is set to, before and after; autocommit."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel

from resilient.postgres import CommitOutcomeUnknown

from .stage import Scene, script

STATE = script("state", "crash")


@STATE.act
async def settings_of_the_session(s: Scene) -> None:
    """Set in autocommit, in a transaction that was committed, and in the one under way."""
    async with s.block() as conn:
        await s.do(conn.set_autocommit, True)
        await s.do(conn.execute, "set statement_timeout = '61s'")
        await s.do(conn.execute, "select set_config('app.user', %s, false)", ("ann",))
        await s.do(conn.set_autocommit, False)
        await s.do(conn.execute, "set search_path = elsewhere, public")
        await s.do(conn.execute, "set lock_timeout = '1s'")
        await s.do(conn.execute, "set lock_timeout = '62s'")
        await s.do(conn.commit)
        await s.do(conn.execute, "set work_mem = '5MB'")
        await s.do(conn.execute, "insert into there values (%s)", (1,))
        await s.failover()
        for name, value in {
            "statement_timeout": "61s",
            "app.user": "ann",
            "search_path": "elsewhere, public",
            "lock_timeout": "62s",
            "work_mem": "5MB",
        }.items():
            assert await s.row(conn, "select current_setting(%s)", (name,)) == (value,)
        await s.do(conn.execute, "insert into there values (%s)", (2,))
        await s.do(conn.rollback)
        assert await s.row(conn, "show search_path") == ("elsewhere, public",)
        assert await s.row(conn, "show work_mem") != ("5MB",)
        await s.do(conn.execute, "reset all")


@STATE.act
async def settings_when_idle(s: Scene) -> None:
    """Nothing is under way: the session alone is restored."""
    async with s.block() as conn:
        await s.do(conn.execute, "set search_path = elsewhere")
        await s.do(conn.execute, "set application_name = 'kept'")
        await s.do(conn.commit)
        await s.failover()
        assert await s.row(conn, "show search_path") == ("elsewhere",)
        assert await s.row(conn, "show application_name") == ("kept",)
        await s.do(conn.execute, "reset all")


@STATE.act
async def settings_that_were_given_up(s: Scene) -> None:
    """Rolled back, reset, or of a savepoint that was rolled back: they don't come back."""
    async with s.block() as conn:
        default = await s.row(conn, "show lock_timeout")
        await s.do(conn.execute, "set lock_timeout = '63s'")
        await s.do(conn.rollback)
        await s.do(conn.execute, "set statement_timeout = '64s'")
        await s.do(conn.commit)
        await s.do(conn.execute, "reset statement_timeout")
        async with s.within(conn.transaction(force_rollback=True)):
            await s.do(conn.execute, "set idle_in_transaction_session_timeout = '65s'")
        await s.do(conn.commit)
        await s.failover()
        assert await s.row(conn, "show lock_timeout") == default
        assert await s.row(conn, "show statement_timeout") == ("0",)
        assert await s.row(conn, "show idle_in_transaction_session_timeout") == ("0",)


@STATE.act
async def settings_of_the_transaction(s: Scene) -> None:
    async with s.block() as conn:
        await s.do(conn.execute, "set local lock_timeout = '66s'")
        await s.do(conn.execute, "select set_config('app.tenant', 'blue', true)")
        await s.insert(conn, 1)
        await s.failover()
        assert await s.row(conn, "show lock_timeout") == ("66s",)
        assert await s.row(conn, "select current_setting('app.tenant')") == ("blue",)
        await s.do(conn.commit)
        assert await s.row(conn, "show lock_timeout") == ("0",)
    assert await s.found() == [1]


@STATE.act
async def isolation_level(s: Scene) -> None:
    async with s.block() as conn:
        await s.do(conn.set_isolation_level, IsolationLevel.SERIALIZABLE)
        await s.insert(conn, 1)
        await s.failover()
        assert await s.row(conn, "show transaction_isolation") == ("serializable",)
        assert conn.isolation_level is IsolationLevel.SERIALIZABLE
        await s.do(conn.commit)
        assert await s.row(conn, "show transaction_isolation") == ("serializable",)
        await s.do(conn.rollback)
        await s.do(conn.set_isolation_level, None)
    assert await s.found() == [1]


@STATE.act
async def isolation_level_by_statement(s: Scene) -> None:
    async with s.block() as conn:
        await s.do(conn.execute, "set transaction isolation level repeatable read")
        await s.insert(conn, 1)
        await s.failover()
        assert await s.row(conn, "show transaction_isolation") == ("repeatable read",)
    assert await s.found() == [1]


@STATE.act
async def a_block_that_may_only_read(s: Scene) -> None:
    async with s.block() as conn:
        await s.do(conn.set_read_only, True)
        assert await s.row(conn, "select 1") == (1,)
        await s.failover()
        assert await s.row(conn, "show transaction_read_only") == ("on",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await s.insert(conn, 99)
        await s.do(conn.rollback)
        await s.do(conn.set_read_only, None)
    assert await s.found() == []


@STATE.act
async def the_role_and_the_time_zone(s: Scene) -> None:
    """`SET ROLE`, `SET TIME ZONE`, `SET SESSION CHARACTERISTICS`: words, not assignments."""
    async with s.block() as conn:
        await s.do(conn.execute, "set time zone 'Asia/Tokyo'")
        await s.do(conn.execute, "set role app")
        await s.do(
            conn.execute,
            "set session characteristics as transaction isolation level repeatable read",
        )
        await s.do(conn.commit)
        await s.failover()
        assert await s.row(conn, "show timezone") == ("Asia/Tokyo",)
        assert await s.row(conn, "show transaction_isolation") == ("repeatable read",)
        await s.do(conn.rollback)
        await s.do(conn.execute, "reset all")


@STATE.act
async def settings_that_were_discarded(s: Scene) -> None:
    async with s.block() as conn:
        await s.do(conn.execute, "set lock_timeout = '63s'")
        await s.do(conn.commit)
        await s.do(conn.set_autocommit, True)
        await s.do(conn.execute, "discard all")
        await s.failover()
        assert await s.row(conn, "show lock_timeout") == ("0",)
        await s.do(conn.set_autocommit, False)


@STATE.act
async def settings_of_a_savepoint_by_hand(s: Scene) -> None:
    async with s.block() as conn:
        await s.do(conn.execute, "savepoint mine")
        await s.do(conn.execute, "set lock_timeout = '63s'")
        await s.do(conn.execute, "rollback to savepoint mine")
        await s.do(conn.commit)
        await s.failover()
        assert await s.row(conn, "show lock_timeout") == ("0",)


@STATE.act
async def notices_are_still_heard(s: Scene) -> None:
    heard: list[Any] = []
    async with s.block() as conn:
        conn.add_notice_handler(lambda diag: heard.append(diag.message_primary))
        await s.do(conn.execute, "select 1")
        await s.failover()
        await s.do(conn.execute, "do $$ begin raise notice 'heard'; end $$")
    assert heard == ["heard"]


# -- autocommit


@STATE.act
async def reads_in_autocommit_when_idle(s: Scene) -> None:
    async with s.block() as conn:
        await s.do(conn.set_autocommit, True)
        assert await s.row(conn, "select 1") == (1,)
        await s.failover()
        assert await s.row(conn, "select 2") == (2,)
        assert conn.autocommit
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        await s.do(conn.set_autocommit, False)


@STATE.act
async def reads_in_autocommit_under_way(s: Scene) -> None:
    """Long enough to be struck, of functions that are known to write nothing."""
    query = "select count(*) from generate_series(1, 6000000) n where n % 7 = 3"
    async with s.block() as conn:
        await s.do(conn.set_autocommit, True)
        (counting,) = await s.failover(s.row(conn, query))
        assert await counting == (857143,)
        await s.do(conn.set_autocommit, False)


async def _definite(s: Scene, call: Any) -> list[int]:
    """The rows that the act must have after this write."""
    try:
        await call
    except CommitOutcomeUnknown as exc:
        unknown = exc
    else:
        return [1]
    assert unknown.details["statement"]
    assert isinstance(unknown.__cause__, psycopg.OperationalError)
    found = await s.found()
    assert found in ([], [1])
    return found


@STATE.act
async def a_write_in_autocommit_under_way(s: Scene) -> None:
    """It may have taken effect: that is never guessed, and it is never sent twice."""
    query = "insert into acts select %s, 1 from pg_sleep(0.5)"
    async with s.block() as conn:
        await s.do(conn.set_autocommit, True)
        (writing,) = await s.failover(s.do(conn.execute, query, (s.key,)))
        with pytest.raises(CommitOutcomeUnknown) as caught:
            await writing
        assert "insert into acts" in str(caught.value.details["statement"])
    assert await s.found() == []


@STATE.act
async def a_write_in_autocommit_when_idle(s: Scene) -> None:
    async with s.block() as conn:
        await s.do(conn.set_autocommit, True)
        assert await s.row(conn, "select 1") == (1,)
        await s.failover()
        expected = await _definite(s, s.insert(conn, 1))
    assert await s.found() == expected


@STATE.act
async def executemany_in_autocommit(s: Scene) -> None:
    """Each row is a transaction of its own... but psycopg sends them as one."""
    async with s.block() as conn:
        await s.do(conn.set_autocommit, True)
        await s.failover(settled=True)
        rows = [(s.key, 1)]
        insert = "insert into acts values (%s, %s)"
        expected = await _definite(s, s.do(conn.cursor().executemany, insert, rows))
    assert await s.found() == expected


@STATE.act
async def a_transaction_in_autocommit(s: Scene) -> None:
    """`conn.transaction()` is a block like any other."""
    async with s.block() as conn:
        await s.do(conn.set_autocommit, True)
        async with s.within(conn.transaction()):
            await s.insert(conn, 1)
            await s.failover()
            await s.insert(conn, 2)
        await s.insert(conn, 3)
        await s.do(conn.set_autocommit, False)
    assert await s.found() == [1, 2, 3]


@STATE.act
async def a_transaction_by_hand_in_autocommit(s: Scene) -> None:
    async with s.block() as conn:
        await s.do(conn.set_autocommit, True)
        await s.do(conn.execute, "begin isolation level repeatable read")
        await s.insert(conn, 1)
        await s.do(conn.execute, "savepoint mine")
        await s.insert(conn, 99)
        await s.do(conn.execute, "rollback to savepoint mine")
        await s.failover()
        assert await s.row(conn, "show transaction_isolation") == ("repeatable read",)
        await s.insert(conn, 2)
        await s.do(conn.execute, "commit")
        await s.insert(conn, 3)
        await s.do(conn.set_autocommit, False)
    assert await s.found() == [1, 2, 3]


@STATE.act
async def a_statement_that_may_not_be_in_a_block(s: Scene) -> None:
    async with s.block() as conn:
        await s.do(conn.set_autocommit, True)
        await s.do(conn.execute, "vacuum keys")
        await s.failover()
        assert await s.row(conn, "select 1") == (1,)
        await s.do(conn.execute, "vacuum keys")
        await s.do(conn.set_autocommit, False)


# -- what is held for a replay


@STATE.act
async def a_journal_holds_no_more_than_its_bound(s: Scene) -> None:
    """Results that are too large to keep are kept as digests, and compared all the same."""
    large = "select repeat('x', 1000) || n from generate_series(1, 1000) n"
    async with s.block(replay_max_bytes=2_000_000) as conn:
        await s.insert(conn, 1)
        for _ in range(20):
            cursor = await s.do(conn.execute, large)
            assert len(await s.rows(cursor)) == 1000
        kept = [
            entry for entry in conn._resilient.judge.journal.entries if entry.results is not None
        ]
        held = sum(result.ntuples for entry in kept for result in entry.results)
        assert held < 1000
        await s.failover()
        await s.insert(conn, 2)
    assert await s.found() == [1, 2]


@STATE.act
async def a_journal_over_its_bound_holds_nothing(s: Scene) -> None:
    wide = "select repeat('x', 100000)"
    async with s.block(replay_max_bytes=1_000_000) as conn:
        for _ in range(20):
            await s.do(conn.execute, wide)
        journal = conn._resilient.judge.journal
        assert all(not entry.results for entry in journal.entries)
        for number in range(200, 300):
            await s.insert(conn, number)
        assert len(journal.entries) < 10
        await s.failover()
        with pytest.raises(psycopg.OperationalError, match="RESILIENT_REPLAY_MAX_BYTES"):
            await s.insert(conn, 98)
    assert await s.found() == []
