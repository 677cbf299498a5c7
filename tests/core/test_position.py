"""Positions on branches: what is proved is true, whatever a server has told of itself."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import assume, given
from hypothesis import strategies as st

from resilient.core.model import CausalToken, Switch
from resilient.core.position import Position, contains

#: timeline 2 left 1 at 100, 3 left 2 at 200; 4 left 1 as well, at 50: another branch
TREE = {2: Switch(1, 100), 3: Switch(2, 200), 4: Switch(1, 50)}


def at(timeline: int, lsn: int) -> Position:
    return Position(timeline, lsn, "s1")


def token(timeline: int, lsn: int) -> CausalToken:
    return CausalToken(timeline, lsn, "s1")


def test_on_one_timeline_positions_compare() -> None:
    assert contains(at(1, 10), token(1, 10))
    assert not contains(at(1, 9), token(1, 10))


def test_a_higher_position_on_the_fenced_branch_proves_nothing() -> None:
    assert not contains(at(1, 999), token(2, 110))
    assert not contains(at(1, 999), token(2, 110), TREE)


def test_across_timelines_a_proved_switch_point_decides() -> None:
    assert not contains(at(2, 300), token(1, 90))  # not known where 2 left 1
    assert contains(at(2, 300), token(1, 90), TREE)
    assert contains(at(3, 300), token(1, 100), TREE)
    assert not contains(at(2, 300), token(1, 101), TREE)  # lost with the old primary
    assert not contains(at(3, 300), token(4, 60), TREE)


def test_who_tells_no_timeline_or_is_another_cluster_proves_nothing() -> None:
    assert not contains(Position(None, 300), token(1, 10))
    assert not contains(at(1, 300), CausalToken(None, 10))
    assert not contains(Position(1, 300, "s2"), token(1, 10))
    assert contains(Position(1, 300), CausalToken(1, 10))


@dataclass
class Tree:
    """A history: each timeline but the first left an earlier one somewhere."""

    switches: dict[int, Switch]

    def has(self, timeline: int, lsn: int, of: CausalToken) -> bool:
        """Is the token's record in the WAL of a server that stands there?  By walking it back."""
        while True:
            if timeline == of.timeline:
                return of.lsn <= lsn
            if timeline == 1:
                return False
            switch = self.switches[timeline]
            timeline, lsn = switch.parent, min(lsn, switch.lsn)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    switches: dict[int, Switch] = {}
    for timeline in range(2, draw(st.integers(2, 6))):
        parent = draw(st.integers(1, timeline - 1))
        least = switches[parent].lsn if parent > 1 else 0
        switches[timeline] = Switch(parent, draw(st.integers(least, least + 20)))
    return Tree(switches)


@given(trees(), st.data())
def test_what_is_proved_is_true(tree: Tree, data: st.DataObject) -> None:
    timelines = st.integers(1, len(tree.switches) + 1)
    stands, lsn = data.draw(timelines), data.draw(st.integers(0, 60))
    begins = tree.switches[stands].lsn if stands > 1 else 0
    assume(lsn >= begins)
    asked = token(data.draw(timelines), data.draw(st.integers(0, 60)))
    # Who isn't told its timeline hears how far it has been for certain: somewhere on the way.
    told, told_lsn = stands, lsn
    while told > 1 and data.draw(st.booleans()):
        told, told_lsn = tree.switches[told].parent, tree.switches[told].lsn
    told_lsn = data.draw(st.integers(0, told_lsn))
    known = {t: s for t, s in tree.switches.items() if data.draw(st.booleans())}
    if contains(at(told, told_lsn), asked, known):
        assert tree.has(stands, lsn, asked)
