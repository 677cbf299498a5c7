"""Several servers behind one address: a Kubernetes Service, a load balancer, HAProxy.

Each new connection may meet another of them.  That is told apart from a restart, or from an
address that moved, by this alone:

    A **group** is proved when an earlier incarnation answers again after a later one.

Only a session that was begun after the later one was heard counts as such an answer: a session
from before may still talk to a server that the address has left.  A change that goes one way is
a restart or a move, and drains as ever.  In a group another member's answer moves no generation.

What a group is taken for: a primary where all members that are known say so, or where one of
them is the primary of a timeline that is higher than all others (it was promoted, and the
address has followed); else a replica.  It lags as the one that lags most.
"""

from __future__ import annotations

from dataclasses import replace

from .._dataclass import dataclass
from .model import Observation, Role

#: a member that wasn't heard for so long, in seconds, is forgotten
FORGOTTEN_S = 600.0
#: so many are remembered at most
MOST = 32


@dataclass(frozen=True, slots=True)
class Member:
    """One server behind the address, when it was last heard."""

    incarnation: str
    role: Role
    timeline: int | None
    lag_s: float | None
    heard_at: float


@dataclass(frozen=True, slots=True)
class Members:
    """The servers that an address has led to.  `since_s`: when the present one was first heard
    of; `grouped`: they are proved to be a group."""

    known: tuple[Member, ...] = ()
    since_s: float = float("-inf")
    grouped: bool = False

    def heard(self, seen: Observation, present: str, now: float) -> Members:
        """A member has answered; `present` is the incarnation that the address had before."""
        grouped = self.grouped or self.proves(seen, present)
        since_s = now if seen.incarnation != present else self.since_s
        member = Member(seen.incarnation, seen.role, seen.timeline, seen.lag_s, now)
        others = [
            other
            for other in self.known
            if other.incarnation != seen.incarnation and now - other.heard_at < FORGOTTEN_S
        ]
        if grouped and self._promoted(seen, others):
            others = []  # what they said they were, they said before it
        return Members((*others[-(MOST - 1) :], member), since_s, grouped)

    def _promoted(self, seen: Observation, others: list[Member]) -> bool:
        """A new primary: it was a replica, or another one was the primary, of a lower timeline.
        What replicas tell of timelines is late."""
        if seen.role is not Role.PRIMARY or seen.timeline is None:
            return False
        if any((other.timeline or 0) >= seen.timeline for other in others):
            return False
        was = [member.role for member in self.known if member.incarnation == seen.incarnation]
        return was == [Role.REPLICA] or any(other.role is Role.PRIMARY for other in others)

    def proves(self, seen: Observation, present: str) -> bool:
        """An earlier one answers again, on a session that was begun after the later one was
        heard."""
        if not seen.incarnation or seen.incarnation == present or not self.knows(seen.incarnation):
            return False
        return seen.begun_at is not None and seen.begun_at >= self.since_s

    def outdated(self, seen: Observation, present: str) -> bool:
        """A session of before still talks to a server that the address has left."""
        return (
            not self.grouped
            and seen.incarnation not in ("", present)
            and self.knows(seen.incarnation)
            and not self.proves(seen, present)
        )

    def knows(self, incarnation: str) -> bool:
        return any(member.incarnation == incarnation for member in self.known)

    @property
    def role(self) -> Role:
        roles = {member.role for member in self.known}
        return Role.PRIMARY if roles == {Role.PRIMARY} else Role.REPLICA

    @property
    def lag_s(self) -> float | None:
        """Of the one that lags most; None where one doesn't tell."""
        lags = [member.lag_s for member in self.known if member.role is Role.REPLICA]
        known = [lag for lag in lags if lag is not None]
        return max(known) if known and len(known) == len(lags) else None

    @property
    def timeline(self) -> int | None:
        return max((m.timeline for m in self.known if m.timeline is not None), default=None)


def one(members: Members, seen: Observation) -> Observation:
    """The same as the group's: what the address is."""
    if not members.grouped:
        return seen
    return replace(seen, role=members.role, timeline=members.timeline, lag_s=members.lag_s)
