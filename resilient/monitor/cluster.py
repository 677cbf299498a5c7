"""One cluster's monitor: probes, names, verdicts, and the order in which they take effect.

Everything here runs on the monitor's loop but what says *any thread*.  The decisions are
`core.topology`'s; this file only asks (DNS, probes), remembers the state, and applies:

    1. evict and abort what the new snapshot rules out,
    2. publish the snapshot,
    3. tell the listeners.

In that order, so nobody who has seen the new primary can still get an acknowledgement from
the old one.
"""

# long: the monitor of one cluster
from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

from .. import telemetry
from .._logs import Line
from ..core import failover, schedule
from ..core import topology as core
from ..core.chance import Chances
from ..core.drain import Fate, Phase, fate
from ..core.health import ProbeConfig
from ..core.model import Endpoint, EndpointView, FailureKind, Health, Observation, Role, Topology
from ..core.pace import Pacing
from ..core.refusals import Refusals
from ..settings import Settings
from . import fences, thread, zone
from .asking import Asking
from .lease import LeaseWatch
from .names import ConfiguredName, NameWatch, literals
from .prober import ClusterListener, Prober
from .sockets import Link, LinkRegistry

logger = logging.getLogger("resilient.monitor")

#: how the reason of an abort begins that the deadline caused
DEADLINE = "deadline"
#: a COMMIT that was under way when its server was ruled out is looked at again after so long
COMMITTING_S = 0.02


class Cluster(Asking):
    """Monitors a set of names.  Start with `open`, end with `close` (any thread)."""

    # long: its state, named
    def __init__(
        self,
        names: tuple[ConfiguredName, ...],
        settings: Settings,
        prober: Prober,
        database: str = "",
    ) -> None:
        self.settings = settings
        self.links = LinkRegistry()
        self.topology = Topology()
        self._prober = prober
        prober.reached, prober.labels = self._reached, self.labels
        self._database = database
        self._tracker = failover.Tracker()
        #: what is told of its failovers
        self.failover_log = telemetry.FailoverLog(self.labels, self.said_of)
        self._tracker_lock = threading.Lock()
        self._pacing = Pacing()
        self._refusals = Refusals()
        self._chances = Chances()
        #: logins may be refused: there is a password
        self.uses_password = False
        self._met: set[Endpoint] = set()
        self._listeners: weakref.WeakSet[ClusterListener] = weakref.WeakSet()
        self._wakers: set[Callable[[], None]] = set()
        self._state = core.State(
            ProbeConfig(
                settings.probe_interval_s,
                settings.probe_timeout_s,
                settings.failure_threshold,
                settings.success_threshold,
                settings.probe_burst_interval_s,
            )
        )
        self._monitor = thread.acquire()
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = 0.0
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._by_endpoint: dict[Endpoint, list[int]] = {}
        self._probe_number = 0
        self._closing = False
        self._zones_judged = False
        self._rng = random.Random()  # the application's own stays as it was seeded
        self._jitter = self._rng.random()
        self._dying: dict[Endpoint, float] = {}
        self._names = NameWatch(names, settings, self._apply, self._clients, self.labels)
        self._lease = LeaseWatch(settings, self._apply, self.ask_now, self.labels)
        self._fence = fences.Member(self._apply)
        for event in literals(names, settings):
            # Known without asking anybody: the first dial needs no wait for the monitor.
            self._state = core.step(self._state, event, time.monotonic())
        self.topology = self._state.topology
        self._lease.topology_changed(self.topology)
        self._monitor.call(self._start)

    def _clients(self) -> int:
        """Clients of the servers, as far as these tell; the most of any."""
        return max((known.clients for _, known in self._state.known), default=0)

    # -- any thread

    def labels(self) -> dict[str, str]:
        """What its lines say of it: which pools follow it, and the database."""
        pools = sorted({each.name for each in self._listeners.copy() if each.name})
        found = {"pool": ",".join(pools), "database": self._database}
        return {key: value for key, value in found.items() if value}

    @property
    def knew_a_writer(self) -> bool:
        """Was there one at any time?"""
        return self._tracker.writer is not None

    def said_of(self) -> dict[str, str]:
        """The same as attributes of spans and metrics."""
        labels = self.labels()
        named = {telemetry.names.POOL: "pool", telemetry.names.DATABASE: "database"}
        found = {key: labels[label] for key, label in named.items() if label in labels}
        return {**telemetry.POSTGRESQL, **found}

    def report(self, link: Link, kind: FailureKind, detail: str = "") -> None:
        """Passive evidence from a connection."""
        if self.uses_password and kind in (FailureKind.LOST, FailureKind.SHUTDOWN):
            with self._tracker_lock:
                self._refusals = self._refusals.lost(link.endpoint)
        event = core.Evidence(link.endpoint, kind, link.generation, detail)
        self._monitor.call(self._apply, event)

    def observe(self, endpoint: Endpoint, observation: Observation) -> None:
        """What a new connection said of itself: as good as a probe's answer."""
        self._monitor.call(self._apply, core.Observed(endpoint, observation))

    def promoted(self, event: core.Promoted) -> None:
        """A session says where its server's timeline began."""
        known = dict(self.topology.switches).get(event.timeline)
        if known is None or known.lsn != event.lsn:
            self._monitor.call(self._apply, event)

    def ask_now(self, endpoint: Endpoint) -> None:
        """There is news of an endpoint: probe it at once."""

        def ask() -> None:
            view = self.topology.find(endpoint)
            if view is not None and view.role is Role.REPLICA and not self._closing:
                self._send(endpoint, time.monotonic())

        self._monitor.call(ask)

    def name_errors(self) -> dict[str, str]:
        """Configured names that can't be resolved at present → why."""
        return dict(self._names.errors)

    def listen(self, listener: ClusterListener) -> None:
        """Tell the listener of every new version, on the monitor's thread; held weakly.

        It is told of what is already known at once: a cluster may be shared and settled.
        """
        self._monitor.call(self._introduce, weakref.ref(listener))

    def _introduce(self, reference: weakref.ref[ClusterListener]) -> None:
        listener = reference()
        if listener is not None:
            self._listeners.add(listener)
            if self.topology.version:
                listener.topology_changed(Topology(), self.topology)

    def wake(self, version: int, waker: Callable[[], None]) -> None:
        """Call `waker` once, on the monitor's thread, when the version is not `version`."""

        def register() -> None:
            if self.topology.version != version or self._closing:
                waker()
            else:
                self._wakers.add(waker)

        if not self._monitor.call(register):
            waker()

    def forget(self, waker: Callable[[], None]) -> None:
        self._monitor.call(self._wakers.discard, waker)

    def at(self, when_s: float, link: Link, why: str) -> None:
        """Abort the link at a monotonic time, unless there is something to lose with it by then:
        it has connected, and isn't expendable."""

        def expire() -> None:
            if link.connecting or link.expendable:
                link.abort(why)

        self._monitor.call(self._monitor.loop.call_at, when_s, expire)

    @property
    def losses(self) -> int:
        """How often a writer was lost: what was dialled before doesn't count."""
        return self._pacing.losses

    def may_dial(self, endpoint: Endpoint, burst: int, first: bool) -> float:
        """Seconds until a worker asks again; 0: it dials, and says so with `dialled`."""
        rate_s, now = self.settings.connect_rate, time.monotonic()
        with self._tracker_lock:
            self._pacing, wait_s = self._pacing.ask(endpoint, rate_s, burst, now, first)
        return wait_s

    def dialled(self, endpoint: Endpoint, took_s: float, connected: bool) -> None:
        """A worker's dial is over."""
        now, draw = time.monotonic(), self._rng.random()
        with self._tracker_lock:
            self._pacing = self._pacing.ended(endpoint, took_s, connected, now, draw)

    def may_chance(self, view: EndpointView) -> float:
        """Seconds until somebody dials who said that it doesn't fit; 0: now; see `core.chance`."""
        key, now = core.key_of(view.endpoint), time.monotonic()
        draw, clients = self._rng.random(), self._clients()
        with self._tracker_lock:
            self._chances, wait_s = self._chances.ask(key, view, clients, now, draw)
        return wait_s

    def may_log_in(self, endpoint: Endpoint, secret: Hashable) -> float:
        """Seconds until one asks again; 0: it logs in, and says how that ended with `logged_in`
        or `log_in_refused`; see `core.refusals`."""
        with self._tracker_lock:
            if self.uses_password and endpoint not in self._met:
                self._met.add(endpoint)  # nobody knows yet whether it is the right one
                self._refusals = self._refusals.doubted(endpoint)
            self._refusals, wait_s = self._refusals.ask(endpoint, secret, time.monotonic())
        return wait_s

    def refusing(self, endpoint: Endpoint) -> bool:
        """Were credentials refused there last?"""
        return self._refusals.refusing(endpoint)

    def refuses(self, endpoint: Endpoint, secret: Hashable) -> bool:
        """Has it refused, and isn't it time to ask again?"""
        return self._refusals.refusing(endpoint) and self.may_log_in(endpoint, secret) > 0

    def logged_in(self, endpoint: Endpoint, secret: Hashable, connected: bool) -> None:
        """A login has ended, whatever its credentials were."""
        if self._refusals.known:
            with self._tracker_lock:
                self._refusals = self._refusals.over(endpoint, secret, connected)

    def log_in_refused(self, endpoint: Endpoint, secret: Hashable, words: str) -> None:
        """Its credentials were refused, with these words."""
        now, draw = time.monotonic(), self._rng.random()
        with self._tracker_lock:
            self._refusals = self._refusals.refused(endpoint, secret, now, draw, words)

    def refusal(self, endpoint: Endpoint) -> str:
        """What the server said as it refused credentials last."""
        return self._refusals.words(endpoint)

    def reconnected(self, endpoint: Endpoint) -> None:
        """A usable connection to the writer exists: ends a failover, if one is
        under way."""
        if self._chances.next_s:
            with self._tracker_lock:
                self._chances = self._chances.met(core.key_of(endpoint))
        if self._tracker.current is None:
            return
        with self._tracker_lock:
            now = time.monotonic()
            self._tracker, over = failover.reconnected(self._tracker, endpoint, now)
            if over is not None:
                self.failover_log.over(over)
        self.failover_log.tell()

    def close(self, wait: bool = True) -> None:
        """End probes, names and dedicated connections; give the thread back.

        `wait=False` is for finalisers, which may run on any thread and must not block.
        """
        if self._closing:
            return
        self._closing = True
        if wait:
            self.failover_log.close()
        if not wait or self._monitor.current:
            self._monitor.call(self._end_soon)
            return
        try:
            self._monitor.submit(self._end()).result(thread.JOIN_S)
        except (RuntimeError, TimeoutError) as exc:
            logger.warning("%s", Line(event="monitor.late", reason=repr(exc), **self.labels()))
        thread.release(self._monitor)

    def _end_soon(self) -> None:
        ending = self._monitor.loop.create_task(self._end())
        ending.add_done_callback(lambda _: thread.release(self._monitor))

    # -- the monitor's loop

    def _start(self) -> None:
        self._names.start(self._monitor.loop)
        self._lease.start(self._monitor.loop)
        self._schedule()

    async def _end(self) -> None:
        self._fence.leave()
        if self._timer:
            self._timer.cancel()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._names.close()
        await self._lease.close()
        await self._prober.close()

    def _apply(self, event: core.Event) -> None:
        if self._closing:
            return
        old = self._state.topology
        self._state = core.step(self._state, event, time.monotonic())
        # The others first: nobody publishes before they have cut what they must.
        self._state = self._fence.follow(self._state, self._told)
        new = self._state.topology
        if new is not old:
            self._publish(old, new)
        self._schedule()

    @staticmethod
    def _told(state: core.State, event: core.Fenced) -> core.State:
        return core.step(state, event, time.monotonic())

    def _publish(self, old: Topology, new: Topology) -> None:
        if new.version == old.version:  # only lag moved
            self.topology = new
            return
        self._evict(old, new)
        self.topology = new
        # Whoever was woken by that, and dialled before it saw the new snapshot.
        self._evict(old, new)
        telemetry.log_topology(old, new, self.labels())
        with self._tracker_lock:
            now = time.monotonic()
            self._tracker, steps = failover.follow(self._tracker, old, new, now)
            self._pacing = self._pacing.follow((step.name for step in steps), now)
            if steps:
                self.failover_log.follow(self._tracker.current, steps)
        self.failover_log.tell()
        for listener in list(self._listeners):
            try:
                listener.topology_changed(old, new)
            except Exception:
                logger.exception("%s", Line(event="pool.failed", version=new.version))
        wakers, self._wakers = self._wakers, set()
        for waker in wakers:
            waker()
        self._names.topology_changed(new)
        self._lease.topology_changed(new)
        self._zones_judged = self._zones_judged or zone.judged(self.settings, new)
        keep = frozenset(view.endpoint for view in new.endpoints)
        if any(view.endpoint not in keep for view in old.endpoints):
            self._spawn(self._prober.prune(keep))

    def _spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        self._probe_number += 1
        number = self._probe_number
        task = self._tasks[number] = self._monitor.loop.create_task(coro)
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    def _evict(self, old: Topology, new: Topology) -> None:
        """Rule out what the new snapshot rules out; wake those who must not wait on."""
        until = time.monotonic() + self.settings.deadline_s
        for link in self.links.select(lambda link: not link.evicted or link.pending):
            where, view = link.endpoint, new.find(link.endpoint)
            end = fate(
                *(old, new, where, link.generation),
                connecting=link.connecting or link.expendable or link.follows,
                held=link.phase is Phase.HELD,
                seen=link.observed,
            )
            link.doubtful = view is not None and view.health is not Health.UP
            if end is Fate.KEEP:
                self._dying.pop(where, None)
                continue
            why = (
                view.reason if view else ""
            ) or f"no longer the one to use (version {new.version})"
            if end is Fate.ABORT and new.foreign(where) and link.committing():
                # Alive, and just another cluster's: what was sent before, it answers.
                link.evict(why)
                self._monitor.loop.call_later(COMMITTING_S, self._evict_again)
            elif end is Fate.ABORT:
                link.abort(why)
            else:
                link.evict(why, end)
                self._dying.setdefault(where, until)

    def _evict_again(self) -> None:
        if not self._closing:
            self._evict(self.topology, self.topology)

    def _expire(self, now: float) -> None:
        """Cut the calls on endpoints that died, or left their name, a whole deadline ago."""
        for endpoint, until in list(self._dying.items()):
            if now < until:
                continue
            del self._dying[endpoint]
            for link in self.links.select(lambda link: link.pending):
                if link.endpoint == endpoint:
                    link.abort(f"{DEADLINE}: {link.evicted}, and nothing replaced it in time")

    def _schedule(self) -> None:
        now = time.monotonic()
        if self._timer:
            if self._due_at <= now and not self._closing:
                return  # it fires in this turn of the loop, and shows how late that is
            self._timer.cancel()
        if not self._closing:
            probes, again = schedule.due(self._state, now, self._jitter)
            when = now if probes else again
            if self._dying:
                when = min(when, *self._dying.values())
            self._due_at = when
            self._timer = self._monitor.loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            self._look_after()
        finally:
            self._schedule()  # whatever happens, the next look comes

    def _look_after(self) -> None:
        now = time.monotonic()
        self._expire(now)
        old = self._state.topology
        self._hear_what_came(now)
        self._state = core.step(self._state, core.Tick(now - self._due_at), now)
        probes, _ = schedule.due(self._state, now, self._jitter)
        self._jitter = self._rng.random()
        for endpoint in probes:
            self._send(endpoint, now)
        new = self._state.topology
        if new is not old:
            self._publish(old, new)
