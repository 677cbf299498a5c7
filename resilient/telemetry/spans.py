"""A failover as OpenTelemetry spans: a root of its own, and a child for each of its parts.

The root begins once something is lost and has the time of the first suspicion.  A part is
exported as it ends, so that one sees how far a failover has come that isn't over.  Runs on
`background`'s thread only; without an SDK all of this does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from ..core.failover import Failover, Step
from ..core.model import EndpointView
from . import names

__all__ = ["Spans"]

#: of a failover that isn't over
UNFINISHED = "NoEndpointAvailable"


class Spans:
    """Those of one failover.  `system`: attributes that say of what it is one."""

    def __init__(self, failover_id: str, system: Mapping[str, str]) -> None:
        self._id, self._system = failover_id, system
        self._root: Span | None = None
        self._told: set[str] = set()
        self._steps = 0
        self._part = 0
        # Spans want wall-clock nanoseconds: one offset keeps the intervals monotonic.
        self._offset_ns = time.time_ns() - int(time.monotonic() * 1e9)

    def follow(self, failover: Failover) -> None:
        """The root, where there is none, and each part that has ended."""
        if self._root is None:
            self._begin(failover, failover.started_at, ())
        tracer = trace.get_tracer("resilient")
        for part in failover.parts():
            if part.name in self._told:
                continue
            self._told.add(part.name)
            span = tracer.start_span(
                f"{names.FAILOVER}.{part.name}",
                trace.set_span_in_context(self._root or trace.INVALID_SPAN, Context()),
                start_time=self._wall(part.from_s),
                attributes={names.FAILOVER_ID: self._id, **self._system},
            )
            span.end(self._wall(part.to_s))

    def end(
        self,
        failover: Failover,
        result: str,
        at_s: float,
        waited: Iterable[SpanContext],
        calls: int,
    ) -> None:
        """The root ends: `over`, `recovered` or `unfinished`."""
        self.follow(failover)
        root, self._root = self._root, None
        if root is None:
            return
        for attribute, value in self._attributes(failover, result, calls).items():
            root.set_attribute(attribute, value)
        for step in failover.steps[self._steps :]:
            self._add(root, step)
        self._steps = len(failover.steps)
        for context in waited:
            root.add_link(context, {names.FAILOVER_ID: self._id})
        if result == "unfinished":
            root.set_status(Status(StatusCode.ERROR, "nobody took over yet"))
        root.end(self._wall(at_s))
        self._last = root.get_span_context()

    def go_on(self, failover: Failover, at_s: float) -> None:
        """After an `unfinished` root: the next one, linked to it."""
        self._begin(failover, at_s, (Link(self._last, {names.FAILOVER_ID: self._id}),))

    def _begin(self, failover: Failover, at_s: float, links: Iterable[Link]) -> None:
        self._part += 1
        self._root = trace.get_tracer("resilient").start_span(
            names.FAILOVER,
            Context(),  # nobody's child: whether it is sampled is no request's luck
            start_time=self._wall(at_s),
            links=tuple(links),
            attributes={
                names.FAILOVER_ID: self._id,
                "resilient.failover.part": self._part,
                **self._system,
                **where(failover),
            },
        )

    def _add(self, root: Span, step: Step) -> None:
        said: dict[str, AttributeValue] = {"resilient.step.detail": step.detail}
        if step.endpoint is not None:
            said["network.peer.address"] = step.endpoint.address
            said["network.peer.port"] = step.endpoint.port
        root.add_event(f"{names.FAILOVER}.{step.name}", said, self._wall(step.at_s))

    def _attributes(self, failover: Failover, result: str, calls: int) -> dict[str, AttributeValue]:
        said: dict[str, AttributeValue] = {
            **where(failover),
            "resilient.failover.result": result,
            "resilient.failover.calls": calls,
        }
        if result == "unfinished":
            said["error.type"] = UNFINISHED
            said["resilient.failover.phase"] = failover.phase
        for phase, seconds in failover.phases().items():
            said[f"resilient.failover.{phase}"] = seconds
        return said

    def _wall(self, at_s: float) -> int:
        return int(at_s * 1e9) + self._offset_ns


def where(failover: Failover) -> dict[str, AttributeValue]:
    """Why it began, and who is who."""
    new = failover.new
    known = (new or failover.old).endpoint
    said: dict[str, AttributeValue] = {
        "resilient.failover.cause": failover.cause,
        "resilient.failover.reason": failover.reason,
        "server.address": known.configured,
        "server.port": known.port,
        **_endpoint("old", failover.old),
    }
    if new is not None:
        said |= _endpoint("new", new)
        said["network.peer.address"] = new.address
        said["network.peer.port"] = new.port
        if new.zone is not None:
            said["cloud.availability_zone"] = new.zone
    return said


def _endpoint(which: str, view: EndpointView) -> dict[str, AttributeValue]:
    said: dict[str, AttributeValue] = {f"resilient.{which}.endpoint": str(view.endpoint)}
    if view.zone is not None:
        said[f"resilient.{which}.zone"] = view.zone
    if view.timeline is not None:
        said[f"resilient.{which}.timeline"] = view.timeline
    return said
