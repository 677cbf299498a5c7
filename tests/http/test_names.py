"""With the real resolver and a real name server: an alias that moves takes requests along."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from http_lab import NAME, TIMED, Names, Shell, Upstream, facts

from resilient import Settings, errors
from resilient.lab import DnsFaults, DnsServer

Run = Callable[..., list[Upstream]]
ALIAS = "api.moving.test"


@pytest.fixture
def server() -> Iterator[tuple[DnsServer, str]]:
    dns_server = DnsServer("moving.test")
    address, port = dns_server.listen("127.0.0.1", 0)
    yield dns_server, f"{address}:{port}"
    dns_server.close()


@TIMED
def test_an_alias_that_moves_is_followed(
    shell: Shell, run_upstreams: Run, port: int, server: tuple[DnsServer, str]
) -> None:
    zone, listens = server
    one, two = run_upstreams(2)
    zone.set_records("az1.moving.test", "A", [one.address], 60)
    zone.set_records("az2.moving.test", "A", [two.address], 60)
    zone.flip(ALIAS, "az1.moving.test", 1)
    zone.settle()
    client = shell.client(Settings(dns_nameservers=listens, dns_search=[]))
    url = f"http://{ALIAS}:{port}/x"
    assert facts(shell.get(client, url))["address"] == one.address
    zone.flip(ALIAS, "az2.moving.test", 1)
    began = time.monotonic()
    while facts(shell.get(client, url))["address"] != two.address:
        assert time.monotonic() - began < 1.3  # TTL + 300 ms
        time.sleep(0.02)


def test_a_dead_address_is_looked_up_again_at_once(
    shell: Shell, run_upstreams: Run, subnet: str, port: int, server: tuple[DnsServer, str]
) -> None:
    zone, listens = server
    one, two = run_upstreams(2)
    zone.set_records(ALIAS, "A", [one.address, subnet + "9"], 60)
    zone.settle()
    client = shell.client(Settings(dns_nameservers=listens, dns_search=[], deadline_s=5))
    url = f"http://{ALIAS}:{port}/x"
    for _ in range(6):
        shell.get(client, url)
    zone.set_records(ALIAS, "A", [two.address], 60)
    zone.settle()
    one.kill()
    began = time.monotonic()
    while True:
        try:
            assert facts(shell.get(client, url))["address"] == two.address
            break
        except shell.lib.TransportError:
            assert time.monotonic() - began < 3  # TTL: 60 s


def endpoints(client: Any) -> set[str]:
    """The addresses that may be dialled."""
    (origin,) = client._transport._engine._origins.values()
    return {slot.endpoint.address for slot in origin.slots()}


@TIMED
def test_nxdomain_keeps_who_answers_until_it_fails(
    shell: Shell, run_upstreams: Run, port: int, server: tuple[DnsServer, str]
) -> None:
    zone, listens = server
    one, two = run_upstreams(2)
    zone.set_records(ALIAS, "A", [one.address, two.address], 1)
    zone.settle()
    zones = f"az1={one.address}/32,az2={two.address}/32"
    settings = Settings(dns_nameservers=listens, dns_search=[], zone="az1", zones=zones)
    client = shell.client(settings)
    url = f"http://{ALIAS}:{port}/x"
    assert facts(shell.get(client, url))["address"] == one.address
    assert endpoints(client) == {one.address, two.address}
    time.sleep(0.3)
    shell.get(client, url)  # in use, so kept up to date
    zone.faults = DnsFaults(nxdomain=True)
    assert until(lambda: endpoints(client) == {one.address})  # nobody ever heard the other
    for _ in range(12):  # over the life of the negative answer
        assert facts(shell.get(client, url))["address"] == one.address
        time.sleep(0.1)
    one.kill()
    began = time.monotonic()
    with pytest.raises(shell.lib.ConnectError) as caught:
        shell.get(client, url)
    assert isinstance(caught.value, errors.NameNotFound)
    assert time.monotonic() - began < 1  # final: nothing to wait for
    assert endpoints(client) == set()
    one.start().wait()
    with pytest.raises(shell.lib.ConnectError) as caught:
        shell.get(client, url)
    assert isinstance(caught.value, errors.NameNotFound)
    assert one.seen("GET /x") == 0
    zone.faults = DnsFaults()
    assert until(lambda: _served(shell, client, url) == one.address)


@TIMED
def test_nxdomain_leaves_nothing_that_only_dns_knew(
    shell: Shell, run_upstreams: Run, port: int, server: tuple[DnsServer, str]
) -> None:
    zone, listens = server
    (one,) = run_upstreams(1)
    zone.set_records(ALIAS, "A", [one.address], 1)
    zone.settle()
    settings = Settings(
        dns_nameservers=listens, dns_search=[], http_health_path="/x", probe_interval_s=0.2
    )
    client = shell.client(settings)
    url = f"http://{ALIAS}:{port}/y"
    one.hang()  # DNS names it, and neither a request nor a probe is ever answered
    with pytest.raises(shell.lib.TransportError):
        shell.get(client, url, extensions={"resilient": {"deadline_s": 0.3}})
    zone.faults = DnsFaults(nxdomain=True)
    assert until(lambda: endpoints(client) == set())
    with pytest.raises(shell.lib.ConnectError) as caught:
        shell.get(client, url)
    assert isinstance(caught.value, errors.NameNotFound)
    one.go_on()


@TIMED
def test_nxdomain_and_probes(
    shell: Shell, run_upstreams: Run, port: int, server: tuple[DnsServer, str]
) -> None:
    """Probes that succeed keep an endpoint that no request ever reached."""
    zone, listens = server
    one, two = run_upstreams(2)
    zone.set_records(ALIAS, "A", [one.address, two.address], 1)
    zone.settle()
    zones = f"az1={one.address}/32,az2={two.address}/32"
    settings = Settings(
        dns_nameservers=listens, dns_search=[], zone="az1", zones=zones,
        http_health_path="/x", probe_interval_s=0.2, probe_timeout_s=0.2,
    )  # fmt: skip
    client = shell.client(settings)
    url = f"http://{ALIAS}:{port}/y"
    shell.get(client, url)
    assert until(lambda: bool(two.seen("GET /x")))
    zone.faults = DnsFaults(nxdomain=True)
    time.sleep(1.5)
    assert endpoints(client) == {one.address, two.address}
    two.kill()
    assert until(lambda: endpoints(client) == {one.address})
    two.start().wait()
    time.sleep(0.5)
    assert endpoints(client) == {one.address}
    assert two.seen("GET /x") == 0


@TIMED
def test_failing_connects_ask_the_name_servers_in_moderation(
    shell: Shell, subnet: str, port: int, server: tuple[DnsServer, str]
) -> None:
    """One question per type and 250 ms, however many callers see a connect fail."""
    zone, listens = server
    zone.set_records(ALIAS, "A", [subnet + "1", subnet + "2"], 60)
    zone.settle()
    client = shell.client(Settings(dns_nameservers=listens, dns_search=[]))
    url, options = f"http://{ALIAS}:{port}/x", {"resilient": {"deadline_s": 0.1}}
    began, calls = time.monotonic(), 0
    while time.monotonic() - began < 1.2:
        calls += 1
        with pytest.raises(shell.lib.TransportError):
            shell.post(client, url, extensions=options)
    asked = sum(query.type == "A" for query in zone.log)
    assert calls >= 5
    assert 3 <= asked <= 1 + 1 + 1.2 / 0.25


@TIMED
def test_a_names_mode_is_set_with_or_without_final_dot(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    host = f"{NAME}."
    names.answers[host] = (one.address,)
    client = shell.client(Settings(dns_mode=f"{NAME}=rotating"))
    url = f"http://{host}:{port}/x"
    shell.get(client, url)
    names.change(host, two.address)
    assert until(lambda: two.address in endpoints(client))
    assert endpoints(client) == {one.address, two.address}


def _served(shell: Shell, client: Any, url: str) -> str | None:
    try:
        return str(facts(shell.get(client, url))["address"])
    except shell.lib.ConnectError:
        return None


def until(condition: Callable[[], bool], within_s: float = 3.0) -> bool:
    end = time.monotonic() + within_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()
