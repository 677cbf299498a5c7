"""`python -m benchmarks.overhead`: what the library costs while nothing fails."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from resilient.lab.namespace import inside, reexec_inside

from ..failover.clients import CLIENTS
from ..progress import say
from ..rows import Rows, machine
from .cases import CASES
from .placement import placed, possible
from .report import report

__all__ = ["main"]

OUT = Path("build/benchmarks")
OTHERS = ("import", "weight")
ROUNDS, QUICK_ROUNDS = 150, 8
#: of threads, or of tasks
WORKERS = (1, 16)


def main(argv: Sequence[str]) -> int:
    """0: all was measured; 1: interrupted."""
    options = _options(argv)
    if options.report:
        return report(options.out, options.json)
    reexec_inside([sys.executable, "-m", "benchmarks.overhead", *argv])
    try:
        _measure(options)
    except KeyboardInterrupt:
        say("interrupted; what was measured is kept")
        return 1
    finally:
        report(options.out, options.json)
    return 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    cases = [*CASES, *OTHERS]
    parser.add_argument(
        "--case", action="append", choices=cases, help="several are possible; all, if none is given"
    )
    parser.add_argument("--shell", choices=["sync", "async"], help="only this one")
    parser.add_argument(
        "--workers", type=int, choices=WORKERS, help="only so many threads or tasks"
    )
    parser.add_argument(
        "--placement",
        action="append",
        choices=possible(),
        help="of client and server on the processors, several are possible (all); one worker only",
    )
    parser.add_argument("--rounds", type=int, help=f"batches of everything ({ROUNDS})")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds: does it work?"
    )
    parser.add_argument(
        "--round-trip-ms",
        type=float,
        metavar="MS",
        help="also autocommit and transactions over a network with this round trip (there and "
        "back, half of it each way): by netem, or by a proxy where the kernel has none",
    )
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the results ({OUT})")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    parser.add_argument("--json", action="store_true", help="the results as JSON on stdout")
    options = parser.parse_args(argv)
    options.case = options.case or cases
    options.placement = options.placement or possible()
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    return options


def _measure(options: argparse.Namespace) -> None:
    from resilient.lab import Lab, LabOptions

    from .database import AWS_CLIENT, Place, prepare
    from .phases import phases, play

    if missing := CLIENTS[AWS_CLIENT].missing():
        say(f"the AWS wrapper is left out: {missing} isn't installed (pip install -e '.[bench]')")
    rows = Rows(options.out / "overhead.jsonl")
    with Lab(LabOptions(zones=3, sync=False, http=False)) as lab:
        if inside():
            lab.use_system_resolver()
        hosts = (lab.primary.address, *(standby.address for standby in lab.standbys))
        place = Place(hosts, lab.port)
        prepare(place)
        about = {"postgresql": str(lab.admin(None, "SHOW server_version")[0][0])}
        planned = phases(
            options.case,
            (options.shell,) if options.shell else ("sync", "async"),
            (options.workers,) if options.workers else WORKERS,
            options.round_trip_ms,
            options.placement,
        )
        for standby in lab.standbys:
            standby.stop()  # their work is no part of what a client costs
        for number, phase in enumerate(planned, 1):
            say(f"[{number}/{len(planned)}] {phase}")
            if phase.cases == ("weight",):
                for standby in lab.standbys:
                    standby.start()
            with placed(lab, phase.placement):
                found = play(phase, place, options.rounds)
            for row in found:
                rows.add(row | about | {"machine": machine()})
