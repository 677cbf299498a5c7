"""What a statement's text tells: a table, and properties that hold for any bytes."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resilient.postgres.replay.statements import CACHED_BYTES, _examine, setting_of, traits

from .scanner import several_statements

PLAIN = {"merges": True, "piggybacks": True, "hazard": "", "session": False, "ends": False}
ALONE = {"merges": False, "piggybacks": False, "hazard": "", "session": False, "ends": False}

TABLE: list[tuple[str, dict[str, object]]] = [
    # what may travel with BEGIN, and take the piggyback along
    ("select 1", {**PLAIN, "reads": True}),
    ("  -- why\n /* and\n how */ Select 1 ; ", {**PLAIN, "reads": True}),
    ("insert into t values (';')", {**PLAIN, "reads": False}),
    ("update t set a = $$;$$", {**PLAIN, "reads": False}),
    ('delete from t where ";" = 1', {**PLAIN, "reads": False}),
    ("with a as (select 1) select * from a", {**PLAIN, "reads": True}),
    ("merge into t using u on t.a = u.a when matched then delete", PLAIN),
    ("values (1), (2)", {**PLAIN, "reads": True}),
    ("set local lock_timeout = 1", {"merges": True, "piggybacks": False, "session": False}),
    ("lock table t", {"merges": True, "piggybacks": False, "writes": False}),
    ("show all", {"merges": True, "piggybacks": False, "reads": True}),
    # what goes alone
    ("select 1; select 2", ALONE),
    ("insert into t values (1); select 1", ALONE),
    ("create table t (n int)", ALONE),
    ("explain analyze insert into t values (1)", {**ALONE, "reads": False}),
    ("call p()", {**ALONE, "reads": False, "writes": True}),
    ("do $$ begin end $$", {**ALONE, "writes": True}),
    ("(select 1)", {"hazard": "", "merges": False}),
    ("", {"hazard": "", "merges": False}),
    # what looks as if it only read: the catalogue has to prove it
    ("table t", {"reads": True}),
    ("select lower(a), count(*) from t where a in (1, 2) group by (a)", {"reads": True}),
    ("select f(1)", {"reads": True}),
    ("select nextval('s')", {"reads": True}),
    ("select pg_catalog.nextval ('s')", {"reads": True}),
    ("select * from t for update", {"reads": False}),
    ("select * from t for no key update skip locked", {"reads": False}),
    ("select 1 into t2", {"reads": False}),
    ("with a as (insert into t values (1) returning 1) select * from a", {"reads": False}),
    ("select pg_notify('a', 'b')", {"reads": True}),
    ("select 'nextval(''s'')'", {"reads": True}),
    # comments, quoted names, E strings, dollars in names
    ("select schü()", {"reads": True}),
    ("select \"nextval\"('s')", {"reads": True}),
    ('select app."fn"()', {"reads": True}),
    ("select nextval/**/('s')", {"reads": True}),
    ("select nextval -- why\n ('s')", {"reads": True}),
    ("select 1 -- a\r; select 2", {"merges": False}),
    ("select E'\\''; select '1'", {"merges": False}),
    ("select a$x$ ; select 1 $x$", {"merges": False}),
    ("select /* /* */ ' */ 1; select '2'", {"merges": False}),
    ("create /**/ temp table t (n int)", {"hazard": "a temporary table"}),
    # settings of the session
    ("set search_path = x", {"session": True, "merges": True}),
    ("set session lock_timeout = 1", {"session": True}),
    ("set role x", {"session": True}),
    ("reset all", {"session": True}),
    ("set time zone 'UTC'", {"session": True}),
    ("set session characteristics as transaction read only", {"session": True}),
    ("set transaction isolation level serializable", {"session": False}),
    ("set constraints all deferred", {"session": False}),
    ("select set_config('a.b', 'c', false)", {"session": True, "reads": True}),
    ("select set_config('a.b', 'c', true)", {"session": False}),
    ("select pg_catalog.set_config($1, $2, $3)", {"session": True}),
    ("select 'set_config(1)'", {"session": False}),
    # what can't be done again
    ("copy t from stdin", {"hazard": "COPY", "merges": False}),
    ("declare c cursor for select 1", {"hazard": "a server-side cursor", "lasting": False}),
    ("declare c cursor with hold for select 1", {"lasting": True}),
    ("fetch c", {"hazard": "a server-side cursor"}),
    ("listen a", {"hazard": "LISTEN", "lasting": True}),
    ("notify a", {"hazard": ""}),
    ("load 'x'", {"hazard": "LOAD", "lasting": True}),
    ("prepare a as select 1", {"hazard": "PREPARE", "lasting": True}),
    ("execute a", {"hazard": "PREPARE"}),
    ("prepare transaction 'x'", {"hazard": "a two-phase transaction", "ends": False}),
    ("commit prepared 'x'", {"hazard": "a two-phase transaction", "ends": False}),
    ("rollback prepared 'x'", {"hazard": "a two-phase transaction"}),
    ("commit and chain", {"hazard": "COMMIT AND CHAIN", "ends": False, "control": True}),
    ("rollback and chain", {"hazard": "ROLLBACK AND CHAIN", "control": False}),
    ("create temp table t (n int)", {"hazard": "a temporary table", "lasting": True}),
    ("create global temporary table t (n int)", {"hazard": "a temporary table"}),
    ("create or replace temporary view v as select 1", {"hazard": "a temporary table"}),
    ("select 1 as n into temporary table t", {"hazard": "a temporary table"}),
    ("create table pg_temp.t (n int)", {"hazard": "a temporary table"}),
    ("select 'create temp table'", {"hazard": ""}),
    ("select pg_advisory_lock(1)", {"hazard": "a session-level advisory lock", "lasting": True}),
    ("select pg_try_advisory_lock_shared (1, 2)", {"hazard": "a session-level advisory lock"}),
    ("select pg_advisory_unlock_all()", {"hazard": "a session-level advisory lock"}),
    ("select pg_advisory_xact_lock(1)", {"hazard": ""}),
    ("commit; begin", {"hazard": "several statements in one, with transaction control"}),
    ("select 1; listen a", {"lasting": True, "special": True}),
    # the end of a block
    ("commit", {"ends": True, "hazard": ""}),
    ("  COMMIT WORK ;", {"ends": True}),
    ("/* why */ end transaction", {"ends": True}),
    ("rollback", {"ends": False, "hazard": ""}),
    ("select 'commit'", {"ends": False}),
    # prepared statements of the session
    ("discard all", {"forgets": True, "special": True}),
    ("deallocate all", {"forgets": True}),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    TABLE,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_table(text: str, expected: dict[str, object]) -> None:
    found = traits(text.encode())._asdict()
    assert {name: found[name] for name in expected} == expected


def test_a_setting_behind_another_statement_is_not_lost() -> None:
    found = traits(b"select 1; set search_path = x")
    assert found.session or found.lasting


#: what SQL is made of, so that random texts are more than noise
PIECES = [
    "select", "insert", "commit", "prepare", "set", "listen", "with", "end", "x", "1", " ", "\n",
    "\r", ";", "'", "''", "E'", "e'", "\\", '"', "--", "/*", "*/", "$$", "$a$", "$1", "(", ")", "é",
    "temp", "create ", " and chain", "for update",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=25).map("".join).map(str.encode)


@given(st.binary(max_size=200) | TEXTS)
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_understood(query: bytes) -> None:
    found = traits(query)
    rare = found.hazard or found.session or found.forgets or found.undoes
    assert found.special == bool(rare)
    if found.hazard:
        assert not found.merges
        assert not found.piggybacks
        assert not found.ends
    if found.piggybacks:
        assert found.merges
    if found.ends:
        assert not found.merges
    if found.lasting:
        assert found.hazard


@given(TEXTS.map(lambda text: b"select " + text))
@settings(max_examples=1000, deadline=None)
@example(b"select E'\\''; select '1'")
def test_several_statements_are_never_merged_nor_called_one(query: bytes) -> None:
    """libpq takes one statement with parameters, and a COMMIT must be seen."""
    found = traits(query)
    if several_statements(query):
        assert not found.merges
        assert not found.ends
        assert not found.reads


@pytest.mark.parametrize("inside", ["x", "''", ";", "\\"])
def test_a_long_literal(inside: str) -> None:
    """Of any size; a client-side cursor puts its parameters into the text."""
    found = traits(f"insert into t values ('{inside * 100_000}')".encode())
    assert found.merges
    assert not found.hazard


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("set app.tenant = '1'", "app.tenant"),
        ("SET SESSION Work_Mem TO '1MB';", "work_mem"),
        ("reset work_mem", "work_mem"),
        ("select set_config('app.tenant', $1, false)", "app.tenant"),
        ("select pg_catalog.set_config('app.tenant', '1', FALSE) as a;", "app.tenant"),
        ("set role x", "role"),
        ("reset role", "role"),
        ("set role = x", "role"),
        ("reset all", ""),
        ("set session authorization x", ""),
        ("set session_authorization = x", ""),
        ("set session characteristics as transaction read only", ""),
        ("select set_config('app.tenant', '1', $1)", ""),
        ("select set_config('app.tenant', '1', true)", ""),
        ("select set_config('a', '1', false), set_config('b', '1', false)", ""),
        ("select set_config('a', f(), false)", ""),
        ("select set_config('a', '1', false) from t", ""),
        ("set time zone 'UTC'", ""),
        ("set a = 1; set b = 2", "a"),  # which aren't kept: they are several
    ],
)
def test_the_one_setting_that_is_changed(text: str, name: str) -> None:
    assert setting_of(text.encode()).decode() == name


LISTS = [
    ", ".join(map(str, range(2000))),
    ", ".join(f"({n}, 'name {n}', '2024-01-{n}'::date, null)" for n in range(300)),
    ", ".join(f"'it''s {n}'" for n in range(1000)),
    "'" + "x; commit" * 1000 + "'",
]


def the_same(query: bytes) -> bool:
    assert len(query) > CACHED_BYTES
    return traits(query) == _examine(query)


@pytest.mark.parametrize("values", LISTS, ids=["numbers", "rows", "texts", "text"])
@pytest.mark.parametrize("text", [text for text, _ in TABLE])
def test_a_long_text_tells_the_same(text: str, values: str) -> None:
    """It is shortened before it is looked at."""
    assert the_same(f"{text} in ({values})".encode())
    assert the_same(f"insert into t values {values}; {text}".encode())
    assert the_same(f"select set_config('a', '1', true), 1 in ({values}); {text}".encode())


def test_of_rows_that_are_alike_one_is_still_there() -> None:
    row = "(select a from t for update)"
    text = f"select * from t where (a, b) in ((1, 2), {', '.join([row] * 400)})"
    assert the_same(text.encode())
    assert not traits(text.encode()).reads


@pytest.mark.parametrize("number", ["7", "7, 8"])
def test_a_call_that_looks_like_a_row_is_still_there(number: str) -> None:
    rows = ", ".join(f"({number})" for _ in range(2000))
    text = f"insert into t values {rows} returning pg_advisory_lock ({number})"
    assert the_same(text.encode())
    assert traits(text.encode()).hazard


@given(TEXTS, TEXTS, st.sampled_from(LISTS))
@settings(max_examples=300, deadline=None)
def test_any_long_text_tells_the_same(before: bytes, after: bytes, values: str) -> None:
    assert the_same(b"%s(%s)%s" % (before, values.encode(), after))
