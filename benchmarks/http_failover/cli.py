"""`python -m benchmarks.http_failover`: plays the plan and shows what came out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from resilient.lab.namespace import inside, reexec_inside

from ..progress import Clock, say
from ..rows import Rows, machine
from .clients import CLIENTS
from .plan import FAULTS, QUICK, Case, plan
from .report import report

__all__ = ["main"]

OUT = Path("build/benchmarks")


def main(argv: Sequence[str]) -> int:
    """0: all was played; 1: it wasn't; 2: it can't be here."""
    options = _options(argv)
    if options.report:
        return report(options.out, options.json)
    reexec_inside([sys.executable, "-m", "benchmarks.http_failover", *argv])
    if not inside():
        say("needs a network namespace of its own, for port 53 and /etc/resolv.conf")
        return 2
    rows = Rows(options.out / "http.jsonl")
    cases = _possible(options)
    if options.again:
        rows.without(case.key for case in cases)
    left = [case for case in cases if case.key not in rows.done()]
    say(f"{len(cases)} runs, {len(cases) - len(left)} of them there already; rows: {rows.path}")
    if options.list:
        print(*(case.key for case in left), sep="\n")
        return 0
    try:
        _play(left, rows, options.give_up)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 1
    finally:
        report(options.out, options.json)
    return 0 if {case.key for case in cases} <= rows.done() else 1


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http_failover", description=__doc__)
    several: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--client", **several, choices=list(CLIENTS), metavar="NAME")
    parser.add_argument("--way", **several, choices=["plain", "retry"])
    parser.add_argument("--fault", **several, choices=list(FAULTS))
    parser.add_argument("--runs", type=int, help="runs of ours for each fault (10)")
    parser.add_argument("--peer-runs", type=int, help="runs of the others (3)")
    parser.add_argument("--give-up", type=float, metavar="S", default=12.0, help="never (12)")
    parser.add_argument("--quick", action="store_true", help="killed, hung, reset, once")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the results ({OUT})")
    parser.add_argument("--again", action="store_true", help="make runs again that are there")
    parser.add_argument("--list", action="store_true", help="only say what would be run")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    parser.add_argument("--json", action="store_true", help="the summary as JSON on stdout")
    return parser.parse_args(argv)


def _possible(options: argparse.Namespace) -> list[Case]:
    absent = {name: what for name, entry in CLIENTS.items() if (what := entry.missing())}
    for name, what in absent.items():
        say(f"{name} is left out: {what} isn't installed (pip install -e '.[bench]')")
    runs = options.runs or (1 if options.quick else 10)
    peer_runs = options.peer_runs or (1 if options.quick else 3)
    faults = tuple(options.fault) or (QUICK if options.quick else ())
    cases = plan(tuple(options.client), tuple(options.way), faults, runs, peer_runs)
    return [case for case in cases if case.client not in absent]


def _play(cases: Sequence[Case], rows: Rows, give_up_s: float) -> None:
    from .runner import play
    from .world import World

    clock = Clock(len(cases))
    with World() as world:
        for case in cases:
            row = play(world, case, give_up_s) | {"machine": machine()}
            rows.add(row)
            say(f"{clock.tick()} {case.fault}: {case.client} {case.way}: {', '.join(_told(row))}")


def _told(row: dict[str, Any]) -> Iterator[str]:
    if row["trouble"]:
        yield row["trouble"]
    if "stall_s" not in row:
        return
    yield f"{'never back, ' if row['never'] else ''}stall {row['stall_s']:.2f} s"
    for name in ("errors", "stuck", "lost", "duplicated", "ghosts"):
        if row[name]:
            yield f"{row[name]} {name}"
