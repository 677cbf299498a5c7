"""Both resolvers against the lab's name server and its faults, and what `inspect` tells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from dns_lab import FakeClock

from resilient import Settings
from resilient.dns import NameNotFound, NameServersFailed, NameTimeout, inspect
from resilient.lab import DnsFaults, DnsServer

NAME = "writer.db.test"


@pytest.fixture
def zone() -> Iterator[DnsServer]:
    server = DnsServer("db.test", negative_ttl_s=1)
    server.set_records("a.db.test", "A", ["192.0.2.1"], 60)
    server.set_records("b.db.test", "A", ["192.0.2.2"], 60)
    server.flip(NAME, "a.db.test", 5)
    server.settle()
    yield server
    server.close()


def settings(*listeners: tuple[str, int], **given: Any) -> Settings:
    servers = [f"{address}:{port}" for address, port in listeners]
    values = {"dns_nameservers": servers, "dns_search": [], "dns_timeout_s": 0.2, "dns_tries": 1}
    return Settings(**{**values, **given})


@pytest.mark.parametrize("fault", ["servfail", "refused", "drop"])
async def test_failures_give_the_old_answer_and_absence_does_not(
    kind: Any, clock: FakeClock, zone: DnsServer, fault: str
) -> None:
    # no refresh ahead: a retry in the background would spare the next caller the NXDOMAIN
    resolver = kind(settings(zone.listen("127.0.0.1", 0), dns_refresh_ahead=0), clock)
    assert not (await resolver.resolve(NAME)).stale
    zone.faults = DnsFaults(**{fault: True})
    clock.now += 6
    stale = await resolver.resolve(NAME)
    assert stale.stale
    assert stale.addresses == ("192.0.2.1",)
    asked = zone.counts[NAME]
    answers = await asyncio.gather(*(resolver.resolve(NAME) for _ in range(50)))
    assert {answer.addresses for answer in answers} == {("192.0.2.1",)}
    assert zone.counts[NAME] == asked  # the failure is remembered
    with pytest.raises(NameTimeout if fault == "drop" else NameServersFailed):
        await resolver.resolve("b.db.test")
    zone.faults = DnsFaults(nxdomain=True)
    clock.now += 10
    with pytest.raises(NameNotFound):
        await resolver.resolve(NAME)
    zone.faults = DnsFaults()
    clock.now += 2
    assert (await resolver.resolve(NAME)).addresses == ("192.0.2.1",)
    await resolver.close()


@pytest.mark.parametrize(
    ("faults", "least_s", "most_s"),
    [
        (DnsFaults(delay_s=0.1), 0.1, 0.2),
        (DnsFaults(truncate=True), 0.0, 0.2),
        (DnsFaults(wrong_id=True), 0.2, 0.4),  # noise: the true reply is awaited, then the next
        (DnsFaults(drop=True), 0.2, 0.4),
    ],
    ids=["delay", "truncation", "wrong id", "silence"],
)
async def test_the_next_server_answers(
    kind: Any, zone: DnsServer, faults: DnsFaults, least_s: float, most_s: float
) -> None:
    sick = DnsServer("db.test")
    sick.set_records(NAME, "A", ["192.0.2.1"], 60)
    sick.faults = faults
    try:
        listeners = sick.listen("127.0.0.1", 0), zone.listen("127.0.0.1", 0)
        resolver = kind(settings(*listeners))
        began = time.monotonic()
        assert (await resolver.resolve(NAME)).addresses == ("192.0.2.1",)
        assert least_s <= time.monotonic() - began < most_s
        await resolver.close()
    finally:
        sick.close()


async def test_a_late_secondary_is_followed_when_it_flips(kind: Any, zone: DnsServer) -> None:
    zone.flip(NAME, "a.db.test", 1)
    zone.settle()
    resolver = kind(settings(zone.listen("127.0.0.1", 0, lag_s=0.5)))
    await resolver.resolve(NAME)
    flipped_at = zone.flip(NAME, "b.db.test")
    while (await resolver.refresh(NAME)).addresses != ("192.0.2.2",):
        assert time.monotonic() - flipped_at < 2
        await asyncio.sleep(0.01)
    took_s = time.monotonic() - flipped_at
    assert 0.5 <= took_s < 0.5 + 0.3  # the bypass asks each 250 ms
    assert zone.counts[NAME] <= 5
    await resolver.close()


# -- inspect


def test_inspect_gives_each_ttl_and_who_answered(zone: DnsServer) -> None:
    at = zone.listen("127.0.0.1", 0)
    said = inspect(f"{NAME}.".upper(), settings(at, dns_ttl_ceiling_s=3))
    assert [(link.name, link.rdtype, link.ttl_s, link.data) for link in said.chain] == [
        (NAME, "CNAME", 5, ("a.db.test",)),
        ("a.db.test", "A", 60, ("192.0.2.1",)),
    ]
    assert (said.name, said.canonical_name, said.addresses) == (NAME, "a.db.test", ("192.0.2.1",))
    assert (said.ttl_s, said.kept_s) == (5, 3)
    assert (said.source, said.server) == ("server", "{}:{}".format(*at))
    assert said.authoritative
    assert not said.cached
    assert 0 < said.took_s < 0.2


def test_inspect_asks_past_every_failing_server(zone: DnsServer) -> None:
    at = zone.listen("127.0.0.1", 0)
    said = inspect("a.db.test", settings(("127.0.0.1", 1), at), "any")
    assert said.server == "{}:{}".format(*at)
    assert said.addresses == ("192.0.2.1",)


def test_inspect_of_what_needs_no_asking_and_of_what_fails(zone: DnsServer) -> None:
    given = settings(zone.listen("127.0.0.1", 0))
    assert inspect("192.0.2.9", given).source == "literal"
    assert inspect("x.localhost", given).source == "localhost"
    with pytest.raises(NameNotFound):
        inspect("no.db.test", given)
    zone.faults = DnsFaults(servfail=True)
    with pytest.raises(NameServersFailed):
        inspect(NAME, given)
