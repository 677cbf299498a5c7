"""A failover of an HTTP origin: a pure fold over what happens to its endpoints.

    suspected → lost | ejected | retired → resolved* → reconnected

It begins when an endpoint in use goes away (`suspected` dates the first sign of trouble) and
is over when a request is answered by another endpoint.  An endpoint that comes back before
that makes it end as `recovered`: no failover.  What nobody used leaves without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from .failover import Failover, Step
from .model import Endpoint, EndpointView
from .upstream_events import (
    EndpointAdded,
    EndpointBack,
    EndpointEjected,
    EndpointLost,
    EndpointRetired,
    UpstreamEvent,
)

#: an endpoint that answered within this time is in use, in seconds
IN_USE_S = 10.0
_GONE = {EndpointLost: "lost", EndpointEjected: "ejected", EndpointRetired: "retired"}

Followed = tuple[Failover | None, tuple[Step, ...]]


def follow(
    failover: Failover | None, events: Iterable[UpstreamEvent], used: Mapping[Endpoint, float]
) -> Followed:
    """Fold what happened: (failover, steps that it brought).

    `used`: endpoints in use → when trouble with them began (monotonic seconds).
    """
    steps: list[Step] = []
    for event in events:
        name = _GONE.get(type(event))
        if failover is None:
            if name is not None and event.endpoint in used:
                failover = _begun(event, name, used[event.endpoint])
                steps.extend(failover.steps)
        elif isinstance(event, EndpointBack) and event.endpoint == failover.old.endpoint:
            steps.append(Step("recovered", event.at_s, event.endpoint))
            failover = None
        elif name is not None or isinstance(event, EndpointAdded):
            step = Step(
                name or "resolved", event.at_s, event.endpoint, event.reason, _cause(event, name)
            )
            failover = replace(failover, steps=(*failover.steps, step))
            steps.append(step)
    return failover, tuple(steps)


def answered(
    failover: Failover, endpoint: Endpoint, zone: str | None, good: bool, now: float
) -> tuple[Failover | None, Failover | None, tuple[Step, ...]]:
    """A request was answered by `endpoint`: (failover, the failover that it ends, steps).

    `good`: the endpoint is in good standing, not merely finishing what was in flight.
    """
    if endpoint == failover.old.endpoint:
        if not good:
            return failover, None, ()
        return None, None, (Step("recovered", now, endpoint),)
    step = Step("reconnected", now, endpoint)
    over = replace(failover, new=EndpointView(endpoint, zone), steps=(*failover.steps, step))
    return None, over, (step,)


def _begun(event: UpstreamEvent, name: str, since_s: float) -> Failover:
    cause = _cause(event, name)
    steps = (
        Step("suspected", min(since_s, event.at_s), event.endpoint, event.reason, cause),
        Step(name, event.at_s, event.endpoint, event.reason, cause),
    )
    return Failover(EndpointView(event.endpoint, event.zone), steps=steps)


def _cause(event: UpstreamEvent, name: str | None) -> str:
    return event.cause or ("moved" if name == "retired" else name or "")
