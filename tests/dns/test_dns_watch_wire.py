"""What callers rely on beyond the scenarios: watching a name, the wire, the files."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from dns_lab import FakeClock, Lab, a, until_async

from resilient.dns import AsyncResolver, Change, Resolver
from resilient.errors import NameNotFound, NameServersFailed

# -- watch


def _moved(name: str, alias: str, address: str, **more: Any) -> dict[str, Any]:
    answers = [[name, "CNAME", 1, alias], [alias, "A", 1, address]]
    return {"q": name, "type": "A", "answers": answers, **more}


async def test_watch_tells_of_a_flipped_alias(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    with Lab([_moved("db.test", "one.test", "192.0.2.1")]) as lab:
        resolver = kind(lab.settings(dns_refresh_ahead=0.5))
        changes: list[Change] = []
        others: list[Change] = []
        stop = resolver.watch("DB.test.", changes.append)
        stop_other = resolver.watch("db.test", others.append)
        assert await until_async(lambda: lab.count >= 1)
        stop_other()
        stop_other()
        with caplog.at_level(logging.INFO, "resilient.dns"):
            lab.servers[0].set([_moved("db.test", "two.test", "192.0.2.2")])
            assert await until_async(lambda: bool(changes))
        (change,) = changes
        assert (change.name, change.mode) == ("db.test", "strict")
        assert change.removed == {"192.0.2.1"}
        assert change.added == {"192.0.2.2"}
        assert change.old is not None
        assert change.old.canonical_name == "one.test"
        assert change.new.chain == ("db.test", "two.test")
        assert "old_chain=db.test>one.test new_chain=db.test>two.test" in caplog.text
        assert others == []
        stop()
        asked = lab.count
        await asyncio.sleep(0.6)
        assert lab.count <= asked + 1  # the one that was planned
        await resolver.close()


async def test_watch_without_refresh_ahead_and_after_failures(kind: Any) -> None:
    rules = [
        {"q": "a.test", "nth": 1, "rcode": "SERVFAIL"},
        a("a.test", "192.0.2.1", ttl=1, nth=2),
        a("a.test", "192.0.2.2", ttl=1),
    ]
    with Lab(rules) as lab:
        resolver = kind(lab.settings(dns_tries=1))
        changes: list[Change] = []

        def fails(change: Change) -> None:
            raise ValueError("a callback's own trouble")

        resolver.watch("a.test", fails)
        resolver.watch("a.test", changes.append)
        assert await until_async(lambda: bool(changes), 4)
        assert changes[0].removed == {"192.0.2.1"}
        await resolver.close()


async def test_watch_a_lookup_finds_the_change(kind: Any, clock: FakeClock) -> None:
    with Lab([a("a.test", "192.0.2.1", nth=1), a("a.test", "192.0.2.2")]) as lab:
        resolver = kind(lab.settings(), clock)
        changes: list[Change] = []
        await resolver.resolve("a.test")
        clock.now += 200
        await resolver.resolve("a.test")
        assert changes == []
        resolver.watch("a.test", changes.append)
        # A watch begins with a refresh of its own: let it land.
        assert await until_async(lambda: lab.count == 3 and not resolver._flights)
        lab.servers[0].set([a("a.test", "192.0.2.3")])
        clock.now += 200
        await resolver.resolve("a.test")
        assert await until_async(lambda: bool(changes))
        assert changes[-1].new.addresses == ("192.0.2.3",)
        await resolver.close()


async def test_callback_may_close_the_resolver_on_its_thread() -> None:
    with Lab([a("a.test", "192.0.2.1", ttl=1, nth=1), a("a.test", "192.0.2.2", ttl=1)]) as lab:
        resolver = Resolver(lab.settings())
        called = threading.Event()

        def callback(change: Change) -> None:
            resolver.close()
            called.set()

        resolver.watch("a.test", callback)
        assert await asyncio.to_thread(called.wait, 3)
        resolver.close()


# -- the wire


async def test_forged_source_is_ignored(kind: Any) -> None:
    """FAULTS 23."""
    with Lab([a("a.test", "192.0.2.1", delay_s=0.3)]) as lab:
        resolver = kind(lab.settings())
        call = asyncio.create_task(resolver.resolve("a.test"))
        server = lab.servers[0]
        assert await until_async(lambda: bool(server.ids))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as liar:
            forged = _forged("a.test", server.ids[0], "203.0.113.66")
            liar.sendto(forged, server.sources[0])
            assert (await call).addresses == ("192.0.2.1",)
        await resolver.close()


def _forged(name: str, number: int, address: str) -> bytes:
    import dns.message
    import dns.rrset

    query = dns.message.make_query(name, "A", id=number)
    reply = dns.message.make_response(query)
    reply.answer.append(dns.rrset.from_text(f"{name}.", 600, "IN", "A", address))
    return reply.to_wire()


async def test_ids_and_ports_vary(kind: Any) -> None:
    with Lab([a("a.test", "192.0.2.1")]) as lab:
        resolver = kind(lab.settings(dns_cache_size=0))
        for _ in range(16):
            await resolver.resolve("a.test")
        assert len(set(lab.servers[0].ids)) > 12
        assert len({port for _, port in lab.servers[0].sources}) > 12
        await resolver.close()


async def test_refused_port_is_passed_over_at_once(kind: Any) -> None:
    with Lab([a("a.test", "192.0.2.1")]) as lab:
        servers = ["127.0.0.1:1", str(lab.servers[0])]
        resolver = kind(lab.settings(dns_nameservers=servers))
        begun = time.monotonic()
        assert (await resolver.resolve("a.test")).addresses == ("192.0.2.1",)
        assert time.monotonic() - begun < 0.5
        only = kind(lab.settings(dns_nameservers=servers[:1]))
        with pytest.raises(NameServersFailed):
            await only.resolve("a.test")
        await only.close()
        await resolver.close()


async def test_silent_aaaa_costs_its_timeout_once_and_then_50_ms(
    kind: Any, clock: FakeClock
) -> None:
    rules = [a("a.test", "192.0.2.1", ttl=10), {"q": "*", "type": "AAAA", "drop": True}]
    with Lab(rules) as lab:
        resolver = kind(lab.settings(dns_timeout_s=0.4), clock)
        took = []
        for _ in range(2):
            begun = time.monotonic()
            assert (await resolver.resolve("a.test", "any")).addresses == ("192.0.2.1",)
            took.append(time.monotonic() - begun)
            clock.now += 20
        assert 0.3 < took[0] < 0.6
        assert 0.04 < took[1] < 0.3
        await resolver.close()


async def test_a_silent_aaaa_holds_back_no_connect() -> None:
    """The first one neither: it goes on being asked for, and is kept (RFC 8305 section 3)."""
    rules = [a("a.test", "192.0.2.1"), a("a.test", "2001:db8::1", delay_s=0.3)]
    with Lab(rules) as lab:
        resolver = AsyncResolver(lab.settings())
        begun = time.monotonic()
        early = await asyncio.gather(*(resolver.resolve_early("a.test") for _ in range(20)))
        assert 0.05 <= time.monotonic() - begun < 0.2
        assert {(answer.addresses, more) for answer, more in early} == {(("192.0.2.1",), True)}
        both = {"192.0.2.1", "2001:db8::1"}
        assert set((await resolver.resolve("a.test", "any")).addresses) == both
        assert 0.3 <= time.monotonic() - begun < 0.5
        answer, more = await resolver.resolve_early("a.test")
        assert (set(answer.addresses), more) == (both, False)
        assert lab.count == 2
        await resolver.close()


async def test_what_comes_early_and_what_not() -> None:
    rules = [
        a("six.test", "2001:db8::1"),
        {"q": "six.test", "type": "A", "drop": True},
        a("both.test", "192.0.2.1"),
        a("both.test", "2001:db8::1", delay_s=0.02),
        a("outside.test", "203.0.113.1"),
        a("outside.test", "2001:db8::1", delay_s=0.2),
    ]
    with Lab(rules) as lab:
        networks = ["192.0.2.0/24", "2001:db8::/32"]
        settings = lab.settings(dns_allowed_networks=networks, dns_timeout_s=0.4, dns_tries=1)
        resolver = AsyncResolver(settings)
        answer, more = await resolver.resolve_early("six.test")
        assert (answer.addresses, more) == (("2001:db8::1",), True)
        answer, more = await resolver.resolve_early("both.test")
        assert (set(answer.addresses), more) == ({"192.0.2.1", "2001:db8::1"}, False)
        answer, more = await resolver.resolve_early("outside.test")
        assert (answer.addresses, more) == (("2001:db8::1",), False)
        with pytest.raises(NameNotFound):
            await resolver.resolve_early("absent.test")
        answer, more = await resolver.resolve_early("192.0.2.9")
        assert (answer.addresses, more) == (("192.0.2.9",), False)
        await resolver.close()


async def test_chance_is_our_own(kind: Any) -> None:
    """Who seeds or watches the global generator doesn't meet us there."""
    records = [["_p._tcp.x.test", "SRV", 10, f"10 5 1 {host}.test"] for host in "ab"]
    rules = [{"q": "_p._tcp.x.test", "type": "SRV", "answers": records}, a("a.test", "192.0.2.1")]
    with Lab(rules) as lab:
        resolver = kind(lab.settings(dns_refresh_ahead=0.8))
        before = random.getstate()
        await resolver.resolve("a.test")
        for _ in range(2):
            await resolver.resolve_srv("_p._tcp.x.test")
        assert random.getstate() == before
        await resolver.close()


async def test_addresses_outside_the_allowed_networks(kind: Any) -> None:
    with Lab([a("a.test", "10.0.0.1", "192.0.2.1"), a("b.test", "203.0.113.1")]) as lab:
        resolver = kind(lab.settings(dns_allowed_networks="10.0.0.0/8"))
        assert (await resolver.resolve("a.test")).addresses == ("10.0.0.1",)
        with pytest.raises(NameServersFailed, match="allowed networks"):
            await resolver.resolve("b.test")
        await resolver.close()


async def test_srv(kind: Any, clock: FakeClock) -> None:
    records = [
        ["_p._tcp.x.test", "SRV", 10, "20 0 5433 b.test"],
        ["_p._tcp.x.test", "SRV", 10, "10 5 5432 a.test"],
    ]
    none = [["_n._tcp.x.test", "SRV", 10, "0 0 0 "]]
    rules = [
        {"q": "_p._tcp.x.test", "type": "SRV", "answers": records},
        {"q": "_n._tcp.x.test", "type": "SRV", "answers": none},
    ]
    with Lab(rules) as lab:
        resolver = kind(lab.settings(), clock)
        for _ in range(2):
            services = await resolver.resolve_srv("_p._tcp.X.test.")
            assert [(s.host, s.port) for s in services] == [("a.test", 5432), ("b.test", 5433)]
        assert lab.count == 1
        for name in ("_n._tcp.x.test", "_q._tcp.x.test"):
            with pytest.raises(NameNotFound):
                await resolver.resolve_srv(name)
        await resolver.close()


# -- files


async def test_hosts_file(kind: Any, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.7 Db db.test # comment\n2001:db8::7 db\nnonsense db\n")
    with Lab([a("db", "192.0.2.1")]) as lab:
        resolver = kind(lab.settings(), hosts_path=str(hosts))
        assert (await resolver.resolve("DB.")).addresses == ("192.0.2.7",)
        assert (await resolver.resolve("db", "any")).addresses == ("192.0.2.7", "2001:db8::7")
        assert (await resolver.resolve("db.test")).canonical_name == "db"
        assert lab.count == 0
        hosts.write_text("192.0.2.88 db\n")
        assert (await resolver.resolve("db")).addresses == ("192.0.2.88",)
        hosts.unlink()
        assert (await resolver.resolve("db")).addresses == ("192.0.2.1",)
        await resolver.close()


async def test_resolv_conf_is_read_again(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "resolv.conf"
    rules = [a("db.one.test", "192.0.2.1"), a("db.two.test", "192.0.2.2")]
    with Lab(rules) as lab:
        path.write_text("search one.test\n")
        settings = lab.settings(dns_search=None)
        resolver = kind(settings, resolv_conf_path=str(path))
        assert (await resolver.resolve("db")).addresses == ("192.0.2.1",)
        path.write_text("options ndots:1\nsearch two.test.\n")
        resolver.invalidate("db")
        assert (await resolver.resolve("db")).addresses == ("192.0.2.2",)
        await resolver.close()
