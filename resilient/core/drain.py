"""The states of a connection, and what becomes of it under a new snapshot.

    keep    it may be used
    drain   it is given to nobody any more; who uses it may finish
    hold    the same for want of anything better: cut once there is somewhere to go
    abort   its socket is shut down, whoever waits on it

    phase        made     keep         drain      hold      abort
    connecting   usable   connecting   draining   held      aborted
    usable       usable   usable       draining   held      aborted
    held         held     held         draining   held      aborted
    draining     draining draining     draining   held      aborted
    aborted      aborted  aborted      aborted    aborted   aborted

Only a usable one is given out; `fate` aborts one that is still connecting.  Abort is for what may
do harm (a fenced primary's acknowledgements) or can't end by itself (a dead server, once there is
somewhere to go).  A server that merely left the name, or takes no new sessions, lets those that it
has finish.
"""

from __future__ import annotations

from enum import Enum, auto

from .model import Endpoint, EndpointView, Health, Observation, Role, Topology


class Fate(Enum):
    KEEP = auto()
    DRAIN = auto()
    HOLD = auto()
    ABORT = auto()


class Phase(Enum):
    """The one state of a connection, from its dial to its end."""

    CONNECTING = "connecting"
    USABLE = "usable"
    HELD = "held"
    DRAINING = "draining"
    ABORTED = "aborted"

    def made(self) -> Phase:
        """It is connected, and its server admitted."""
        return Phase.USABLE if self is Phase.CONNECTING else self

    def under(self, end: Fate) -> Phase:
        """It has met its fate under a snapshot."""
        return self if self is Phase.ABORTED else _ENDS.get(end, self)


_ENDS = {Fate.DRAIN: Phase.DRAINING, Fate.HOLD: Phase.HELD, Fate.ABORT: Phase.ABORTED}


def fate(
    old: Topology,
    new: Topology,
    endpoint: Endpoint,
    generation: int,
    *,
    connecting: bool = False,
    held: bool = False,
    seen: Observation | None = None,
) -> Fate:
    """The fate of a connection that was made to the endpoint in that generation.

    `connecting`: it isn't made yet, so nothing is lost with it.  `held`: what it was before.
    `seen`: what its own server said of itself; behind some addresses there are several.
    """
    if seen is not None and _outlived(new, endpoint, seen):
        return Fate.ABORT
    if new.live(endpoint, generation):
        return Fate.ABORT if connecting and _elsewhere(new, endpoint) else Fate.KEEP
    if connecting or (held and new.somewhere):
        return Fate.ABORT
    view = new.find(endpoint)
    if view is None:
        return Fate.HOLD if held else _gone(old.find(endpoint), new)
    if view.fenced:
        return Fate.ABORT
    if view.health is Health.DEAD:
        return Fate.ABORT if new.somewhere else Fate.HOLD
    return Fate.DRAIN


def _outlived(new: Topology, endpoint: Endpoint, seen: Observation) -> bool:
    """In a group: its own server is the primary of a timeline that was followed by another."""
    view = new.find(endpoint)
    if view is None or not view.group or seen.role is not Role.PRIMARY:
        return False
    foreign = bool(seen.system_id and new.system_id and seen.system_id != new.system_id)
    return foreign or (seen.timeline is not None and seen.timeline < (new.timeline or 0))


def _elsewhere(new: Topology, endpoint: Endpoint) -> bool:
    """Another endpoint is the writer, and this one doesn't answer: no use in waiting."""
    view = new.find(endpoint)
    return (
        view is not None
        and view.health in (Health.UNKNOWN, Health.SUSPECT)
        and new.writer is not None
        and new.writer.endpoint != endpoint
    )


def _gone(was: EndpointView | None, new: Topology) -> Fate:
    if was is None:
        return Fate.DRAIN  # decided when it went
    outranked = was.role is Role.PRIMARY and (was.timeline or 0) < (new.timeline or 0)
    if outranked:
        return Fate.ABORT
    if was.health is Health.UP:
        return Fate.DRAIN
    return Fate.ABORT if new.somewhere else Fate.HOLD
