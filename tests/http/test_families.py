"""Two families of addresses (RFC 8305): one is used while the other is still asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import dns.message
import dns.rdatatype
import pytest
from http_lab import NAME, TIMED, Names, Shell, Upstream, facts
from test_conformance import blackhole

from resilient import Settings
from resilient.http import _origin
from resilient.lab import DnsServer

Run = Callable[..., list[Upstream]]
BOTH = "both.families.test"
NEVER_S = 60.0


class Zone(DnsServer):
    """Answers for one type of records come late."""

    def __init__(self) -> None:
        super().__init__("families.test")
        self.late_s = {"A": 0.0, "AAAA": 0.0}
        self.at = "{}:{}".format(*self.listen("127.0.0.1", 0))

    async def answer(self, wire: bytes, transport: str, source: str, lag_s: float) -> bytes | None:
        kind = dns.rdatatype.to_text(dns.message.from_wire(wire).question[0].rdtype)
        await asyncio.sleep(self.late_s[kind])
        return await super().answer(wire, transport, source, lag_s)

    def settings(self) -> Settings:
        return Settings(dns_nameservers=self.at, dns_search=[])


@pytest.fixture
def zone() -> Iterator[Zone]:
    running = Zone()
    yield running
    running.close()


@pytest.fixture
def six(port: int) -> Iterator[Upstream]:
    try:
        upstream = Upstream("::1", port).start()
        upstream.wait()
    except AssertionError:
        pytest.skip("no IPv6 loopback")
    yield upstream
    upstream.kill()


def test_the_first_silent_aaaa_costs_50_ms(
    shell: Shell, run_upstreams: Run, port: int, zone: Zone
) -> None:
    (one,) = run_upstreams(1)
    zone.set_records(BOTH, "A", [one.address], 60)
    zone.late_s["AAAA"] = NEVER_S
    client = shell.client(zone.settings())
    began = time.monotonic()
    response = shell.post(client, f"http://{BOTH}:{port}/x")
    assert 0.05 <= time.monotonic() - began < 0.3  # DNS_TIMEOUT_S: 1
    assert facts(response)["address"] == one.address


@TIMED
def test_a_silent_a_costs_50_ms_as_well(shell: Shell, six: Upstream, port: int, zone: Zone) -> None:
    zone.set_records(BOTH, "AAAA", ["::1"], 60)
    zone.late_s["A"] = NEVER_S
    client = shell.client(zone.settings())
    began = time.monotonic()
    assert facts(shell.post(client, f"http://{BOTH}:{port}/x"))["address"] == "::1"
    assert time.monotonic() - began < 0.3


def test_an_address_that_comes_late_joins_the_connect(
    shell: Shell, six: Upstream, subnet: str, port: int, zone: Zone
) -> None:
    """Two addresses are silent; the third comes while the first is dialled: it is next."""
    zone.set_records(BOTH, "A", [subnet + "7", subnet + "8"], 60)
    zone.set_records(BOTH, "AAAA", ["::1"], 60)
    zone.late_s["AAAA"] = 0.15
    client = shell.client(zone.settings())
    with blackhole(subnet + "7", port), blackhole(subnet + "8", port):
        began = time.monotonic()
        assert facts(shell.post(client, f"http://{BOTH}:{port}/x"))["address"] == "::1"
        assert 0.25 <= time.monotonic() - began < 0.5
        assert facts(shell.post(client, f"http://{BOTH}:{port}/x"))["address"] == "::1"


def test_refused_waits_for_the_other_family(
    shell: Shell, six: Upstream, subnet: str, port: int, zone: Zone
) -> None:
    zone.set_records(BOTH, "A", [subnet + "1"], 60)
    zone.set_records(BOTH, "AAAA", ["::1"], 60)
    zone.late_s["AAAA"] = 0.3
    client = shell.client(zone.settings())
    began = time.monotonic()
    assert facts(shell.post(client, f"http://{BOTH}:{port}/x"))["address"] == "::1"
    assert 0.3 <= time.monotonic() - began < 0.5


@TIMED
def test_refused_is_refused_once_both_families_are_known(
    shell: Shell, subnet: str, port: int, zone: Zone
) -> None:
    zone.set_records(BOTH, "A", [subnet + "1"], 60)
    zone.late_s["AAAA"] = 0.3  # then: no such record
    client = shell.client(zone.settings())
    began = time.monotonic()
    with pytest.raises(shell.lib.ConnectError):
        shell.post(client, f"http://{BOTH}:{port}/x", timeout=0.35)
    assert 0.3 <= time.monotonic() - began < 0.5


def test_the_second_dial_is_of_the_other_family(
    shell: Shell,
    names: Names,
    six: Upstream,
    subnet: str,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_origin, "draw", lambda: 0.0)  # the first one
    names.answers[NAME] = (subnet + "7", subnet + "8", "::1")
    client = shell.client()
    with blackhole(subnet + "7", port), blackhole(subnet + "8", port):
        began = time.monotonic()
        assert facts(shell.post(client, f"http://{NAME}:{port}/x"))["address"] == "::1"
        assert 0.25 <= time.monotonic() - began < 0.45


@TIMED
def test_the_family_that_the_resolver_puts_first_is_used_while_it_works(
    shell: Shell, run_upstreams: Run, six: Upstream, port: int, zone: Zone
) -> None:
    """RFC 6724: ::1 has the higher precedence."""
    (one,) = run_upstreams(1)
    zone.set_records(BOTH, "A", [one.address], 60)
    zone.set_records(BOTH, "AAAA", ["::1"], 60)
    client = shell.client(zone.settings())
    url = f"http://{BOTH}:{port}/x"
    assert {facts(shell.post(client, url))["address"] for _ in range(12)} == {"::1"}
    six.kill()
    assert facts(shell.get(client, url))["address"] == one.address
