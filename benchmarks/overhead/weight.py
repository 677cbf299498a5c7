"""Imports, starts, memory, threads and sockets, all of them in fresh processes that alternate."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

from . import web
from .database import Place

__all__ = ["HOSTS", "SIZE", "firsts", "imports", "weights"]

SIZE, HOSTS = 4, (1, 2, 3)
IMPORTS = {
    "bare": "import psycopg_pool, httpx2",
    # what ours stands on
    "below": "import psycopg_pool, httpx2, httpcore2, dns.message, opentelemetry.trace,"
    " opentelemetry.metrics, tenacity",
    "resilient": "import resilient.postgres, resilient.http",
}


def environment() -> dict[str, str]:
    """Without settings of this shell; compiled modules are kept, as they are in production."""
    gone = ("RESILIENT_", "PG", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(gone)}


def imports(rounds: int) -> list[dict[str, Any]]:
    """Both drop-ins against what they stand on, and against psycopg_pool and httpx2 alone."""
    taken: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for number in range(-1, rounds):  # the first round compiles
        for name in random.sample(list(IMPORTS), len(IMPORTS)):
            spent_s = _import_s(IMPORTS[name])
            if number >= 0:
                taken[name].append(spent_s)
    median = {name: statistics.median(times) for name, times in taken.items()}
    return [
        {
            "key": f"import/{against}",
            "case": "import",
            "against": against,
            "bare_ms": round(median[against] * 1e3, 2),
            "ms": round(median["resilient"] * 1e3, 2),
            "ratio": round(median["resilient"] / median[against], 3),
            "rounds": rounds,
        }
        for against in ("below", "bare")
    ]


def _import_s(statement: str) -> float:
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    return float(_fresh("-c", code))


def firsts(place: Place, rounds: int) -> list[dict[str, Any]]:
    """One row: what a process takes until its first row and its first response are there."""
    taken: dict[str, list[dict[str, float]]] = {"bare": [], "resilient": []}
    with ExitStack() as stack:
        url = web.url_of_server(stack)
        for number in range(-1, rounds):  # the first round compiles
            for side in random.sample(list(taken), len(taken)):
                module = "benchmarks.overhead.first"
                told = json.loads(_fresh("-m", module, side, place.conninfo(1), url))
                if number >= 0:
                    taken[side].append(told)
    bare, ours = (
        {name: statistics.median(one[name] for one in told) for name in told[0]}
        for told in taken.values()
    )
    return [
        {
            "key": "first",
            "case": "first",
            "bare_ms": round(bare["s"] * 1e3, 1),
            "ms": round(ours["s"] * 1e3, 1),
            "ratio": round(ours["s"] / bare["s"], 3),
            "cpu_ratio": round(ours["cpu_s"] / bare["cpu_s"], 3),
            "bare_mb": round(bare["peak_kb"] / 1024, 1),
            "added_mb": round((ours["peak_kb"] - bare["peak_kb"]) / 1024, 1),
            "rounds": rounds,
        }
    ]


def weights(place: Place, rounds: int) -> list[dict[str, Any]]:
    """One row for each side and number of hosts known; medians of fresh processes."""
    wanted = [(side, hosts) for hosts in HOSTS for side in ("bare", "resilient")]
    found: dict[tuple[str, int], list[dict[str, int]]] = {one: [] for one in wanted}
    for _ in range(rounds):
        for side, hosts in random.sample(wanted, len(wanted)):
            conninfo = place.conninfo(hosts)
            if side == "bare" and hosts > 1:
                conninfo += " target_session_attrs=read-write"
            told = _fresh("-m", "benchmarks.overhead.weighed", side, conninfo, str(SIZE))
            found[side, hosts].append(json.loads(told))
    return [
        {
            "key": f"weight/{side}/{hosts}",
            "case": "weight",
            "side": side,
            "hosts": hosts,
            **{name: statistics.median(one[name] for one in taken) for name in taken[0]},
            "rounds": rounds,
        }
        for (side, hosts), taken in found.items()
    ]


def _fresh(*args: str) -> str:
    done = subprocess.run(
        [sys.executable, *args], env=environment(), stdout=subprocess.PIPE, check=True, text=True
    )
    return done.stdout
