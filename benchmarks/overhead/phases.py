"""What is measured together: one shell, one number of workers, one network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from ..failover.clients import CLIENTS
from ..progress import say
from . import database, web, weight
from .batches import Samples, figures, measure, measure_async
from .cases import CASES, DELAYED, POOL
from .database import AWS_CLIENT, Place
from .delay import delayed

__all__ = ["Phase", "phases", "play"]

#: fresh processes for each thing that is weighed, at least; imports: a part of the others' rounds
LEAST, IMPORTS_OF = 3, 10


@dataclass(frozen=True, slots=True)
class Phase:
    """`cases` alternate with each other; `round_trip_ms` 0: loopback as it is; `placement`: of
    client and server on the processors."""

    cases: tuple[str, ...]
    shell: str = "-"
    workers: int = 1
    round_trip_ms: float = 0.0
    placement: str = "free"

    def __str__(self) -> str:
        names = ", ".join(self.cases)
        if self.shell == "-":
            return names
        workers = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        network = f", {self.round_trip_ms:g} ms round trip" if self.round_trip_ms else ""
        where = f", {self.placement}" if self.placement != "free" else ""
        return f"{self.shell}, {workers}{network}{where}: {names}"


def phases(
    cases: Sequence[str],
    shells: Sequence[str],
    workers: Sequence[int],
    round_trip_ms: float | None,
    placements: Sequence[str] = ("free",),
) -> list[Phase]:
    """In the order in which they are played.  One worker with a database is placed."""
    groups = [tuple(case for case in POOL if case in cases)]
    groups += [(case,) for case in ("http", "dns") if case in cases]
    found = [
        Phase(group, shell, count, placement=placement)
        for shell in shells
        for count in workers
        for group in groups
        if group and (count == 1 or CASES[group[0]].several)
        for placement in (placements if count == 1 and group[0] in POOL else ("free",))
    ]
    slow = tuple(case for case in DELAYED if case in cases)
    if round_trip_ms and slow:
        found += [Phase(slow, shell, n, round_trip_ms) for shell in shells for n in workers]
    return found + [Phase((case,)) for case in ("import", "weight") if case in cases]


def play(phase: Phase, place: Place, rounds: int) -> list[dict[str, Any]]:
    """The phase's rows."""
    at = {"at": time.strftime("%Y-%m-%dT%H:%M:%S"), "versions": _versions()}
    if phase.cases == ("import",):
        some = max(LEAST, rounds // IMPORTS_OF)
        rows = [*weight.firsts(place, some), *weight.imports(some)]
        return [row | at for row in rows]
    if phase.cases == ("weight",):
        return [row | at for row in weight.weights(place, LEAST)]
    network = nullcontext((place, "")) if not phase.round_trip_ms else None
    with network or delayed(place, phase.round_trip_ms) as (reached, how):
        if how:
            say(f"  the network is made by {how}")
        samples = _samples(phase, reached, rounds)
    return [row | at for row in _rows(phase, samples, how)]


def _samples(phase: Phase, place: Place, rounds: int) -> Mapping[tuple[str, str], Samples]:
    counts = {case: CASES[case].count for case in phase.cases}
    web_case = phase.cases[0] if phase.cases[0] not in POOL else None
    tenth = max(1, rounds // 10)

    def progress(number: int) -> None:
        if number % tenth == 0:
            say(f"  round {number} of {rounds}")

    async def by_tasks() -> Mapping[tuple[str, str], Samples]:
        made = (
            web.sides_async(web_case)
            if web_case
            else database.sides_async(place, phase.cases, phase.workers)
        )
        async with made as found:
            return await measure_async(found, counts, phase.workers, rounds, progress)

    if phase.shell == "async":
        return asyncio.run(by_tasks())
    given = web.sides(web_case) if web_case else database.sides(place, phase.cases, phase.workers)
    with given as found:
        return measure(found, counts, phase.workers, rounds, progress)


def _rows(
    phase: Phase, samples: Mapping[tuple[str, str], Samples], how: str
) -> Iterator[dict[str, Any]]:
    for (case, side), taken in samples.items():
        if side in ("bare", "again"):
            continue
        inner = CASES[case].inner
        bare, ours = figures(samples[case, "bare"], inner), figures(taken, inner)
        again = figures(samples[case, "again"], inner)
        yield {
            "key": f"{case}/{side}/{phase.shell}/{phase.workers}/{phase.round_trip_ms:g}"
            f"/{phase.placement}",
            "case": case,
            "side": side,
            "shell": phase.shell,
            "workers": phase.workers,
            "round_trip_ms": phase.round_trip_ms,
            "network": how or "loopback",
            "placement": phase.placement,
            "batches": len(taken.wall),
            "bare": bare,
            "this": ours,
            "added_us": round(ours["us"] - bare["us"], 3),
            "ratio": round(ours["us"] / bare["us"], 3),
            "cpu_ratio": round(ours["cpu_us"] / bare["cpu_us"], 3),
            "noise_ratio": round(again["us"] / bare["us"], 3),
        }


def _versions() -> str:
    names = ["psycopg", "psycopg-pool", "httpx2", "dnspython", "resilient-connect"]
    if not CLIENTS[AWS_CLIENT].missing():
        names.append("aws-advanced-python-wrapper")
    return ", ".join(f"{name} {version(name)}" for name in names)
