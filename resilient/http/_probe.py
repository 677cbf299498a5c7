"""Active health checks: `GET <HTTP_HEALTH_PATH>` on every endpoint, on the monitor's loop.

When to ask and when silence means death is `resilient.core.health`, the same as for
databases; what the answers do to the endpoint is `resilient.core.upstream`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from ..core.health import (
    Detector,
    ProbeConfig,
    agenda,
    silent_to_death,
)
from ..core.upstream_events import Lost, Probed, Trouble
from ..settings import Settings
from ._attempt import draw
from ._origin import Origin
from ._slot import Slot

clock = time.monotonic


class ProbeRefused(Exception):
    """The endpoint took no connection."""


class ProbeClient(Protocol):
    """What a prober dials with; made by an engine for one endpoint."""

    async def get(self, path: str) -> int:
        """The status of a GET; `ProbeRefused`, or any other exception: lost."""
        ...

    async def aclose(self) -> None: ...


ProbeFactory = Callable[[Slot, Origin], ProbeClient]


class Prober:
    """The probes of one origin."""

    def __init__(self, origin: Origin, settings: Settings) -> None:
        self._origin = origin
        self._path = settings.http_health_path
        self._config = ProbeConfig(
            settings.probe_interval_s,
            settings.probe_timeout_s,
            settings.failure_threshold,
            settings.success_threshold,
            settings.probe_burst_interval_s,
        )
        self._tasks: dict[Slot, asyncio.Task[None]] = {}
        #: cancelled, but perhaps not through with closing their connections
        self._ending: set[asyncio.Task[None]] = set()

    def follow(self) -> None:
        """Probe the endpoints that aren't retired, and those that still owe an answer."""
        if self._path is None or self._origin.probe_context is None:
            return
        wanted = set(self._origin.slots())
        for slot in [slot for slot in self._tasks if slot not in wanted and not slot.flying]:
            self._end(self._tasks.pop(slot))
        for slot in wanted - set(self._tasks):
            watch = EndpointProbe(self._origin, slot, self._path, self._config)
            self._tasks[slot] = asyncio.get_running_loop().create_task(watch.run())

    def _end(self, task: asyncio.Task[None]) -> None:
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        task.cancel()

    async def close(self) -> None:
        for task in self._tasks.values():
            self._end(task)
        self._tasks.clear()
        # not gather: it would pass a second cancellation on to those that are closing
        if self._ending:
            await asyncio.wait(self._ending)


class EndpointProbe:
    """The probes of one endpoint."""

    def __init__(self, origin: Origin, slot: Slot, path: str, config: ProbeConfig) -> None:
        self._origin, self._slot, self._path, self._config = origin, slot, path, config
        self._detector = Detector(known=True)  # one more connection costs a web server little
        self._news = asyncio.Event()
        self._flights: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        client: ProbeClient = self._origin.probe_context(self._slot, self._origin)
        ids = itertools.count()
        try:
            while True:
                now = clock()
                if silent_to_death(self._detector, self._config, now):
                    self._detector = self._detector.suspected(now)
                    detail = f"no answer for {self._config.window_s:g} s"
                    self._lost(Trouble.SILENT, detail, self._detector.heard_at)
                probes, again = self._agenda(now)
                for probe in itertools.islice(ids, probes):
                    self._detector = self._detector.sent(probe, now)
                    self._launch(self._ask(client, probe))
                if not probes:
                    await self._pause(again)
        finally:
            try:
                for task in self._flights:
                    task.cancel()
                if self._flights:
                    await asyncio.wait(self._flights)
            finally:
                await client.aclose()

    def _agenda(self, now: float) -> tuple[int, float]:
        detector = self._detector
        return agenda(detector, self._config, detector.burst_at, now, draw())

    async def _pause(self, until_s: float) -> None:
        with suppress(TimeoutError):
            # not wait_for: Python 3.11's loses a cancellation that comes with the news
            async with asyncio.timeout(max(0.001, until_s - clock())):
                await self._news.wait()
        self._news.clear()

    def _launch(self, ask: Awaitable[None]) -> None:
        task = asyncio.ensure_future(ask)
        self._flights.add(task)
        task.add_done_callback(self._flights.discard)

    async def _ask(self, client: ProbeClient, probe: int) -> None:
        # Not cut at its timeout: a late answer means slow.  Bounded, so that the endpoint
        # is never owed more than a few answers.
        try:
            async with asyncio.timeout(4 * self._config.window_s):
                status = await client.get(self._path)
        except TimeoutError:
            self._detector = self._detector.failed(probe)
        except ProbeRefused as exc:
            self._bad(probe)
            self._lost(Trouble.REFUSED, f"health check: {exc}")
        except Exception as exc:
            self._bad(probe)
            self._origin.apply(Probed(self._slot.endpoint, False, f"health check: {exc}"), clock())
        else:
            self._slot.checked_at = clock()
            self._detector = self._detector.heard(probe, self._slot.checked_at)
            healthy = status < 400
            detail = "" if healthy else f"health check: HTTP {status}"
            if not healthy:
                self._detector = self._detector.suspected(clock())
            self._origin.apply(Probed(self._slot.endpoint, healthy, detail), clock())
        self._news.set()

    def _bad(self, probe: int) -> None:
        self._detector = self._detector.failed(probe).suspected(clock())

    def _lost(self, trouble: Trouble, detail: str, since_s: float | None = None) -> None:
        self._origin.apply(Lost(self._slot.endpoint, trouble, detail, since_s), clock())
