"""An extra of ours never fails the caller: gone, refused or slow, his statement is answered."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import psycopg
import pytest

from resilient import errors
from resilient.postgres import errors as pg_errors

from .play import CutAt, Play, Proxy, both, call

pytestmark = pytest.mark.lab

FORGET = {
    "discard all": "discard all",
    "with more behind": "DISCARD ALL; select 1",
    "deallocate all": "deallocate all",
    "deallocate prepare all": "DEALLOCATE PREPARE ALL",
    "in a comment's shade": "/* all */ deallocate /* now */ all",
    "discard plans": "discard plans",
    "after a reset": "reset session authorization; reset all; deallocate all",
    "do block": "do $$ begin execute 'deallocate all'; end $$",
}

#: psycopg's own names are lost in some of them, with either pool: only ours are looked at
UNPREPARED = {"prepare_threshold": 100}


async def blocks(play: Play, pool: Any, between: str = "") -> list[str]:
    """Blocks of three statements; what they ended with, where it wasn't well."""
    wrong = []
    for n in range(8):
        insert = f"insert into marks values ({play.n * 1000 + n})"
        end = await play.block(pool, insert, between or "select 1", "select 1", insert)
        if not end.well:
            wrong.append(str(end))
    return wrong


@pytest.mark.parametrize(
    ("who", "name"),
    [
        *(("reset", name) for name in FORGET),
        *(("application", name) for name in FORGET if not FORGET[name].lower().startswith("disc")),
        ("function", "do block"),
    ],
)
async def test_prepared_names_that_are_gone(play: Play, who: str, name: str) -> None:
    async def forget(conn: Any) -> None:
        await call(conn.set_autocommit(True))
        await call(conn.execute(FORGET[name]))
        await call(conn.set_autocommit(False))

    options = {"reset": forget} if who == "reset" else {}
    between = {"application": FORGET[name], "function": "select forget_all()"}.get(who, "")
    async with play.pool(max_size=1, kwargs=UNPREPARED, **options) as pool:
        if not play.bare:
            assert not await blocks(play, pool)  # our own names are there
        wrong = await blocks(play, pool, between)
    assert not wrong, wrong[0]


async def test_forgotten_in_autocommit(play: Play) -> None:
    async with play.pool(max_size=1, kwargs={"autocommit": True, **UNPREPARED}) as pool:
        for _ in range(4):
            async with both(pool.connection()) as conn:
                await call(conn.execute("discard all"))
                await call(conn.execute("select 1"))
                async with both(conn.transaction()):
                    await call(conn.execute("insert into marks values (0)"))
                    await call(conn.execute("select 1"))


@pytest.mark.parametrize("resolver", ["lsn", "ledger"])
async def test_forgotten_under_each_resolver(ours: Play, resolver: str) -> None:
    ours.settings["commit_resolver"] = resolver
    ours.dbname = "led" if resolver == "ledger" else "app"
    async with ours.pool(max_size=1, kwargs=UNPREPARED) as pool:
        for between in ("", "deallocate all", "do $$ begin execute 'deallocate all'; end $$"):
            wrong = await blocks(ours, pool, between)
            assert not wrong, wrong[0]


# -- what is raised is public


PUBLIC = {getattr(module, name) for module in (errors, pg_errors) for name in module.__all__}


async def test_the_token_of_a_primary_that_died(ours: Play) -> None:
    with Proxy(ours.server.address, ours.server.port) as proxy:
        host, port = proxy.address
        ours.settings["deadline_s"] = 1
        async with ours.pool(f"host={host} port={port} user=app dbname=app", timeout=1) as pool:
            end = await ours.block(pool, f"insert into marks values ({ours.n})")
            assert end.well
            proxy.stop()
            end = await ours.attempt(pool.causal_token)
    assert end.well or type(end.error) in PUBLIC, repr(end.error)
    assert end.well or isinstance(end.error, psycopg.OperationalError), end


@pytest.mark.parametrize("how", ["reset", "killed", "crash", "kept silent"])
async def test_a_token_whose_session_is_lost_meanwhile(ours: Play, how: str) -> None:
    """It only reads: it is asked again."""
    async with ours.pool(max_size=1) as pool:
        async with both(pool.connection()) as conn:
            await call(conn.execute(f"insert into marks values ({ours.n})"))
            pid = conn.info.backend_pid
            if how == "reset":  # in the middle of the answer
                ours.proxy.add(CutAt(pid, direction="client", side="before", needle=b"lsn"))
        if how == "killed":
            ours.admin(f"select pg_terminate_backend({pid}, 2000)")
        elif how == "crash":
            ours.crash()
        elif how == "kept silent":
            ours.proxy.reset(pid)
        end = await ours.attempt(pool.causal_token)
    assert end.well, end
    assert end.value.lsn > 0


@pytest.mark.parametrize("lost", [False, True], ids=["healthy", "its session lost"])
async def test_a_block_that_is_open_during_close(play: Play, lost: bool) -> None:
    """As with the bare pool: it goes on to its end."""
    async with play.pool() as pool:

        async def work() -> None:
            async with both(pool.connection()) as conn:
                await call(conn.execute(f"insert into marks values ({play.n})"))
                await call(pool.close(timeout=0.1))
                if lost:
                    play.cut_off(conn)
                await call(conn.execute("select 1"))

        end = await play.attempt(work)
    assert lost or end.well, end
    assert end.well or isinstance(end.error, psycopg.OperationalError), end
    assert "before it is opened" not in str(end)
    assert play.struck() == int(end.well)


@pytest.mark.parametrize("when", ["before", "queued", "fetching"])
async def test_a_pipeline_that_is_struck(play: Play, when: str) -> None:
    """The error says what happened to the session, not to the pipeline's mode."""

    def strike(conn: Any) -> None:
        play.admin(f"select pg_terminate_backend({conn.info.backend_pid}, 2000)")

    async def work() -> None:
        async with both(pool.connection()) as conn:
            if when == "before":
                strike(conn)
            async with both(conn.pipeline()) as pipeline:
                cursor = await call(conn.execute("select 1"))
                await call(conn.execute("select 2"))
                if when == "queued":
                    strike(conn)
                await call(conn.execute("select 3"))
                if when == "fetching":
                    await call(pipeline.sync())
                    strike(conn)
                    cursor = await call(conn.execute("select 4"))
                await call(cursor.fetchall())

    async with play.pool() as pool:
        for _ in range(5):
            end = await play.attempt(work)
            assert end.well or isinstance(end.error, psycopg.OperationalError), end
            if not play.bare:
                assert "pipeline mode" not in str(end), end
        end = await play.block(pool, "select 1")
        assert end.well, end


async def test_a_pipeline_whose_server_is_restarted(ours: Play) -> None:
    """57P01 is the answer to the statement under way, and the server isn't as it was."""

    def restart() -> None:
        asleep = "select 1 from pg_stat_activity where wait_event = 'PgSleep'"
        while not ours.admin(asleep):
            time.sleep(0.01)
        for dbname in ("app", "led", "far", "postgres"):
            ours.server.forget(dbname)
        ours.server.stop("fast")
        ours.server.start()

    async def work() -> Any:
        async with both(pool.connection()) as conn, both(conn.pipeline()):
            await call(conn.execute(f"insert into marks values ({ours.n})"))
            await call(conn.execute("select pg_sleep(0.7)"))
            cursor = await call(conn.execute("select 3"))
            return await call(cursor.fetchall())

    async with ours.pool() as pool:
        operator = threading.Thread(target=restart)
        operator.start()
        end = await ours.attempt(work)
        operator.join()
    assert end.value == [(3,)], end
    assert ours.struck() == 1


# -- mismatches are said aloud


@pytest.mark.parametrize("written", [False, True], ids=["only read", "written too"])
async def test_a_read_that_differs_after_the_loss(
    ours: Play, written: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing written yet: it is what others know as a serialization failure."""
    name = f"differs_{ours.n}"
    ours.admin(f"set role app; create table {name} (n int)")

    async def work(conn: Any) -> Any:
        runs.append(1)
        if written:
            await call(conn.execute(f"insert into marks values ({ours.n})"))
        await ours.one(conn, f"select count(*) from {name}")
        if len(runs) == 1:
            ours.admin(f"insert into {name} values (1)")
            ours.cut_off(conn)
        return await ours.one(conn, f"select count(*) from {name}")

    async def block() -> None:
        async with both(pool.connection()) as conn:
            await work(conn)

    runs: list[int] = []
    async with ours.pool() as pool:
        with caplog.at_level("INFO", "resilient"):
            end = await ours.attempt(block)
        assert isinstance(end.error, errors.TransactionReplayMismatch), end
        assert any("mismatch" in r.getMessage().lower() for r in caplog.records)
        if not written:
            assert end.sqlstate == "40001", end
            runs.clear()
            end = await ours.attempt(lambda: pool.run(ours.once(work)))
            assert end.well, end
            assert (len(runs), end.value) == (2, (2,))


async def test_a_large_result_costs_no_more_than_a_bound(differential_server: Any) -> None:
    """The processor's time of a block that reads 60 000 rows, ours beside bare."""
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    query = "select g, g::text from generate_series(1, 60000) g"
    with Proxy(differential_server.address, differential_server.port) as proxy:
        for _ in range(3):
            for side, shell in (("bare", "threads"), ("ours", "threads")):
                with Play(differential_server, proxy, side, shell) as play:
                    async with play.pool(differential_server.dsn) as pool:
                        await play.block(pool, "select 1")
                        began = time.thread_time()
                        with pool.connection() as conn:
                            conn.execute(query)
                        times[side].append(time.thread_time() - began)
    await asyncio.sleep(0)
    assert min(times["ours"]) < 2 * min(times["bare"]) + 0.005, times
