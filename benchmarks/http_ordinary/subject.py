"""One case, played in a process of its own; prints what came out as JSON.

    python -m benchmarks.http_ordinary.subject CASE SCALE PORT CLIENT …

SCALE is 1 for figures, less for a quick look.  Only `quick` takes several clients, in turn.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import resource
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .clients import Ask, asynchronous, make
from .server import CONTROL

Measured = dict[str, float]
LIMIT = 4
_ids = itertools.count()


def control(port: int, path: str) -> dict[str, int]:
    with urllib.request.urlopen(f"http://{CONTROL}:{port}/{path}", timeout=5) as reply:
        found: dict[str, int] = json.load(reply)
        return found


class Driver:
    """Runs requests for the cases, by threads or by tasks of one loop."""

    def __init__(self, name: str, port: int, limit: int | None = None) -> None:
        self.tasks, self.port = asynchronous(name), port
        self._runner = asyncio.Runner() if self.tasks else None
        self._ask, self._close = make(name, limit)

    def close(self) -> None:
        if self._runner is None:
            self._close()
            return
        self._runner.run(self._close())
        self._runner.close()

    def one(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None,
        body: bytes = b"", name: str = "api.test",
    ) -> int:  # fmt: skip
        """The status; 0 for an error."""
        url = f"http://{name}:{self.port}/{path}"
        ask: Ask = self._ask
        try:
            if self._runner is None:
                return int(ask(method, url, headers or {}, body))
            return int(self._runner.run(ask(method, url, headers or {}, body)))
        except Exception:
            return 0

    def several(self, path: str, count: int) -> list[int]:
        """So many GETs at once."""
        if self._runner is None:
            got: list[int] = []
            threads = [
                threading.Thread(target=lambda: got.append(self.one(path))) for _ in range(count)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return got
        url = f"http://api.test:{self.port}/{path}"

        async def gather() -> list[int]:
            asks: list[Awaitable[Any]] = [self._ask("GET", url, {}, b"") for _ in range(count)]
            found = await asyncio.gather(*asks, return_exceptions=True)
            return [one if isinstance(one, int) else 0 for one in found]

        assert self._runner is not None
        return self._runner.run(gather())

    def batch(self, count: int) -> float:
        """Seconds for so many quick ones, one after the other."""
        url = f"http://api.test:{self.port}/quick"
        if self._runner is None:
            began = time.perf_counter()
            for _ in range(count):
                self._ask("GET", url, {}, b"")
            return time.perf_counter() - began

        async def run() -> float:
            began = time.perf_counter()
            for _ in range(count):
                await self._ask("GET", url, {}, b"")
            return time.perf_counter() - began

        return self._runner.run(run())


def resident() -> int:
    """Bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def slow(driver: Driver, scale: float) -> Measured:
    """Answers that take their time: how often is each computed?"""
    took_s = max(0.6, 3.0 * scale)
    control(driver.port, "reset")
    began = time.monotonic()
    got = driver.several(f"slow?s={took_s}", 8)
    late_s = time.monotonic() - began - took_s
    asked = control(driver.port, "stats")["requests"]
    return {"late_s": late_s, "computed": asked / 8, "errors": got.count(0)}


def upload(driver: Driver, scale: float) -> Measured:
    """8 MiB to a reader that pauses, and 32 MiB to one that doesn't."""
    pause_s = max(0.3, 3.0 * scale)
    control(driver.port, "reset")
    began = time.monotonic()
    first = driver.one(f"upload?pause={pause_s}", "PUT", body=bytes(8 << 20))
    late_s = time.monotonic() - began - pause_s
    began = time.monotonic()
    second = driver.one("upload", "PUT", body=bytes(32 << 20))
    took_s = time.monotonic() - began
    asked = control(driver.port, "stats")["requests"]
    return {"late_s": late_s, "big_s": took_s, "sent": asked / 2,
            "errors": float([first, second] != [200, 200])}  # fmt: skip


def conditional(driver: Driver, scale: float) -> Measured:
    """Writes with a precondition whose answers are slow: are they told what happened?"""
    took_s = max(0.3, 2.5 * scale)
    control(driver.port, "reset")
    headers = {"If-None-Match": "*"}
    got = [driver.one(f"once?id={next(_ids)}&s={took_s}", "PUT", headers, b"x") for _ in range(2)]
    return {"wrong": float(sum(status != 200 for status in got))}


def names(driver: Driver, scale: float) -> Measured:
    """Many names, once each."""
    count = max(100, int(1500 * scale))
    for number in range(count // 2):
        driver.one("quick", name=f"w{number}.test")
    gc.collect()
    control(driver.port, "reset")
    before, began = resident(), time.monotonic()
    bad = sum(driver.one("quick", name=f"n{number}.test") != 200 for number in range(count))
    took_s = time.monotonic() - began
    gc.collect()
    kept = (resident() - before) / count
    control(driver.port, "reset")
    time.sleep(4)
    return {"a_name_ms": 1000 * took_s / count, "kb_a_name": kept / 1000, "errors": bad,
            "at_rest": control(driver.port, "stats")["questions"]}  # fmt: skip


def limits(driver: Driver, scale: float) -> Measured:
    """More requests than connections."""
    control(driver.port, "reset")
    began = time.monotonic()
    got = driver.several("slow?s=0.02", max(40, int(400 * scale)))
    took_s = time.monotonic() - began
    peak = control(driver.port, "stats")["peak"]
    return {"took_s": took_s, "connections": peak, "errors": got.count(0)}


def vanishing(driver: Driver, scale: float) -> Measured:
    """A name isn't there for a while: how late is the first good answer?"""
    gone_s = max(1.0, 3.0 * scale)
    control(driver.port, f"gone?s={gone_s}")
    back_at = time.monotonic() + gone_s
    while driver.one("quick", name="pod.test") != 200:
        time.sleep(0.01)
    return {"late_s": max(0.0, time.monotonic() - back_at)}


def refused(driver: Driver, scale: float) -> Measured:
    """A literal address that takes no connection."""
    times = []
    for _ in range(20):
        began = time.monotonic()
        driver.one("quick", name="127.0.1.99")
        times.append(time.monotonic() - began)
    return {"ms": 1000 * statistics.median(times)}


def completion(name: str, port: int, scale: float) -> Measured:
    """An SDK with a long answer."""
    import openai

    home: Any
    if name == "resilient":
        import resilient.http.httpx as home
    else:
        import httpx as home
    took_s = max(0.6, 35.0 * scale)
    control(port, "reset")
    began = time.monotonic()
    with home.Client() as client:
        sdk = openai.OpenAI(base_url=f"http://api.test:{port}", api_key="x", http_client=client)
        errors = 0
        try:
            sdk.get(f"/slow?s={took_s}", cast_to=object)
        except openai.OpenAIError:
            errors = 1
    late_s = time.monotonic() - began - took_s
    return {"late_s": late_s, "computed": control(port, "stats")["requests"], "errors": errors}


def quick(names_: Sequence[str], port: int, scale: float) -> dict[str, Measured]:
    """A handler of 50 µs, over kept connections, the clients in turn."""
    drivers = {name: Driver(name, port) for name in names_}
    for driver in drivers.values():
        driver.batch(100)
    times: dict[str, list[float]] = {name: [] for name in names_}
    size = 100
    for _ in range(max(8, int(60 * scale))):
        for name, driver in drivers.items():
            times[name].append(driver.batch(size) / size)
    for driver in drivers.values():
        driver.close()
    return {name: {"us": 1e6 * statistics.median(found)} for name, found in times.items()}


CASES: dict[str, Callable[[Driver, float], Measured]] = {
    "slow": slow,
    "upload": upload,
    "conditional": conditional,
    "names": names,
    "limits": limits,
    "vanishing": vanishing,
    "refused": refused,
}


def main(argv: Sequence[str]) -> None:
    """See the module."""
    case, scale, port, clients = argv[0], float(argv[1]), int(argv[2]), argv[3:]
    if case == "quick":
        print(json.dumps(quick(clients, port, scale)))
        return
    if case == "sdk":
        print(json.dumps({clients[0]: completion(clients[0], port, scale)}))
        return
    driver = Driver(clients[0], port, LIMIT if case == "limits" else None)
    if case != "limits":
        driver.one("quick")
    found = CASES[case](driver, scale)
    with suppress(Exception):
        driver.close()
    print(json.dumps({clients[0]: found}))


if __name__ == "__main__":
    main(sys.argv[1:])
