"""Plays one crash for so many clients, and says what it came to."""

from __future__ import annotations

import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from .client import Client
from .naive import Naive
from .tally import Tally
from .world import Params, World

__all__ = ["CLIENTS", "simulate"]

CLIENTS = (10, 30, 100, 300, 1000, 3000, 10000)
#: quiet time before the crash at 0, and how long we look at most
QUIET_S, LOOK_S = 5.0, 300.0
#: and after everybody is back
AFTER_S = 1.0
KINDS: dict[str, Callable[[World, int, Tally], Client | Naive]] = {"ours": Client, "naive": Naive}


def simulate(params: Params, kind: str = "ours", look_s: float = LOOK_S) -> dict[str, Any]:
    """Times in seconds after the promotion (`_s`), counts, and rates per second."""
    began_at = time.monotonic()
    gc.disable()  # millions of values, none of them in a cycle
    try:
        row = _play(params, kind, look_s)
    finally:
        gc.enable()
    gc.collect()
    return row | {"took_s": round(time.monotonic() - began_at, 1)}


# long: a column a line
def _play(params: Params, kind: str, look_s: float) -> dict[str, Any]:
    world = World(params, -QUIET_S)
    tally = Tally()
    clients = [KINDS[kind](world, number, tally) for number in range(params.clients)]
    world.run(0.0)
    before = Tally(tally.operations, tally.attempts)
    quiet = _rates(world)
    world.at(0.0, world.crash)
    world.at(params.promote_after_s, world.promote)
    if params.ttl_s:
        moved_at = params.promote_after_s + params.dns_after_s
        world.at(moved_at, lambda: setattr(world, "named", world.servers[1]))

    def done() -> bool:
        return all(client.full_at is not None for client in clients)

    world.run(look_s, done)
    world.run(world.now + AFTER_S)
    new = world.servers[1]
    since = params.promote_after_s
    return {
        "kind": kind,
        **asdict(params),
        "ready_median_s": _part([c.ready_at for c in clients], 0.5, since),
        "ready_all_s": _part([c.ready_at for c in clients], 1.0, since),
        "held": len(tally.held),
        "held_median_s": _part(tally.held, 0.5, since),
        "held_longest_s": _part(tally.held, 1.0, since),
        "full_median_s": _part([c.full_at for c in clients], 0.5, since),
        "full_all_s": _part([c.full_at for c in clients], 1.0, since),
        "dials": sum(_since(server.dials) for server in world.servers),
        "dials_new": _since(new.dials),
        "peak_dials_s": _peak(new.dials),
        "peak_accepted_s": _peak(new.accepted),
        "refused_53300": sum(server.full for server in world.servers),
        "amplification": _ratio(tally, before),
        "failed": tally.failed,
        "probes_quiet_s": round(quiet, 1),
        "probes_peak_s": max(_peak(server.probes) for server in world.servers),
        "probes_dead_peak_s": _peak(world.servers[0].dials),
        "sides_peak": max(server.sides_peak for server in world.servers),
        "queries": _since(world.queries),
        "queries_quiet_s": round(_quiet(world.queries) / (QUIET_S - 1), 1),
        "queries_peak_s": _peak(world.queries_lost),
        "queries_own_peak_s": _peak(world.queries_own),
    }


def _rates(world: World) -> float:
    """Probes per second and server in the quiet time, its first second left out."""
    return statistics.mean(_quiet(server.probes) for server in world.servers) / (QUIET_S - 1)


def _quiet(counter: Counter[int]) -> int:
    return sum(count for tenth, count in counter.items() if 10 * (1 - QUIET_S) <= tenth < 0)


def _since(counter: Counter[int]) -> int:
    """Since the crash; counters are by tenths of a second."""
    return sum(count for tenth, count in counter.items() if tenth >= 0)


def _peak(counter: Counter[int]) -> int:
    """Most within any second since the crash."""
    tenths = [tenth for tenth in counter if tenth >= 0]
    return max((sum(counter[t + n] for n in range(10)) for t in tenths), default=0)


def _part(moments: Sequence[float | None], share: float, since: float) -> float | None:
    """When so many had it; None: never."""
    known = sorted(at for at in moments if at is not None)
    needed = max(1, round(len(moments) * share))
    return round(known[needed - 1] - since, 4) if len(known) >= needed else None


def _ratio(after: Tally, before: Tally) -> float:
    operations = after.operations - before.operations
    return round((after.attempts - before.attempts) / operations, 4) if operations else 1.0
