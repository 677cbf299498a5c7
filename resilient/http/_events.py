"""What happens to endpoints, told to whoever subscribed, and to the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from .._logs import Line
from ..core.upstream_events import UpstreamEvent

OnEvent = Callable[[UpstreamEvent], None]

logger = logging.getLogger("resilient.http")
_subscribers: tuple[OnEvent, ...] = ()


def subscribe(on_event: OnEvent) -> Callable[[], None]:
    """Call `on_event` with every event of every client; returns what ends that.

    It runs on whatever thread noticed the event, so it must be quick and must not block;
    an exception in it is logged and goes no further.
    """
    global _subscribers
    _subscribers = (*_subscribers, on_event)

    def unsubscribe() -> None:
        global _subscribers
        _subscribers = tuple(known for known in _subscribers if known is not on_event)

    return unsubscribe


def emit(events: Iterable[UpstreamEvent]) -> None:
    for event in events:
        name = type(event).__name__
        line = Line(
            event=f"endpoint.{name.removeprefix('Endpoint').lower()}",
            endpoint=event.endpoint.place,
            name=event.endpoint.name or None,
            cause=event.cause or None,
            reason=event.reason or None,
        )
        logger.info("%s", line)
        for on_event in _subscribers:
            try:
                on_event(event)
            except Exception:
                logger.exception("%s", Line(event="subscriber.failed", on=name))
