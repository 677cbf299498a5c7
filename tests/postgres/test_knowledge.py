"""What a pool learns of statements: when a catalogue is asked, and about which."""

from __future__ import annotations

from typing import cast

import pytest

from resilient.postgres.commit import knowledge
from resilient.postgres.commit.facts import CommitFacts
from resilient.postgres.commit.knowledge import AT_ONCE, OFTEN, TOO_OFTEN, VERY_OFTEN, Knowledge

READ, WRITE = (b"select 1", ()), (b"select strike()", ())


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [100.0]
    monkeypatch.setattr(knowledge.time, "monotonic", lambda: clock[0])
    return clock


def test_a_read_is_looked_up_once_it_was_followed_often(now: list[float]) -> None:
    known = Knowledge("lsn")
    assert [known.followed([READ]) for _ in range(OFTEN)] == [[]] * (OFTEN - 1) + [[READ]]
    assert known.followed([READ]) == []  # somebody does already
    now[0] += 1
    assert known.followed([READ]) == [READ]  # who did was lost
    known.learnt([READ], [WRITE])
    now[0] += 1
    for _ in range(2 * OFTEN):
        assert known.followed([READ, WRITE]) == []
    assert known.proved == {READ}


def test_the_more_often_the_more_it_is_worth(now: list[float]) -> None:
    """How many connections have to be idle, so that one of them may ask."""
    known = Knowledge("lsn")
    worth = []
    for _ in range(TOO_OFTEN):
        known.followed([READ])
        worth.append(known.worth(READ))
    assert worth == [2] * (VERY_OFTEN - 1) + [1] * (TOO_OFTEN - VERY_OFTEN) + [0]
    known.learnt([READ])
    assert known.worth(READ) == 2


def test_few_are_looked_up_at_once(now: list[float]) -> None:
    known = Knowledge("lsn")
    many = [(b"select %d" % n, ()) for n in range(3 * AT_ONCE)]
    for _ in range(OFTEN - 1):
        known.followed(many)
    assert known.followed(many) == many[:AT_ONCE]


def test_a_block_that_could_not_be_cleared_is_not_asked_about_again(now: list[float]) -> None:
    known = Knowledge("ledger")
    assert known.unproved([READ, WRITE, READ]) == [READ, WRITE]
    assert known.unproved([READ, WRITE]) == []  # somebody does already
    known.learnt([], [WRITE])
    now[0] += 1
    assert known.unproved([WRITE, READ]) == []  # it writes its token anyway
    assert known.unproved([READ]) == [READ]
    known.learnt([READ])
    now[0] += 1
    assert known.unproved([READ]) == []


def test_what_was_learnt_is_good_for_a_while(now: list[float]) -> None:
    known = Knowledge("ledger")
    known.learnt([READ], [WRITE])
    now[0] += knowledge.LEARNT_S + 1
    known.learnt([(b"select 2", ())])
    assert known.proved == {(b"select 2", ())}
    assert known.unproved([WRITE]) == [WRITE]


def test_what_a_session_was_told_is_good_for_others_for_a_moment(now: list[float]) -> None:
    known, seen = Knowledge("lsn"), cast("CommitFacts", object())
    assert known.lately(("app", "shop")) is None
    known.met(("app", "shop"), seen)
    assert known.lately(("app", "shop")) is seen
    assert known.lately(("other", "shop")) is None  # who may do less, perhaps
    now[0] += knowledge.LATELY_S
    assert known.lately(("app", "shop")) is None
