"""Whom to probe now, when to look again, and for how long an answer may be kept back.

Who waits for a new primary hears of it a step after it takes writes, instead of at the next
question, when standbys keep their answers back; they are asked no oftener for that, and not
more at a time.
"""

from __future__ import annotations

from .health import agenda, silent_to_death
from .model import Endpoint, Health, Role
from .topology import State

#: an idle connection is kept from its pool for no longer, in seconds
HOLD_MOST_S = 0.05
#: a standby that keeps answers back looks at itself a hundred times a second for each of its
#: clients, 30 µs of its processor's time: where it has more of them, it keeps none
WATCHERS_MOST = 40


def due(state: State, now: float, jitter: float) -> tuple[list[Endpoint], float]:
    """(endpoints to probe now, when to look again).  An endpoint may come twice.

    `jitter` is a draw from [0, 1).
    """
    probes: list[Endpoint] = []
    again = now + state.config.interval_s
    if state.until_s is not None:
        again = min(again, state.until_s)
    for _, item in state.known:
        detector = item.detector
        burst_at = detector.burst_at if detector.burst_at is not None else state.burst_at
        # Nobody waits for a dead one while there is a writer: its return is news soon enough.
        spare = item.view.health is Health.DEAD and state.topology.writer is not None
        least_s = state.config.interval_s if spare else 0.0
        if item.view.pooled and detector.outstanding:
            # It waits in a queue, and so would the next.
            least_s = max(least_s, state.config.interval_s / 2)
        count, at = agenda(
            *(detector, state.config, burst_at, now, jitter),
            least_s=least_s,
            clients=item.clients,
        )
        probes += [item.view.endpoint] * count
        again = min(again, at)
    return probes, max(again, now + 1e-3)


def silent(state: State, now: float) -> list[Endpoint]:
    """Who would be declared dead for their silence now."""
    return [
        known.view.endpoint
        for _, known in state.known
        if known.view.health is not Health.DEAD
        and silent_to_death(known.detector, state.config, now)
    ]


def hold_s(state: State, endpoint: Endpoint) -> float:
    """Seconds; 0: it answers at once.  A standby that answers quickly, while callers wait for a
    primary; until the next probe of a burst, which is due then anyway."""
    known = state.get(endpoint)
    if known is None or state.burst_at is None or known.view.role is not Role.REPLICA:
        return 0.0
    calm = known.view.health is Health.UP and not known.detector.queued_s
    calm = calm and known.clients <= WATCHERS_MOST
    return min(state.config.burst_interval_s, HOLD_MOST_S) if calm else 0.0
