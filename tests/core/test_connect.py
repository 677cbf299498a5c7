"""The generator that leads to a connection, driven by a scripted shell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from cluster_sim import A, B, C

from resilient.core.chance import GROUP_MOST_S, LONE_S, MOST, Chances
from resilient.core.connect import (
    AGAIN_S,
    FIRST_LOOK_S,
    Ask,
    Await,
    Command,
    Dial,
    Look,
    bound,
    connecting,
)
from resilient.core.intent import Wanted, try_of
from resilient.core.model import Endpoint, EndpointView, Health, Role, Topology
from resilient.core.topology_state import key_of


def view(
    item: Endpoint, role: Role = Role.UNKNOWN, health: Health = Health.UP, fenced: bool = False
) -> EndpointView:
    return EndpointView(item, role=role, health=health, fenced=fenced)


def snapshot(version: int, *views: EndpointView, conflict: str = "") -> Topology:
    live = [item for item in views if item.role is Role.PRIMARY and item.usable]
    return Topology(version, views, None if conflict else next(iter(live), None), None, conflict)


@dataclass
class Shell:
    """Answers the commands.  Time passes only in `Await`; dials take `dial_s`."""

    topology_at: Callable[[float], Topology]
    deadline_s: float = 30.0
    connects: Callable[[Endpoint], bool] = lambda item: True
    dial_s: float = 0.01
    leave: Callable[[float], float] = lambda now: 0.0
    chances: Chances = field(default_factory=Chances)
    now: float = 0.0
    dialled: list[tuple[float, Endpoint]] = field(default_factory=list)
    connected: Endpoint | None = None

    def answer(self, command: Command) -> object:
        if isinstance(command, Look):
            return self.topology_at(self.now), self.deadline_s - self.now
        if isinstance(command, Ask):
            if command.by_chance is None:
                return self.leave(self.now)
            key = key_of(command.endpoint)
            self.chances, wait_s = self.chances.ask(key, command.by_chance, 0, self.now, 0.5)
            return wait_s
        if isinstance(command, Dial):
            self.dialled.append((self.now, command.endpoint))
            self.now += self.dial_s
            if self.connects(command.endpoint):
                self.connected = command.endpoint
                return True
            return False
        self.wait(command)
        return None

    def wait(self, command: Await) -> None:
        end = self.now + command.seconds
        while self.now < end and self.topology_at(self.now).version == command.version:
            self.now = min(end, self.now + 0.01)

    def run(self, patient: bool, most: int = 10_000) -> Shell:
        commands = connecting(patient)
        answer: object = None
        for _ in range(most):
            try:
                answer = self.answer(commands.send(answer))
            except StopIteration:
                return self
        raise AssertionError("it doesn't end")


PRIMARY_A = snapshot(2, view(A, Role.PRIMARY), view(B, Role.REPLICA))
NOBODY = snapshot(3, view(A, health=Health.DEAD), view(B, Role.REPLICA))
PRIMARY_B = snapshot(4, view(A, health=Health.DEAD), view(B, Role.PRIMARY))


def test_the_writer_is_dialled() -> None:
    assert Shell(lambda now: PRIMARY_A).run(patient=False).connected == A


def test_a_patient_caller_starts_the_moment_a_primary_is_published() -> None:
    shell = Shell(lambda now: NOBODY if now < 3 else PRIMARY_B, connects=lambda item: item == B)
    shell.run(patient=True)
    assert shell.connected == B
    assert shell.dialled[-1][0] < 3.02


def test_a_worker_gives_up_when_nobody_is_left() -> None:
    shell = Shell(lambda now: NOBODY, connects=lambda item: False).run(patient=False)
    assert shell.connected is None
    assert [item for _, item in shell.dialled] == [A]
    assert shell.now < 1


def test_a_patient_caller_gives_up_at_its_deadline() -> None:
    shell = Shell(lambda now: NOBODY, deadline_s=5, connects=lambda item: False)
    shell.run(patient=True)
    assert shell.connected is None
    assert 5 <= shell.now < 5.1


def test_redials_of_a_patient_caller_are_spaced() -> None:
    shell = Shell(lambda now: NOBODY, deadline_s=10, connects=lambda item: False)
    shell.run(patient=True)
    assert len(shell.dialled) <= 10 / AGAIN_S + 1


def test_one_endpoint_never_seen_up_is_dialled_at_once() -> None:
    shell = Shell(lambda now: snapshot(1, view(A, health=Health.UNKNOWN))).run(patient=False)
    assert shell.connected == A
    assert shell.dialled[0][0] == 0


def test_of_several_unheard_ones_the_first_answers_are_waited_for() -> None:
    several = snapshot(1, *(view(item, health=Health.UNKNOWN) for item in (A, B, C)))
    shell = Shell(lambda now: several if now < 0.02 else PRIMARY_A).run(patient=False)
    assert shell.dialled == [(shell.dialled[0][0], A)]
    assert 0.02 <= shell.dialled[0][0] < 0.05


def test_they_are_dialled_when_nothing_is_heard_for_long() -> None:
    several = snapshot(1, *(view(item, health=Health.UNKNOWN) for item in (A, B, C)))
    shell = Shell(lambda now: several, connects=lambda item: False).run(patient=False)
    assert [item for _, item in shell.dialled] == [A, B, C]
    assert FIRST_LOOK_S <= shell.dialled[0][0] < FIRST_LOOK_S + 0.05


def test_a_conflict_is_dialled_by_nobody() -> None:
    both = snapshot(1, view(A, Role.PRIMARY), view(B, Role.PRIMARY), conflict="two primaries")
    shell = Shell(lambda now: both, deadline_s=3).run(patient=True)
    assert shell.dialled == []


def test_a_replica_and_a_fenced_server_are_no_guess() -> None:
    snap = snapshot(1, view(A, Role.PRIMARY, fenced=True), view(B, Role.REPLICA))
    assert Wanted().to_dial(snap, set(), None) is None


def test_the_dead_are_dialled_last() -> None:
    dead, alive = view(A, health=Health.DEAD), view(B)
    snap = snapshot(1, dead, alive)
    assert Wanted().to_dial(snap, set(), None) == alive
    assert Wanted().to_dial(snap, {try_of(alive)}, None) == dead
    assert Wanted().to_dial(snap, {try_of(alive), try_of(dead)}, None) is None


def test_flapping_versions_do_not_make_a_storm_of_dials() -> None:
    """Each failed dial is evidence, so it moves the version: that alone earns no new dial."""
    shell = Shell(lambda now: NOBODY, deadline_s=5, connects=lambda item: False)

    def flapping(now: float) -> Topology:
        health = (Health.UP, Health.SUSPECT)[len(shell.dialled) % 2]
        writer = view(A, Role.PRIMARY, health)
        return snapshot(10 + len(shell.dialled), writer, view(B, Role.REPLICA))

    shell.topology_at = flapping
    shell.run(patient=True)
    assert len(shell.dialled) <= 5 * 10 + 1  # CONNECT_RATE: ten a second


def test_a_worker_waits_for_leave_and_looks_again() -> None:
    """It may dial after a second; meanwhile the primary is somebody else."""
    shell = Shell(lambda now: PRIMARY_A if now < 0.5 else PRIMARY_B)
    shell.leave = lambda now: max(0.0, 1.0 - now)
    assert shell.run(patient=False).dialled == [(1.0, B)]


def test_a_caller_that_connects_itself_asks_for_no_leave() -> None:
    shell = Shell(lambda now: PRIMARY_A, leave=lambda now: 100.0)
    assert shell.run(patient=True).dialled == [(0.0, A)]


def test_a_bound_connection_goes_to_its_endpoint_only() -> None:
    for item, alive in ((B, True), (C, False)):
        commands = bound(item)
        assert isinstance(next(commands), Look)
        try:
            command = commands.send((PRIMARY_A, 1.0))
        except StopIteration:
            assert not alive
        else:
            assert command == Dial(item)


# -- an address isn't a server: the next connection may meet another one


MIXED = snapshot(1, replace(view(A, Role.REPLICA), group=True))


def test_a_group_that_has_a_primary_is_dialled_until_it_is_met() -> None:
    shell = Shell(lambda now: MIXED)
    shell.connects = lambda item: len(shell.dialled) == 3
    shell.run(patient=False)
    assert shell.connected == A
    assert shell.now < 1


def test_one_without_is_dialled_ever_more_slowly() -> None:
    shell = Shell(lambda now: MIXED, deadline_s=30, connects=lambda item: False)
    shell.run(patient=True)
    times = [at for at, _ in shell.dialled]
    assert times[-1] - times[-2] >= GROUP_MOST_S
    assert len(times) < 30


@pytest.mark.parametrize("patient", [True, False])
def test_a_worker_of_a_lone_address_comes_back_for_it(patient: bool) -> None:
    lone = snapshot(1, view(A, Role.REPLICA))
    shell = Shell(lambda now: lone, deadline_s=4, connects=lambda item: False)
    shell.run(patient=patient)
    if not patient:
        assert shell.dialled == []
        shell.now = 1.5 * LONE_S
        shell.run(patient=False)
    assert [item for _, item in shell.dialled][:1] == [A]
    assert len(shell.dialled) <= 4


def test_in_a_list_each_says_what_it_is() -> None:
    two = snapshot(1, view(A, Role.REPLICA), view(B, Role.REPLICA))
    shell = Shell(lambda now: two, deadline_s=10, connects=lambda item: False).run(patient=True)
    assert shell.dialled == []


def test_a_crowd_dials_it_no_oftener_than_one_server_bears() -> None:
    chances, now, dials = Chances(), 0.0, 0
    for _ in range(1000):
        chances, wait_s = chances.ask(key_of(A), MIXED.endpoints[0], 10_000, now, 0.5)
        dials += not wait_s
        now += wait_s
    assert now / (dials - 1) * MOST >= 10_000
