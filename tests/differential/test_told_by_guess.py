"""A success is never told by guess, and nothing is done twice, where no journal looks.

No transaction id isn't *nothing written*: notifications, foreign tables, dblink and functions
leave none.  A text that looks like a read isn't one.

FAULTS 40.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from resilient.postgres.commit import knowledge
from resilient.postgres.replay.catalogue import only_reading
from resilient.postgres.replay.statements import traits
from resilient.settings import Settings

from .pg import Server, has_decoder
from .play import (
    COMMIT_HELD,
    COMMIT_UNHEARD,
    OURS,
    RESOLVED,
    Play,
    Way,
    both,
    call,
    reply_with,
)

pytestmark = pytest.mark.lab

#: each tells `told` (or `ruled`), and leaves no transaction id
TELLING = {
    "notify": "notify told, '{n}'",
    "pg_notify": "select pg_notify('told', '{n}')",
    "comment before": "/* select */ notify told, '{n}'",
    "function": "select tell({n})",
    "function sql": "select tell_sql({n})",
    "function that lies": "select tell_lying({n})",
    "function that executes": "select tell_execute({n})",
    "in a where": "select 1 where tell({n}) > 0",
    "in a join": "select 1 from plain join lateral tell({n}) t on true limit 1",
    "values": "values (tell({n}))",
    "common table": "with t as materialized (select tell({n}) as n) select n from t",
    "procedure": "call tell_procedure({n})",
    "do": "do $$ begin perform pg_notify('told', '{n}'); end $$",
    "explain analyze": "explain analyze select tell({n})",
    "prepared by name": "prepare told as select tell({n}) ;; execute told ;; deallocate told",
    "cursor by name": "declare c cursor for select tell({n}) ;; fetch c ;; close c",
    "view": "select told from telling where n = {n}",
    "view over a view": "select told from telling_view where n = {n}",
    "row security": "select n from secured_told where n = {n}",
    "operator": "select {n} @?@ 1",
    "cast": "select {n}::told",
    "domain": "select {n}::told_number",
    "row and function": "select (row({n})::told).hit",
    "overloaded built-in": "select upper({n})",
    "aggregate": "select sum_told({n})",
    "rule": "insert into notified select 1 where false",
    "trigger": "insert into triggered values ({n})",
    "trigger instead of": "insert into triggered_view values ({n})",
    "dblink": "select send({n})",
    "far insert": "insert into far_marks values ({n})",
    "far insert returning": "insert into far_marks values ({n}) returning n",
    "far view": "insert into far_view values ({n})",
    "far view over a view": "insert into far_view_view values ({n})",
    "far partition": "insert into parts values ({n})",
    "far rule": "insert into ruled values ({n})",
    "far function": "select far_insert({n})",
    "far procedure": "call far_procedure({n})",
    "far common table": "with t as (insert into far_marks values ({n}) returning n) table t",
    "far merge": "insert into far_marks select {n} from plain limit 1",
}
FAR = ("far", "dblink")
#: what shows in the reply of each, in autocommit
STRIKING = {
    "function": "select strike({n}) as struck",
    "in a where": "select 1 as struck where strike({n}) > 0",
    "values": "select * from (values (strike({n}))) v (struck)",
    "view": "select struck from striking where n = {n}",
    "view over a view": "select struck from striking_view where n = {n}",
    "row security": "select n as struck from secured where n = {n}",
    "operator": "select {n} @!@ 1 as struck",
    "cast": "select {n}::struck as struck",
    "domain": "select {n}::struck_number as struck",
    "row and function": "select (row({n})::struck).hit as struck",
    "overloaded built-in": "select lower({n}) as struck",
    "aggregate": "select sum_struck({n}) as struck",
    "common table": "with t as materialized (select strike({n}) as n) select n as struck from t",
    "subquery": "select (select strike({n})) as struck",
    "case": "select case when strike({n}) > 0 then 1 end as struck",
    "order by": "select 1 as struck from plain where n = 1 order by strike({n}), n",
    "group by": "select count(*) as struck from plain where n = 1 group by strike({n})",
    "union": "select 1 as struck union all select strike({n})",
    "explain analyze": "explain (analyze, costs off) select strike({n})",
}
#: the same in autocommit without a transaction id
TELLING_ALONE = {
    "pg_notify": "select 1 as told from pg_notify('told', '{n}')",
    "function": "select tell({n}) as told",
    "view": "select told from telling where n = {n}",
    "operator": "select {n} @?@ 1 as told",
    "overloaded built-in": "select upper({n}) as told",
    "dblink": "select send({n}) as told",
    "far returning": "insert into far_marks values ({n}) returning n as told",
    "far function": "select far_insert({n}) as told",
}
#: true reads: no caller hears of a cut
READS = {
    "constant": "select 1",
    "table": "select n, note from plain where n < 5 order by n",
    "aggregate": "select count(*), sum(n), max(note) from plain",
    "built-in functions": "select lower(note), coalesce(n, 0), abs(n) from plain where n = 1",
    "operators": "select n + 1, note || 'x', note like 'row%' from plain where n between 1 and 3",
    "join": "select a.n from plain a join plain b using (n) where b.n = 7",
    "subquery": "select n from plain where n in (select n from numbers where n < 4) order by n",
    "series": "select g from generate_series(1, 3) g",
    "common table": "with t as (select n from plain limit 3) select count(*) from t",
    "window": "select n, row_number() over (order by n) from plain where n < 4",
    "catalogue": "select count(*) > 0 from pg_class",
    "setting": "select current_setting('work_mem')",
    "show": "show work_mem",
    "array": "select array_agg(n order by n) from plain where n < 4",
    "json": "select jsonb_build_object('n', n) from plain where n = 2",
    "table command": "table numbers limit 1",
    "values": "values (1), (2)",
    "nothing": "select n from plain where false",
}
#: the far half waits for a standby
FAR_HAS_COMMITTED = """state = 'active' and exists
(select from pg_stat_activity where datname = 'far' and wait_event = 'SyncRep')"""
#: one of each kind
ONE_OF_EACH_KIND = ("notify", "function", "view", "cast", "dblink", "far insert", "far function")
CUTS = [COMMIT_HELD, COMMIT_UNHEARD]


def done(play: Play, name: str) -> int:
    return play.sent() if name.startswith(FAR) else play.heard()


@pytest.mark.parametrize(
    ("play", "cut", "name"),
    [
        *itertools.product(["bare-threads", *OURS], [COMMIT_HELD], TELLING),
        *itertools.product(["ours-threads"], [COMMIT_UNHEARD], TELLING),
        *itertools.product(["bare-tasks"], CUTS, ONE_OF_EACH_KIND),
        *itertools.product(["ours-tasks"], [COMMIT_UNHEARD], ONE_OF_EACH_KIND),
        *itertools.product(["ours-threads-ledger", "ours-tasks-ledger"], CUTS, ONE_OF_EACH_KIND),
    ],
    indirect=["play"],
    ids=str,
)
async def test_block_without_a_transaction_id(play: Play, name: str, cut: Way) -> None:
    play.listen()
    async with play.pool() as pool:
        statements = TELLING[name].format(n=play.n).split(" ;; ")
        end = await play.block(pool, *statements, cut=cut)
    play.judge(end, done(play, name))
    assert not (play.bare and end.well)


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("name", ["notify", "pg_notify", "view", "dblink", "far insert"])
async def test_run_without_a_transaction_id(ours: Play, name: str, cut: Way) -> None:
    ours.listen()
    async with ours.pool() as pool:
        end = await ours.run(pool, TELLING[name].format(n=ours.n), cut=cut)
    ours.judge(end, done(ours, name))


@pytest.mark.parametrize("play", ["bare-threads", *OURS], indirect=True)
@pytest.mark.parametrize("name", list(STRIKING))
async def test_what_looks_like_a_read_in_autocommit(play: Play, name: str) -> None:
    lost = reply_with("QUERY PLAN" if name.startswith("explain") else "struck")
    async with play.pool() as pool:
        end = await play.alone(pool, STRIKING[name].format(n=play.n), cut=lost)
    play.judge(end, play.struck())
    assert not (play.bare and end.well)


@pytest.mark.parametrize("play", ["bare-threads", *OURS], indirect=True)
@pytest.mark.parametrize("name", list(TELLING_ALONE))
async def test_autocommit_without_a_transaction_id(play: Play, name: str) -> None:
    play.listen()
    async with play.pool() as pool:
        end = await play.alone(pool, TELLING_ALONE[name].format(n=play.n), cut=reply_with("told"))
    play.judge(end, done(play, name))
    assert not (play.bare and end.well)


@pytest.mark.parametrize("play", RESOLVED, indirect=True)
@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("where", ["far_marks", "parts"])
async def test_block_that_writes_here_and_far(play: Play, where: str, cut: Way) -> None:
    """The far half commits before the local record: whatever the local one says, it is
    unknown what became of both."""
    insert = f"insert into {where} values ({play.n})"
    async with play.pool() as pool:
        update = f"update plain set note = note where n = {play.n % 100 + 1}"
        end = await play.block(pool, update, insert, cut=cut)
    assert play.sent() <= 1
    assert end.unknown or (play.bare and isinstance(end.error, psycopg.OperationalError)), end


@pytest.mark.parametrize("play", RESOLVED, indirect=True)
@pytest.mark.parametrize("local", [False, True], ids=["far only", "here too"])
async def test_killed_after_the_far_commit(play: Play, local: bool) -> None:
    """FATAL 57P01 is the answer to COMMIT, and the far row is there."""
    statements = [f"insert into slow_marks values ({play.n})"]
    if local:
        statements.insert(0, f"insert into marks values ({play.n})")
    async with play.pool() as pool:
        with play.killing(FAR_HAS_COMMITTED, most=50):
            end = await play.block(pool, *statements)
    assert play.sent() == 1
    assert not end.well, end
    assert play.bare or end.unknown, end
    assert play.struck() == 0


@pytest.mark.parametrize("play", RESOLVED, indirect=True)
async def test_killed_while_it_waits_for_a_standby(play: Play) -> None:
    """It has committed here; 57P01 comes as a WARNING, and proves nothing."""
    set_on = "set local synchronous_commit = on"
    async with play.pool() as pool:
        with play.killing("wait_event = 'SyncRep'", most=50):
            end = await play.block(pool, set_on, f"insert into marks values ({play.n})")
    assert play.struck() == 1
    assert end.unknown or (play.bare and not end.well), end


@pytest.mark.parametrize("way", ["read_only", "reader"])
async def test_read_only_checkout_of_an_autocommit_pool(ours: Play, way: str) -> None:
    """The server is told, where its only server is the primary."""
    async with ours.pool(kwargs={"autocommit": True}, max_size=1) as pool:
        view = pool.reader if way == "reader" else pool
        options = {} if way == "reader" else {"read_only": True}
        end = await ours.alone(view, f"insert into marks values ({ours.n})", **options)
        assert isinstance(end.error, psycopg.errors.ReadOnlySqlTransaction), end
        end = await ours.alone(view, f"select strike({ours.n})", **options)
        assert isinstance(end.error, psycopg.errors.ReadOnlySqlTransaction), end
        end = await ours.alone(view, "select count(*) from plain", **options)
        assert end.value == [(100,)]
        end = await ours.alone(pool, f"insert into marks values ({ours.n})")
        assert end.well, end  # who may write still can, on the same connection
    assert ours.struck() == 1


@pytest.mark.parametrize("way", ["read_only", "reader"])
async def test_read_only_checkout_whose_reply_is_lost(ours: Play, way: str) -> None:
    statement = f"insert into far_marks values ({ours.n}) returning n as told"
    async with ours.pool(kwargs={"autocommit": True}) as pool:
        view = pool.reader if way == "reader" else pool
        options = {} if way == "reader" else {"read_only": True}
        end = await ours.alone(view, statement, cut=reply_with("told"), **options)
    assert not end.well
    assert ours.sent() <= 1


@pytest.mark.parametrize("play", RESOLVED, indirect=True)
@pytest.mark.parametrize("cut", CUTS, ids=str)
async def test_true_reads_are_never_unknown(play: Play, cut: Way) -> None:
    wrong = []
    async with play.pool() as pool:
        for name, text in READS.items():
            end = await play.block(pool, text, cut=cut)
            if end.well == play.bare:
                wrong.append(f"{name}: {end}")
    assert not wrong, "\n".join(wrong)


async def test_true_reads_under_many_cuts(ours: Play) -> None:
    """None of hundreds is unknown: at COMMIT, before and after it."""
    ways = [COMMIT_HELD, COMMIT_UNHEARD, reply_with("row 7")]
    ours.settings |= {"retry_budget": 1.0, "retry_budget_floor": 100_000}
    wrong = []
    async with ours.pool() as pool:
        for number in range(150):
            read = "select n, note from plain where n = 7"
            end = await ours.block(pool, read, "select 1", cut=ways[number % 3])
            if not end.well:
                wrong.append(str(end))
    assert not wrong, (len(wrong), wrong[0])


async def test_true_reads_in_autocommit_are_sent_again(play: Play) -> None:
    async with play.pool() as pool:
        for _ in range(5):
            read = "select n as struck, note from plain where n < 5 order by n"
            end = await play.alone(pool, read, cut=reply_with("struck"))
            assert end.well != play.bare, end


# -- what no rollback takes back


def dblink(play: Play) -> list[str]:
    server = play.server
    where = f"host={server.sockets} port={server.port} user=app dbname=far"
    insert = f"insert into marks values ({play.n})"
    return [
        f"select dblink_connect_u('far', '{where}')",
        f"select dblink_exec('far', '{insert}') as told",
    ]


@pytest.mark.parametrize("how", ["function", "dblink_exec"])
@pytest.mark.parametrize("lost", ["reply", "session"])
async def test_far_work_is_not_done_again_in_a_replay(play: Play, how: str, lost: str) -> None:
    """It was committed far away at once; the block's session is lost before its COMMIT."""
    statements = dblink(play) if how == "dblink_exec" else [f"select send({play.n}) as told"]

    async def work() -> None:
        async with both(pool.connection()) as conn:
            play.arm(conn, reply_with("told") if lost == "reply" else None)
            for statement in statements:
                await call(conn.execute(statement))
            play.cut_off(conn)
            await call(conn.execute("select 1"))

    async with play.pool() as pool:
        end = await play.attempt(work)
    assert play.sent() == 1
    assert isinstance(end.error, psycopg.OperationalError), end


# -- the ways to end a block, and to run one's own


ENDINGS = ["commit", "COMMIT", "END /* COMMIT */", "COMMIT and chain", "several", "transaction"]


@pytest.mark.parametrize("play", ["bare-threads", *OURS], indirect=True)
@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("how", ENDINGS)
async def test_however_the_block_is_ended(play: Play, how: str, cut: Way) -> None:
    play.listen()

    async def work() -> None:
        async with both(pool.connection()) as conn:
            if how == "transaction":
                await call(conn.set_autocommit(True))
                play.arm(conn, cut)
                async with both(conn.transaction()):
                    await call(conn.execute(f"select tell({play.n})"))
                return
            play.arm(conn, cut)
            if how == "several":
                await call(conn.execute(f"notify told, '{play.n}'; COMMIT"))
                return
            await call(conn.execute(f"select tell({play.n})"))
            await call(conn.commit() if how == "commit" else conn.execute(how))

    async with play.pool() as pool:
        end = await play.attempt(work)
    play.judge(end, play.heard())


#: each is done, or half of it, when its reply is lost
ALONE = {
    "call committing({n})": "CALL",
    "do $$ begin insert into marks values ({n}); commit; end $$": "DO",
    "insert into marks values ({n}); select 1": "INSERT",
    "begin; insert into marks values ({n}); commit": "COMMIT",
}


@pytest.mark.parametrize("play", ["bare-threads", *OURS], indirect=True)
@pytest.mark.parametrize("text", list(ALONE))
async def test_autocommit_that_ends_transactions_itself(play: Play, text: str) -> None:
    async with play.pool() as pool:
        end = await play.alone(pool, text.format(n=play.n), cut=reply_with(ALONE[text]))
    assert play.struck() == 1
    assert end.unknown or (play.bare and not end.well), end


@pytest.mark.parametrize("play", ["bare-threads", *OURS], indirect=True)
@pytest.mark.parametrize("how", ["executemany", "pipeline", "copy"])
async def test_many_in_autocommit(play: Play, how: str) -> None:
    insert = "insert into marks values (%s)"

    async def work() -> None:
        async with both(pool.connection()) as conn:
            await call(conn.set_autocommit(True))
            play.arm(conn, reply_with("COPY 1" if how == "copy" else "INSERT 0 1"))
            if how == "executemany":
                await call(conn.cursor().executemany(insert, [(play.n,), (-play.n,)]))
            elif how == "pipeline":
                async with both(conn.pipeline()):
                    await call(conn.execute(insert, (play.n,)))
                    await call(conn.execute("select 1"))
            else:
                async with both(conn.cursor().copy("copy marks from stdin")) as copy:
                    await call(copy.write_row((play.n,)))

    async with play.pool() as pool:
        end = await play.attempt(work)
    assert play.struck() <= 1
    assert not end.well


# -- what no rollback takes back, of the server's own


@pytest.fixture
def slot(differential_server: Server) -> Iterator[str]:
    """A slot that keeps what is written to the log."""
    if not has_decoder():
        pytest.skip("no test_decoding")
    differential_server.admin("select pg_create_logical_replication_slot('seen', 'test_decoding')")
    yield "seen"
    differential_server.admin("select pg_drop_replication_slot('seen')")


@pytest.mark.parametrize("play", ["bare-threads", *OURS], indirect=True)
@pytest.mark.parametrize("lost", ["reply", "session"])
@pytest.mark.parametrize(
    "text",
    [
        "select message({n}) as told",
        "select pg_logical_emit_message(false, 'told', '{n}') as told",
        "with t as (select pg_logical_emit_message(1 = 2, 'told', '{n}') as told) table t",
    ],
)
async def test_a_message_that_is_told_at_once(play: Play, slot: str, text: str, lost: str) -> None:
    """It is in the log whatever becomes of the block, so a replay would tell it twice."""

    async def work() -> None:
        async with both(pool.connection()) as conn:
            play.arm(conn, reply_with("told") if lost == "reply" else None)
            await call(conn.execute(text.format(n=play.n)))
            play.cut_off(conn)
            await call(conn.execute("select 1"))

    async with play.pool() as pool:
        end = await play.attempt(work)
    play.admin("insert into marks values (0)")  # has the log written out
    seen = f"select data from pg_logical_slot_peek_changes('{slot}', null, null)"
    told = [row for row in play.admin(seen) if f"content:{play.n}" in row[0].replace(" ", "")]
    assert isinstance(end.error, psycopg.OperationalError), end
    assert len(told) == 1, told


# -- which resolver is used


TOLD_HERE = ["notify", "pg_notify", "function", "do", "view", "operator", "trigger"]


@pytest.mark.parametrize(
    ("ours", "resolver", "cut", "name"),
    [
        *itertools.product(OURS, ["ledger"], [COMMIT_HELD], TOLD_HERE),
        *itertools.product(OURS, ["auto"], CUTS, ["notify", "view"]),
        *itertools.product(["ours-threads"], ["ledger"], [COMMIT_UNHEARD], TOLD_HERE),
    ],
    indirect=["ours"],
    ids=str,
)
async def test_the_ledger_resolves_what_leaves_no_transaction_id(
    ours: Play, name: str, cut: Way, resolver: str
) -> None:
    ours.settings["commit_resolver"], ours.dbname = resolver, "led"
    ours.listen()
    async with ours.pool() as pool:
        end = await ours.block(pool, *TELLING[name].format(n=ours.n).split(" ;; "), cut=cut)
    assert end.well, end
    assert ours.heard() == 1


@pytest.mark.parametrize("dbname", ["app", "led", "shut"])
async def test_auto_says_once_what_it_uses(
    ours: Play, dbname: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours.settings["commit_resolver"], ours.dbname = "auto", dbname
    with caplog.at_level("INFO", "resilient"):
        async with ours.pool() as pool:
            for cut in (COMMIT_HELD, COMMIT_UNHEARD, None):
                end = await ours.block(pool, f"insert into marks values ({ours.n})", cut=cut)
                assert end.well, end
    assert ours.struck() == 3
    said = [r.getMessage() for r in caplog.records if "resolver" in r.getMessage().lower()]
    assert len(said) == 1, said
    assert ("ledger" in said[0].lower()) or ("lsn" in said[0].lower()), said


async def test_auto_is_the_default() -> None:
    assert Settings().commit_resolver == "auto"


async def test_a_ledger_that_may_not_be_written_to_is_a_clear_error(ours: Play) -> None:
    ours.settings["commit_resolver"], ours.dbname = "ledger", "shut"
    async with ours.pool() as pool:
        end = await ours.block(pool, f"insert into marks values ({ours.n})")
    assert end.error is not None
    assert "resilient.commits" in str(end.error), end
    assert ours.struck() == 0


# -- reads that no question follows, once the catalogue has shown that they can only read


async def test_what_does_more_than_read_is_never_proved(ours: Play) -> None:
    more = {**TELLING, **STRIKING}
    texts = {name: text.format(n=ours.n).encode() for name, text in more.items()}
    asked = [(text, None) for text in texts.values() if traits(text).reads]
    # Somebody has a lower() of their own here: which one is meant, names don't tell.
    reads = [(text.encode(), None) for text in READS.values() if "lower" not in text]
    async with ours.pool() as pool, both(pool.connection()) as conn:
        assert asked
        assert await call(conn.wait(only_reading(conn.pgconn, asked))) == []
        assert await call(conn.wait(only_reading(conn.pgconn, reads))) == reads


#: others are idle too
ROOM = {"min_size": 3, "max_size": 3}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue may be asked as often as one likes."""
    monkeypatch.setattr(knowledge, "LEARN_S", -1.0)


@pytest.fixture(params=[3, 2, 1])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """So many connections: beside the caller's own are others to spare, one, or none."""
    monkeypatch.setattr(knowledge, "VERY_OFTEN", 8)
    monkeypatch.setattr(knowledge, "TOO_OFTEN", 16)
    return dict.fromkeys(("min_size", "max_size"), request.param)


async def warm(play: Play, pool: Any, *texts: str) -> None:
    """They are executed in blocks until they were looked up, by a worker."""
    known = pool._core.known
    async with asyncio.timeout(20):
        while True:
            found = {text for text, _ in (*known.proved, *known._unproved)}
            if found.issuperset(text.encode() for text in texts):
                return
            for text in texts:
                assert (await play.block(pool, text)).well
            await asyncio.sleep(0.01)


async def shown(play: Play, pool: Any, *texts: str) -> str:
    """What the server shows of a session that idles in its transaction behind them."""
    async with both(pool.connection()) as conn:
        for text in texts:
            await call(conn.execute(text))
        pid = conn.info.backend_pid
        return str(play.admin(f"select query from pg_stat_activity where pid = {pid}")[0][0])


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("cut", CUTS, ids=str)
async def test_proved_reads_are_never_unknown(ours: Play, cut: Way, room: dict[str, int]) -> None:
    reads = ["select n, note from plain where n = 7", "select count(*) from plain"]
    strike = f"select strike({ours.n}) as struck"
    async with ours.pool(**room) as pool:
        assert await shown(ours, pool, reads[0]) != reads[0]  # the question
        await warm(ours, pool, *reads)
        for read in reads:
            assert await shown(ours, pool, read) == read
            end = await ours.block(pool, read, cut=cut)
            assert end.well, end
        # What follows it in its block is asked about as ever.
        assert strike in await shown(ours, pool, reads[0], strike)
        end = await ours.block(pool, reads[1], strike, cut=cut)
        assert end.well, end
    assert ours.struck() == 2


@pytest.mark.usefixtures("at_once")
async def test_a_function_that_writes_is_asked_about_as_ever(
    ours: Play, room: dict[str, int]
) -> None:
    """However often it was called: its text looks like a read."""
    strike = f"select strike({ours.n}) as struck"
    async with ours.pool(**room) as pool:
        for _ in range(done := 2 * knowledge.TOO_OFTEN):
            assert (await ours.block(pool, strike)).well
        assert await shown(ours, pool, strike) != strike
        for cut in CUTS:
            end = await ours.block(pool, strike, cut=cut)
            assert end.well, end
    assert ours.struck() == done + 1 + len(CUTS)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("cut", CUTS, ids=str)
async def test_a_proof_is_not_believed_when_a_commit_was_lost(ours: Play, cut: Way) -> None:
    """A view was made anew, and what was proved to only read writes."""
    view = f"seen_{ours.n}"
    read = f"select n from {view}"
    ours.admin(f"create view {view} as select n from plain where n = 1")
    ours.admin(f"grant select on {view} to app")
    async with ours.pool(**ROOM) as pool:
        await warm(ours, pool, read)
        assert await shown(ours, pool, read) == read
        ours.admin(f"create or replace view {view} as select strike({ours.n})::int as n")
        end = await ours.block(pool, read, cut=cut)
    assert end.unknown, end
    assert ours.struck() <= 1


@pytest.mark.usefixtures("at_once")
async def test_proved_reads_in_a_pipeline_are_not_asked_about(ours: Play) -> None:
    """Their COMMIT goes without a round trip before it."""
    read = "select n, note from plain where n = 7"

    async def piped(pool: Any) -> None:
        async with both(pool.connection()) as conn:
            async with both(conn.pipeline()):
                await call(conn.execute(read))
            pid = conn.info.backend_pid
            query = f"select query from pg_stat_activity where pid = {pid}"
            seen.append(str(ours.admin(query)[0][0]))
            await call(conn.commit())
            seen.append(str(ours.admin(query)[0][0]))

    seen: list[str] = []
    async with ours.pool(**ROOM) as pool:
        await warm(ours, pool, read)
        await piped(pool)
    assert seen == [read, "COMMIT"]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("room", [1], indirect=True)
async def test_who_asks_on_a_session_of_their_own_is_not_held_up(
    ours: Play, room: dict[str, int]
) -> None:
    """Somebody has locked the catalogue, and there is no other connection: what can't be told at
    once isn't asked again soon, and the session goes on as it was."""
    read = "select n, note from plain where n = 7"
    async with ours.pool(**room) as pool:
        assert (await ours.block(pool, read)).well
        with psycopg.connect(f"{ours.server.conninfo} dbname={ours.dbname}") as admin:
            admin.execute("lock table pg_catalog.pg_cast in access exclusive mode")
            for _ in range(2 * knowledge.TOO_OFTEN):
                assert (await ours.block(pool, read)).well
        known = pool._core.known
        assert ({text for text, _ in known._unproved}, known.proved) == ({read.encode()}, set())


@pytest.mark.usefixtures("at_once")
async def test_a_slow_catalogue_holds_nobody_up(ours: Play) -> None:
    """Somebody has locked it: nobody's COMMIT waits for what is looked up there."""
    read = "select n, note from plain where n = 7"
    async with ours.pool(**ROOM) as pool:
        for _ in range(3):  # each session has met its server
            assert (await ours.block(pool, read)).well
        with psycopg.connect(f"{ours.server.conninfo} dbname={ours.dbname}") as admin:
            admin.execute("lock table pg_catalog.pg_cast in access exclusive mode")
            began = time.monotonic()
            for _ in range(knowledge.OFTEN):
                assert (await ours.block(pool, read)).well
            while not pool._core.known._unproved:  # its time was over
                await asyncio.sleep(0.01)
                assert time.monotonic() - began < 5
        assert pool._core.known.proved == set()
        assert (await ours.block(pool, read)).well
        assert pool.get_stats()["pool_size"] == 3
