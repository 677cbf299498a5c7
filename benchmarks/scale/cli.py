"""`python -m benchmarks.scale`: the simulation, the real crowd, the soak, or all three."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..progress import say
from ..rows import Row, Rows, machine
from .report import KINDS, report
from .sim import CLIENTS, simulate
from .world import Params

__all__ = ["costs_of", "main"]

OUT = Path("build/benchmarks")
ACCEPTS = "connections that a simulated server accepts per second (500)"
PARTS = ("sim", "real", "soak")
CROWDS = (10, 50, 100, 200)
#: of whom the cost of a probe is taken, because they don't fill the machine
CALIBRATION = 10


def main(argv: Sequence[str]) -> int:
    """0: done; 1: it broke something; 2: it can't be run here."""
    options = _options(argv)
    if options.parts == ["report"]:
        print(report(options.out))
        return 0
    parts = options.parts or list(PARTS)
    if set(parts) & {"real", "soak"}:
        from resilient.lab.namespace import reexec_inside

        reexec_inside([sys.executable, "-m", "benchmarks.scale", *argv])
    ok = True
    try:
        for part in parts:
            ok &= {"sim": _sim, "real": _real, "soak": _soak}[part](options)
    except KeyboardInterrupt:
        say("interrupted; what there is is kept")
        ok = False
    print(report(options.out))
    return 0 if ok else 1


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "report"], metavar="PART",
                        help="sim, real, soak, report (all three)")  # fmt: skip
    parser.add_argument("--clients", type=int, action="append", help="how many (repeatable)")
    parser.add_argument("--accept-rate", type=float, default=500.0, metavar="N", help=ACCEPTS)
    parser.add_argument("--minutes", type=float, help="of the soak (60)")
    parser.add_argument("--quick", action="store_true", help="1000 simulated, 50 real, 2 minutes")
    parser.add_argument("--again", action="store_true", help="make runs again that are there")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the results ({OUT})")
    return parser.parse_args(argv)


def _sim(options: argparse.Namespace) -> bool:
    rows = Rows(options.out / "scale-sim.jsonl")
    most = 1000 if options.quick else max(CLIENTS)
    counts = options.clients or [count for count in CLIENTS if count <= most]
    done = set() if options.again else rows.done()
    for count in counts:
        for name, (kind, ttl_s, each) in KINDS.items():
            caches = -(-count // each) if each else 0
            params = Params(count, ttl_s=ttl_s, caches=caches, accept_rate_s=options.accept_rate)
            key = f"{kind}/{ttl_s:g}/{caches}/{count}/{options.accept_rate:g}"
            if key not in done:
                row = simulate(params, kind) | {"key": key}
                rows.add(row)
                say(f"{count} clients, {name}: {_told(row)} (took {row['took_s']} s)")
    return True


def _told(row: Row) -> str:
    told = f"longest wait {row['held_longest_s']} s, all connections {row['full_all_s']} s"
    return f"{told}, amplification {row['amplification']}"


def _real(options: argparse.Namespace) -> bool:
    from .real import measure

    rows, simulated = Rows(options.out / "scale-real.jsonl"), Rows(options.out / "scale-sim.jsonl")
    counts = tuple(options.clients or (CROWDS[:2] if options.quick else CROWDS))
    wrong = 0
    costs: dict[str, float] = {}
    for row in measure(counts):
        rows.add(row | {"key": f"real/{row['clients']}", "machine": machine()})
        wrong += row["lost"] + row["duplicated"] + row["refused_53300"]
        if row["clients"] <= CALIBRATION:
            costs = costs_of(row)
        say(f"{row['clients']} processes: longest wait {row['held_longest_s']} s, all connections "
            f"{row['full_all_s']} s, peak {row['peak_accepted_s']}/s, "
            f"{row['refused_53300']} refused")  # fmt: skip
        for name, found in _likenesses(row, costs).items():
            like = simulate(replace(_like(row), **found))
            simulated.add(like | {"key": f"like-real/{row['clients']}/{name}", "costs": name})
    return wrong == 0


def _likenesses(row: Row, costs: dict[str, float]) -> dict[str, dict[str, float]]:
    """Costs to simulate the same with: those of the small crowd, and the same but for what a
    session cost in this one."""
    own = _session_cost(row) if row["clients"] > CALIBRATION else {}
    found = {f"as in {CALIBRATION}": costs, "as in this crowd": costs | own if own else {}}
    return {name: each for name, each in found.items() if costs and each}


def _like(row: Row) -> Params:
    """The same on a simulated machine that all share."""
    return Params(
        row["clients"],
        size=row["size"],
        accept_rate_s=1e6,  # what limits it is the machine
        ops_rate_s=row["ops_rate_s"],
        promote_after_s=row["promote_after_s"],
        cores=os.cpu_count() or 1,
    )


def costs_of(row: Row) -> dict[str, Any]:
    """Processor time of one probe, operation and connection, both ends: what the machine did,
    over what was asked of it."""
    asked: dict[str, Any] = simulate(replace(_like(row), cores=0))
    count = row["clients"]
    burst_s = 2 * asked["probes_peak_s"] + asked["probes_dead_peak_s"]
    probe_s = max(0.0, row["busy_cores"] - row["busy_cores_quiet"]) / burst_s
    quiet_s = row["busy_cores_quiet"] - 3 * asked["probes_quiet_s"] * probe_s
    return {
        "probe_cost_s": probe_s,
        "op_cost_s": max(0.0, quiet_s) / (count * row["ops_rate_s"]),
        **_session_cost(row),
    }


def _session_cost(row: Row) -> dict[str, float]:
    """Of one session that was made after the promotion; what was not watched has none."""
    known = row["refill_s"] > 0 and row["opened_after"]
    return {"dial_cost_s": row["refill_s"] / row["opened_after"]} if known else {}


def _soak(options: argparse.Namespace) -> bool:
    from .soak import flat, soak

    rows = Rows(options.out / "scale-soak.jsonl")
    rows.without(row["key"] for row in rows.read())
    minutes = options.minutes or (2.0 if options.quick else 60.0)
    kept = []
    for row in soak(minutes):
        kept.append(row)
        rows.add(row)
        say(f"minute {row['minute']:g}: {row['rss_mb']} MB, {row['threads']} threads, "
            f"{row['sockets']} sockets, {row['files']} files, {row['errors']} errors")  # fmt: skip
    why = flat(kept)
    for text in why:
        say(text)
    return not why
