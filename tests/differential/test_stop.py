"""Whoever says stop is obeyed: the error that psycopg gives, and no further execution.

FAULTS 43, 44, 45.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from .play import End, Play, both, call

pytestmark = pytest.mark.lab

SLEEP = "select nextval('executions'), pg_sleep(20)"
#: a session of the pool that does something which takes long
RUNAWAY = "state = 'active' and wait_event = 'PgSleep'"
#: more than an operator has to
MANY = 40

Work = Callable[[Play, Any], Awaitable[Any]]


# -- an operator's kill, wherever it strikes


async def in_block(play: Play, pool: Any) -> Any:
    async with both(pool.connection()) as conn:
        await call(conn.execute(f"insert into marks values ({play.n})"))
        await call(conn.execute(SLEEP))


async def first_in_block(play: Play, pool: Any) -> Any:
    async with both(pool.connection()) as conn:
        await call(conn.execute(SLEEP))


async def in_savepoint(play: Play, pool: Any) -> Any:
    async with both(pool.connection()) as conn:
        await call(conn.execute(f"insert into marks values ({play.n})"))
        async with both(conn.transaction()):
            await call(conn.execute(SLEEP))


async def in_autocommit(play: Play, pool: Any) -> Any:
    async with both(pool.connection()) as conn:
        await call(conn.set_autocommit(True))
        await call(conn.execute(SLEEP))


async def in_executemany(play: Play, pool: Any) -> Any:
    async with both(pool.connection()) as conn:
        cursor = conn.cursor()
        await call(cursor.executemany("insert into slow_rows values (%s)", [(1,), (2,)]))


async def in_pipeline(play: Play, pool: Any) -> Any:
    async with both(pool.connection()) as conn, both(conn.pipeline()):
        await call(conn.execute(f"insert into marks values ({play.n})"))
        cursor = await call(conn.execute(SLEEP))
        await call(conn.execute("select 1"))
        await call(cursor.fetchall())


async def in_copy_from(play: Play, pool: Any) -> Any:
    async with both(pool.connection()) as conn:
        await call(conn.execute(f"insert into marks values ({play.n})"))
        async with both(conn.cursor().copy("copy slow_rows from stdin")) as copy:
            await call(copy.write_row((1,)))


async def in_copy_to(play: Play, pool: Any) -> Any:
    copy_to = f"copy ({SLEEP}) to stdout"
    async with both(pool.connection()) as conn, both(conn.cursor().copy(copy_to)) as copy:
        while await call(copy.read()):
            pass


async def in_server_cursor(play: Play, pool: Any) -> Any:
    async with both(pool.connection()) as conn, both(conn.cursor("slow")) as cursor:
        await call(cursor.execute(SLEEP))
        await call(cursor.fetchone())


async def in_stream(play: Play, pool: Any) -> Any:
    async with both(pool.connection()) as conn:
        rows = conn.cursor().stream(SLEEP)
        if play.shell == "tasks":
            return [row async for row in rows]
        return list(rows)


async def at_commit(play: Play, pool: Any) -> Any:
    async with both(pool.connection()) as conn:
        await call(conn.execute("insert into slowly values (1)"))


async def in_run(play: Play, pool: Any) -> Any:
    if play.bare:  # the same by hand
        return await in_block(play, pool)
    end = await play.run(pool, f"insert into marks values ({play.n})", SLEEP)
    assert end.runs == 1, end
    if end.error is not None:
        raise end.error
    return None


PLACES = [
    in_block,
    first_in_block,
    in_savepoint,
    in_autocommit,
    in_executemany,
    in_pipeline,
    in_copy_from,
    in_copy_to,
    in_server_cursor,
    in_stream,
    at_commit,
    in_run,
]

#: with more in the queue, libpq doesn't always read the server's last words
QUEUEING = (in_executemany, in_pipeline)


@pytest.mark.parametrize("work", PLACES, ids=lambda work: work.__name__)
async def test_an_operators_kill(play: Play, work: Work) -> None:
    before = play.executions()
    async with play.pool() as pool:
        with play.killing(RUNAWAY, most=MANY) as kills:
            end = await play.attempt(lambda: work(play, pool))
        assert len(kills) == 1, end
        assert isinstance(end.error, psycopg.OperationalError), end
        if work not in QUEUEING:
            assert (end.sqlstate, type(end.error)) == ("57P01", psycopg.errors.AdminShutdown), end
        assert (await play.block(pool, "select 1")).value == [(1,)]
    assert play.executions() == before + 1
    assert play.struck() == 0


@pytest.mark.parametrize("attempts", [1, 5])
async def test_an_operators_kill_whatever_the_attempts(ours: Play, attempts: int) -> None:
    ours.settings["retry_attempts"] = attempts
    async with ours.pool() as pool:
        with ours.killing(RUNAWAY, most=MANY) as kills:
            end = await ours.run(pool, SLEEP)
    assert (len(kills), end.sqlstate, end.runs) == (1, "57P01", 1), end


#: how an operator keeps an application away whose sessions he ends
LOCKS_OUT = {
    "role": ("alter role app nologin", "alter role app login"),
    "database": (
        "alter database app allow_connections false",
        "alter database app allow_connections true",
    ),
    "limit": ("alter role app connection limit 0", "alter role app connection limit -1"),
}
END_ALL = "select pg_terminate_backend(pid, 2000) from pg_stat_activity where usename = 'app'"


@pytest.mark.parametrize("how", list(LOCKS_OUT))
@pytest.mark.parametrize("work", [in_block, in_autocommit, at_commit], ids=lambda w: w.__name__)
async def test_an_operator_locks_the_application_out(play: Play, work: Work, how: str) -> None:
    """Nobody may come back to look whether the server goes on; the driver's error all the same."""
    before = play.executions()
    lock, unlock = LOCKS_OUT[how]
    play.settings["deadline_s"] = 1.5
    play.server.forget("app")

    def lock_out() -> None:
        while not play.server.admin(f"select 1 from pg_stat_activity where {RUNAWAY}", "postgres"):
            time.sleep(0.01)
        play.server.admin(lock, "postgres")
        play.server.admin(END_ALL, "postgres")

    operator = threading.Thread(target=lock_out)
    try:
        async with play.pool() as pool:
            operator.start()
            end = await play.attempt(lambda: work(play, pool))
            operator.join()
    finally:
        play.server.admin(unlock, "postgres")
    assert isinstance(end.error, psycopg.OperationalError), end
    # a COMMIT may have reached what nobody can be asked about now
    told = end.sqlstate == "57P01" or (work is at_commit and (end.unknown or how == "limit"))
    assert told, end
    assert play.executions() == before + 1
    assert play.struck() == 0


@pytest.mark.parametrize("then", ["statement", "commit", "rollback"])
async def test_an_operators_kill_of_a_session_idle_in_a_transaction(play: Play, then: str) -> None:
    async def work() -> None:
        async with both(pool.connection()) as conn:
            await call(conn.execute(f"insert into marks values ({play.n})"))
            pid = conn.info.backend_pid
            play.admin(f"select pg_terminate_backend({pid}, 2000)")
            if then == "statement":
                await call(conn.execute(f"insert into marks values ({play.n})"))
            elif then == "rollback":
                raise ZeroDivisionError

    async with play.pool() as pool:
        end = await play.attempt(work)
    assert play.struck() == 0
    if then == "rollback":
        assert isinstance(end.error, ZeroDivisionError)
    else:
        assert isinstance(end.error, psycopg.OperationalError), end
        assert play.bare or end.sqlstate == "57P01", end


async def test_a_session_killed_in_the_pool_is_renewed(ours: Play) -> None:
    """Nothing ran there, so nobody has to hear of it."""
    async with ours.pool() as pool:
        (pid,) = (await ours.block(pool, "select pg_backend_pid()")).value[0]
        ours.admin(f"select pg_terminate_backend({pid}, 2000)")
        end = await ours.block(pool, f"insert into marks values ({ours.n})")
    assert end.well, end
    assert ours.struck() == 1


# -- a statement that fells its server


@pytest.mark.parametrize(
    "work", [in_block, in_autocommit, at_commit, in_run], ids=lambda w: w.__name__
)
async def test_a_statement_that_fells_its_server(play: Play, work: Work) -> None:
    before = play.executions()
    async with play.pool() as pool:
        with play.killing(RUNAWAY, most=MANY, signal=signal.SIGKILL) as kills:
            end = await play.attempt(lambda: work(play, pool))
    assert isinstance(end.error, psycopg.OperationalError), end
    assert len(kills) <= (1 if play.bare else 2), end
    assert play.struck() == 0
    del before  # a crash may take the sequence back


async def test_a_victim_of_somebody_elses_crash(play: Play) -> None:
    """It hears 57P02, and is replayed."""

    async def work() -> None:
        async with both(pool.connection()) as conn:
            await call(conn.execute(f"insert into marks values ({play.n})"))
            play.crash()
            await call(conn.execute("select 1"))

    async with play.pool() as pool:
        end = await play.attempt(work)
    assert end.well != play.bare, end
    assert play.struck() == (0 if play.bare else 1)


async def test_a_silent_reset_is_replayed(play: Play) -> None:
    async def work() -> None:
        async with both(pool.connection()) as conn:
            await call(conn.execute(f"insert into marks values ({play.n})"))
            play.cut_off(conn)
            await call(conn.execute("select 1"))

    async with play.pool() as pool:
        end = await play.attempt(work)
    assert end.well != play.bare, end
    assert play.struck() == (0 if play.bare else 1)


# -- limits of time


IDLE_LIMIT = "set local idle_in_transaction_session_timeout = '50ms'"


async def idle_in_transaction(play: Play, pool: Any, then: str, end: End) -> None:
    async with both(pool.connection()) as conn:
        if then == "begin by hand":
            await call(conn.set_autocommit(True))
            await call(conn.execute("begin"))
        await call(conn.execute(IDLE_LIMIT))
        await call(conn.execute(f"insert into marks values ({play.n})"))
        pid = conn.info.backend_pid
        play.wait_gone(pid)
        if then == "commit":
            return
        try:
            await call(conn.execute("select 1"))
        except psycopg.Error as exc:
            end.error = exc
        else:
            end.value = "went on"
        if then == "caught":
            await call(conn.execute(f"insert into marks values ({play.n})"))
        if end.error is not None:
            raise end.error


@pytest.mark.parametrize("then", ["statement", "caught", "commit", "begin by hand"])
async def test_idle_in_transaction_too_long(play: Play, then: str) -> None:
    first = End()
    async with play.pool() as pool:
        end = await play.attempt(lambda: idle_in_transaction(play, pool, then, first))
        assert first.value is None, "it went on"
        assert isinstance(end.error, psycopg.OperationalError | psycopg.InternalError), end
        if not play.bare:
            assert (first.sqlstate if then == "caught" else end.sqlstate) == "25P03", end
        assert (await play.block(pool, "select 1")).value == [(1,)]
    assert play.struck() == 0


async def test_idle_in_transaction_too_long_in_run(ours: Play) -> None:
    runs = 0

    async def work(conn: Any) -> None:
        nonlocal runs
        runs += 1
        await call(conn.execute(IDLE_LIMIT))
        await call(conn.execute(f"insert into marks values ({ours.n})"))
        ours.wait_gone(conn.info.backend_pid)
        await call(conn.execute("select 1"))

    async with ours.pool() as pool:
        end = await ours.attempt(lambda: pool.run(ours.once(work)))
    assert (runs, end.sqlstate) == (1, "25P03"), end
    assert ours.struck() == 0


@pytest.mark.parametrize("when", ["in a statement", "while idle", "at the end"])
async def test_a_transaction_that_takes_too_long(newer: Play, when: str) -> None:
    before = newer.executions()

    async def work() -> None:
        async with both(pool.connection()) as conn:
            await call(conn.execute("set local transaction_timeout = '80ms'"))
            await call(conn.execute(f"insert into marks values ({newer.n})"))
            if when == "in a statement":
                await call(conn.execute(SLEEP))
            else:
                newer.wait_gone(conn.info.backend_pid)
            if when == "while idle":
                await call(conn.execute("select 1"))

    async with newer.pool() as pool:
        end = await newer.attempt(work)
        assert isinstance(end.error, psycopg.OperationalError | psycopg.InternalError), end
        assert newer.bare or end.sqlstate == "25P04", end
        assert (await newer.block(pool, "select 1")).value == [(1,)]
    assert newer.executions() == before + (when == "in a statement")
    assert newer.struck() == 0


async def test_a_statement_that_takes_too_long(play: Play) -> None:
    before = play.executions()
    async with play.pool() as pool:
        end = await play.block(pool, "set local statement_timeout = '50ms'", SLEEP)
    assert isinstance(end.error, psycopg.errors.QueryCanceled), end
    assert play.executions() == before + 1


async def test_a_lock_that_takes_too_long(play: Play) -> None:
    async with play.pool() as pool, both(pool.connection()) as conn:
        await call(conn.execute("lock table slow_rows"))
        statements = ["set local lock_timeout = '50ms'", "lock table slow_rows"]
        end = await play.block(pool, *statements)
    assert isinstance(end.error, psycopg.errors.LockNotAvailable), end


async def test_a_session_idle_too_long_is_renewed(play: Play) -> None:
    dsn = f"{play.dsn} options='-c idle_session_timeout=60ms'"
    async with play.pool(dsn, max_size=1) as pool:
        (pid,) = (await play.block(pool, "select pg_backend_pid()")).value[0]
        play.wait_gone(pid)
        end = await play.block(pool, f"insert into marks values ({play.n})")
    assert play.bare or end.well, end
    assert play.struck() == int(end.well)


# -- the application's own errors

#: what a function may raise, and what a server says of itself
CODES = """
57P01 57P02 57P03 57P05 57014 08000 08001 08003 08004 08006 08007 08P01 25006 25P02 25P03
 25P04 40003 40002 53300 53000 53400 26000 42P05 34000 28000 28P01 3D000 55P03 55000 58000
58030 XX000 F0000 HV00N 0A000 P0001
""".split()  # noqa: SIM905


async def raising(play: Play, pool: Any, how: str, code: str) -> End:
    statement = f"select fail('{code}')"
    if how == "autocommit":
        return await play.alone(pool, statement)
    if how == "run" and not play.bare:
        return await play.run(pool, statement)
    if how == "executemany":

        async def work() -> None:
            async with both(pool.connection()) as conn:
                await call(conn.cursor().executemany("select fail(%s)", [(code,)]))

        return await play.attempt(work)
    if how == "pipeline":

        async def pipeline() -> None:
            async with both(pool.connection()) as conn, both(conn.pipeline()):
                await call((await call(conn.execute(statement))).fetchall())

        return await play.attempt(pipeline)
    return await play.block(pool, f"insert into marks values ({play.n})", statement)


@pytest.mark.parametrize("how", ["block", "autocommit", "run", "executemany", "pipeline"])
async def test_what_the_applications_functions_raise(play: Play, how: str) -> None:
    """As with the bare pool: the error, once, on a session that goes on."""
    wrong = []
    async with play.pool(max_size=1) as pool:
        (pid,) = (await play.block(pool, "select pg_backend_pid()")).value[0]
        for code in CODES:
            before = play.executions()
            end = await raising(play, pool, how, code)
            (now,) = (await play.block(pool, "select pg_backend_pid()")).value[0]
            seen = (end.sqlstate, type(end.error), play.executions() - before, now == pid)
            if seen != (code, psycopg.errors.lookup(code), 1, True):
                wrong.append(f"{code}: {end}; executed {seen[2]} times, same session: {seen[3]}")
            pid = now
            if len(wrong) == 3:  # each may have cost its deadline
                break
    assert not wrong, "\n".join(wrong)
    assert play.struck() == 0


READ_ONLY = {
    "attribute": [],
    "set transaction": ["set transaction read only"],
    "set local": ["set local transaction_read_only = on"],
    "set_config": ["select set_config('transaction_read_only', 'on', true)"],
    "default": ["set default_transaction_read_only = on", "commit", "begin"],
    "session characteristics": [
        "set session characteristics as transaction read only",
        "commit",
        "begin",
    ],
}


@pytest.mark.parametrize("how", list(READ_ONLY))
async def test_a_write_in_what_the_application_made_read_only(play: Play, how: str) -> None:
    async def work() -> None:
        async with both(pool.connection()) as conn:
            if how == "attribute":
                await call(conn.set_read_only(True) if play.shell == "tasks" else _read_only(conn))
            for statement in READ_ONLY[how]:
                await call(conn.execute(statement))
            await call(conn.execute(f"insert into marks values ({play.n})"))

    async with play.pool() as pool:
        made = pool.get_stats()["connections_num"]
        end = await play.attempt(work)
        assert isinstance(end.error, psycopg.errors.ReadOnlySqlTransaction), end
        assert pool.get_stats()["connections_num"] == made
        end = await play.block(pool, "select count(*) from plain")
        assert end.value == [(100,)], end
    assert play.struck() == 0


def _read_only(conn: Any) -> None:
    conn.read_only = True


@pytest.mark.parametrize("by", ["role", "options", "configure"])
async def test_a_user_who_may_only_read(play: Play, by: str) -> None:
    """It isn't a demotion of the server: reads go on, a write is refused once, as bare."""
    dsn, options = play.dsn, {}
    if by == "role":
        dsn = dsn.replace("user=app", "user=reporter")
    elif by == "options":
        dsn += " options='-c default_transaction_read_only=on'"
    else:
        options["configure"] = _only_read
    async with play.pool(dsn, **options) as pool:
        end = await play.block(pool, "select 1")
        assert end.value == [(1,)], end
        end = await play.block(pool, f"insert into marks values ({play.n})")
        assert isinstance(end.error, psycopg.errors.ReadOnlySqlTransaction), end
        end = await play.block(pool, "select 1")
        assert end.value == [(1,)], end


async def _only_read(conn: Any) -> None:
    await call(conn.execute("set default_transaction_read_only = on"))
    await call(conn.commit())


@pytest.mark.parametrize("how", ["block", "autocommit"])
async def test_a_foreign_server_that_cannot_be_reached(play: Play, how: str) -> None:
    async with play.pool(max_size=1) as pool:
        (pid,) = (await play.block(pool, "select pg_backend_pid()")).value[0]
        statement = "insert into dead_marks values (1)"
        end = await (play.alone if how == "autocommit" else play.block)(pool, statement)
        assert end.sqlstate == "08001", end
        assert (await play.block(pool, "select pg_backend_pid()")).value == [(pid,)]
