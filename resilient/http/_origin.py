"""The live side of one origin: its published snapshot, and what every request touches.

`Origin.apply` is the one way to change the snapshot: the pure `step` under a lock, then,
outside the lock, the events and the engines' housekeeping.  A request reads what was
published and takes no lock while nothing fails.
"""

# long: one object, and what every request touches of it
from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, Protocol
from weakref import WeakSet

from .. import telemetry
from .._logs import Line
from ..core import upstream_failover
from ..core.budget import RetryBudget
from ..core.failover import Failover, Step
from ..core.model import Endpoint
from ..core.upstream import Upstream, UpstreamConfig, UpstreamSnapshot, is_hung, proved_dead
from ..core.upstream import step as advance
from ..core.upstream_events import (
    EndpointBack,
    EndpointEjected,
    EndpointLost,
    EndpointRetired,
    Input,
    TrialStarted,
    UpstreamEvent,
)
from ..core.upstream_select import (
    RAMP_S,
    SPILL_AT,
    due,
    fit,
    improved,
    least_of_two,
    next_dial,
    not_retired,
    ramp,
    ranked,
    ready,
    ready_until,
)
from ._attempt import draw
from ._events import emit, logger
from ._latency import Latencies
from ._slot import Route, Slot

clock = time.monotonic
#: so long after its failures began, requests that can't be repeated avoid an endpoint that isn't
#: ejected (yet): of one that resets connections they would be lost; in seconds
DOUBT_S = 1.0
#: a response that took more attempts counts as one of "more"
MOST_SHOWN = 3
#: the shortest pause between two lookups that requests in trouble ask for, in seconds
LOOK_PACE_S = 0.1


class Keeper(Protocol):
    """An engine, as an origin sees it: the owner of connections to endpoints."""

    def endpoint_gone(self, slot: Slot) -> None:
        """Drop the idle connections to this endpoint.  Called from any thread."""


def _in_flight(slot: Slot) -> int:
    return len(slot.flying)


def _undoubted(slots: tuple[Slot, ...], now: float) -> tuple[Slot, ...]:
    return tuple(slot for slot in slots if slot.since is None or now - slot.since >= DOUBT_S)


def _answering(slots: tuple[Slot, ...], now: float) -> tuple[Slot, ...]:
    """Without those that left a request unanswered and weren't heard since."""
    return tuple(slot for slot in slots if not slot.owes_answer() or now >= slot.doubted_until)


def _wake(waiting: Iterable[Future[None]]) -> None:
    for news in waiting:
        if news.set_running_or_notify_cancel():
            news.set_result(None)


class Origin:
    """(scheme, host, port) with its endpoints, shared by all clients of one directory."""

    def __init__(
        self, scheme: str, host: str, port: int, config: UpstreamConfig, budget: RetryBudget
    ) -> None:
        self.scheme, self.host, self.port = scheme, host, port
        self.config = config
        self.snapshot = UpstreamSnapshot(host, port)
        self.used_at = clock()
        #: what is known is kept up to date; requests need not wait
        self.live = False
        #: nobody keeps it up to date any more, and its directory has forgotten it
        self.over = False
        self.keepers: WeakSet[Keeper] = WeakSet()
        #: asks for a new lookup, past any cache; set by the directory, from any thread
        self.refresh: Callable[[Endpoint | None], None] = lambda endpoint: None
        self.probe_context: Any = None
        self.lock = threading.RLock()
        self._slots: dict[Endpoint, Slot] = {}
        self._budget = budget
        #: first attempts; `next` counts one, without a lock
        self.calls = itertools.count()
        self._counted = 0
        self._ready: tuple[Slot, ...] = ()
        self._fit: tuple[Slot, ...] = ()
        self._due: tuple[Slot, ...] = ()
        self._doubtful = False
        self._until = self._ramp_until = -inf
        #: number of attempts → attributes of a response that took so many
        self._answers: dict[int, dict[str, str]] = {}
        #: what is told of its failovers
        self.failover_log = telemetry.FailoverLog(
            partial(dict, origin=f"{host}:{port}"), self._said_of
        )
        #: the failover under way, if one is
        self.failover: Failover | None = None
        #: how often an endpoint appeared that may be tried; `news` waits for the next one
        self.improvements = 0
        self._news: WeakSet[Future[None]] = WeakSet()
        self._looked_at = -inf
        #: who takes connections may change by itself: a name moves, health checks go on
        self.movable = False
        #: addresses of one family only are known, the other's are being asked for
        self.partial = False
        self._latencies = Latencies()

    # -- what is known

    def apply(self, event: Input, now: float) -> None:
        """One step of the state machine."""
        with self.lock:
            before = self.snapshot
            after, events = advance(before, event, self.config, now)
            if after is before:
                return
            self.snapshot = after
            if events and (steps := self._tell(events, now)):
                self.failover_log.follow(self.failover, steps)
            self._publish(now)
            if not after.resolved:
                self.live = False
            waiting = self._improve() if improved(before, after) else ()
        _wake(waiting)
        emit(events)
        self.failover_log.tell()
        for item in events:
            if isinstance(item, EndpointLost | EndpointEjected):
                said = {**self._said_of(), "resilient.cause": item.cause or "unknown"}
                telemetry.instruments.count(telemetry.names.EJECTIONS, said)
            if isinstance(item, EndpointBack):
                self._slots[item.endpoint].back_at = now
                self._ramp_until = now + RAMP_S
            if isinstance(item, EndpointLost):
                self.refresh(item.endpoint)
            if isinstance(item, EndpointLost | EndpointRetired):
                slot = self._slots.get(item.endpoint)
                if slot is not None:
                    self._let_go(slot)

    def _improve(self) -> tuple[Future[None], ...]:
        self.improvements += 1
        waiting = tuple(self._news)
        self._news = WeakSet()
        return waiting

    def completed(self) -> None:
        """Nobody is asked for further addresses any more: those who waited go on."""
        with self.lock:
            waiting = self._improve() if self.partial else ()
            self.partial = False
        _wake(waiting)

    def news(self, since: int) -> Future[None]:
        """Done when there is an endpoint to be tried that wasn't there when `improvements`
        was `since`."""
        news: Future[None] = Future()
        with self.lock:
            if self.improvements != since:
                news.set_result(None)
            else:
                self._news.add(news)
        return news

    def is_busy(self) -> bool:
        """Is a request under way, or waiting for somebody to connect to?"""
        with self.lock:
            return bool(self._news) or any(slot.flying for slot in self._slots.values())

    def look_again(self, endpoint: Endpoint | None, now: float) -> None:
        """Ask for a new lookup, unless that was done just now.  `endpoint`: it is dead."""
        if now - self._looked_at >= LOOK_PACE_S:
            self._looked_at = now
            self.refresh(endpoint)

    def _let_go(self, slot: Slot) -> None:
        slot.losses += 1
        with self.lock:
            keepers = tuple(self.keepers)
        for keeper in keepers:
            try:
                keeper.endpoint_gone(slot)
            except Exception:
                logger.exception("%s", Line(event="close.failed", endpoint=slot.text))

    def _publish(self, now: float) -> None:
        snapshot, slots = self.snapshot, {}
        for view in snapshot.endpoints:
            slot = slots[view.endpoint] = self._slots.get(view.endpoint) or self._slot(view)
            slot.zone = view.zone
            slot.retired = view.retired
            slot.spotless = view.spotless
            slot.blameless = view.blameless
            slot.hung_since = view.hung_since_s
            slot.since = None if not view.failures else slot.since or now
        gone = [slot for endpoint, slot in self._slots.items() if endpoint not in slots]
        for slot in gone:
            slot.retired = True
        self._slots = slots
        zone = self.config.zone
        self._ready = tuple(slots[view.endpoint] for view in ready(snapshot, zone))
        self._doubtful = any(slot.since is not None for slot in self._ready)
        self._fit = tuple(slots[view.endpoint] for view in fit(snapshot))
        self._due = tuple(slots[view.endpoint] for view in due(snapshot, now))
        self._until = ready_until(snapshot, now)

    def _slot(self, view: Upstream) -> Slot:
        return Slot(view.endpoint, Route(self.scheme, self.host, self.port))

    def set_zone(self, zone: str | None) -> None:
        """The zone that this process was found to be in."""
        with self.lock:
            self.config = replace(self.config, zone=zone)

    def close(self) -> None:
        """Nobody looks after it any more: let go of connections that are idle."""
        for slot in self.slots():
            slot.retired = True
            self._let_go(slot)
        self.failover_log.close(wait=False)

    def slots(self) -> tuple[Slot, ...]:
        """The endpoints that aren't retired."""
        with self.lock:
            return tuple(self._slots[v.endpoint] for v in not_retired(self.snapshot.endpoints))

    def proved_dead(self, slot: Slot, now: float) -> bool:
        """See `core.upstream.proved_dead`."""
        if slot.hung_since is None:  # nearly always
            return False
        others = (other.byte_at for other in self.slots() if other is not slot)
        return proved_dead(slot.hung_since, slot.byte_at, others, self.config, now)

    def is_hung(self, slot: Slot, now: float) -> bool:
        """See `core.upstream.is_hung`."""
        return is_hung(slot.hung_since, slot.byte_at, self.config, now)

    # -- a failover

    def _tell(self, events: tuple[UpstreamEvent, ...], now: float) -> tuple[Step, ...]:
        used = {
            endpoint: slot.asked_at if slot.heard_at < slot.asked_at else slot.since or now
            for endpoint, slot in self._slots.items()
            if slot.in_use(now)
        }
        self.failover, steps = upstream_failover.follow(self.failover, events, used)
        return steps

    def flowing(self, slot: Slot, now: float) -> None:
        """A response goes to its caller: ends a failover under way."""
        with self.lock:
            if self.failover is None:
                return
            good = slot.blameless and not slot.retired
            self.failover, over, steps = upstream_failover.answered(
                self.failover, slot.endpoint, slot.zone, good, now
            )
            if steps:
                self.failover_log.follow(over or self.failover, steps)
            if over is not None:
                self.failover_log.over(over)
        self.failover_log.tell()

    def _said_of(self) -> dict[str, str]:
        host = telemetry.instruments.few("server.address", self.host)
        return {"url.scheme": self.scheme, "server.address": host}

    def handed_out(self, attempts: int) -> None:
        """A response goes to its caller, after so many attempts."""
        said = self._answers.get(attempts)
        if said is None:
            said = self._said_of()
            said["resilient.attempts"] = str(attempts) if attempts <= MOST_SHOWN else "more"
            self._answers[attempts] = said
        telemetry.instruments.count(telemetry.names.RESPONSES, said)

    # -- choosing

    def pick(
        self, now: float, avoid: Iterable[Slot], trial: bool, prefer: Slot | None = None
    ) -> Slot | None:
        """An endpoint; None when no address is known.

        `trial`: this request may go to an endpoint that was ejected, and rather not to one that
        failed just now if it may not.  `prefer`: this one, while it is in good standing.
        """
        if now >= self._until:
            with self.lock:
                self._publish(now)
        if prefer is not None and prefer not in avoid and prefer in self._fit:
            return prefer
        if self._due and trial and (tried := self._try(now, avoid)) is not None:
            return tried
        candidates = self._ready
        if self._doubtful:
            candidates = _answering(candidates, now) or candidates
            if not trial:
                candidates = _undoubted(candidates, now) or candidates
        if avoid:
            candidates = tuple(slot for slot in candidates if slot not in avoid) or tuple(
                slot for slot in self._fit if slot not in avoid
            )
        if not candidates:
            return self._least_bad(now, avoid)
        slot = self._least(candidates)
        if len(slot.flying) >= SPILL_AT and len(self._fit) > len(self._ready):
            candidates = tuple(slot for slot in self._fit if slot not in avoid)
            slot = self._least(candidates)
        if self._doubtful and slot.owes_answer():
            slot.doubted_until = now + slot.doubt_s  # this request tries it, no other one
        if len(candidates) == 1:
            return slot
        if now < self._ramp_until and draw() >= ramp(now - slot.back_at):
            candidates = tuple(other for other in candidates if other is not slot)
            return self._least(candidates)
        return slot

    def equal(self, route: Route) -> Slot | None:
        """The endpoint with this route, if a first attempt may go there as well as anywhere."""
        slot = next((slot for slot in self._ready if slot.route is route), None)
        return None if slot is None or slot.owes_answer() else slot

    @staticmethod
    def _least(candidates: tuple[Slot, ...]) -> Slot:
        if len(candidates) == 1:
            return candidates[0]
        return least_of_two(candidates, _in_flight, (draw(), draw()))

    def _try(self, now: float, avoid: Iterable[Slot]) -> Slot | None:
        with self.lock:
            slot = next((slot for slot in self._due if slot not in avoid), None)
            if slot is not None:
                self.apply(TrialStarted(slot.endpoint), now)
            return slot

    def _least_bad(self, now: float, avoid: Iterable[Slot]) -> Slot | None:
        order = self.order(now)
        if not order:
            return None
        return next((slot for slot in order if slot not in avoid), order[0])

    def order(self, now: float) -> tuple[Slot, ...]:
        """All endpoints, the best first, retired ones last."""
        with self.lock:
            views = ranked(self.snapshot, self.config.zone, now)
            return tuple(self._slots[view.endpoint] for view in views)

    def next_dial(self, avoid: set[Slot], last: Slot, now: float) -> Slot | None:
        """Whom a staggered connect dials after `last`."""
        with self.lock:
            views = tuple(
                view
                for view in not_retired(ranked(self.snapshot, self.config.zone, now))
                if self._slots[view.endpoint] not in avoid
            )
            view = next_dial(views, last.endpoint)
            return None if view is None else self._slots[view.endpoint]

    def others(self, avoid: Iterable[Slot]) -> int:
        """Endpoints in good standing beside those."""
        return sum(slot not in avoid for slot in self._fit)

    def blameless(self, avoid: Iterable[Slot]) -> bool:
        """Beside those there is one of which nothing bad is known."""
        return any(slot.blameless and slot not in avoid for slot in self._fit)

    # -- counting

    def took(self, seconds: float) -> None:
        """A response's head came after so long."""
        self._latencies.add(seconds)

    def hedge_s(self) -> float:
        """Silence after which a hedge is sent: what one in twenty requests exceeds."""
        return self._latencies.p95_s()

    def withdraw(self) -> bool:
        """One retry from the budget."""
        with self.lock:
            calls = next(self.calls)  # which counts one more
            budget = self._budget.deposit(calls - self._counted, clock())
            self._counted = calls + 1
            self._budget, granted = budget.try_withdraw()
            return granted
