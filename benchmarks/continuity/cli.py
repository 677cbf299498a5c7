"""`python -m benchmarks.continuity`: forced failovers under writers that never pause."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resilient.lab.namespace import inside, reexec_inside

from ..failover.clients import CLIENTS
from ..progress import Clock, say
from ..rows import Rows, machine
from .plan import ROUNDS_OF, USUAL, Round, plan
from .report import report

__all__ = ["main"]

OUT = Path("build/benchmarks")


def main(argv: Sequence[str]) -> int:
    """0: all was played; 1: interrupted, or some rounds came to no end."""
    options = _options(argv)
    if options.report:
        return report(options.out, options.json)
    reexec_inside([sys.executable, "-m", "benchmarks.continuity", *argv])
    rows = Rows(options.out / "continuity.jsonl")
    rounds = plan(options.failovers, options.client, not options.async_replication)
    absent = {name: what for name, entry in CLIENTS.items() if (what := entry.missing())}
    for name in dict.fromkeys(case.client for case in rounds if case.client in absent):
        say(f"{name} is left out: {absent[name]} isn't installed (pip install -e '.[bench]')")
    rounds = [case for case in rounds if case.client not in absent]
    if options.again:
        rows.without(case.key for case in rounds)
    done = rows.done()
    left = [case for case in rounds if case.key not in done]
    there = len(rounds) - len(left)
    say(f"{len(rounds)} rounds of up to {ROUNDS_OF} failovers, {there} there already; {rows.path}")
    try:
        _play(left, rows, options)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 1
    finally:
        report(options.out, options.json)
    return 0 if {case.key for case in rounds} <= rows.done() else 1


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.continuity", description=__doc__)
    parser.add_argument(
        "--failovers", type=int, default=20, metavar="N", help="of every client (20)"
    )
    parser.add_argument(
        "--client",
        action="append",
        default=[],
        choices=list(CLIENTS),
        metavar="NAME",
        help=f"any of benchmarks.failover's; several are possible ({', '.join(USUAL)})",
    )
    parser.add_argument(
        "--async-replication",
        action="store_true",
        help="the servers acknowledge before a standby has it: losses are counted",
    )
    parser.add_argument(
        "--give-up", type=float, default=10.0, metavar="S", help="a client is stalled: after (10)"
    )
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the results ({OUT})")
    parser.add_argument("--again", action="store_true", help="make rounds again that are there")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    parser.add_argument("--json", action="store_true", help="the summary as JSON on stdout")
    return parser.parse_args(argv)


def _play(rounds: Sequence[Round], rows: Rows, options: argparse.Namespace) -> None:
    from resilient.lab import Lab, LabOptions

    from .runner import LoopRunner

    if not rounds:
        return
    clock = Clock(len(rounds))
    with Lab(LabOptions(sync=not options.async_replication, http=False)) as lab:
        if inside():
            lab.use_system_resolver()
        server = str(lab.admin(None, "SHOW server_version")[0][0])
        for case in rounds:
            runner = LoopRunner(
                lab, case.client, give_up_s=options.give_up, histories=options.out / "histories"
            )
            row = runner.play_round(case) | {"postgresql": server, "machine": machine()}
            rows.add(row)
            say(f"{clock.tick()} {_line(case, row)}")


def _line(case: Round, row: dict[str, Any]) -> str:
    name = f"{case.client} ({case.way}), {len(case.faults)} failovers, {case.replication}"
    told = [row["trouble"]] if row["trouble"] else []
    for column in ("acked", "told", "unknown", "stuck", "stalled", "lost", "duplicated", "ghosts"):
        if row[column]:
            told.append(f"{row[column]} {column}")
    return f"{name}: {', '.join(told)}"
