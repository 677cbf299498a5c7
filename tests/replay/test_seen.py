"""Statements of which only their kinds are kept: what is asked about them stays the same."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import or_

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.reach import Asked, Names, names_of
from resilient.postgres.replay import seen
from resilient.postgres.replay.seen import Seen, kind

PIECES = [
    "select", "from", "t", "u1", '"a"', '"it\'s"', '"1 a"', '"2 a"', "f(", "g (", ")", ",", "1",
    "23.5", "'x'", "'it''s'", "E'\\''", "$$f($$", "$q$a", "$q$", "-- f(\n", "/* g( */", "U&'x'",
    "''",
    "do", ";", "::h", "+", "<@", "$1", "null", "'", '"', "1a", "t2", "a$1", "(1, 2)",
]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), max_size=12).map(lambda parts: " ".join(parts).encode())


def names(statements: Seen | list[Asked]) -> Names:
    found = reduce(or_, (names_of(query) for query, _ in statements), Names())
    beside = getattr(statements, "names", None)
    return found if beside is None else found | beside


@given(texts, texts)
def test_texts_of_one_kind_have_the_same_names(one: bytes, other: bytes) -> None:
    if kind(one) == kind(other):
        assert names_of(one) == names_of(other)


@given(st.lists(texts, max_size=60), st.integers(1, 30))
def test_no_name_is_forgotten(queries: list[bytes], most: int) -> None:
    asked: list[Asked] = [(query, None) for query in queries]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(seen, "DUE", 2)
        patched.setattr(seen, "MOST_KINDS", most)
        kept = Seen()
        for each in asked:
            kept.add(each)
            if len(kept) > 2:
                kept.fold()
        both = Seen()
        both.absorb(kept)
    wanted = names(asked)
    for found in (names(kept), names(both)):
        assert bool(found.unclear) == bool(wanted.unclear)
        assert replace(found, unclear="") == replace(wanted, unclear="")
    assert bool(kept) == bool(asked)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("select 1", "select 2"),
        ("select $1", "select 2"),
        ("insert into t values (1, 'a'), (2, 'b')", "insert into t values (3, 'it''s')"),
        ("select a from t where b in (1, 2, 3)", "select a from t where b in (1)"),
        ('select "a" from t where "b" = \'x\'', 'select "a" from t where "b" = \'y "z" \''),
        ("select 'x' -- one\n", "select E'\\'' -- two\n"),
        ('savepoint "s1_x2"', "RELEASE SAVEPOINT s2;"),
    ],
)
def test_of_one_kind(one: str, other: str) -> None:
    assert kind(one.encode()) == kind(other.encode())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("select a from t1", "select a from t2"),
        ('select "a 1"', 'select "a 2"'),
        ("do 'begin perform f(); end'", "do 'begin perform g(); end'"),
        ("select f(1)", "select f"),
        ("select 'f'()", "select f()"),
    ],
)
def test_of_two_kinds(one: str, other: str) -> None:
    assert kind(one.encode()) != kind(other.encode())


def test_so_many_are_kept() -> None:
    kept = Seen()
    for number in range(10_000):
        kept.take((b"select %d from t where k = 'k%d'" % (number, number), None))
    assert len(kept) <= 2 * seen.DUE
    for number in range(10_000):
        kept.take((b"select c%d from t" % number, None))
    assert len(kept) <= seen.MOST_KINDS + 2 * seen.DUE


def test_a_setting_that_the_journal_knows_is_no_name() -> None:
    kept = seen.Earlier()
    for number in range(seen.MOST_KINDS + 2 * seen.DUE):
        kept.take((b"select set_config('a', c%d, false)" % number, None))
    assert kept.names == Names()


def test_long_texts_are_not_kept_beside_others_of_their_kind() -> None:
    kept = Seen()
    for number in range(20):
        values = ", ".join(f"({number}, {n})" for n in range(10_000))
        kept.take((f"insert into t values {values}".encode(), None))
    assert len(kept) == 1
