"""With the real resolver and a real name server: an alias that moves takes requests along."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from http_lab import TIMED, Shell, Upstream, facts

from resilient import Settings
from resilient.lab import DnsServer

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
