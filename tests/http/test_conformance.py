"""What every client shows when an upstream fails: sync and async, httpx2 and httpx."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from http_lab import NAME, TIMED, Names, Shell, Upstream, facts, open_connections, settle

from resilient import Settings, errors

Run = Callable[..., list[Upstream]]
#: a window of 0.3 s keeps the tests quick
QUICK: dict[str, Any] = {"probe_interval_s": 0.1, "probe_timeout_s": 0.1}


def options(**values: Any) -> dict[str, Any]:
    return {"extensions": {"resilient": values}}


def publish(names: Names, *addresses: str) -> None:
    names.answers[NAME] = addresses


def test_the_response_names_endpoint_zone_and_attempts(
    shell: Shell, names: Names, run_upstreams: Run, subnet: str, port: int
) -> None:
    (one,) = run_upstreams(1)
    publish(names, one.address)
    client = shell.client(Settings(zones=f"here={subnet}0/24"))
    response = shell.get(client, f"http://{NAME}:{port}/x")
    assert facts(response)["host"] == f"{NAME}:{port}"
    expected = {"endpoint": f"{one.address}:{port}", "zone": "here", "attempts": 1}
    assert response.extensions["resilient"] == expected


def test_a_killed_upstream_fails_no_idempotent_request(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    client = shell.client()
    url = f"http://{NAME}:{port}/x"
    served = {facts(shell.get(client, url))["address"] for _ in range(20)}
    assert served == {one.address, two.address}
    one.kill()
    for _ in range(20):
        assert facts(shell.get(client, url))["address"] == two.address


@TIMED
def test_a_hung_upstream_is_left_within_the_deadline(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    client = shell.client(Settings(http_health_path="/health", **QUICK))
    url = f"http://{NAME}:{port}/x"
    for _ in range(6):
        shell.get(client, url)
    one.hang()
    slowest = 0.0
    for _ in range(8):
        began = time.monotonic()
        assert facts(shell.get(client, url, **options(deadline_s=2.0)))["address"] == two.address
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 0.8  # a window, once
    one.go_on()


@TIMED
def test_silence_alone_sends_no_request_twice(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    client = shell.client(Settings(**QUICK))  # no health checks: nobody knows
    one.hang()
    two.hang()
    with pytest.raises(shell.lib.ReadTimeout) as caught:
        shell.get(client, f"http://{NAME}:{port}/x", timeout=0.9)
    assert type(caught.value) is shell.lib.ReadTimeout
    one.go_on()
    two.go_on()
    assert one.seen("GET /x") + two.seen("GET /x") == 1


@TIMED
def test_slow_is_not_dead(shell: Shell, names: Names, run_upstreams: Run, port: int) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    client = shell.client(Settings(**QUICK))
    response = shell.get(client, f"http://{NAME}:{port}/slow?s=0.9")
    assert response.status_code == 200
    assert response.elapsed.total_seconds() < 1.3


def test_refused_goes_to_the_next_whatever_the_method(
    shell: Shell, names: Names, run_upstreams: Run, subnet: str, port: int
) -> None:
    (one,) = run_upstreams(1)
    publish(names, subnet + "7", subnet + "8", one.address)
    client = shell.client()
    for _ in range(5):
        response = shell.post(client, f"http://{NAME}:{port}/x", content=b"abc")
        assert facts(response) == {
            "address": one.address, "host": f"{NAME}:{port}", "body": 3, "sni": None
        }  # fmt: skip
    assert one.seen("POST /x") == 5


def test_a_streamed_body_that_was_not_begun_goes_to_the_next(
    shell: Shell, names: Names, run_upstreams: Run, subnet: str, port: int
) -> None:
    (one,) = run_upstreams(1)
    publish(names, subnet + "7", one.address)
    client = shell.client()
    for _ in range(3):
        content = body() if shell.sync else async_body()
        response = shell.post(client, f"http://{NAME}:{port}/x", content=content)
        assert facts(response)["body"] == 6


def body() -> Iterator[bytes]:
    yield b"abc"
    yield b"def"


async def async_body() -> Any:
    yield b"abc"
    yield b"def"


def test_a_post_is_never_sent_twice(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    client = shell.client()
    with pytest.raises(shell.lib.RemoteProtocolError) as caught:
        shell.post(client, f"http://{NAME}:{port}/drop", content=b"abc")
    assert type(caught.value) is shell.lib.RemoteProtocolError
    assert one.seen("POST /drop") + two.seen("POST /drop") == 1


@TIMED
def test_a_post_to_a_hung_upstream_ends_at_its_deadline_and_is_not_repeated(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    client = shell.client(Settings(**QUICK))
    one.hang()
    two.hang()
    began = time.monotonic()
    with pytest.raises(shell.lib.TimeoutException) as caught:
        shell.post(client, f"http://{NAME}:{port}/x", content=b"abc", **options(deadline_s=0.7))
    assert 0.7 <= time.monotonic() - began < 0.8
    assert isinstance(caught.value, errors.DeadlineExceeded)
    assert isinstance(caught.value.__cause__, shell.lib.ReadTimeout)
    one.go_on()
    two.go_on()
    assert one.seen("POST /x") + two.seen("POST /x") == 1


@pytest.mark.parametrize(
    "extra",
    [options(idempotent=True), {"headers": {"Idempotency-Key": "k"}}],
    ids=["marked", "idempotency-key"],
)
def test_an_idempotent_post_is_repeated(
    shell: Shell, names: Names, run_upstreams: Run, port: int, extra: dict[str, Any]
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    client = shell.client()
    url = f"http://{NAME}:{port}/drop?except={two.address}"
    response = shell.post(client, url, content=b"abc", **extra)
    while response.extensions["resilient"]["attempts"] == 1:
        response = shell.post(client, url, content=b"abc", **extra)
    assert response.status_code == 200
    assert one.seen("POST /drop") == 1


@pytest.mark.parametrize("header", ["If-Match", "If-None-Match", "x-goog-if-generation-match"])
def test_a_precondition_is_sent_once(
    shell: Shell, names: Names, run_upstreams: Run, port: int, header: str
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    client = shell.client()
    extra = {"headers": {header: "x", "Idempotency-Key": "k"}, **options(idempotent=True)}
    with pytest.raises(shell.lib.RemoteProtocolError):
        shell.run(lambda: client.put(f"http://{NAME}:{port}/drop", content=b"abc", **extra))
    assert one.seen("PUT /drop") + two.seen("PUT /drop") == 1


def test_a_body_cut_short_is_never_delivered(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    (one,) = run_upstreams(1)
    publish(names, one.address)
    client = shell.client(Settings(retry_attempts=1))
    with pytest.raises((shell.lib.ReadError, shell.lib.RemoteProtocolError)):
        shell.get(client, f"http://{NAME}:{port}/cut")


def test_a_body_cut_short_is_fetched_again_elsewhere(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    client = shell.client()
    for _ in range(6):
        response = shell.get(client, f"http://{NAME}:{port}/cut?except={two.address}")
        assert facts(response)["address"] == two.address


def test_503_goes_to_the_next_endpoint(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    client = shell.client()
    url = f"http://{NAME}:{port}/status?code=503&after=9&except={two.address}"
    for _ in range(6):
        assert shell.get(client, url).text == two.address


@pytest.mark.parametrize("code", [503, 429])
def test_an_answer_of_the_only_endpoint_is_the_callers(
    shell: Shell, names: Names, run_upstreams: Run, port: int, code: int
) -> None:
    (one,) = run_upstreams(1)
    publish(names, one.address)
    client = shell.client()
    response = shell.get(client, f"http://{NAME}:{port}/status?code={code}&after=1")
    assert response.status_code == code
    assert response.text == one.address
    assert one.seen("GET /status") == 1


@pytest.mark.parametrize(
    ("code", "extra", "seen"),
    [
        (503, {}, 2),
        (502, {"headers": {"If-None-Match": "x"}}, 2),
        (429, {}, 1),
        (500, {}, 1),
        (503, {"headers": {"x-stainless-retry-count": "0"}}, 1),
        (503, options(idempotent=False), 1),
    ],
)
def test_a_bad_answer_goes_once_to_one_other_endpoint(
    shell: Shell,
    names: Names,
    run_upstreams: Run,
    port: int,
    code: int,
    extra: dict[str, Any],
    seen: int,
) -> None:
    upstreams = run_upstreams(3)
    publish(names, *[upstream.address for upstream in upstreams])
    client = shell.client()
    response = shell.get(client, f"http://{NAME}:{port}/status?code={code}", **extra)
    assert response.status_code == code
    assert sum(upstream.seen("GET /status") for upstream in upstreams) == seen


def test_a_bad_answer_stands_when_the_other_endpoint_has_none(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    zones = f"az1={one.address}/32,az2={two.address}/32"
    client = shell.client(Settings(zone="az1", zones=zones))
    two.kill()
    response = shell.get(client, f"http://{NAME}:{port}/status?code=503")
    assert (response.status_code, response.text) == (503, one.address)


def test_a_post_gets_its_503(shell: Shell, names: Names, run_upstreams: Run, port: int) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    client = shell.client()
    assert shell.post(client, f"http://{NAME}:{port}/status?code=503").status_code == 503
    assert one.seen("POST /status") + two.seen("POST /status") == 1


@TIMED
@pytest.mark.parametrize("host", ["literal", "localhost"])
def test_a_refusal_where_nobody_else_can_appear_is_told_at_once(
    shell: Shell, names: Names, subnet: str, port: int, host: str
) -> None:
    """As without us: with the library's own error, and without a second dial."""
    names.answers["localhost"] = (subnet + "1",)
    client = shell.client()
    target = subnet + "1" if host == "literal" else host
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(shell.lib.ConnectError) as caught:
            shell.post(client, f"http://{target}:{port}/x")
        assert type(caught.value) is shell.lib.ConnectError
        took_s = time.monotonic() - began
    assert took_s < 0.04


def test_nobody_takes_connections(shell: Shell, names: Names, subnet: str, port: int) -> None:
    publish(names, subnet + "1", subnet + "2")
    client = shell.client()
    began = time.monotonic()
    with pytest.raises(shell.lib.ConnectError) as caught:
        shell.post(client, f"http://{NAME}:{port}/x", **options(deadline_s=0.3))
    assert isinstance(caught.value, errors.NoEndpointAvailable)
    assert isinstance(caught.value, errors.DeadlineExceeded)
    assert set(caught.value.reasons) == {f"{subnet}{n}:{port} ({NAME})" for n in (1, 2)}
    assert time.monotonic() - began < 0.5


def test_an_unknown_name_is_a_connect_error(shell: Shell, names: Names) -> None:
    client = shell.client()
    with pytest.raises(shell.lib.ConnectError) as caught:
        shell.get(client, "http://nowhere.test/")
    assert isinstance(caught.value, errors.NameNotFound)
    assert isinstance(caught.value, socket.gaierror)


@TIMED
def test_a_silent_address_costs_a_quarter_second_once(
    shell: Shell, names: Names, run_upstreams: Run, subnet: str, port: int
) -> None:
    (one,) = run_upstreams(1)
    with blackhole(subnet + "7", port), blackhole(subnet + "8", port):
        publish(names, subnet + "7", subnet + "8", one.address)
        client = shell.client()
        times = []
        for _ in range(8):
            began = time.monotonic()
            response = shell.post(client, f"http://{NAME}:{port}/x")
            times.append(time.monotonic() - began)
            assert facts(response)["address"] == one.address
        assert max(times) < 0.7
        assert sum(spent > 0.2 for spent in times) <= 2


class blackhole:
    """An address that never answers a connect: its queue of connections is full."""

    def __init__(self, address: str, port: int) -> None:
        self._address = (address, port)

    def __enter__(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(self._address)
        self._listener.listen(0)
        self._fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(self._address)
            self._fillers.append(filler)
        time.sleep(0.05)

    def __exit__(self, *exc: object) -> None:
        for sock in (*self._fillers, self._listener):
            sock.close()


@TIMED
def test_only_silent_addresses_end_at_the_deadline(
    shell: Shell, names: Names, subnet: str, port: int
) -> None:
    with blackhole(subnet + "7", port), blackhole(subnet + "8", port):
        publish(names, subnet + "7", subnet + "8")
        client = shell.client()
        began = time.monotonic()
        with pytest.raises(shell.lib.TimeoutException) as caught:
            shell.post(client, f"http://{NAME}:{port}/x", **options(deadline_s=0.8))
        assert 0.75 <= time.monotonic() - began < 0.9
        assert isinstance(caught.value, errors.DeadlineExceeded)


@TIMED
def test_a_hung_only_upstream_ends_at_the_deadline(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    (one,) = run_upstreams(1)
    publish(names, one.address)
    client = shell.client(Settings(deadline_s=0.5))
    one.hang()
    began = time.monotonic()
    with pytest.raises(shell.lib.TransportError) as caught:
        shell.get(client, f"http://{NAME}:{port}/x")
    assert 0.5 <= time.monotonic() - began < 0.6
    assert isinstance(caught.value, errors.DeadlineExceeded)
    one.go_on()


@TIMED
def test_the_librarys_timeout_keeps_its_meaning(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    (one,) = run_upstreams(1)
    publish(names, one.address)
    client = shell.client()
    began = time.monotonic()
    with pytest.raises(shell.lib.ReadTimeout) as caught:
        shell.get(client, f"http://{NAME}:{port}/slow?s=5", timeout=0.4)
    assert type(caught.value) is shell.lib.ReadTimeout
    assert time.monotonic() - began < 0.6


@TIMED
def test_a_body_that_makes_progress_is_not_cut(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    client = shell.client(Settings(**QUICK))
    url = f"http://{NAME}:{port}/drip?n=8&s=0.1"
    assert shell.get(client, url, **options(deadline_s=0.4)).text == "d" * 8
    assert one.seen("GET /drip") + two.seen("GET /drip") == 1


@TIMED
def test_a_hedged_request_takes_the_quicker_answer(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    client = shell.client()
    url = f"http://{NAME}:{port}/x"
    for _ in range(6):
        shell.get(client, url)
    one.hang()
    for _ in range(4):
        began = time.monotonic()
        assert facts(shell.get(client, url, **options(hedge=True)))["address"] == two.address
        assert time.monotonic() - began < 0.4
    one.go_on()


@TIMED
def test_an_address_that_left_dns_is_retired(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address)
    client = shell.client()
    url = f"http://{NAME}:{port}"
    assert facts(shell.get(client, f"{url}/x"))["address"] == one.address
    with threads(shell, client, f"{url}/drip?n=5&s=0.1") as bodies:
        time.sleep(0.2)
        names.change(NAME, two.address)
        time.sleep(0.1)
        assert facts(shell_get(shell, client, f"{url}/x"))["address"] == two.address
    assert bodies == ["d" * 5]  # in flight at the old one: finished
    settle(shell)
    assert open_connections(one.address, port) == 0


def shell_get(shell: Shell, client: Any, url: str) -> Any:
    """Async clients are busy on their loop meanwhile: ask with a client of their own."""
    if shell.sync:
        return client.get(url)
    import resilient.http

    with resilient.http.Client(settings=Settings()) as other:
        return other.get(url)


class threads:
    """One GET in the background."""

    def __init__(self, shell: Shell, client: Any, url: str) -> None:
        self._bodies: list[str] = []
        self._thread = threading.Thread(
            target=lambda: self._bodies.append(shell.get(client, url).text)
        )

    def __enter__(self) -> list[str]:
        self._thread.start()
        return self._bodies

    def __exit__(self, *exc: object) -> None:
        self._thread.join()


@TIMED
def test_a_full_outage_stays_within_the_budget(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    (one,) = run_upstreams(1)
    publish(names, one.address)
    client = shell.client(Settings(retry_budget_floor=2.0))
    began = time.monotonic()
    for _ in range(100):
        assert shell.get(client, f"http://{NAME}:{port}/status?code=503").status_code == 503
    spent = time.monotonic() - began
    assert one.seen("GET /status") <= 100 * 1.2 + 2.0 * (1 + spent)


@TIMED
@pytest.mark.parametrize("path", ["drop", "status?code=503"])
def test_a_full_outage_of_several_endpoints_stays_within_the_budget(
    shell: Shell, names: Names, run_upstreams: Run, port: int, path: str
) -> None:
    upstreams = run_upstreams(3)
    publish(names, *[upstream.address for upstream in upstreams])
    client = shell.client(Settings(retry_budget_floor=2.0))
    url = f"http://{NAME}:{port}"
    for _ in range(30):
        shell.get(client, f"{url}/x")
    began = time.monotonic()
    for _ in range(100):
        with suppress(shell.lib.TransportError):
            shell.get(client, f"{url}/{path}")
    spent = time.monotonic() - began
    seen = sum(upstream.seen(f"GET /{path.partition('?')[0]}") for upstream in upstreams)
    credit = 0.2 * 30 + len(upstreams)
    assert seen <= 100 * 1.2 + 2.0 * (1 + spent) + credit


def test_the_budget_is_named_when_it_is_what_stops_a_retry(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    (one,) = run_upstreams(1)
    publish(names, one.address)
    client = shell.client(Settings(retry_budget_floor=0.0, retry_budget=0.0))
    with pytest.raises(shell.lib.TransportError) as caught:
        shell.get(client, f"http://{NAME}:{port}/drop")
    assert isinstance(caught.value, errors.RetryBudgetExhausted)
    assert isinstance(caught.value.__cause__, shell.lib.RemoteProtocolError)
    assert one.seen("GET /drop") == 1


def test_requests_stay_in_their_zone_while_it_works(
    shell: Shell, names: Names, run_upstreams: Run, subnet: str, port: int
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    zones = f"az1={one.address}/32,az2={two.address}/32"
    client = shell.client(Settings(zone="az1", zones=zones))
    url = f"http://{NAME}:{port}/x"
    for _ in range(8):
        assert shell.get(client, url).extensions["resilient"]["zone"] == "az1"
    one.kill()
    for _ in range(4):
        assert shell.get(client, url).extensions["resilient"]["zone"] == "az2"


def test_redirects_to_another_host(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address)
    names.answers["other.test"] = (two.address,)
    client = shell.client(follow_redirects=True)
    target = f"http://other.test:{port}/x"
    response = shell.get(client, f"http://{NAME}:{port}/redirect", params={"to": target})
    assert facts(response)["address"] == two.address
    assert facts(response)["host"] == f"other.test:{port}"


def test_a_literal_address_needs_no_thread(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    (one,) = run_upstreams(1)
    client = shell.client()
    assert facts(shell.get(client, f"http://{one.address}:{port}/x"))["address"] == one.address
    assert not [thread for thread in threading.enumerate() if "resilient" in thread.name]


def test_close_leaves_nothing(shell: Shell, names: Names, run_upstreams: Run, port: int) -> None:
    one, two = run_upstreams(2)
    publish(names, one.address, two.address)
    settings = Settings(http_health_path="/x", **QUICK)
    clients = [shell.client(settings) for _ in range(3)]
    for client in clients * 4:
        shell.get(client, f"http://{NAME}:{port}/x")
    ours = [thread for thread in threading.enumerate() if "resilient" in thread.name]
    assert len(ours) == 1  # whatever the number of clients
    for client in clients:
        shell.close(client)
    assert not [thread for thread in threading.enumerate() if "resilient" in thread.name]
    assert names.closed == 1
    assert open_connections(one.address, port) + open_connections(two.address, port) == 0
