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

    def follow(self, state: State) -> None:
        """Tell the others what this one sees, before it is published here."""
        global _fences
        sight = seen_by(state, self._sight)
        if sight is self._sight:
            return
        self._sight = sight
        _fences = _fences.put(id(self), sight)
        for key, system_id, timeline in _fences.news(id(self)):
            member = _members.get(key) if isinstance(key, int) else None
            if member is not None:
                member._tell(Fenced(system_id, timeline))

    def leave(self) -> None:
        global _fences
        _fences = _fences.without(id(self))
        _members.pop(id(self), None)


def _after_fork_in_child() -> None:
    global _fences
    _fences = Fences()
    _members.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
