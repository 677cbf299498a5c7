"""Whom to probe now, when to look again, and for how long an answer may be kept back.

Who waits for a new primary hears of it a step after it takes writes, instead of at the next
question, when standbys keep their answers back; they are asked no oftener for that, and not
more at a time.
"""

from __future__ import annotations

from .health import doubled, missed, next_probe_at, verdict_at
from .model import Endpoint, Health, Role
from .topology import State

#: an idle connection is kept from its pool for no longer, in seconds
HOLD_MOST_S = 0.05


def due(state: State, now: float, jitter: float) -> tuple[list[Endpoint], float]:
    """(endpoints to probe now, when to look again).  An endpoint may come twice.

    `jitter` is a draw from [0, 1).
    """
    probes: list[Endpoint] = []
    again = now + state.config.interval_s
    for _, item in state.known:
        detector = item.detector
        burst_at = detector.burst_at if detector.burst_at is not None else state.burst_at
        at = next_probe_at(detector, state.config, burst_at, now, jitter)
        if item.view.health is Health.DEAD and state.topology.writer and detector.sent_at:
            # Nobody waits for it any more: its return is news within an interval.
            at = max(at, detector.sent_at + state.config.interval_s)
        if at <= now + 1e-4:
            probes.append(item.view.endpoint)
            if doubled(detector, state.config, now):
                probes.append(item.view.endpoint)
            # What follows is reckoned anew once these are sent.
        else:
            again = min(again, at)
        verdict = verdict_at(detector, state.config)
        if verdict is not None and verdict > now:
            again = min(again, verdict)
        if detector.outstanding and not missed(detector, state.config, now):
            again = min(again, detector.outstanding[0][1] + detector.late_s(state.config))
    return probes, max(again, now + 1e-3)


def hold_s(state: State, endpoint: Endpoint) -> float:
    """Seconds; 0: it answers at once.  A standby that answers quickly, while callers wait for a
    primary; until the next probe of a burst, which is due then anyway."""
    known = state.get(endpoint)
    if known is None or state.burst_at is None or known.view.role is not Role.REPLICA:
        return 0.0
    calm = known.view.health is Health.UP and not known.detector.queued_s
    return min(state.config.burst_interval_s, HOLD_MOST_S) if calm else 0.0
