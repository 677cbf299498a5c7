"""What becomes of a connection under a new snapshot.

    keep    it may be used
    drain   it is given to nobody any more; who uses it may finish
    abort   its socket is shut down, whoever waits on it

Abort is for what may do harm (a fenced primary's acknowledgements) or can't end by itself
(a dead server, once there is somewhere to go).  A server that merely left the name, or takes
no new sessions, lets those that it has finish.
"""

from __future__ import annotations

from enum import Enum, auto

from .model import Endpoint, EndpointView, Health, Role, Topology


class Fate(Enum):
    KEEP = auto()
    DRAIN = auto()
    ABORT = auto()


def fate(
    old: Topology, new: Topology, endpoint: Endpoint, generation: int, connecting: bool
) -> Fate:
    """The fate of a connection that was made to the endpoint in that generation.

    `connecting`: it isn't made yet, so nothing is lost with it.
    """
    if new.live(endpoint, generation):
        return Fate.ABORT if connecting and _elsewhere(new, endpoint) else Fate.KEEP
    if connecting:
        return Fate.ABORT
    view = new.find(endpoint)
    if view is None:
        return _gone(old.find(endpoint), new)
    if view.fenced or (view.health is Health.DEAD and new.writer is not None):
        return Fate.ABORT
    return Fate.DRAIN


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
    outranked = was.role is Role.PRIMARY and (was.epoch or 0) < (new.epoch or 0)
    if outranked or (was.health is not Health.UP and new.writer is not None):
        return Fate.ABORT
    return Fate.DRAIN
