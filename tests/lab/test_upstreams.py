"""The HTTP upstreams and their faults."""

from __future__ import annotations

import http.client
import json
import time

import pytest

from resilient.lab import Lab, Upstream


def connect(upstream: Upstream, timeout_s: float = 2.0) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(upstream.address, upstream.port, timeout=timeout_s)


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None
) -> tuple[int, dict[str, object]]:
    connection.request(method, path, body)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_one_kept_connection_serves_all(lab: Lab) -> None:
    upstream = lab.upstream("az2")
    connection = connect(upstream)
    assert ask(connection, "GET", "/health/ready")[0] == 200
    first = connection.sock
    assert ask(connection, "GET", "/whoami")[1] == {
        "zone": "az2", "pid": upstream.pid, "method": "GET",
    }  # fmt: skip
    began_at = time.monotonic()
    for number in range(20):
        assert ask(connection, "POST", "/orders", json.dumps({"id": f"o{number}"}))[0] == 201
    assert time.monotonic() - began_at < 0.4, "no 40 ms wait for a delayed acknowledgement"
    assert ask(connection, "POST", "/orders?id=o1")[0] == 201
    assert ask(connection, "POST", "/orders")[0] == 400
    assert ask(connection, "GET", "/slow?s=0.05")[0] == 200
    assert ask(connection, "GET", "/nothing")[0] == 404
    orders = ask(connection, "GET", "/orders")[1]["orders"]
    assert orders == upstream.orders == [f"o{number}" for number in range(20)] + ["o1"]
    assert lab.orders.count("o1") == 2
    assert connection.sock is first
    connection.request("GET", "/status/503?retry_after=2")
    response = connection.getresponse()
    assert (response.status, response.headers["Retry-After"]) == (503, "2")
    response.read()
    connection.request("POST", "/orders", iter([b'{"id":', b'"chunked"}']), encode_chunked=True,
        headers={"Transfer-Encoding": "chunked"})  # fmt: skip
    assert json.loads(connection.getresponse().read())["id"] == "chunked"
    connection.request("HEAD", "/whoami")
    assert connection.getresponse().read() == b""
    connection.close()


def test_down(lab: Lab) -> None:
    upstream = lab.upstream("az1")
    lab.inject("upstream-down", dns_after_s=0).wait_done()
    with pytest.raises(ConnectionRefusedError):
        ask(connect(upstream), "GET", "/whoami")
    lab.heal()
    connection = connect(upstream)
    assert ask(connection, "GET", "/whoami")[0] == 200
    connection.close()


def test_hang(lab: Lab) -> None:
    upstream = lab.upstream("az3")
    lab.inject("upstream-hang", zone="az3", dns_after_s=0).wait_done()
    connection = connect(upstream, 0.3)
    with pytest.raises(TimeoutError):
        ask(connection, "GET", "/whoami")
    connection.close()
    lab.heal()
    connection = connect(upstream)
    assert ask(connection, "GET", "/whoami")[0] == 200
    connection.close()


def test_gone_from_dns(lab: Lab) -> None:
    upstream = lab.upstream("az1")
    run = lab.inject("upstream-gone", dns_after_s=0.1)
    run.wait_done()
    assert run.dns_changed_at is not None
    assert upstream.address not in lab.dns.records[lab.UPSTREAM, "A"][1]
    connection = connect(upstream)
    assert ask(connection, "GET", "/whoami")[0] == 200, "who knows the address is still served"
    connection.close()
    lab.heal()
    assert upstream.address in lab.dns.records[lab.UPSTREAM, "A"][1]
