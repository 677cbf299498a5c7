"""Nobody to connect to: idempotent requests wait for somebody, until their deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
from http_lab import NAME, TIMED, Names, Shell, Upstream, facts
from test_conformance import blackhole

from resilient import Settings, errors

Run = Callable[..., list[Upstream]]
#: health checks with a window of 0.4 s
CHECKED: dict[str, Any] = {
    "http_health_path": "/health", "probe_interval_s": 0.2, "probe_timeout_s": 0.1
}  # fmt: skip


def options(**values: Any) -> dict[str, Any]:
    return {"extensions": {"resilient": values}}


class later:
    """Do something after a while, beside the test."""

    def __init__(self, delay_s: float, action: Callable[[], object]) -> None:
        self._timer = threading.Timer(delay_s, action)
        self.at = time.monotonic() + delay_s

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._timer.join()


@TIMED
def test_a_name_that_moves_ends_the_waiting_at_once(
    shell: Shell, names: Names, run_upstreams: Run, subnet: str, port: int
) -> None:
    (one,) = run_upstreams(1)
    names.answers[NAME] = (subnet + "1",)
    client = shell.client(Settings(retry_budget=0.0, retry_budget_floor=0.0))
    with later(0.5, lambda: names.change(NAME, one.address)) as moved:
        response = shell.get(client, f"http://{NAME}:{port}/x", **options(deadline_s=3.0))
        late_s = time.monotonic() - moved.at
    assert facts(response)["address"] == one.address
    assert response.extensions["resilient"]["attempts"] == 1  # nobody was reached before
    assert late_s < 0.15


@TIMED
def test_the_name_is_asked_for_again_and_again(
    shell: Shell, names: Names, run_upstreams: Run, subnet: str, port: int
) -> None:
    (one,) = run_upstreams(1)
    names.answers[NAME] = (subnet + "1",)
    client = shell.client()

    def move() -> None:  # nobody is told
        names.answers[NAME] = (one.address,)

    with later(0.5, move) as moved:
        response = shell.get(client, f"http://{NAME}:{port}/x", **options(deadline_s=3.0))
        late_s = time.monotonic() - moved.at
    assert facts(response)["address"] == one.address
    assert late_s < 0.5
    assert len(names.lookups) < 15


@TIMED
def test_a_server_that_starts_again_is_found(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    (one,) = run_upstreams(1)
    one.kill()
    names.answers[NAME] = (one.address,)
    client = shell.client()
    with later(0.4, lambda: one.start().wait()):
        response = shell.get(client, f"http://{NAME}:{port}/x", **options(deadline_s=4.0))
    assert facts(response)["address"] == one.address


@TIMED
def test_the_deadline_ends_the_waiting(shell: Shell, names: Names, subnet: str, port: int) -> None:
    names.answers[NAME] = (subnet + "1",)
    client = shell.client()
    began = time.monotonic()
    with pytest.raises(shell.lib.ConnectError) as caught:
        shell.get(client, f"http://{NAME}:{port}/x", **options(deadline_s=0.5))
    assert 0.45 <= time.monotonic() - began < 0.6
    assert isinstance(caught.value, errors.NoEndpointAvailable)
    assert isinstance(caught.value, errors.DeadlineExceeded)
    assert isinstance(caught.value.__cause__, shell.lib.ConnectError)
    assert list(caught.value.reasons) == [f"{subnet}1:{port} ({NAME})"]


@TIMED
def test_waiting_stays_within_the_budget(
    shell: Shell, names: Names, subnet: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resilient.http._dial as dial

    dials: list[object] = []
    refused = dial.refused
    monkeypatch.setattr(dial, "refused", lambda *a: (dials.append(a), refused(*a)))
    names.answers[NAME] = (subnet + "1",)
    client = shell.client(Settings(retry_budget=0.0, retry_budget_floor=2.0))
    with pytest.raises(shell.lib.ConnectError):
        shell.get(client, f"http://{NAME}:{port}/x", **options(deadline_s=1.0))
    assert 2 <= len(dials) <= 1 + 2 + 2


@TIMED
def test_a_post_that_was_not_sent_waits_as_well(
    shell: Shell, names: Names, run_upstreams: Run, subnet: str, port: int
) -> None:
    (one,) = run_upstreams(1)
    names.answers[NAME] = (subnet + "1",)
    client = shell.client()
    with later(0.3, lambda: names.change(NAME, one.address)):
        content = parts() if shell.sync else async_parts()
        response = shell.post(client, f"http://{NAME}:{port}/x", content=content)
    assert facts(response)["address"] == one.address
    assert facts(response)["body"] == 3
    assert one.seen("POST /x") == 1


def parts() -> Iterator[bytes]:
    yield b"abc"


async def async_parts() -> Any:
    yield b"abc"


@TIMED
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_explicit_timeout_bounds_the_waiting(
    shell: Shell, names: Names, subnet: str, port: int, method: str
) -> None:
    names.answers[NAME] = (subnet + "1", subnet + "2")
    client = shell.client(timeout=shell.lib.Timeout(9.0, connect=0.5))
    began = time.monotonic()
    with pytest.raises(shell.lib.ConnectError):
        shell.run(lambda: client.request(method, f"http://{NAME}:{port}/x"))
    assert 0.4 <= time.monotonic() - began < 0.6


@TIMED
def test_a_connect_that_gets_no_answer_follows_the_name(
    shell: Shell, names: Names, run_upstreams: Run, subnet: str, port: int
) -> None:
    (one,) = run_upstreams(1)
    with blackhole(subnet + "7", port):
        names.answers[NAME] = (subnet + "7",)
        client = shell.client()
        with later(0.3, lambda: names.change(NAME, one.address)) as moved:
            response = shell.get(client, f"http://{NAME}:{port}/x", **options(deadline_s=3.0))
            late_s = time.monotonic() - moved.at
    assert facts(response)["address"] == one.address
    assert late_s < 0.5


@TIMED
def test_a_request_at_a_hung_endpoint_follows_the_name(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address,)
    client = shell.client(Settings(**CHECKED))
    url = f"http://{NAME}:{port}/x"
    shell.get(client, url)
    one.hang()
    with later(0.9, lambda: names.change(NAME, two.address)) as moved:
        response = shell.get(client, url, **options(deadline_s=1.5))
        late_s = time.monotonic() - moved.at
    assert facts(response)["address"] == two.address
    assert late_s < 0.4
    one.go_on()


@TIMED
def test_an_upload_that_stands_still_goes_elsewhere(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    zones = f"az1={one.address}/32,az2={two.address}/32"
    client = shell.client(Settings(zone="az1", zones=zones, **CHECKED))
    url = f"http://{NAME}:{port}/x"
    shell.get(client, url)
    one.hang()
    began = time.monotonic()
    response = shell.run(
        lambda: client.put(
            url, content=bytes(30_000_000), **options(deadline_s=2.0, idempotent=True)
        )
    )
    assert facts(response) == {
        "address": two.address, "host": f"{NAME}:{port}", "body": 30_000_000, "sni": None
    }  # fmt: skip
    assert time.monotonic() - began < 2.0
    one.go_on()


@TIMED
def test_a_hung_upstream_of_the_own_zone_is_left(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    zones = f"az1={one.address}/32,az2={two.address}/32"
    client = shell.client(Settings(zone="az1", zones=zones, **CHECKED))
    url = f"http://{NAME}:{port}/x"
    assert facts(shell.get(client, url))["address"] == one.address
    one.hang()
    began = time.monotonic()
    response = shell.get(client, url, **options(deadline_s=0.8))
    assert facts(response)["address"] == two.address
    assert time.monotonic() - began < 0.6
    one.go_on()


@TIMED
def test_a_hung_upstream_of_the_own_zone_costs_a_window_once(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    zones = f"az1={one.address}/32,az2={two.address}/32"
    client = shell.client(Settings(zone="az1", zones=zones, **CHECKED))
    url = f"http://{NAME}:{port}/x"
    assert facts(shell.get(client, url))["address"] == one.address
    time.sleep(0.3)  # health checks have been answered
    one.hang()
    took = []
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        began = time.monotonic()
        response = shell.get(client, url)
        took.append(time.monotonic() - began)
        assert facts(response)["address"] == two.address
        time.sleep(0.02)
    assert took[0] < 0.6
    assert max(took[1:]) < 0.15
    one.go_on()
    end = time.monotonic() + 4
    while facts(shell.get(client, url))["address"] != one.address:
        assert time.monotonic() < end  # an answered health check brings it back
        time.sleep(0.02)
