"""`resolve` against a model of servers, clients and a network that fail at every step.

The state machine looks for a false answer; `test_outcome_parts` shows that the model can give
one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from commit_model import Cluster, Record, Server
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from resilient.core.outcome import Incarnation, Mark, Outcome, ServerFacts, Verdict, resolve

Rule = Callable[[Mark, ServerFacts, int], Verdict]
#: which of those that fit
N = st.integers(0, 11)


@dataclass(slots=True)
class Attempt:
    """One try at one transaction: the client's knowledge, and where its messages are."""

    work: str
    server: Server
    run: int
    mark: Mark
    #: the client: open → sent → acknowledged, or broken → committed, or not
    state: str = "open"
    #: the server: open → committing → ended
    phase: str = "open"
    commit_lsn: int = 0
    commit_under_way: bool = False
    reply_under_way: bool = False

    @property
    def alive(self) -> bool:
        """Does the server still have the session?"""
        return self.server.up and self.server.run == self.run

    @property
    def claims_committed(self) -> bool:
        return self.state in ("acknowledged", "committed")


class Clients(RuleBasedStateMachine):
    """Clients that send COMMIT and hear nothing, or late; each starts a transaction again
    when, and only when, it is told that it did not commit.

    A rule is offered only while it has an effect, and each takes the n-th of those whom it
    fits; disasters are few, so that something happens between them.
    """

    TRANSACTIONS = 4
    DISASTERS = 5
    decide: Rule = staticmethod(resolve)
    synchronous: bool

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(sync=self.synchronous)
        self.attempts: list[Attempt] = []
        self.flushed: dict[Incarnation, int] = {}
        self.disasters = 0

    # -- whom a rule fits

    def clients(self, *states: str) -> list[Attempt]:
        return [a for a in self.attempts if a.state in states]

    def sessions(self, phase: str) -> list[Attempt]:
        return [a for a in self.attempts if a.phase == phase and a.alive]

    def free(self) -> list[int]:
        """Transactions that nobody has begun, or that are known not to have committed."""
        last = {a.work.split(".")[0]: a.state for a in self.attempts}
        return [n for n in range(self.TRANSACTIONS) if last.get(f"t{n}", "not") == "not"]

    def primaries(self) -> list[Server]:
        return [s for s in self.cluster.servers if s.up and s.primary]

    def believed(self) -> list[Server]:
        """Whom a client may take for the primary, the true one first.  Without synchronous
        replication a zombie's word is worth nothing, and it is not asked."""
        leader = self.cluster.leader
        found = [leader] if leader.up else []
        return found + [s for s in self.primaries() if s is not leader and self.synchronous]

    def unflushed(self) -> list[Server]:
        return [s for s in self.primaries() if s.flushed < len(s.wal)]

    def behind(self) -> list[Server]:
        return [
            s
            for s in self.cluster.servers
            if s.up and s.source is not None and s.source.up
            if len(s.wal) < s.source.flushed or s.timeline != s.source.timeline or not s.received
        ]

    def candidates(self) -> list[Server]:
        return [s for s in self.cluster.servers if self.cluster.may_promote(s)]

    def outcasts(self) -> list[Server]:
        servers = self.cluster.servers if self.cluster.leader.up else []
        return [s for s in servers if s is not self.cluster.leader and s.source is None]

    def disaster(self) -> bool:
        """May there be one more?"""
        return bool(self.attempts) and self.disasters < self.DISASTERS

    # -- the clients

    @precondition(lambda self: self.free() and self.believed())
    @rule(n=N, logged=st.booleans())
    def write(self, n: int, logged: bool) -> None:
        free, servers = self.free(), self.believed()
        self.begin(free[n % len(free)], servers[n % len(servers)], logged)

    def begin(self, number: int, server: Server, logged: bool) -> Attempt:
        tries = sum(a.work.startswith(f"t{number}.") for a in self.attempts)
        work = f"t{number}.{tries}"
        xid = server.begin(work)
        if logged:
            server.insert(Record("write", xid, work))
        self.look(server)
        self.attempts.append(Attempt(work, server, server.run, server.mark(xid)))
        return self.attempts[-1]

    def look(self, server: Server) -> None:
        known = self.flushed.get(server.incarnation, 0)
        self.flushed[server.incarnation] = max(known, server.flushed)

    @precondition(lambda self: self.believed())
    @rule(n=N)
    def read_flush_position(self, n: int) -> None:
        servers = self.believed()
        self.look(servers[n % len(servers)])

    @precondition(lambda self: self.clients("open"))
    @rule(n=N)
    def send_commit(self, n: int) -> None:
        fitting = self.clients("open")
        attempt = fitting[n % len(fitting)]
        attempt.state = "sent"
        attempt.commit_under_way = True

    @precondition(lambda self: self.clients("sent"))
    @rule(n=N, lost=st.booleans())
    def give_up_waiting(self, n: int, lost: bool) -> None:
        """The client hears nothing more.  What it sent may be lost, or still arrive."""
        fitting = self.clients("sent")
        attempt = fitting[n % len(fitting)]
        attempt.state = "broken"
        attempt.reply_under_way = False
        attempt.commit_under_way &= not lost

    @precondition(lambda self: self.free() and self.believed())
    @rule(n=N, logged=st.booleans(), read=st.booleans())
    def lose_a_reply(self, n: int, logged: bool, read: bool) -> None:
        """The usual accident in one go: the server has the COMMIT, the client no answer."""
        free, servers = self.free(), self.believed()
        server = servers[n % len(servers)]
        attempt = self.begin(free[n % len(free)], server, logged)
        if read:
            server.flush()
            self.look(server)
        attempt.state = "broken"
        attempt.commit_lsn = server.commit(attempt.mark.xid)
        attempt.phase = "committing"

    @precondition(lambda self: self.clients("broken") and self.believed())
    @rule(n=N)
    def resolve(self, n: int) -> None:
        broken, servers = self.clients("broken"), self.believed()
        attempt, server = broken[n % len(broken)], servers[n % len(servers)]
        mark = attempt.mark
        flushed = self.flushed.get(mark.incarnation, 0)
        verdict = type(self).decide(mark, server.server_facts(mark.xid), flushed)
        event(f"{verdict.outcome}: {verdict.reason}")
        if verdict.outcome is Outcome.RUNNING:
            if attempt.phase == "open":  # it waits for its client, so it may be ended
                self.end_session(attempt)
        elif verdict.outcome is Outcome.COMMITTED:
            if self.confirm(server):
                attempt.state = "committed"
                if server is self.cluster.leader:
                    assert self.cluster.committed(attempt.work)
        elif verdict.outcome is Outcome.NOT_COMMITTED:
            attempt.state = "not"
        # unknown: it may be asked again, of a server that knows more, or less

    def confirm(self, server: Server) -> bool:
        """One message more; its acknowledgement covers everything before it."""
        xid = server.begin("confirm")
        position = server.commit(xid)
        server.flush()
        for follower in self.cluster.followers(server):
            follower.stream()
        server.end(xid)
        return self.cluster.durable(server, position)

    # -- the servers' part of a COMMIT

    @precondition(lambda self: any(a.commit_under_way for a in self.attempts))
    @rule(n=N)
    def take_commit(self, n: int) -> None:
        waiting = [a for a in self.attempts if a.commit_under_way]
        attempt = waiting[n % len(waiting)]
        attempt.commit_under_way = False
        if attempt.alive and attempt.phase == "open":
            attempt.commit_lsn = attempt.server.commit(attempt.mark.xid)
            attempt.phase = "committing"

    @precondition(lambda self: self.sessions("committing"))
    @rule(n=N, cancelled=st.booleans(), warns=st.booleans())
    def finish_commit(self, n: int, cancelled: bool, warns: bool) -> None:
        """`cancelled`: its wait for the followers is ended, by a shutdown or an operator; it says
        nothing then but that it `warns` of it."""
        fitting = self.sessions("committing")
        attempt = fitting[n % len(fitting)]
        server = attempt.server
        if cancelled:
            server.flush(attempt.commit_lsn)
            if warns and attempt.state == "sent":
                mark = attempt.mark
                known = self.flushed.get(mark.incarnation, 0)
                self.flushed[mark.incarnation] = max(known, mark.lsn)
        elif not self.cluster.durable(server, attempt.commit_lsn):
            return
        server.end(attempt.mark.xid)
        attempt.phase = "ended"
        attempt.reply_under_way = not cancelled and attempt.state == "sent"

    @precondition(lambda self: any(a.reply_under_way for a in self.attempts))
    @rule(n=N)
    def hear_reply(self, n: int) -> None:
        answered = [a for a in self.attempts if a.reply_under_way]
        attempt = answered[n % len(answered)]
        attempt.reply_under_way = False
        attempt.state = "acknowledged"

    def left(self) -> list[Attempt]:
        return [
            a
            for a in self.sessions("open")
            if a.state not in ("open", "sent") and not a.commit_under_way
        ]

    @precondition(lambda self: self.left())
    @rule(n=N)
    def notice_that_the_client_left(self, n: int) -> None:
        fitting = self.left()
        self.end_session(fitting[n % len(fitting)])

    def end_session(self, attempt: Attempt) -> None:
        if attempt.alive and attempt.phase == "open":
            attempt.server.end(attempt.mark.xid)
            attempt.phase = "ended"

    # -- what servers do, and what is done to them

    @precondition(lambda self: self.unflushed())
    @rule(n=N, count=st.none() | st.integers(1, 3))
    def flush(self, n: int, count: int | None) -> None:
        fitting = self.unflushed()
        server = fitting[n % len(fitting)]
        server.flush(None if count is None else server.flushed + count)

    @precondition(lambda self: self.behind())
    @rule(n=N, count=st.none() | st.integers(0, 3))
    def stream(self, n: int, count: int | None) -> None:
        fitting = self.behind()
        fitting[n % len(fitting)].stream(count)

    @precondition(lambda self: self.primaries())
    @rule(n=N, commits=st.booleans(), logged=st.booleans())
    def others_work(self, n: int, commits: bool, logged: bool) -> None:
        fitting = self.primaries()
        self.cluster.others_work(fitting[n % len(fitting)], commits=commits, logged=logged)

    @precondition(disaster)
    @rule(n=N, survives=st.sampled_from([0, 0, 0, 1, 3]), back=st.booleans())
    def crash(self, n: int, survives: int, back: bool) -> None:
        """`back`: only a backend's, and the postmaster starts over at once."""
        self.disasters += 1
        server = self.cluster.servers[n % 3] if n > 3 else self.cluster.leader
        server.crash(survives)
        if back:
            server.restart(same_postmaster=True)

    @precondition(lambda self: not all(s.up for s in self.cluster.servers))
    @rule(n=N)
    def restart(self, n: int) -> None:
        down = [s for s in self.cluster.servers if not s.up]
        down[n % len(down)].restart()

    @precondition(lambda self: self.disaster() and self.primaries())
    @rule(n=N)
    def restart_cleanly(self, n: int) -> None:
        self.disasters += 1
        fitting = self.primaries()
        fitting[n % len(fitting)].restart_cleanly()

    @precondition(lambda self: self.disaster() and self.candidates())
    @rule(n=N, dies=st.booleans(), caught_up=st.booleans())
    def promote(self, n: int, dies: bool, caught_up: bool) -> None:
        """`dies`: the old primary has just crashed; otherwise it may go on as a zombie.
        `caught_up`: the new one has all that it had."""
        self.disasters += 1
        leader, fitting = self.cluster.leader, self.candidates()
        server = fitting[n % len(fitting)]
        if caught_up:
            leader.flush()
            server.stream()
        if dies:
            leader.crash()
        self.cluster.promote(server)

    @precondition(lambda self: self.outcasts())
    @rule(n=N)
    def rejoin(self, n: int) -> None:
        fitting = self.outcasts()
        fitting[n % len(fitting)].copy_of(self.cluster.leader)

    # -- what must hold

    @invariant()
    def nothing_is_committed_twice(self) -> None:
        for number in range(self.TRANSACTIONS):
            assert self.cluster.committed(f"t{number}.") <= 1

    @invariant()
    def no_failure_is_false(self) -> None:
        for attempt in self.attempts:
            if attempt.state == "not":
                assert self.cluster.committed(attempt.work) == 0

    @invariant()
    def no_success_is_false(self) -> None:
        """Without synchronous replication a later failover may lose what was acknowledged."""
        if self.synchronous:
            for attempt in self.attempts:
                if attempt.claims_committed:
                    assert self.cluster.committed(attempt.work) == 1


class Synchronous(Clients):
    synchronous = True


class Asynchronous(Clients):
    synchronous = False


SETTINGS = settings(max_examples=80, stateful_step_count=60, deadline=None)
TestSynchronous = Synchronous.TestCase
TestSynchronous.settings = SETTINGS
TestAsynchronous = Asynchronous.TestCase
TestAsynchronous.settings = SETTINGS


@pytest.mark.soak
@pytest.mark.parametrize("clients", [Synchronous, Asynchronous])
def test_a_long_search(clients: type[Clients]) -> None:
    run_state_machine_as_test(clients, settings=settings(SETTINGS, max_examples=2_000))
