"""Nobody's session is somebody else's: who goes on after a loss is as he was, or hears of it.

FAULTS 41, 42.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.enum import EnumInfo, register_enum

from resilient.postgres.replay import catalogue, seen

from .play import OURS, Play, both, call

pytestmark = pytest.mark.lab

TENANT = "select current_setting('app.tenant', true)"
USER = "select current_user::text"
LOCKS = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
#: what makes a state, and what shows it
STATES: dict[str, tuple[list[str], str]] = {
    "function that sets": (["select set_tenant({n})"], TENANT),
    "function that sets locally": (["select set_tenant_here({n})"], TENANT),
    "function sql that sets": (["select set_tenant_sql({n})"], TENANT),
    "function in a where": (["select 1 where set_tenant({n}) > 0"], TENANT),
    "function in from": (["select * from set_tenant({n})"], TENANT),
    "function in values": (["values (set_tenant({n}))"], TENANT),
    "function in an insert": (["insert into marks values (set_tenant({n}))"], TENANT),
    "procedure that sets": (["call set_tenant_in({n})"], TENANT),
    "do block": (["do $$ begin perform set_config('app.tenant', '{n}', false); end $$"], TENANT),
    "do block executes": (["do $$ begin execute 'set app.tenant = ''{n}'''; end $$"], TENANT),
    "do block role": (["do $$ begin set role reporter; end $$"], USER),
    "view that sets": (["select set from setting_tenant where n = {n}"], TENANT),
    "view over a view": (["select set from setting_tenant_view where n = {n}"], TENANT),
    "set_config": (["select set_config('app.tenant', '{n}', false)"], TENANT),
    "set_config local": (["select set_config('app.tenant', '{n}', true)"], TENANT),
    "set_config twice": (
        ["select set_config('app.other', '1', true), set_config('app.tenant', '{n}', false)"],
        TENANT,
    ),
    "set_config local last": (
        ["select set_config('app.tenant', '{n}', false), set_config('app.other', '1', true)"],
        TENANT,
    ),
    "set_config computed": (
        ["select set_config('app.' || name, '{n}', 1 > 2) from (values ('tenant')) v (name)"],
        TENANT,
    ),
    "set_config in a where": (
        ["select 1 where set_config('app.tenant', '{n}', false) is not null"],
        TENANT,
    ),
    "set_config in a common table": (
        ["with t as materialized (select set_config('app.tenant', '{n}', false)) table t"],
        TENANT,
    ),
    "set_config qualified": (
        ["select pg_catalog.set_config('app.tenant', '{n}', false)"],
        TENANT,
    ),
    "update of pg_settings": (
        ["update pg_settings set setting = '{n}' where name = 'statement_timeout'"],
        "show statement_timeout",
    ),
    "function role": (["select be_reporter()"], USER),
    "set": (["set app.tenant = '{n}'"], TENANT),
    "set local": (["set local app.tenant = '{n}'"], TENANT),
    "set role": (["set role reporter"], USER),
    "set local role": (["set local role reporter"], USER),
    "two in one": (["set app.other = '1'; set app.tenant = '{n}'"], TENANT),
    "advisory lock": (["select pg_advisory_lock({n})"], LOCKS),
    "advisory lock of two": (["select pg_advisory_lock(1, {n})"], LOCKS),
    "advisory lock tried": (["select pg_try_advisory_lock({n})"], LOCKS),
    "advisory lock shared": (["select pg_advisory_lock_shared({n})"], LOCKS),
    "advisory lock in a function": (["select lock_number({n})"], LOCKS),
    "advisory lock in a do block": (
        ["do $$ begin perform pg_advisory_lock({n}); end $$"],
        LOCKS,
    ),
    "advisory locks of rows": (
        ["select pg_advisory_lock(n) from numbers where n between {n} and {n} + 1"],
        LOCKS,
    ),
    "temporary table": (
        ["create temporary table kept (n int)", "insert into kept values ({n})"],
        "select n from kept",
    ),
    "temporary table in a function": (["select temporary({n})"], "select n from kept"),
    "temporary by select": (["select {n} as n into temporary kept"], "select n from kept"),
    "temporary view": (["create temporary view kept as select {n} as n"], "select n from kept"),
    "temporary schema": (["create table pg_temp.kept as select {n} as n"], "select n from kept"),
    "prepare": (["prepare mine as select {n}"], "execute mine"),
    "prepare in a do block": (
        ["do $$ begin execute 'prepare mine as select {n}'; end $$"],
        "execute mine",
    ),
    "cursor with hold": (
        ["declare mine cursor with hold for select {n}", "commit"],
        "fetch mine",
    ),
    "listen": (["listen told", "commit"], "select array_agg(c) from pg_listening_channels() c"),
    "limit of an extension's own": (["select set_limit(0.9)"], "select show_limit()"),
    "seed": (["select setseed(0.42)"], "select random()"),
    "seed by name": (["set seed = 0.42"], "select random()"),
    "lock in a view": (["select locked from locking where n = {n}"], LOCKS),
    "function with a setting of its own": (["select set_tenant_aside({n})"], TENANT),
    "set, and set back": (["set statement_timeout = '77s'", "reset all"], "show statement_timeout"),
    "set_config of rows": (
        ["select set_config(name, '78s', false) from pg_settings where name = 'statement_timeout'"],
        "show statement_timeout",
    ),
    "time zone": (["set time zone 'Asia/Tokyo'"], "show timezone"),
    "encoding": (["set client_encoding to 'latin1'"], "show client_encoding"),
    "characteristics": (
        ["set session characteristics as transaction isolation level serializable"],
        "show default_transaction_isolation",
    ),
    "temporary sequence": (
        ["create temporary sequence kept", "select nextval('kept')"],
        "select currval('kept')",
    ),
    "temporary by search path": (
        ["set search_path = pg_temp", "create table kept as select {n} as n"],
        "select n from kept",
    ),
    "temporary function": (
        ["create function pg_temp.mine() returns int language sql as 'select {n}'"],
        "select pg_temp.mine()",
    ),
    "listen in a function": (
        ["select listen_in()", "commit"],
        "select array_agg(c) from pg_listening_channels() c",
    ),
}
#: how the state and the loss lie to each other
MODES = ("in a block", "in an earlier block", "in autocommit")


def shown(play: Play, make: list[str], show: str, mode: str) -> Any:
    """What shows the state in a session that isn't lost."""
    autocommit = mode == "in autocommit"
    with psycopg.connect(play.server.dsn, autocommit=autocommit) as conn:
        for statement in make:
            conn.execute(statement.encode())
        if mode == "in an earlier block":
            conn.commit()
        value = conn.execute(show.encode()).fetchone()
        conn.rollback()
        pid = conn.info.backend_pid
    play.wait_gone(pid)
    return value


async def across(play: Play, pool: Any, make: list[str], show: str, mode: str) -> Any:
    """What shows it after a loss."""
    async with both(pool.connection()) as conn:
        if mode == "in autocommit":
            await call(conn.set_autocommit(True))
        for statement in make:
            await call(conn.execute(statement))
        if mode == "in an earlier block":
            await call(conn.commit())
        play.cut_off(conn)
        return await play.one(conn, show)


@pytest.mark.parametrize(
    ("play", "mode"),
    [
        ("bare-threads", MODES[0]),
        *itertools.product(OURS, MODES[:1]),
        ("ours-threads", MODES[1]),
        ("ours-tasks", MODES[2]),
    ],
    indirect=["play"],
)
@pytest.mark.parametrize("name", list(STATES))
async def test_a_state_of_the_session(play: Play, name: str, mode: str) -> None:
    make, show = STATES[name]
    make = [text.replace("{n}", str(play.n)) for text in make]
    if mode == "in autocommit":
        make = [text for text in make if text != "commit"]
    expected = shown(play, make, show, mode)
    assert expected is not None
    async with play.pool() as pool:
        end = await play.attempt(lambda: across(play, pool, make, show, mode))
        if end.well:
            assert not play.bare
            # a setting that was local, and ended, leaves an empty string
            assert (end.value[0] or None) == (expected[0] or None), "lost in silence"
        else:
            assert isinstance(end.error, psycopg.OperationalError), end
        assert (await play.block(pool, USER)).well


#: each is another kind of statement, and leaves nothing
OTHERS = [f"select n as c{k} from public.numbers where n = {k}" for k in range(12)]


@pytest.mark.parametrize("play", ["ours-threads"], indirect=True)
@pytest.mark.parametrize("most", [100, 6], ids=["kinds", "names"])
@pytest.mark.parametrize("name", list(STATES))
async def test_a_state_among_many_statements(
    play: Play, name: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of the statements before it is their kinds, and of too many their names."""
    monkeypatch.setattr(seen, "DUE", 3)
    monkeypatch.setattr(seen.Seen, "due", 3)
    monkeypatch.setattr(seen, "MOST_KINDS", most)
    make, show = STATES[name]
    make = [text.replace("{n}", str(play.n)) for text in make]
    expected = shown(play, [*make, *OTHERS], show, MODES[1])
    assert expected is not None
    make = [text for each in (*make, *OTHERS) for text in (each, "commit")]
    async with play.pool() as pool:
        end = await play.attempt(lambda: across(play, pool, make, show, MODES[1]))
        if end.well:
            assert (end.value[0] or None) == (expected[0] or None), "lost in silence"
        else:
            assert isinstance(end.error, psycopg.OperationalError), end


@pytest.mark.parametrize("form", ["blocks", "one block", "autocommit"])
async def test_a_checkout_of_thousands_of_statements(
    ours: Play, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No two of its texts are the same.  They need no memory, and after a loss no more is asked
    about them than about one."""

    def say(*args: Any) -> Any:
        said.append(args)
        return own(*args)

    said: list[Any] = []
    own = catalogue._say
    monkeypatch.setattr(catalogue, "_say", say)
    async with ours.pool() as pool, both(pool.connection()) as conn:
        await call(conn.set_autocommit(form == "autocommit"))
        for number in range(1, 3000):
            await call(conn.execute(f"select note, {number} from plain where n = {number}"))
            if form != "autocommit" and not number % 3:  # as Django names them
                await call(conn.execute(f'savepoint "s{number}_x1"'))
                await call(conn.execute(f'release savepoint "s{number}_x1"'))
            if form == "blocks" and not number % 10:
                await call(conn.commit())
        if form != "autocommit":
            await call(conn.commit())
        journal = conn._resilient.judge.journal
        assert len(journal.earlier) + len(journal.passed) < 2 * seen.DUE
        assert journal.earlier.names is None
        said.clear()
        ours.cut_off(conn)
        assert (await ours.one(conn, "select 42"))[0] == 42
        assert len(said) < 20


async def test_a_setting_for_each_of_many_requests(ours: Play) -> None:
    """Of each the last is restored, however many there were on one checkout."""
    async with ours.pool() as pool, both(pool.connection()) as conn:
        for number in range(300):
            for text in (
                "set role reporter",
                f"set app.tenant = '{number}'",
                f"select set_config('app.other', '{number}', false)",
                "set time zone 'UTC'" if number % 2 else "set timezone to 'Asia/Tokyo'",
                "reset role" if number % 3 else "set role tenant_user",
            ):
                await call(conn.execute(text))
            await call(conn.commit())
        assert len(conn._resilient.judge.session.settings) < 20
        ours.cut_off(conn)
        shown = "select current_setting('app.tenant'), current_setting('app.other'), current_user"
        row = await ours.one(conn, f"{shown}, current_setting('timezone')")
        assert row == ("299", "299", "app", "UTC")


#: a setting that was taken back isn't there after the loss either
TAKEN_BACK = {
    "block": ["set app.tenant = 'a'", "commit", "set app.tenant = 'b'", "rollback"],
    "set_config": [
        "select set_config('app.tenant', 'a', false)",
        "commit",
        "select set_config('app.tenant', 'b', false)",
        "rollback",
    ],
    "savepoint": ["set app.tenant = 'a'", "savepoint s", "set app.tenant = 'b'", "rollback to s"],
    "local": ["set app.tenant = 'a'", "commit", "set local app.tenant = 'b'", "commit"],
    "reset": ["set app.tenant = 'a'", "commit", "reset app.tenant"],
}


@pytest.mark.parametrize("name", list(TAKEN_BACK))
async def test_a_setting_that_was_taken_back(ours: Play, name: str) -> None:
    expected = shown(ours, TAKEN_BACK[name], TENANT, MODES[0])
    async with ours.pool() as pool:
        end = await ours.attempt(lambda: across(ours, pool, TAKEN_BACK[name], TENANT, MODES[0]))
    if end.well:
        assert (end.value[0] or None) == (expected[0] or None)
    else:
        assert isinstance(end.error, psycopg.OperationalError), end


# -- what the pool's own callbacks set


async def as_tenant(conn: Any) -> None:
    await call(conn.execute("set role tenant_user"))
    await call(conn.execute("select set_config('app.tenant', 'blue', false)"))
    await call(conn.commit())


async def as_owner(conn: Any) -> None:
    await call(conn.execute("reset role"))
    await call(conn.execute("reset app.tenant"))
    await call(conn.commit())


WHO = "select current_user::text, count(*), array_agg(distinct tenant) from documents"
Loss = Callable[[Play, Any], None]


def reset(play: Play, conn: Any) -> None:
    play.cut_off(conn)


def crash(play: Play, conn: Any) -> None:
    play.crash()


@pytest.mark.parametrize("loss", [reset, crash], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("where", ["first", "after a write", "autocommit"])
@pytest.mark.parametrize("by", ["check", "configure"])
async def test_row_security_by_a_callback(play: Play, by: str, where: str, loss: Loss) -> None:
    """Other tenants' rows are never seen by who goes on."""

    async def work() -> Any:
        async with both(pool.connection()) as conn:
            if where == "autocommit":
                await call(conn.set_autocommit(True))
            elif where == "after a write":
                await call(conn.execute("insert into documents values ('blue', 'mine')"))
            loss(play, conn)
            return await play.one(conn, WHO)

    options = {"check": as_tenant, "reset": as_owner} if by == "check" else {"configure": as_tenant}
    async with play.pool(**options) as pool:
        end = await play.attempt(work)
    if end.well:
        assert (end.value[0], end.value[2]) == ("tenant_user", ["blue"]), "another tenant's rows"
    else:
        assert isinstance(end.error, psycopg.OperationalError), end


@pytest.mark.parametrize("state", ["role", "setting", "limit", "prepared", "temporary"])
async def test_what_another_caller_left_on_a_pooled_connection(play: Play, state: str) -> None:
    """It doesn't come under an open block whose own session is lost."""
    left = {
        "role": "set role reporter",
        "setting": "set app.tenant = 'theirs'",
        "limit": "set statement_timeout = '77s'",
        "prepared": "prepare theirs as select 1",
        "temporary": "create temporary table theirs (n int)",
    }
    show = """select current_user::text, current_setting('app.tenant', true),
    current_setting('statement_timeout'), to_regclass('theirs')::text,
    (select count(*) from pg_prepared_statements where name = 'theirs')"""

    async def work() -> Any:
        async with both(pool.connection()) as conn:
            fresh = await play.one(conn, show)
            other = await call(pool.getconn())
            await call(other.execute(left[state]))
            await call(other.commit())
            await call(pool.putconn(other))
            play.cut_off(conn)
            assert await play.one(conn, show) == fresh

    async with play.pool(min_size=2) as pool:
        end = await play.attempt(work)
    assert end.well or isinstance(end.error, psycopg.OperationalError), end


# -- types whose numbers change


class Mood(enum.Enum):
    sad = "sad"
    ok = "ok"


@pytest.mark.parametrize("loss", ["in a block", "in autocommit", "between blocks"])
async def test_types_have_other_numbers_after_the_loss(play: Play, loss: str) -> None:
    """As after a restore: what later checkouts know of types is of the present server."""
    mood = f"mood_{play.n}"

    async def configure(conn: Any) -> None:
        kind = psycopg.AsyncConnection if play.shell == "tasks" else psycopg.Connection
        assert isinstance(conn, kind)
        info = await call(EnumInfo.fetch(conn, mood))
        register_enum(info, conn, Mood)
        await call(conn.commit())

    def make() -> None:
        play.admin(
            f"set role app; drop type if exists {mood} cascade; create type {mood} as"
            f" enum ('sad', 'ok'); drop table if exists {mood}_of; create table {mood}_of"
            f" (n int, v {mood})"
        )

    async def work() -> None:
        async with both(pool.connection()) as conn:
            if loss == "in autocommit":
                await call(conn.set_autocommit(True))
            if loss != "between blocks":
                await call(conn.execute("select 1"))
            make()
            play.cut_off(conn)
            await call(conn.execute("select 1"))

    make()
    play.admin(f"create type {mood}_pad as enum ('x')")
    async with play.pool(max_size=1, configure=configure) as pool:
        await play.attempt(work)
        for _ in range(3):
            insert = f"insert into {mood}_of values (1, %s) returning v"
            end = await play.block(pool, insert, values=(Mood.ok,))
            assert end.value == [(Mood.ok,)], end
