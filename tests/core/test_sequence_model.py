"""Numbers are given back, in a model of sequences, failovers and others: nobody who takes a number
from the sequence ever finds it used, and no key is there twice."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sequence_model import Server

from resilient.core.keep.made import Sequence, passed
from resilient.core.keep.proof import Sure, sure
from resilient.core.outcome import Incarnation, Mark

SESSIONS = st.integers(1, 4)


@dataclass
class Block:
    """A transaction of the old primary whose caller has seen its number."""

    number: int
    #: behind it, on the old primary
    position: int
    #: those who had the lock when it was first looked at
    waits_for: set[int] | None = None
    done: str = ""


class Failovers(RuleBasedStateMachine):
    """One failover after the other; each time, blocks that were open are done again, between
    whatever others do on the new primary."""

    @initialize(
        increment=st.sampled_from([1, 1, -1, 2]),
        cache=st.sampled_from([1, 1, 2, 3]),
    )
    def begin(self, increment: int, cache: int) -> None:
        self.server = Server(increment, cache)
        self.timeline = 1
        self.blocks: list[Block] = []
        self.opened: list[tuple[int, Block]] = []
        self.committed_at: list[tuple[int, int]] = []
        self.flushed = self.switched_at = 0
        self.was = self.incarnation()
        self.session = 100

    def incarnation(self) -> Incarnation:
        recovered = getattr(self, "switched_at", 0) if self.timeline > 1 else None
        return Incarnation("7", self.timeline, str(self.timeline), recovered)

    # -- others, at any time

    @rule(session=SESSIONS, ends=st.sampled_from(["commit", "rollback", "stays"]))
    def somebody_inserts(self, session: int, ends: str) -> None:
        """By the column's default: the number is taken and written in one statement."""
        number = self.server.nextval(session)
        found = self.server.insert(session, number)
        assert not found, f"{number}, which the sequence has just given, is {found}"
        if ends != "stays":
            self.end(session, ends == "commit")

    @rule(session=SESSIONS, committed=st.booleans())
    def somebody_ends(self, session: int, committed: bool) -> None:
        self.end(session, committed)

    def end(self, session: int, committed: bool) -> None:
        keys = self.server.open_rows.get(session, set()) if committed else set()
        self.server.end(session, committed)
        self.committed_at += [(self.server.position, key) for key in keys]
        if committed:
            self.flushed = self.server.position

    # -- ours

    @rule()
    def a_block_begins(self) -> None:
        self.session += 1
        number = self.server.nextval(self.session)
        assert not self.server.insert(self.session, number)
        self.opened.append((self.session, Block(number, self.server.position)))

    @rule(share=st.floats(0, 1), synchronous=st.booleans())
    def the_primary_dies(self, share: float, synchronous: bool) -> None:
        """All that was acknowledged survives, or, without synchronous replication, not even
        that; of the rest some of it may."""
        least = self.flushed if synchronous else self.switched_at
        survives = least + int(share * (self.server.position - least))
        rows = {key for at, key in self.committed_at if at <= survives}
        self.committed_at = [(at, key) for at, key in self.committed_at if at <= survives]
        self.was, self.flushed_then = self.incarnation(), self.flushed
        self.server = self.server.promoted(survives, rows)
        self.timeline += 1
        self.switched_at = self.flushed = survives
        # Blocks that weren't done again in time are their callers' to see.
        self.blocks = [block for _, block in self.opened]
        self.opened = []

    @precondition(lambda self: any(not block.done for block in self.blocks))
    @rule(data=st.data(), committed=st.booleans())
    def a_block_is_done_again(self, data: st.DataObject, committed: bool) -> None:
        block = data.draw(st.sampled_from([each for each in self.blocks if not each.done]))
        server = self.server
        mark = Mark(1, block.position, self.was)
        certain = sure(mark, self.incarnation(), True, self.flushed_then)
        known = Sequence(1, "s", server.last_value, server.increment, server.cache)
        if passed(known, block.number):
            block.done = "behind"
            return
        if certain is not Sure.MARKED and server.cache > 1:
            block.done = "cached"
            return
        self.session += 1
        if block.number in server.rows:  # the look-up
            block.done = "taken"
            return
        found = server.insert(self.session, block.number)
        if found == "waits":
            return  # for the other's end
        block.done = found or "kept"
        if committed:
            self.end(self.session, True)
        else:
            self.opened.append((self.session, Block(block.number, server.position)))

    @invariant()
    def no_key_is_there_twice(self) -> None:
        if not hasattr(self, "server"):
            return
        keys = [key for _, key in self.committed_at]
        assert len(keys) == len(set(keys))
        everybody = [key for rows in self.server.open_rows.values() for key in rows]
        assert not set(everybody) & self.server.rows
        assert len(everybody) == len(set(everybody))


TestFailovers = Failovers.TestCase
TestFailovers.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
