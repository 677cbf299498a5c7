"""The fence that all clusters of this process share, on the monitor's loop (`core.fence`)."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

from ..core.fence import Fences, Sight, seen_by
from ..core.topology import State
from ..core.topology_events import Fenced

Tell = Callable[[Fenced], None]

_fences = Fences()
_members: weakref.WeakValueDictionary[int, Member] = weakref.WeakValueDictionary()


class Member:
    """One cluster's part in it."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._sight = Sight()
        _members[id(self)] = self

    def follow(self, state: State, told: Callable[[State, Fenced], State]) -> State:
        """The state with what the others have seen taken in by `told`; then the others are told
        of what this one sees, and have cut what they must, before it is published here."""
        sight = seen_by(state, self._sight)
        if sight is self._sight:
            return state
        self._put(sight)
        news = _fences.news(id(self))
        for key, system_id, timeline in news:
            if key == id(self):
                state = told(state, Fenced(system_id, timeline))
        self._put(seen_by(state, sight))
        for key, system_id, timeline in news:
            member = _members.get(key) if isinstance(key, int) and key != id(self) else None
            if member is not None:
                member._tell(Fenced(system_id, timeline))
        return state

    def _put(self, sight: Sight) -> None:
        global _fences
        self._sight = sight
        _fences = _fences.put(id(self), sight)

    def leave(self) -> None:
        global _fences
        _fences = _fences.without(id(self))
        _members.pop(id(self), None)


def _after_fork_in_child() -> None:
    global _fences
    _fences = Fences()
    _members.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
