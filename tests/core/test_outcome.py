"""The outcome of a COMMIT without a reply: each verdict of `resolve`, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.outcome import Incarnation, Mark, Outcome, ServerFacts, XidStatus, resolve

THEN = Incarnation("s1", 3, "monday", 50)
MARK = Mark(xid=700, lsn=100, incarnation=THEN)
#: where the promotion happened, behind and before the mark
BEHIND, BEFORE = 120, 90


def promoted(status: XidStatus, switch: int | None = BEHIND) -> ServerFacts:
    return ServerFacts(Incarnation("s1", 4, "sunday", switch), status, received=True)


def same(status: XidStatus) -> ServerFacts:
    return ServerFacts(THEN, status, received=False)


def restarted(status: XidStatus) -> ServerFacts:
    return ServerFacts(replace(THEN, started="tuesday", recovered_lsn=130), status, received=False)


def altered(seen: ServerFacts, **values: object) -> ServerFacts:
    incarnation = replace(seen.incarnation, **values)  # type: ignore[arg-type]
    return replace(seen, incarnation=incarnation)


COMMITTED, ABORTED, FUTURE = XidStatus.COMMITTED, XidStatus.ABORTED, XidStatus.FUTURE
RUNNING, FORGOTTEN = XidStatus.IN_PROGRESS, XidStatus.FORGOTTEN
TABLE: list[tuple[str, ServerFacts, int, Outcome, str]] = [
    # the same incarnation: the status is exact, flushed or not
    ("committed there", same(COMMITTED), 0, Outcome.COMMITTED, "committed on the server"),
    ("aborted there", same(ABORTED), 0, Outcome.NOT_COMMITTED, "aborted on the server"),
    ("running there", same(RUNNING), 0, Outcome.RUNNING, "still running"),
    ("forgotten there", same(FORGOTTEN), 200, Outcome.UNKNOWN, "forgotten"),
    ("future there", same(FUTURE), 200, Outcome.UNKNOWN, "future"),
    # promoted since
    ("all proved", promoted(COMMITTED), 100, Outcome.COMMITTED, "flushed"),
    ("at the switch point", promoted(COMMITTED, 100), 100, Outcome.COMMITTED, "flushed"),
    ("never flushed", promoted(COMMITTED), 99, Outcome.UNKNOWN, "nobody saw"),
    ("no flush read", promoted(COMMITTED), 0, Outcome.UNKNOWN, "nobody saw"),
    ("aborted", promoted(ABORTED), 0, Outcome.NOT_COMMITTED, "aborted"),
    ("future", promoted(FUTURE), 0, Outcome.NOT_COMMITTED, "never reached"),
    ("reused", promoted(COMMITTED, BEFORE), 200, Outcome.NOT_COMMITTED, "ends before"),
    ("reused now", promoted(RUNNING, BEFORE), 200, Outcome.NOT_COMMITTED, "ends before"),
    ("running there", promoted(RUNNING), 200, Outcome.UNKNOWN, "in progress"),
    ("forgotten", promoted(FORGOTTEN), 200, Outcome.UNKNOWN, "forgotten"),
    # restarted in place
    ("restarted", restarted(COMMITTED), 200, Outcome.UNKNOWN, "restarted on timeline 3"),
    ("restarted, aborted", restarted(ABORTED), 0, Outcome.NOT_COMMITTED, "aborted"),
    ("restarted, future", restarted(FUTURE), 0, Outcome.NOT_COMMITTED, "never reached"),
    (
        "a backend crashed",
        altered(same(COMMITTED), recovered_lsn=110),
        200,
        Outcome.UNKNOWN,
        "restarted on timeline 3",
    ),
    # promoted and more
    (
        "promoted twice",
        altered(promoted(COMMITTED), timeline=5),
        200,
        Outcome.UNKNOWN,
        "3 became 5",
    ),
    (
        "promoted twice, aborted",
        altered(promoted(ABORTED), timeline=5),
        0,
        Outcome.NOT_COMMITTED,
        "aborted",
    ),
    (
        "promoted, then crashed",
        replace(promoted(COMMITTED), received=False),
        200,
        Outcome.UNKNOWN,
        "restarted",
    ),
    ("no switch point", promoted(COMMITTED, None), 200, Outcome.UNKNOWN, "restarted"),
    # who is that?
    (
        "another cluster",
        altered(promoted(ABORTED), system_id="s2"),
        200,
        Outcome.UNKNOWN,
        "another cluster",
    ),
    (
        "an older timeline",
        altered(promoted(ABORTED), timeline=2),
        200,
        Outcome.UNKNOWN,
        "older timeline",
    ),
]


@pytest.mark.parametrize(
    ("seen", "flushed", "outcome", "words"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_the_table(seen: ServerFacts, flushed: int, outcome: Outcome, words: str) -> None:
    verdict = resolve(MARK, seen, flushed)
    assert verdict.outcome is outcome
    assert words in verdict.reason


def test_a_cluster_that_does_not_say_who_it_is() -> None:
    mark = replace(MARK, incarnation=replace(THEN, system_id=""))
    seen = altered(same(COMMITTED), system_id="")
    assert resolve(mark, seen, 200).outcome is Outcome.UNKNOWN


incarnations = st.builds(
    Incarnation,
    st.sampled_from(["", "s1", "s2"]),
    st.integers(1, 4),
    st.sampled_from(["monday", "tuesday"]),
    st.none() | st.integers(0, 9),
)
marks = st.builds(Mark, st.just(7), st.integers(0, 9), incarnations)
servers_facts = st.builds(ServerFacts, incarnations, st.sampled_from(XidStatus), st.booleans())


@given(marks, servers_facts, st.integers(0, 9), st.integers(0, 9))
def test_knowing_more_flushed_never_takes_a_verdict_back(
    mark: Mark, seen: ServerFacts, flushed: int, more: int
) -> None:
    before, after = resolve(mark, seen, flushed), resolve(mark, seen, flushed + more)
    assert before.reason
    if before.outcome is not Outcome.UNKNOWN:
        assert after.outcome is before.outcome
    else:
        assert after.outcome in (Outcome.UNKNOWN, Outcome.COMMITTED)


@given(marks, servers_facts, st.integers(0, 9))
def test_committed_is_only_said_of_a_committed_id(
    mark: Mark, seen: ServerFacts, flushed: int
) -> None:
    outcome = resolve(mark, seen, flushed).outcome
    if outcome is Outcome.COMMITTED:
        assert seen.status is COMMITTED
    if outcome is Outcome.RUNNING:
        assert seen.status is RUNNING
        assert seen.incarnation == mark.incarnation
