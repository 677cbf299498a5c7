"""Requests that can't be sent again.

At an endpoint that falls silent such a request is given up when health checks prove the
endpoint dead, and never because it, or others like it, take long.  At one that fails it would be
lost, so it rather isn't sent there.


FAULTS 38.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from http_lab import NAME, TIMED, Names, Shell, Upstream, facts

import resilient.http
from resilient import Settings, errors
from resilient.core.upstream_events import EndpointLost

Run = Callable[..., list[Upstream]]
WINDOW_S = 0.4
CHECKED: dict[str, Any] = {"http_health_path": "/health"}


def local(one: Upstream, two: Upstream, **more: Any) -> Settings:
    """Requests go to `one` while it is in good standing."""
    zones = f"az1={one.address}/32,az2={two.address}/32"
    return Settings(zone="az1", zones=zones, probe_interval_s=0.2, probe_timeout_s=0.1, **more)


@pytest.fixture
def pair(names: Names, run_upstreams: Run) -> Iterator[tuple[Upstream, Upstream]]:
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    yield one, two
    hung = not (one.reusable and two.reusable)
    one.go_on()
    two.go_on()
    if hung:
        time.sleep(WINDOW_S)  # health checks are answered again: no connect is cut off by the end


def warm(shell: Shell, client: Any, url: str, one: Upstream) -> None:
    assert facts(shell.get(client, f"{url}/x"))["address"] == one.address
    time.sleep(0.3)  # health checks have been answered


def parts() -> Iterator[bytes]:
    yield b"abc"


async def async_parts() -> Any:
    yield b"abc"


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_it_ends_when_the_endpoint_is_proved_dead(
    shell: Shell, pair: tuple[Upstream, Upstream], port: int, method: str
) -> None:
    one, two = pair
    client, url = shell.client(local(one, two, **CHECKED), timeout=20.0), f"http://{NAME}:{port}"
    warm(shell, client, url, one)
    one.hang()
    began = time.monotonic()
    content: Any = b"abc"
    if method == "PUT":  # a body that can't be sent once more
        content = parts() if shell.sync else async_parts()
    with pytest.raises(shell.lib.ReadTimeout, match="may have taken effect") as caught:
        shell.run(lambda: client.request(method, f"{url}/order", content=content))
    took_s = time.monotonic() - began
    assert isinstance(caught.value, errors.RequestOutcomeUnknown)
    assert isinstance(caught.value, shell.ours.errors.RequestOutcomeUnknown)
    assert isinstance(caught.value.__cause__, shell.lib.ReadTimeout)
    # a window since the last sign of life, which came a probe's interval before at the earliest
    assert WINDOW_S - 0.2 <= took_s < WINDOW_S + 0.4
    assert facts(shell.post(client, f"{url}/x"))["address"] == two.address
    one.go_on()
    assert (one.seen(f"{method} /order"), two.seen(f"{method} /order")) == (1, 0)


def test_one_that_takes_long_is_waited_for(
    shell: Shell, pair: tuple[Upstream, Upstream], port: int
) -> None:
    one, two = pair
    client, url = shell.client(local(one, two, **CHECKED), timeout=20.0), f"http://{NAME}:{port}"
    warm(shell, client, url, one)
    response = shell.post(client, f"{url}/slow?s={3 * WINDOW_S}")
    assert response.text == one.address
    assert one.seen("GET /health") > 4


@contextmanager
def others_ask(settings: Settings, url: str) -> Iterator[list[str]]:
    """GETs of another client of this process; who answered them."""
    ended, served = threading.Event(), list[str]()

    def ask() -> None:
        with resilient.http.Client(settings=settings) as client:
            while not ended.wait(0.02):
                served.append(facts(client.get(url))["address"])

    worker = threading.Thread(target=ask)
    worker.start()
    try:
        yield served
    finally:
        ended.set()
        worker.join()


@TIMED
def test_silence_to_requests_proves_nothing(
    shell: Shell, pair: tuple[Upstream, Upstream], port: int
) -> None:
    # A server with one worker is silent to all others while it does what it was told: they
    # wait for it, as they do without us.
    one, two = pair
    settings, url = local(one, two), f"http://{NAME}:{port}"
    client = shell.client(settings, timeout=20.0)
    told: list[Any] = []
    unsubscribe = resilient.http.subscribe(told.append)
    try:
        warm(shell, client, url, one)
        with others_ask(settings, f"{url}/x") as served:
            response = shell.post(client, f"{url}/alone?s={4 * WINDOW_S}")
    finally:
        unsubscribe()
    assert response.text == one.address
    assert set(served) == {one.address}
    assert two.seen("GET /x") == 0
    assert not [event for event in told if isinstance(event, EndpointLost)]


@TIMED
def test_it_waits_while_nobody_answers(
    shell: Shell, pair: tuple[Upstream, Upstream], port: int
) -> None:
    one, two = pair
    client, url = shell.client(local(one, two, **CHECKED), timeout=1.5), f"http://{NAME}:{port}"
    warm(shell, client, url, one)
    two.hang()
    one.hang()
    began = time.monotonic()
    with pytest.raises(shell.lib.ReadTimeout) as caught:
        shell.post(client, f"{url}/order")
    assert 1.5 <= time.monotonic() - began < 1.7
    assert not isinstance(caught.value, errors.RequestOutcomeUnknown)


@TIMED
def test_a_body_that_flows_is_a_sign_of_life(
    shell: Shell, pair: tuple[Upstream, Upstream], port: int
) -> None:
    one, two = pair
    client, url = shell.client(local(one, two)), f"http://{NAME}:{port}/drip?n=3&s=0.2"
    seen: list[float] = []

    def note() -> None:
        (origin,) = client._transport._engine._origins.values()
        seen.append(max(slot.byte_at for slot in origin.slots()))

    def read() -> None:
        with client.stream("GET", url) as response:
            for _ in response.iter_raw():
                note()

    async def read_async() -> None:
        async with client.stream("GET", url) as response:
            async for _ in response.aiter_raw():
                note()

    shell.run(read if shell.sync else read_async)
    assert len(seen) == 3
    assert seen[1] - seen[0] > 0.15
    assert seen[2] - seen[1] > 0.15


@TIMED
def test_it_avoids_for_a_second_who_failed_just_now(
    shell: Shell, pair: tuple[Upstream, Upstream], port: int
) -> None:
    one, two = pair
    client, url = shell.client(), f"http://{NAME}:{port}"
    failing = f"{url}/status?code=503&except={two.address}"
    while not one.seen("GET /status"):
        assert shell.get(client, failing).text == two.address
    failed_at = time.monotonic()
    for _ in range(20):
        assert facts(shell.post(client, f"{url}/x"))["address"] == two.address
    time.sleep(max(0.0, failed_at + 1.01 - time.monotonic()))
    assert {facts(shell.post(client, f"{url}/x"))["address"] for _ in range(40)} == {
        one.address,
        two.address,
    }
