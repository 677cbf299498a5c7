"""A cluster's probes: sent, heard, and what others hear of the same servers meanwhile.

Mixed into `cluster.Cluster`; everything here runs on the monitor's loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import weakref

from .. import telemetry
from .._logs import Line
from ..core import schedule
from ..core import topology as core
from ..core.health import MAX_OUTSTANDING
from ..core.model import Endpoint, FailureKind, Health, Topology
from ..core.pace import Pacing
from .prober import ClusterListener, ProbeError, Prober
from .sockets import LinkRegistry
from .thread import MonitorThread

logger = logging.getLogger("resilient.monitor")

#: a pool's dial to a new endpoint begins sooner than the monitor's by this much, in seconds
HEAD_START_S = 0.01


class Asking:
    """What `Cluster` does to know its endpoints."""

    links: LinkRegistry
    topology: Topology
    _prober: Prober
    _pacing: Pacing
    _listeners: weakref.WeakSet[ClusterListener]
    _state: core.State
    _monitor: MonitorThread
    _tasks: dict[int, asyncio.Task[None]]
    _by_endpoint: dict[Endpoint, list[int]]
    _probe_number: int
    _database: str

    def _apply(self, event: core.Event) -> None:
        raise NotImplementedError

    def _send(self, endpoint: Endpoint, now: float) -> None:
        self._probe_number += 1
        number = self._probe_number
        self._state = core.step(self._state, core.ProbeSent(endpoint, number), now)
        under_way = self._by_endpoint.setdefault(endpoint, [])
        while len(under_way) >= MAX_OUTSTANDING:
            if oldest := self._tasks.get(under_way.pop(0)):
                oldest.cancel()
        alone = not under_way
        under_way.append(number)
        coro = self._probe(endpoint, number, alone, schedule.hold_s(self._state, endpoint))
        self._tasks[number] = self._monitor.loop.create_task(coro)

    def _took(self, endpoint: Endpoint, began_s: float, error: str = "") -> None:
        """A probe's answer, or its failure, came after so long."""
        said = {**telemetry.POSTGRESQL, "server.address": endpoint.configured}
        if self._database:
            said[telemetry.names.DATABASE] = self._database
        if error:
            said["error.type"] = error
        seconds = time.monotonic() - began_s
        telemetry.instruments.record(telemetry.names.PROBES, seconds, said)

    async def _probe(self, endpoint: Endpoint, number: int, alone: bool, keep_s: float) -> None:
        event: core.Event
        began_s = time.monotonic()
        try:
            if await self._told_by_a_pool(endpoint):
                return
            answer = await self._prober.ask_in_band(endpoint, list(self._listeners), alone, keep_s)
            if answer is None:
                if await self._told_meanwhile(endpoint, number):
                    return
                if not alone and (at_s := self._serves(endpoint, number)):
                    event = core.Received(endpoint, at_s, number)
                else:
                    seen = await self._prober.probe(endpoint)
                    event = core.Observed(endpoint, seen, number)
                    self._took(endpoint, began_s)
            else:
                event = core.Observed(endpoint, answer.seen, number, answer.held_s)
                self._took(endpoint, began_s + answer.held_s)
        except ProbeError as exc:
            self._took(endpoint, began_s, exc.kind.value)
            event = core.ProbeFailed(endpoint, number, exc.kind, str(exc))
            if exc.kind is FailureKind.REJECTED:
                for listener in list(self._listeners):
                    listener.rejected()
        except Exception as exc:
            logger.exception("%s", Line(event="probe.failed", endpoint=endpoint.place))
            event = core.ProbeFailed(endpoint, number, FailureKind.LOCAL, repr(exc))
        finally:
            self._tasks.pop(number, None)
            if number in (under_way := self._by_endpoint.get(endpoint, [])):
                under_way.remove(number)
        self._apply(event)

    async def _told_by_a_pool(self, endpoint: Endpoint) -> bool:
        """A pool's own dial tells what a server is: after a loss, one that was never heard of
        is not asked over one more connection meanwhile.  True: it has been heard now."""
        pause_s = HEAD_START_S
        while self._pacing.losses and self.topology.writer is None and self._unheard(endpoint):
            await asyncio.sleep(pause_s)
            pause_s *= 1.5
            if not self._dialling(endpoint):
                break
        return pause_s > HEAD_START_S and not self._unheard(endpoint)

    def _unheard(self, endpoint: Endpoint) -> bool:
        return (view := self.topology.find(endpoint)) is not None and view.health is Health.UNKNOWN

    async def _told_meanwhile(self, endpoint: Endpoint, probe: int) -> bool:
        """The same of one that was heard before, until this probe is a miss: where sessions are
        dear just now, as many more of them would keep it so."""
        give_up_at, pause_s = time.monotonic() + self._state.config.miss_s, HEAD_START_S
        while self._dialling(endpoint) and time.monotonic() < give_up_at:
            await asyncio.sleep(pause_s)
            pause_s *= 1.5
            known = self._state.get(endpoint)
            if not (known and known.detector.awaits(probe)):
                return True
        return False

    def _dialling(self, endpoint: Endpoint) -> bool:
        return bool(self.links.select(lambda link: link.connecting and link.endpoint == endpoint))

    def _reached(self, endpoint: Endpoint) -> None:
        """A pooler has made a session ready: its servers may be busy, it isn't dead."""
        self._apply(core.Received(endpoint, time.monotonic()))

    def _hear_what_came(self, now: float) -> None:
        """Who would be dead of silence, and has sent something on a connection since it was
        asked, is alive: a probe may wait in a queue of new connections."""
        for endpoint in schedule.silent(self._state, now):
            event = core.Received(endpoint, self._received_at(endpoint, now))
            self._state = core.step(self._state, event, now)

    def _serves(self, endpoint: Endpoint, probe: int) -> float | None:
        """When it has sent something, if that contradicts its silence to another probe: one more
        session, to send this one, would come behind that."""
        known = self._state.get(endpoint)
        at_s = self._received_at(endpoint, time.monotonic())
        news = known is not None and known.detector.spared(probe).contradicts(at_s)
        return at_s if news else None

    def _received_at(self, endpoint: Endpoint, now: float) -> float:
        """When a pool's connection had data from it; minus infinity: nobody knows."""
        links = self.links.select(lambda link: link.endpoint == endpoint and not link.connecting)
        return now - min((link.received_ago_s() for link in links), default=math.inf)
