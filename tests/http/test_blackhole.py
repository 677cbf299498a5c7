"""A whole zone falls silent: real packets are dropped, in the lab's own network namespace.

The zone that is cut off is the client's own, where all its connections are.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from resilient.http import AsyncClient, Client
from resilient.lab import Lab
from resilient.lab.pytest_plugin import skip_unless

pytestmark = pytest.mark.lab
DEADLINE_S = 2.0
WORKERS = 2
#: how long the workers go on after the cut, in seconds
AFTER_S = 1.8
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Seen:
    """One request.  Seconds."""

    ended_s: float
    took_s: float
    zone: str | None = None
    error: str = ""


@pytest.fixture(params=["az1", "az2"])
def zone(
    request: pytest.FixtureRequest, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The client's zone, which the test cuts off."""
    skip_unless(lab, "blackhole")
    checks = {
        "RESILIENT_HTTP_HEALTH_PATH": "/health/ready",
        "RESILIENT_PROBE_INTERVAL_S": "0.4",
        "RESILIENT_PROBE_TIMEOUT_S": "0.2",
    }
    for name, value in {**lab.env(request.param), **checks}.items():
        monkeypatch.setenv(name, value)
    yield request.param
    lab.heal()


def options() -> dict[str, Any]:
    return {"extensions": {"resilient": {"deadline_s": DEADLINE_S}}}


def note(began_s: float, response: Any, error: Exception | None) -> Seen:
    now = time.monotonic()
    if error is not None or response is None:
        return Seen(now, now - began_s, None, f"{type(error).__name__}: {error}")
    return Seen(now, now - began_s, response.json()["zone"])


def run_threads(url: str, headers: dict[str, str], stop: Stop) -> list[Seen]:
    seen: list[Seen] = []

    def work(client: Client) -> None:
        while not stop():
            began_s, response, error = time.monotonic(), None, None
            try:
                response = client.get(url, headers=headers, **options())
            except Exception as exc:
                error = exc
            seen.append(note(began_s, response, error))
            time.sleep(0.02)

    with Client() as client:
        threads = [threading.Thread(target=work, args=(client,)) for _ in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return seen


def run_tasks(url: str, headers: dict[str, str], stop: Stop) -> list[Seen]:
    seen: list[Seen] = []

    async def work(client: AsyncClient) -> None:
        while not stop():
            began_s, response, error = time.monotonic(), None, None
            try:
                response = await client.get(url, headers=headers, **options())
            except Exception as exc:
                error = exc
            seen.append(note(began_s, response, error))
            await asyncio.sleep(0.02)

    async def main() -> None:
        async with AsyncClient() as client:
            await asyncio.gather(*[work(client) for _ in range(WORKERS)])

    asyncio.run(main())
    return seen


@pytest.mark.parametrize(
    ("zone", "connections"), [("az1", "new"), ("az2", "kept")], indirect=["zone"]
)
def test_the_clients_own_zone_is_cut_off(lab: Lab, zone: str, connections: str) -> None:
    headers = {"connection": "close"} if connections == "new" else {}
    url = f"{lab.upstream_url}/whoami"
    ended = threading.Event()
    seen: dict[str, list[Seen]] = {}

    def into(name: str, run: Callable[[str, dict[str, str], Stop], list[Seen]]) -> None:
        seen[name] = run(url, headers, ended.is_set)

    workers = [
        threading.Thread(target=into, args=("sync", run_threads)),
        threading.Thread(target=into, args=("async", run_tasks)),
    ]
    for worker in workers:
        worker.start()
    time.sleep(0.5)
    lab.blackhole(zone)
    cut_s = time.monotonic()
    time.sleep(AFTER_S)
    ended.set()
    for worker in workers:
        worker.join()
    for name in ("sync", "async"):
        before = [one for one in seen[name] if one.ended_s < cut_s]
        after = [one for one in seen[name] if one.ended_s - one.took_s > cut_s + 0.1]
        assert {one.zone for one in before} == {zone}
        assert [one.error for one in seen[name] if one.error] == []
        assert max(one.took_s for one in seen[name]) < DEADLINE_S
        assert after
        assert zone not in {one.zone for one in after}
