"""The name server, asked over the network."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from resilient.lab import DnsFaults, DnsServer, Lab

Server = tuple[DnsServer, str, int]


@pytest.fixture
def server() -> Iterator[Server]:
    dns_server = DnsServer("db.test", "api.test", negative_ttl_s=3)
    dns_server.set_records("az1-db.db.test", "A", ["127.0.1.10"], 60)
    dns_server.set_records("az2-db.db.test", "A", ["127.0.2.10"], 60)
    dns_server.flip("writer.db.test", "az1-db.db.test", 1)
    dns_server.set_records("api.test", "A", ["127.0.1.10", "127.0.2.10"], 5)
    dns_server.settle()
    address, port = dns_server.listen("127.0.0.1", 0)
    yield dns_server, address, port
    dns_server.close()


def ask(server: Server, name: str, kind: str = "A", *, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    if tcp:
        return dns.query.tcp(query, server[1], 1, server[2])
    return dns.query.udp(query, server[1], 1, server[2])


def texts(answer: dns.message.Message) -> list[str]:
    return [line for rrset in answer.answer for line in rrset.to_text().splitlines()]


@pytest.mark.parametrize("tcp", [False, True])
def test_a_chain_in_one_answer(server: Server, tcp: bool) -> None:
    answer = ask(server, "writer.db.test", tcp=tcp)
    assert texts(answer) == [
        "writer.db.test. 1 IN CNAME az1-db.db.test.",
        "az1-db.db.test. 60 IN A 127.0.1.10",
    ]
    assert answer.flags & dns.flags.AA
    assert answer.flags & dns.flags.RA
    assert server[0].counts["writer.db.test"] == 1
    (query,) = server[0].log
    assert (query.name, query.type) == ("writer.db.test", "A")
    assert query.transport == ("tcp" if tcp else "udp")
    assert abs(query.at - time.monotonic()) < 1


def test_case_does_not_matter(server: Server) -> None:
    assert texts(ask(server, "Writer.DB.Test"))[-1].endswith("127.0.1.10")


def test_a_flip_is_seen_at_once(server: Server) -> None:
    server[0].flip("writer.db.test", "az2-db.db.test")
    assert texts(ask(server, "writer.db.test"))[-1].endswith("127.0.2.10")


def test_addresses_come_and_go(server: Server) -> None:
    server[0].remove_address("api.test", "127.0.1.10")
    assert texts(ask(server, "api.test")) == ["api.test. 5 IN A 127.0.2.10"]
    server[0].add_address("api.test", "127.0.1.10")
    assert len(texts(ask(server, "api.test"))) == 2


def test_a_late_copy(server: Server) -> None:
    dns_server = server[0]
    late = (dns_server, *dns_server.listen("127.0.0.1", 0, lag_s=0.4))
    flipped_at = dns_server.flip("writer.db.test", "az2-db.db.test")
    assert texts(ask(late, "writer.db.test"))[-1].endswith("127.0.1.10")
    time.sleep(max(0.0, flipped_at + 0.45 - time.monotonic()))
    assert texts(ask(late, "writer.db.test"))[-1].endswith("127.0.2.10")


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("absent.db.test", "A", dns.rcode.NXDOMAIN),
        ("az1-db.db.test", "AAAA", dns.rcode.NOERROR),
        ("writer.db.test", "AAAA", dns.rcode.NOERROR),
        ("db.test", "A", dns.rcode.NOERROR),
    ],
)
def test_negative_answers_have_a_soa(server: Server, name: str, kind: str, code: int) -> None:
    answer = ask(server, name, kind)
    assert answer.rcode() == code
    (soa,) = answer.authority
    assert soa.ttl == 3
    assert soa[0].minimum == 3


def test_foreign_names_are_refused(server: Server) -> None:
    assert ask(server, "example.org").rcode() == dns.rcode.REFUSED


def test_faults(server: Server) -> None:
    dns_server = server[0]
    dns_server.faults = DnsFaults(servfail=True)
    assert ask(server, "writer.db.test").rcode() == dns.rcode.SERVFAIL
    dns_server.faults = DnsFaults(nxdomain=True, names=frozenset({"api.test"}))
    assert ask(server, "api.test").rcode() == dns.rcode.NXDOMAIN
    assert ask(server, "writer.db.test").rcode() == dns.rcode.NOERROR
    dns_server.faults = DnsFaults(truncate=True)
    assert ask(server, "api.test").flags & dns.flags.TC
    assert len(texts(ask(server, "api.test", tcp=True))) == 2
    dns_server.faults = DnsFaults(delay_s=0.2)
    began_at = time.monotonic()
    ask(server, "api.test")
    assert 0.2 <= time.monotonic() - began_at < 0.9
    dns_server.faults = DnsFaults(drop=True)
    with pytest.raises(dns.exception.Timeout):
        dns.query.udp(dns.message.make_query("api.test", "A"), server[1], 0.2, server[2])
    dns_server.faults = DnsFaults(wrong_id=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        raw.settimeout(1)
        query = dns.message.make_query("api.test", "A", id=7)
        raw.sendto(query.to_wire(), server[1:])
        assert raw.recv(512)[:2] == (8).to_bytes(2, "big")


def test_nonsense_is_ignored(server: Server) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        raw.sendto(b"nonsense", server[1:])
    assert ask(server, "api.test").rcode() == dns.rcode.NOERROR


def test_the_labs_names(lab: Lab) -> None:
    address, port = lab.dns_address.split(":")
    there = (lab.dns, address, int(port))
    zone = lab.primary.zone
    assert texts(ask(there, lab.WRITER))[0] == f"{lab.WRITER}. 1 IN CNAME {zone}-db.db.test."
    assert len(texts(ask(there, lab.UPSTREAM))) == 3
    run = lab.inject("dns-flip", dns_after_s=0.1)
    run.wait_done()
    assert lab.primary.zone == zone
    assert texts(ask(there, lab.WRITER))[0] != f"{lab.WRITER}. 1 IN CNAME {zone}-db.db.test."
    lab.heal()
    assert texts(ask(there, lab.WRITER))[0] == f"{lab.WRITER}. 1 IN CNAME {zone}-db.db.test."
