"""How one connection is obtained, as a generator of commands.

The shell answers each command and sends the answer back:

    Look()                 → (Topology, seconds left)
    Ask(endpoint)          → seconds until it may be dialled, see `core.pace`; 0: it is, next;
                             `NOT_NOW`: not by this one, see `core.refusals`
    Ask(endpoint, view)    → the same of one that said that it doesn't fit, see `core.chance`
    Dial(endpoint)         → True when connected (the generator is done), False when not
    Await(version, s)      → None, once the topology's version differs or the time is over

It ends with `GivenUp`: the shell raises what the last dial raised, or, when nothing was
dialled, that no endpoint is available.  A worker of a pool is impatient: it gives up as soon
as nobody is left to dial, because its work is taken up again at the next topology.  A caller
that connects itself is patient until its deadline; it waits for nobody's leave to dial.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from .._dataclass import dataclass
from .intent import Try, Wanted, try_of
from .model import Endpoint, EndpointView, Health, Topology
from .refusals import NOT_NOW
from .routing import Rng

ANY = Wanted()

#: how long the first observations are waited for before somebody unknown is dialled
FIRST_LOOK_S = 0.5
#: a patient caller dials again after this long although nothing was published
AGAIN_S = 0.5
#: a worker that may dial on a chance so soon waits for it
SOON_S = 0.25


@dataclass(frozen=True, slots=True)
class Look:
    pass


@dataclass(frozen=True, slots=True)
class Ask:
    endpoint: Endpoint
    by_chance: EndpointView | None = None


@dataclass(frozen=True, slots=True)
class Dial:
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Await:
    version: int
    seconds: float


Command = Look | Ask | Dial | Await


def unheard(topology: Topology) -> bool:
    """Nothing is resolved yet, or one of several endpoints was never heard of."""
    views = topology.endpoints
    if not views:
        return True
    silent = [view for view in views if view.health is Health.UNKNOWN]
    return len(views) > 1 and bool(silent)


def connecting(
    patient: bool, wanted: Wanted = ANY, rng: Rng | None = None
) -> Generator[Command, Any, None]:
    """Commands that lead to one connection that is `wanted`; ends when given up or connected."""
    tried: set[Try] = set()
    waited_s = 0.0
    while True:
        topology, left_s = yield Look()
        if left_s <= 0:
            return
        if not wanted.content(topology) and unheard(topology) and waited_s < FIRST_LOOK_S:
            pause_s = min(left_s, FIRST_LOOK_S / 5)
            yield Await(topology.version, pause_s)
            waited_s += pause_s
            continue
        view, pause_s = wanted.to_dial(topology, tried, rng), AGAIN_S
        if view is None:
            view, pause_s = yield from _by_chance(wanted, topology, patient)
        if view is not None:
            if not patient and (pause_s := (yield Ask(view.endpoint))) > 0:
                if pause_s == NOT_NOW:
                    return
                # Looked at again then: it may be another, or a warm one may have come.
                yield Await(topology.version, min(left_s, pause_s))
                continue
            tried.add(try_of(view))
            if (yield Dial(view.endpoint)):
                return
        elif patient or pause_s < AGAIN_S:
            yield Await(topology.version, min(left_s, pause_s, AGAIN_S))
            if pause_s >= AGAIN_S:
                tried.clear()
        else:
            return


def _by_chance(
    wanted: Wanted, topology: Topology, patient: bool
) -> Generator[Command, Any, tuple[EndpointView | None, float]]:
    """(whom to dial although it doesn't fit, when to look again): nobody fits."""
    maybe = wanted.by_chance(topology)
    if maybe is None:
        return None, AGAIN_S
    wait_s = yield Ask(maybe.endpoint, maybe)
    if not wait_s:
        return maybe, AGAIN_S
    return None, wait_s if patient or wait_s <= SOON_S else AGAIN_S


def bound(endpoint: Endpoint) -> Generator[Command, Any, None]:
    """Commands that lead to one connection to this endpoint and no other."""
    topology, left_s = yield Look()
    view = topology.find(endpoint)
    if left_s > 0 and view is not None and view.usable:
        yield Dial(endpoint)
