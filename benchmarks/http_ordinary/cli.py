"""`python -m benchmarks.http_ordinary`: an ordinary day, ours beside the others, in turn."""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from resilient.lab.namespace import inside, reexec_inside, use_resolv_conf

from ..progress import Clock, say
from ..rows import Rows, machine
from .clients import CLIENTS, PLAIN, asynchronous, missing
from .report import report
from .server import NAMES
from .subject import CASES

__all__ = ["main"]

OUT = Path("build/benchmarks")
PORT = 8080
#: of a case of one client; in seconds
GIVE_UP_S = 300.0
SCALES = {True: 0.1, False: 1.0}
Job = tuple[str, tuple[str, ...]]


def main(argv: Sequence[str]) -> int:
    """0: ours is nowhere worse than plain httpx2; 1: it is, or a case failed; 2: can't be here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http_ordinary", description=__doc__)
    parser.add_argument("--rounds", type=int, help="of all cases and clients (5)")
    parser.add_argument("--quick", action="store_true", help="short waits, three rounds")
    parser.add_argument("--case", action="append", default=[], choices=[*CASES, "quick", "sdk"])
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the results ({OUT})")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    options, _ = parser.parse_known_args(argv)
    rows = Rows(options.out / "http-ordinary.jsonl")
    if options.report:
        return report(rows, options.out)
    reexec_inside([sys.executable, "-m", "benchmarks.http_ordinary", *argv])
    if not inside():
        say("needs a network namespace of its own, for port 53 and /etc/resolv.conf")
        return 2
    jobs = [job for job in _jobs() if not options.case or job[0] in options.case]
    rounds = options.rounds or (3 if options.quick else 5)
    rows.without(row["key"] for row in rows.read() if row["case"] in {job[0] for job in jobs})
    clock = Clock(rounds * len(jobs))
    with _server():
        for number in range(rounds):
            random.shuffle(jobs)
            for case, clients in jobs:
                _play(rows, number, case, clients, SCALES[options.quick])
                say(f"{clock.tick()} round {number + 1}: {case}: {', '.join(clients)}")
    return report(rows, options.out)


def _jobs() -> list[Job]:
    """What is played in each round: a case and its clients."""
    here = []
    for name in CLIENTS:
        if what := missing(name):
            say(f"{name} is left out: {what} isn't installed (pip install -e '.[bench]')")
        else:
            here.append(name)
    jobs: list[Job] = [(case, (name,)) for case in CASES for name in here]
    for tasks in (False, True):
        jobs.append(("quick", tuple(name for name in here if asynchronous(name) is tasks)))
    if importlib.util.find_spec("openai") is None:
        say("the SDK is left out: openai isn't installed")
    else:
        jobs += [("sdk", (name,)) for name in ("httpx2", "resilient")]
    return jobs


@contextmanager
def _server() -> Iterator[None]:
    before = Path("/etc/resolv.conf").read_text()
    argv = [sys.executable, "-m", "benchmarks.http_ordinary.server", str(PORT)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        use_resolv_conf(f"nameserver {NAMES}\n")
        yield
    finally:
        use_resolv_conf(before)
        process.kill()
        process.communicate()


def _play(rows: Rows, number: int, case: str, clients: tuple[str, ...], scale: float) -> None:
    argv = [sys.executable, "-m", "benchmarks.http_ordinary.subject", case, str(scale), str(PORT)]
    trouble, found = "", {name: {} for name in clients}
    try:
        played = subprocess.run(
            [*argv, *clients], capture_output=True, text=True, timeout=GIVE_UP_S, check=True
        )
        found = json.loads(played.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as exc:
        trouble = (str(exc.stderr).strip().splitlines() or ["failed"])[-1]
    except subprocess.TimeoutExpired:
        trouble = f"no end within {GIVE_UP_S:g} s"
    for name in clients:
        key = f"{case} {name} {number}"
        row = {"key": key, "case": case, "client": name, "trouble": trouble}
        rows.add(row | {"measured": found[name], "machine": machine()})


assert set(PLAIN.values()) < set(CLIENTS)
