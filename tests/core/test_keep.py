"""What is given back of a transaction, and how: by parse trees and the catalogue's facts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resilient.core.keep.block import Plan, decide
from resilient.core.keep.facts import Facts, Seen, Statement, Table
from resilient.core.keep.forms import Insert, Refused, Select, described
from resilient.core.keep.made import Column, Default, Function, Made, Sequence, default_of, passed
from resilient.core.keep.proof import Sure, sure
from resilient.core.keep.rewrite import Given, array, rewritten
from resilient.core.keep.scan import Tokens
from resilient.core.outcome import Incarnation, Mark
from resilient.postgres.replay.parser import parser

parse: Any = parser()
needs_parser = pytest.mark.skipif(parse is None, reason="neither pgparse nor pglast is installed")

NOW = "{FUNCEXPR :funcid 1299 :args <>}"
NEXTVAL = "{FUNCEXPR :funcid 1574 :args ({CONST})}"
SERIAL = f"{{FUNCEXPR :funcid 480 :args ({NEXTVAL})}}"
UUID = "{FUNCEXPR :funcid 3432 :args <>}"
LOCAL = f"{{FUNCEXPR :funcid 2027 :args ({NOW})}}"
OWN = "{FUNCEXPR :funcid 16999 :args <>}"
CURRENT_DATE = "{SQLVALUEFUNCTION :op 0 :type 1082}"
FUNCTIONS = {
    1299: Function(1299, "now", True, False),
    1574: Function(1574, "nextval", True, True),
    480: Function(480, "int4", True, False),
    2027: Function(2027, "timestamp", True, False),
    3432: Function(3432, "gen_random_uuid", True, True),
    2943: Function(2943, "txid_current", True, True),
    16999: Function(16999, "mine", False, True),
}


# -- sequences


@pytest.mark.parametrize(
    ("last", "increment", "value", "free"),
    [
        (10, 1, 10, True),
        (10, 1, 11, False),
        (42, 1, 10, True),
        (None, 1, 1, False),
        (-10, -1, -10, True),
        (-10, -1, -11, False),
        (-10, -1, 3, True),
        (10, -2, 8, False),
    ],
)
def test_a_sequence_has_passed_a_number_in_its_own_direction(
    last: int | None, increment: int, value: int, free: bool
) -> None:
    assert (passed(Sequence(1, "s", last, increment), value) == "") is free


def test_a_sequence_that_begins_anew_or_is_not_to_be_read_has_passed_nothing() -> None:
    assert "CYCLE" in passed(Sequence(1, "s", 10, cycles=True), 1)
    assert "GRANT" in passed(Sequence(1, "s", 10, readable=False), 1)


THEN = Incarnation("7", 1, "monday")
PROMOTED = Incarnation("7", 2, "tuesday", 100)


@pytest.mark.parametrize(
    ("now", "lsn", "flushed", "expected"),
    [
        (THEN, 500, 0, Sure.ALL),
        (PROMOTED, 100, 100, Sure.MARKED),
        (PROMOTED, 100, 99, Sure.NONE),
        (PROMOTED, 101, 500, Sure.LOST),
        (Incarnation("7", 1, "tuesday", 100), 101, 0, Sure.LOST),
        (Incarnation("7", 1, "tuesday", 100), 100, 100, Sure.NONE),
        (Incarnation("7", 3, "tuesday", 100), 50, 100, Sure.NONE),
        (Incarnation("8", 2, "tuesday", 100), 50, 100, Sure.NONE),
        (Incarnation("7", 2, "tuesday"), 50, 100, Sure.NONE),
    ],
)
def test_what_is_certain_of_the_new_primary(
    now: Incarnation, lsn: int, flushed: int, expected: Sure
) -> None:
    assert sure(Mark(1, lsn, THEN), now, True, flushed) is expected


def test_nothing_is_certain_without_a_mark_or_a_standby() -> None:
    assert sure(None, PROMOTED, True, 100) is Sure.NONE
    assert sure(Mark(1, 50, THEN), None, True, 100) is Sure.NONE
    assert sure(Mark(1, 50, THEN), PROMOTED, False, 100) is Sure.NONE


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (Column(1, "a", tree=NOW), Default(Made.TIME, True, cast=True)),
        (Column(1, "a", tree=LOCAL), Default(Made.TIME, False, cast=True, local=True)),
        (Column(1, "a", tree=CURRENT_DATE), Default(Made.TIME)),
        (Column(1, "a", tree=UUID), Default(Made.VALUE)),
        (Column(1, "a", tree=NEXTVAL, sequence=5), Default(Made.SEQUENCE)),
        (Column(1, "a", tree=SERIAL, sequence=5), Default(Made.SEQUENCE)),
        (Column(1, "a", identity="a", sequence=5), Default(Made.SEQUENCE)),
        (Column(1, "a", tree="{CONST :constvalue 1}"), Default()),
        (Column(1, "a"), Default()),
    ],
)
def test_what_a_default_makes_up(column: Column, expected: Default) -> None:
    assert default_of(column, FUNCTIONS) == expected


@pytest.mark.parametrize(
    "tree",
    [
        *(OWN, f"{{OPEXPR :opfuncid 177 :args ({NEXTVAL} {{CONST}})}}", NEXTVAL * 2),
        *("{FUNCEXPR :funcid 2943 :args <>}", "{FUNCEXPR :funcid 4242 :args <>}"),
    ],
)
def test_a_default_that_isnt_understood_is_refused(tree: str) -> None:
    assert default_of(Column(1, "a", tree=tree, sequence=5), FUNCTIONS).why


# -- forms


@needs_parser
@pytest.mark.parametrize(
    "query",
    [
        "with x as (select 1) insert into t (a) values (1) returning id",
        "insert into t (a) select a from u returning id",
        "insert into t (a) select a from u, (values (1)) v (a) returning id",
        "insert into t (a) select * from (values (1)) v (a) returning id",
        "insert into t (a) select a from (values (1, 2), (2, 1)) v (a, n) order by n desc",
        "insert into t (a) select a from (values (1, 2), (2, 1)) v (a, n) order by n",
        "insert into t (a) select a from (values (1, 2), (2, 3)) v (a, n) where n > 2",
        "insert into t (a) select distinct a from (values (1, 2), (2, 3)) v (a, n)",
        "insert into t (a) values (1), (2) order by 1 returning id",
        "insert into t (a) values (1), (2) limit 1 returning id",
        "insert into t (a) select * from unnest(array[1]) with ordinality returning id",
        "insert into t (a) select * from generate_series(1, 2) returning id",
        "insert into t (a) overriding user value values (1) returning id",
        "insert into t (a.b) values (1) returning id",
        "insert into t (a) values (1) returning old.id",
        "select nextval('s') + 1",
        "select nextval('s' || 't')",
        "select now() from t",
        "select now() where false",
        "select now() union select now()",
        "select mine(now())",
        "select (select now())",
        "update t set a = 1 returning id",
        "select 1; select 2",
    ],
)
def test_a_form_that_isnt_understood_is_refused(query: str) -> None:
    with pytest.raises(Refused):
        described(parse(query))


@needs_parser
@pytest.mark.parametrize(
    ("query", "form", "rows"),
    [
        ("insert into s.t default values returning id", "default", 1),
        ("insert into t values (1, 2), (3, default) returning *", "values", 2),
        ("insert into t as x (a) values (1) on conflict do nothing returning x.id", "values", 1),
        (
            "insert into t (a) select p::int from (values (1, 0), (2, 1)) as v (p, n) order by n",
            *("select", 2),
        ),
        ("insert into t (a, b) select * from unnest($1::int[], $2::text[])", "unnest", None),
    ],
)
def test_forms_of_insert(query: str, form: str, rows: int | None) -> None:
    found = described(parse(query))
    assert isinstance(found, Insert)
    assert (found.form, found.rows) == (form, rows)


@needs_parser
@pytest.mark.parametrize(
    "query",
    [
        "select nextval('s')",
        "select nextval($1::regclass) as n, now()",
        "select pg_catalog.now()::date, current_timestamp, 1, $1",
        "select date_trunc('day', now()) + interval '1 day'",
        "select now() at time zone 'utc'",
        "select currval('s'), lastval()",
        "select gen_random_uuid(), clock_timestamp()",
    ],
)
def test_forms_of_select(query: str) -> None:
    found = described(parse(query))
    assert isinstance(found, Select)
    assert found.calls


# -- texts


def test_tokens_are_found_behind_literals_comments_and_quoted_names() -> None:
    query = b"""insert /* ( */ into "t(" values ('a)', $$($$, e'\\'(') -- ("""
    tokens = Tokens(query)
    values = tokens.find(b"values", 0, 0)
    (opens,) = tokens.rows(values)
    assert query[tokens.all[opens].start :].startswith(b"('a)'")


@needs_parser
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            "insert into t (a) values ('(,)'), ($1) returning id",
            """insert into t ("i""d", a) values ($2, '(,)'), ($3, $1) returning id""",
        ),
        (
            "insert into t values (1), ((2)) on conflict do nothing",
            """insert into t ("i""d", "a") values ($2, 1), ($3, (2)) on conflict do nothing""",
        ),
        (
            'insert into "values" ("values") /* values ( */ values ((select 1)), (2)',
            'insert into "values" ("i""d", "values") /* values ( */ values ($2, (select 1)),'
            " ($3, 2)",
        ),
    ],
)
def test_values_are_put_into_the_text(query: str, expected: str) -> None:
    form = described(parse(query))
    assert isinstance(form, Insert)
    given = [Given('i"d', (b"1", b"2"), 20)]
    implied = ("a",) if form.columns is None else ()
    made = rewritten(query.encode(), form, given, parse, first=1, implied=implied)
    assert made.query.decode() == expected
    assert (made.params, made.types) == ((b"1", b"2"), (20, 20))


@needs_parser
def test_a_text_that_would_mean_something_else_is_refused() -> None:
    """Whatever goes wrong while it is made, it is parsed before it is sent."""
    query = "insert into t (a) values (1) returning id"
    form = described(parse(query))
    assert isinstance(form, Insert)
    other = "insert into t (a) values (1), (1) returning id"
    with pytest.raises(Refused):
        rewritten(other.encode(), form, [Given("id", (b"1",), 20)], parse)


def test_arrays() -> None:
    assert array([b'a"b', None, b"c\\d"], 25, False) == b'{"a\\"b",NULL,"c\\\\d"}'
    assert array([b"\0\0\0\1"], 23, True).endswith(b"\0\0\0\4\0\0\0\1")


# -- whole blocks


def seen(*rows: tuple[bytes | None, ...], columns: tuple[int, ...], types: tuple[int, ...]) -> Seen:
    width = len(columns)
    tables = tuple(7 if column else 0 for column in columns)
    get: Callable[[int, int], bytes | None] = lambda row, column: rows[row][column]  # noqa: E731
    return Seen(len(rows), tables, columns, types, (False,) * width, get)


ID = Column(1, "id", "a", sequence=5, unique=True, leads=True)
AT = Column(3, "at", tree=NOW)
TABLE = Table(7, "public", "t", "r", False, (ID, Column(2, "a"), AT))


def facts(**values: Any) -> Facts:
    usual: dict[str, Any] = {
        "tables": {7: TABLE},
        "functions": FUNCTIONS,
        "sequences": {5: Sequence(5, "s", 100)},
        "sequence_named": {"s": 5},
        "arrays": {20: 1016},
        "named": {("", "t"): 7},
    }
    return Facts(**{**usual, **values})


def block(*queries: str | tuple[str, Seen], **values: Any) -> Plan:
    statements = []
    for each in queries:
        query, found = (each, None) if isinstance(each, str) else each
        statements.append(Statement(query.encode(), parse(query), found))
    return decide(statements, facts(**values), parse)


IDS = seen((b"42",), columns=(1,), types=(20,))
INSERT = ("insert into t (a) values (1) returning id", IDS)
TIME = seen((b"2026-01-01 00:00:00+00",), columns=(0,), types=(1184,))


@needs_parser
def test_an_identity_is_given_back() -> None:
    plan = block(INSERT)
    made = plan.instead[0]
    assert made is not None
    assert b"OVERRIDING SYSTEM VALUE" in made.query
    assert (plan.numbers, plan.keys) == ({5: {42}}, [(7, "id", (42,))])


@needs_parser
@pytest.mark.parametrize(
    ("query", "why", "values"),
    [
        (INSERT, "has not passed", {"sequences": {5: Sequence(5, "s", 41)}}),
        (INSERT, "somebody", {"taken": {5: "somebody"}}),
        (INSERT, "isn't known", {"tables": {}}),
        (("insert into u (a) values (1) returning id", IDS), "isn't known", {}),
        (
            ("insert into t (a) values (1), (2) on conflict do nothing returning id", IDS),
            *("only some", {}),
        ),
        (
            ("insert into t (a) values (1) on conflict (id) do update set a = 2 returning id", IDS),
            *("ON CONFLICT (id)", {}),
        ),
        (
            (
                "insert into t (a) values (1) on conflict (a) do update set a = excluded.id"
                " returning id",
                IDS,
            ),
            *("excluded.id", {}),
        ),
        (
            (
                "insert into t (a) values (1) on conflict on constraint c do update set a = 2"
                " returning id",
                IDS,
            ),
            *("CONSTRAINT", {}),
        ),
        (
            ("select nextval('s')", seen((b"4",), columns=(0,), types=(20,))),
            *("isn't the server's", {"shadowed": frozenset(("nextval",))}),
        ),
    ],
)
def test_what_isnt_given_back(query: Any, why: str, values: dict[str, Any]) -> None:
    plan = block(query, **values)
    assert not plan.instead
    assert why in plan.why[0]


@needs_parser
@pytest.mark.parametrize(
    ("column", "why"),
    [
        (Column(1, "id", "a", sequence=5, unique=True, insertable=False), "42501"),
        (Column(1, "id", "a", sequence=5), "no unique index"),
        (Column(1, "id", tree=OWN, unique=True), "function of its own"),
    ],
)
def test_columns_that_arent_given_back(column: Column, why: str) -> None:
    table = Table(7, "public", "t", "r", False, (column, Column(2, "a")))
    plan = block(INSERT, tables={7: table})
    assert not plan.instead
    assert why in plan.why[0]


@needs_parser
def test_a_block_that_may_read_currval_gets_no_numbers() -> None:
    assert not block(INSERT, "insert into t (a) values (currval('s'))").instead
    assert not block(INSERT, current="function f").instead
    told = seen((b"42",), columns=(0,), types=(20,))
    assert block(INSERT, ("select currval('s')", told)).instead[1] is None
    other = seen((b"41",), columns=(0,), types=(20,))
    assert 1 not in block(INSERT, ("select currval('s')", other)).instead


@needs_parser
def test_the_time_is_given_to_all_or_to_none() -> None:
    unseen = "insert into t (a) values (1)"
    plan = block(unseen, ("select now()", TIME), "update t set a = 1 where at < now()")
    assert plan.instead[1] is None
    assert all(made is None or b"2026" in (made.params[0] or b"") for made in plan.instead.values())
    assert set(plan.instead) == {0, 1, 2}
    for other in (
        "select current_date",
        "update t set at = default",
        "select * from t where at < 'now'",
        "insert into t (a) select 1 from t",
    ):
        plan = block(unseen, ("select now()", TIME), other)
        assert not plan.instead, other
    assert not block(("select now()", TIME), unseen, time="function f").instead


@needs_parser
def test_a_block_whose_caller_hasnt_seen_the_time_is_left_alone() -> None:
    assert not block("insert into t (a) values (1)", "update t set at = now()", time="f").instead
