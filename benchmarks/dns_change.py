"""How soon a moved name is followed, and what an outage of all name servers costs them.

    python benchmarks/dns_change.py [--json] [--outage-s 60]

Change: several names with one CNAME each, every one behind a client of its own (HTTP sync and
async, a PostgreSQL pool).  All records move at one moment; measured is the time from there
to the client's first connection on the new address.  *Planned*: both addresses go on
serving.  *Crash*: the old one is killed as the record moves.  Clients ask the authority.

Outage: two name servers that never answer, 100 callers of one name, sync and async, with and
without an answer from before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import resilient.http
from resilient import Settings
from resilient.dns import AsyncResolver, ResolutionError, Resolver
from resilient.lab import DnsFaults, DnsServer, upstream_server
from resilient.lab.binaries import copy_binaries, find_binaries, usable_by
from resilient.lab.ports import choose_port
from resilient.lab.postgres import Member, ServerSettings
from resilient.lab.processes import Spawner, server_account
from resilient.postgres import ConnectionPool

ADDRESSES = ("127.0.71.1", "127.0.72.1")
EACH = 4  # clients of each kind
ROUNDS = {1: 4, 5: 3, 30: 1}
CALLERS = 100


class Place:
    """One address: an HTTP service and a PostgreSQL server."""

    def __init__(self, number: int, member: Member, http_port: int, root: Path) -> None:
        self.address, self.member = ADDRESSES[number], member
        self._command = [sys.executable, "-S", upstream_server.__file__, f"az{number}"]
        self._command += [self.address, str(http_port), str(root / f"orders{number}")]
        self._http: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._http is None:
            self._http = subprocess.Popen(self._command)
            self.member.start()

    def kill(self) -> None:
        if self._http is not None:
            self._http.kill()
            self.member.kill()
            self._http.wait()
            self._http = None


class World:
    """Two places, and names that lead to one of them."""

    def __init__(self, stack: ExitStack) -> None:
        root = Path(tempfile.mkdtemp(prefix="resilient-bench-"))
        root.chmod(0o711)
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        account, binaries = server_account(), find_binaries()
        if not usable_by(account, binaries):
            binaries = copy_binaries(binaries, root / "postgresql")
        spawner = Spawner(root, account)
        stack.callback(spawner.close)
        self.port = choose_port(ADDRESSES, None, 5432, "port", False)
        self.http_port = choose_port(ADDRESSES, None, 8080, "http_port", False)
        given = ServerSettings(binaries, self.port, False, "", ("s0", "s1"), 60.0)
        members = [
            Member(f"s{i}", address, root / f"s{i}", given, spawner)
            for i, address in enumerate(ADDRESSES)
        ]
        members[0].initdb()
        members[1].copy_from(members[0])
        self.places = [Place(i, member, self.http_port, root) for i, member in enumerate(members)]
        for place in self.places:
            stack.callback(place.kill)
            place.start()
        self.zone = DnsServer("db.test")
        stack.callback(self.zone.close)
        for i, address in enumerate(ADDRESSES):
            self.zone.set_records(f"place{i}.db.test", "A", [address], 60)
        self.names = {address: f"az{i}" for i, address in enumerate(ADDRESSES)}
        listens = "{}:{}".format(*self.zone.listen("127.0.0.1", 0))
        self.settings = Settings(dns_nameservers=listens, dns_search=[])

    def move(self, names: list[str], number: int, ttl_s: int) -> float:
        for name in names:
            at = self.zone.flip(name, f"place{number}.db.test", ttl_s)
        return at


Ask = Callable[[], Awaitable[str]]


async def arrivals(asks: dict[str, Ask], said: str, since: float, limit_s: float) -> list[float]:
    """For each client: seconds from `since` to its first answer from `said`."""

    async def one(name: str, ask: Ask) -> float:
        last: object = None
        while time.monotonic() - since < limit_s:
            try:
                last = await ask()
            except Exception as exc:  # what the crash says on the way: the time counts
                last = exc
            if last == said:
                return time.monotonic() - since
            await asyncio.sleep(0.025)
        raise RuntimeError(f"{name}: {last!r} and not {said} after {limit_s:g} s")

    return list(await asyncio.gather(*(one(name, ask) for name, ask in asks.items())))


def clients(world: World, kind: str, names: list[str], stack: ExitStack) -> dict[str, Ask]:
    """One client for each name."""
    asks: dict[str, Ask] = {}
    for name in names:
        url = f"http://{name}:{world.http_port}/whoami"
        if kind == "HTTP, async":
            client = resilient.http.AsyncClient(settings=world.settings)

            async def ask(client: Any = client, url: str = url) -> str:
                return str((await client.get(url)).json()["zone"])

        elif kind == "HTTP, sync":
            client = stack.enter_context(resilient.http.Client(settings=world.settings))

            def get(client: Any = client, url: str = url) -> str:
                return str(client.get(url).json()["zone"])

            async def ask(get: Any = get) -> str:
                return str(await asyncio.to_thread(get))

        else:
            dsn = f"host={name} port={world.port} user=postgres dbname=postgres"
            pool = ConnectionPool(dsn, settings=world.settings, min_size=1, open=True, timeout=5)
            stack.callback(pool.close)

            def select(pool: Any = pool) -> str:
                with pool.connection() as conn:
                    row = conn.execute("select host(inet_server_addr())").fetchone()
                return world.names[row[0]]

            async def ask(select: Any = select) -> str:
                return str(await asyncio.to_thread(select))

        asks[name] = ask
    return asks


KINDS = ("HTTP, sync", "HTTP, async", "PostgreSQL pool")


async def change(world: World, ttl_s: int, stack: ExitStack) -> list[dict[str, Any]]:
    """All figures for one TTL."""
    names = [f"n{ttl_s}-{i}.db.test" for i in range(EACH * len(KINDS))]
    world.move(names, 0, ttl_s)
    asks: dict[str, Ask] = {}
    of: dict[str, str] = {}
    for number, kind in enumerate(KINDS):
        mine = names[number :: len(KINDS)]
        asks |= clients(world, kind, mine, stack)
        of |= dict.fromkeys(mine, kind)
    took: dict[tuple[str, str], list[float]] = {}
    here = 0
    for _ in range(ROUNDS[ttl_s]):
        for case in ("planned", "crash"):

            async def warm(ask: Ask) -> None:  # so that the names' refreshes are out of step
                await asyncio.sleep(random.uniform(0, ttl_s))
                with suppress(Exception):
                    await ask()

            await asyncio.gather(*(warm(asks[name]) for name in names))
            there = 1 - here
            since = world.move(names, there, ttl_s)
            if case == "crash":
                world.places[here].kill()
            ordered = {name: asks[name] for name in names}
            seconds = await arrivals(ordered, f"az{there}", since, ttl_s + 10)
            for name, each in zip(names, seconds, strict=True):
                took.setdefault((case, of[name]), []).append(each)
            world.places[here].start()
            here = there
            await asyncio.sleep(0.5)
    return [
        {
            "ttl_s": ttl_s,
            "case": case,
            "client": kind,
            "samples": len(seconds),
            "median_s": round(statistics.median(seconds), 3),
            "max_s": round(max(seconds), 3),
        }
        for (case, kind), seconds in sorted(took.items())
    ]


class Callers:
    """`CALLERS` loops around one resolver, and how long their slowest call took."""

    def __init__(self) -> None:
        self.calls = 0
        self.slowest_s = 0.0

    def note(self, began: float) -> None:
        self.calls += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def thread(self, resolver: Resolver, end: float) -> None:
        while (began := time.monotonic()) < end:
            with suppress(ResolutionError):
                resolver.resolve("db.test", "any")
            self.note(began)
            time.sleep(0.2)

    async def task(self, resolver: AsyncResolver, end: float) -> None:
        while (began := time.monotonic()) < end:
            with suppress(ResolutionError):
                await resolver.resolve("db.test", "any")
            self.note(began)
            await asyncio.sleep(0.2)


async def outage(shell: str, known: bool, outage_s: float) -> dict[str, Any]:
    """Queries in an outage of both name servers."""
    zone = DnsServer("db.test")
    zone.set_records("db.test", "A", ["192.0.2.1"], 5)
    at = ["{}:{}".format(*zone.listen("127.0.0.1", 0)) for _ in range(2)]
    settings = Settings(dns_nameservers=at, dns_search=[])
    callers = Callers()
    try:
        if shell == "sync":
            with Resolver(settings) as resolver:
                if known:
                    await asyncio.to_thread(resolver.resolve, "db.test", "any")
                zone.faults, before = DnsFaults(drop=True), len(zone.log)
                end = time.monotonic() + outage_s
                threads = [
                    threading.Thread(target=callers.thread, args=(resolver, end))
                    for _ in range(CALLERS)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    await asyncio.to_thread(thread.join)
        else:
            async with AsyncResolver(settings) as resolver_async:
                if known:
                    await resolver_async.resolve("db.test", "any")
                zone.faults, before = DnsFaults(drop=True), len(zone.log)
                end = time.monotonic() + outage_s
                await asyncio.gather(*(callers.task(resolver_async, end) for _ in range(CALLERS)))
        queries = len(zone.log) - before
    finally:
        zone.close()
    return {
        "shell": shell,
        "known_before": known,
        "calls": callers.calls,
        "queries": queries,
        "slowest_call_s": round(callers.slowest_s, 3),
    }


async def measure(outage_s: float) -> dict[str, Any]:
    """Everything: the outages at once, then the changes."""
    results = await asyncio.gather(
        *(outage(shell, known, outage_s) for shell in ("sync", "async") for known in (True, False))
    )
    rows = []
    for ttl_s in ROUNDS:
        with ExitStack() as stack:
            rows += await change(World(stack), ttl_s, stack)
    return {"outage_s": outage_s, "outages": results, "changes": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--outage-s", type=float, default=60.0, help="length of the outage")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # failovers are told, and here they are many
    figures = asyncio.run(measure(given.outage_s))
    if given.json:
        print(json.dumps(figures))
        return
    print("| TTL, s | client | planned: median / max, s | crash: median / max, s |")
    print("|---|---|---|---|")
    found = {(row["ttl_s"], row["client"], row["case"]): row for row in figures["changes"]}
    for ttl_s in ROUNDS:
        for kind in KINDS:
            cells = [found[ttl_s, kind, case] for case in ("planned", "crash")]
            shown = [f"{row['median_s']:.2f} / {row['max_s']:.2f}" for row in cells]
            print(f"| {ttl_s} | {kind} | {shown[0]} | {shown[1]} |")
    print(
        f"\n| {figures['outage_s']:g} s outage | known before | calls | queries | slowest call, s |"
    )
    print("|---|---|---|---|---|")
    for row in figures["outages"]:
        known = "yes" if row["known_before"] else "no"
        print(
            f"| {row['shell']} | {known} | {row['calls']} | {row['queries']}"
            f" | {row['slowest_call_s']:.3f} |"
        )


if __name__ == "__main__":
    main()
