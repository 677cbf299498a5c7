"""Health checks of an upstream that hangs: the verdict comes within the window, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from resilient.core.health import GRACE_S, MIN_PROBES, ProbeConfig
from resilient.core.model import Endpoint
from resilient.core.upstream_events import Lost
from resilient.http import _probe
from resilient.http._slot import Route, Slot


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only while there is nothing to do, and then at once."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        scheduled: Any = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            scheduled.pop(0)
            scheduled.sort()
        if not ready and scheduled:
            self.now = max(self.now, scheduled[0]._when)
        super()._run_once()  # type: ignore[misc]


class Found(Exception):
    """The verdict has fallen."""


class Upstream:
    """Answers health checks in no time, until `hangs_at_s`; also the origin that is told."""

    def __init__(self, clock: Callable[[], float], hangs_at_s: float) -> None:
        self.clock, self.hangs_at_s = clock, hangs_at_s
        self.answered_at_s, self.silent_at_s = 0.0, 0.0
        self.asked: list[float] = []

    def probe_context(self, slot: Slot, origin: Any) -> Upstream:
        return self

    async def get(self, path: str) -> int:
        self.asked.append(self.clock())
        if self.clock() >= self.hangs_at_s:
            await asyncio.Event().wait()
        self.answered_at_s = self.clock()
        return 200

    async def aclose(self) -> None: ...

    def apply(self, event: object, now: float) -> None:
        if isinstance(event, Lost):
            self.silent_at_s = now
            raise Found


@pytest.mark.parametrize("hangs_at_s", [3.0, 3.2, 3.5, 3.7, 3.9])
def test_a_hang_is_found_when_the_window_is_over(
    monkeypatch: pytest.MonkeyPatch, hangs_at_s: float
) -> None:
    config = ProbeConfig()
    slot = Slot(Endpoint("svc.test", "192.0.2.1", 80), Route("http", "svc.test", 80))
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        clock = runner.get_loop().time
        monkeypatch.setattr(_probe, "clock", clock)
        upstream = Upstream(clock, hangs_at_s)
        watch = _probe.EndpointProbe(upstream, slot, "/health", config)  # type: ignore[arg-type]
        with pytest.raises(Found):
            runner.run(watch.run())
    silence_s = upstream.silent_at_s - upstream.answered_at_s
    # The last of six questions had a fair time to be answered.
    assert config.window_s - 1e-6 < silence_s < config.window_s + GRACE_S + 0.002
    assert sum(at > upstream.answered_at_s for at in upstream.asked) >= MIN_PROBES
