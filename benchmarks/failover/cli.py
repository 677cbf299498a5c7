"""`python -m benchmarks.failover`: plays the plan, shows where it is, and what came out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

from resilient.lab.namespace import inside, reexec_inside

from ..progress import Clock, say
from ..rows import Rows, machine
from .clients import CLIENTS
from .plan import ENDPOINTS, FAULTS, QUICK, Case, Choice, plan, zones
from .report import report

__all__ = ["main"]

OUT = Path("build/benchmarks")
QUICKLY = "one round of crash, hang, switchover; several hosts; promotion after 1 s"


def main(argv: Sequence[str]) -> int:
    """0: all was played; 1: interrupted, or some runs came to no end."""
    options = _options(argv)
    if options.report:
        return report(options.out, options.json)
    reexec_inside([sys.executable, "-m", "benchmarks.failover", *argv])
    rows = Rows(options.out / "failover.jsonl")
    cases, why = _possible(plan(_choice(options)))
    for text in why:
        say(text)
    if options.again:
        rows.without(case.key for case in cases)
    done = rows.done()
    left = [case for case in cases if case.key not in done]
    say(f"{len(cases)} runs, {len(cases) - len(left)} of them there already; rows: {rows.path}")
    if options.list:
        print(*(case.key for case in left), sep="\n")
        return 0
    try:
        _play(left, rows, options)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 1
    finally:
        report(options.out, options.json)
    return 0 if {case.key for case in cases} <= rows.done() else 1


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    several: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--client", **several, choices=list(CLIENTS), metavar="NAME")
    parser.add_argument("--way", **several, choices=["plain", "retry", "run"])
    parser.add_argument("--fault", **several, choices=list(FAULTS))
    parser.add_argument("--endpoint", **several, choices=list(ENDPOINTS))
    parser.add_argument("--promote-after", **several, type=float, metavar="S")
    parser.add_argument("--runs", type=int, help="rounds of ours")
    parser.add_argument("--peer-runs", type=int, help="rounds of the others")
    parser.add_argument("--give-up", type=float, metavar="S", help="never: after this (30)")
    parser.add_argument("--quick", action="store_true", help=QUICKLY)
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the results ({OUT})")
    parser.add_argument("--again", action="store_true", help="make runs again that are there")
    parser.add_argument("--list", action="store_true", help="only say what would be run")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    parser.add_argument("--json", action="store_true", help="the summary as JSON on stdout")
    return parser.parse_args(argv)


def _choice(options: argparse.Namespace) -> Choice:
    quick = options.quick
    if options.give_up is None:
        options.give_up = 8.0 if quick else 30.0
    return Choice(
        clients=tuple(options.client),
        ways=tuple(options.way),
        faults=tuple(options.fault) or (QUICK if quick else ()),
        endpoints=tuple(options.endpoint) or (("multi",) if quick else ()),
        promote_after_s=tuple(options.promote_after) or ((1.0,) if quick else ()),
        runs=options.runs or (1 if quick else None),
        peer_runs=options.peer_runs or (1 if quick else None),
    )


def _possible(cases: Sequence[Case]) -> tuple[list[Case], list[str]]:
    """Those that can be played here, and what is left out and why."""
    absent = {name: what for name, entry in CLIENTS.items() if (what := entry.missing())}
    why = [
        f"{name} is left out: {what} isn't installed (pip install -e '.[bench]')"
        for name, what in absent.items()
        if any(case.client == name for case in cases)
    ]
    kept = [case for case in cases if case.client not in absent]
    if not inside():
        why.append("no namespace of our own: blackhole and one CNAME are left out")
        kept = [c for c in kept if c.fault != "blackhole" and c.endpoint == "multi"]
    return kept, why


def _play(cases: Sequence[Case], rows: Rows, options: argparse.Namespace) -> None:
    from resilient.lab import Lab, LabOptions

    from .runner import Runner
    from .serverlog import ServerLogs

    clock = Clock(len(cases))
    for count, group in groupby(cases, key=lambda case: zones(case.fault)):
        with ExitStack() as stack:
            lab = stack.enter_context(Lab(LabOptions(zones=count, http=False)))
            if inside():
                lab.use_system_resolver()
            logs = stack.enter_context(ServerLogs(lab).switched_on())
            histories = rows.path.parent / "histories"
            runner = Runner(lab, logs, give_up_s=options.give_up, histories=histories)
            server = str(lab.admin(None, "SHOW server_version")[0][0])
            for case in group:
                row = runner.play(case) | {"postgresql": server, "machine": machine()}
                rows.add(row)
                say(f"{clock.tick()} {_line(case, row)}")


def _line(case: Case, row: dict[str, Any]) -> str:
    known = "several hosts" if case.endpoint == "multi" else "one CNAME"
    name = f"{case.fault} +{case.promote_after_s:g} s, {known}: {case.client} {case.way}"
    return f"{name}: {', '.join(_told(row))}"


def _told(row: dict[str, Any]) -> Iterator[str]:
    if row["trouble"]:
        yield row["trouble"]
    if "acked" not in row:
        return
    outage, after = row["outage_s"], row["after_writable_s"]
    yield f"outage {outage:.2f} s" if outage is not None else "never recovered"
    if after is not None:
        yield f"{after * 1000:+.0f} ms after writable"
    for name in ("errors", "stuck", "unknown", "lost", "duplicated", "ghosts", "torn", "forked"):
        if row[name]:
            yield f"{row[name]} {name}"
