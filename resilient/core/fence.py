"""A fence that the pools of a process share: two see more than one.

Each pool follows a set of names of its own, and sees the timelines that those lead to.  A
timeline that one has seen fences the others' old primary as well, where it is the same
cluster's: where their *writers' names have led to a common server incarnation*.  The system
identifier alone says less: a restored copy has the same one, and a higher timeline.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import field, replace

from .._dataclass import dataclass
from .topology_state import State
from .topology_writer import eligible

#: one run of one server: its system identifier, and when it was started
Server = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Sight:
    """What one set of names has led to: servers, and each cluster's highest timeline."""

    servers: frozenset[Server] = frozenset()
    heights: tuple[tuple[str, int], ...] = ()


def seen_by(state: State, before: Sight) -> Sight:
    """What a cluster's state adds to what was seen."""
    servers = {
        (item.system_id, item.incarnation)
        for item in eligible(state)
        if item.system_id and item.incarnation
    }
    if servers <= before.servers and state.heights == before.heights:
        return before
    return Sight(before.servers | servers, state.heights)


@dataclass(frozen=True, slots=True)
class Fences:
    """All of a process, by what stands for each set of names."""

    sights: dict[Hashable, Sight] = field(default_factory=dict)

    def put(self, key: Hashable, sight: Sight) -> Fences:
        return replace(self, sights={**self.sights, key: sight})

    def without(self, key: Hashable) -> Fences:
        return replace(self, sights={k: sight for k, sight in self.sights.items() if k != key})

    def kin(self, key: Hashable) -> set[Hashable]:
        """Those that have met a common server, directly or through others; itself included."""
        found, left = {key}, [self.sights.get(key, Sight())]
        while left:
            servers = left.pop().servers
            for other, sight in self.sights.items():
                if other not in found and servers & sight.servers:
                    found.add(other)
                    left.append(sight)
        return found

    def news(self, key: Hashable) -> list[tuple[Hashable, str, int]]:
        """(who, cluster, timeline): what `key` and its kin have to be told of each other."""
        kin = self.kin(key)
        highest: dict[str, int] = {}
        for one in kin:
            for system_id, timeline in self.sights.get(one, Sight()).heights:
                highest[system_id] = max(timeline, highest.get(system_id, 0))
        told = []
        for one in kin:
            sight = self.sights.get(one, Sight())
            heights = dict(sight.heights)
            ids = {system_id for system_id, _ in sight.servers}
            for system_id, timeline in highest.items():
                if system_id in ids and heights.get(system_id, 0) < timeline:
                    told.append((one, system_id, timeline))
        return told
