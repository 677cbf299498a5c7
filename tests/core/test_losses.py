"""What a failover lost: `judge` on every way that a history can go on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.losses import judge, questions, succeeds
from resilient.core.outcome import Incarnation, Mark, XidStatus

THEN = Incarnation("s1", 3, "monday", 50)
NOW = Incarnation("s1", 4, "sunday", 100)
JUMPED = replace(NOW, timeline=5)
COMMITTED, ABORTED, FUTURE = XidStatus.COMMITTED, XidStatus.ABORTED, XidStatus.FUTURE
RUNNING, FORGOTTEN = XidStatus.IN_PROGRESS, XidStatus.FORGOTTEN


def mark(xid: int, lsn: int) -> Mark:
    return Mark(xid, lsn, THEN)


def found(
    now: Incarnation, *marks: Mark, received: bool = True, flushed: int = 0, **statuses: XidStatus
) -> tuple[int, int, int, bool] | None:
    """(lost, from, to, at least); `x7=…` says what the new primary says of 7, else committed."""
    said = {xid: statuses.get(f"x{xid}", COMMITTED) for xid in questions(marks, now)}
    loss = judge(THEN, now, received, marks, statuses=said, flushed_lsn=flushed, full=False)
    return (loss.lost, loss.from_lsn, loss.to_lsn, loss.at_least) if loss else None


def test_what_lies_behind_the_switch_point_is_lost_whatever_its_id_says() -> None:
    assert found(NOW, mark(7, 90), mark(8, 101), mark(9, 120)) == (2, 100, 120, False)


def test_at_the_switch_point_the_id_decides() -> None:
    """Its mark arrived, its COMMIT did not."""
    assert found(NOW, mark(7, 100)) is None
    assert found(NOW, mark(7, 100), x7=ABORTED) == (1, 100, 100, False)


@pytest.mark.parametrize("status", [ABORTED, FUTURE, RUNNING])
def test_an_id_that_is_not_committed_is_lost(status: XidStatus) -> None:
    assert found(NOW, mark(7, 60), mark(8, 90), x7=status) == (1, 100, 100, False)
    assert found(JUMPED, mark(7, 60), x7=status) == (1, 60, 60, False)


def test_nothing_is_lost() -> None:
    assert found(NOW, mark(7, 60), mark(8, 90), flushed=100) is None
    assert found(NOW) is None
    assert found(JUMPED, flushed=200) is None


def test_the_range_ends_at_the_highest_position_that_was_known() -> None:
    assert found(NOW, mark(8, 120), mark(9, 110), flushed=130) == (2, 100, 130, False)
    assert found(NOW, mark(8, 120), flushed=90) == (1, 100, 120, False)


def test_log_that_nobody_waited_for_is_a_range_without_transactions() -> None:
    assert found(NOW, mark(7, 90), flushed=101) == (0, 100, 101, False)


def test_where_the_switch_point_is_not_known_a_committed_id_says_nothing() -> None:
    several = mark(7, 60), mark(8, 90), mark(9, 120)
    assert found(JUMPED, *several, x8=ABORTED) == (2, 90, 120, True)
    assert found(NOW, *several, received=False) == (1, 120, 120, True)
    clean = replace(NOW, recovered_lsn=None)
    assert found(clean, *several) is None
    assert found(clean, *several, x9=FUTURE) == (1, 120, 120, True)


def test_a_status_that_was_not_told_is_no_loss_and_makes_the_number_a_bound() -> None:
    assert found(NOW, mark(7, 60), x7=FORGOTTEN) is None
    assert found(NOW, mark(7, 60), mark(8, 101), x7=FORGOTTEN) == (1, 100, 101, True)


def test_more_marks_than_could_be_kept() -> None:
    def at_least(*marks: Mark) -> bool:
        said = dict.fromkeys(questions(marks, NOW), COMMITTED)
        loss = judge(THEN, NOW, True, marks, statuses=said, flushed_lsn=0, full=True)
        assert loss is not None
        return loss.at_least

    assert at_least(mark(8, 101), mark(9, 102)), "those before may be lost as well"
    assert not at_least(mark(7, 60), mark(8, 101)), "those before lie before one that is there"


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (NOW, True),
        (JUMPED, True),
        (THEN, False),
        (replace(THEN, started="tuesday", recovered_lsn=60), False),
        (replace(NOW, system_id="s2"), False),
        (replace(NOW, timeline=2), False),
    ],
)
def test_what_succeeds_it(now: Incarnation, expected: bool) -> None:
    assert succeeds(THEN, now) is expected


def test_a_server_that_does_not_tell_its_system_succeeds_nobody() -> None:
    assert not succeeds(replace(THEN, system_id=""), replace(NOW, system_id=""))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[tuple[Mark, int]], list[int], list[int]]:
    """Transactions with the positions of their COMMITs, where each promotion cut the history,
    and how many ids each new primary gave again."""
    lsn, committed = 0, []
    for xid in range(1, draw(st.integers(1, 12)) + 1):
        lsn += draw(st.integers(1, 10))
        committed.append((mark(xid, lsn), lsn + draw(st.integers(1, 30))))
    cuts = sorted(draw(st.lists(st.integers(0, lsn + 40), min_size=1, max_size=3)))
    burnt = [draw(st.integers(0, 12)) for _ in cuts]
    return committed, cuts, burnt


@given(histories(), st.booleans())
def test_never_a_false_report_and_none_missed_after_one_promotion(
    history: tuple[list[tuple[Mark, int]], list[int], list[int]], restarted: bool
) -> None:
    """A model of a log that is cut and written on, with its ids given again."""
    committed, cuts, burnt = history
    gone = {m.xid for m, commit_lsn in committed if commit_lsn > cuts[0]}
    statuses = {m.xid: COMMITTED for m, _ in committed if m.xid not in gone}
    next_xid = 1 + max((m.xid for m, _ in committed if m.lsn <= cuts[0]), default=0)
    for reused in burnt:  # committed, all of them: the worst that can be said of the lost
        statuses.update(dict.fromkeys(range(next_xid, next_xid + reused), COMMITTED))
        next_xid += reused
    for m, _ in committed:
        statuses.setdefault(m.xid, ABORTED if m.xid < next_xid else FUTURE)
    now = Incarnation("s1", 3 + len(cuts), "later", cuts[-1])
    marks = [m for m, _ in committed]
    received = not restarted
    loss = judge(THEN, now, received, marks, statuses=statuses, flushed_lsn=0, full=False)
    lost = loss.lost if loss is not None else 0
    assert lost <= len(gone)
    if len(cuts) == 1 and received:
        assert lost == len(gone)
    if loss is not None:
        assert loss.from_lsn <= loss.to_lsn
        assert loss.at_least or lost == len(gone) or len(cuts) > 1 or restarted
