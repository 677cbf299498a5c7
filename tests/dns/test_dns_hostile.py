"""Hostile messages: bounded time, no crash, nothing accepted that wasn't asked."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import dns.message
import dns.rrset
import pytest
from dns_lab import Lab, a, answer
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.core.dns import Reply
from resilient.core.dns_query import Question
from resilient.dns import Resolver
from resilient.dns._message import make_query, parse_reply
from resilient.errors import NameNotFound, NameServersFailed, ResolutionError

ASKED = Question("q.test", "A")
QUERY = make_query(ASKED, edns=True)


def _reply(*answers: list[Any], **rule: Any) -> bytes:
    query = dns.message.from_wire(QUERY.wire)
    return answer(query, "q.test", {"answers": answers, **rule}).to_wire()


GOOD = _reply(["q.test", "CNAME", 60, "x.test"], ["x.test", "A", 60, "192.0.2.1"], soa=5)


def _judge(data: bytes) -> None:
    begun = time.thread_time()
    reply = parse_reply(data, QUERY, ASKED)
    assert time.thread_time() - begun < 1
    if reply is None:
        return
    assert data[:2] == QUERY.wire[:2]
    assert data[2] & 0x80
    for record in reply.records:
        assert record.rdtype in ("A", "CNAME")
        if record.rdtype == "A":
            socket.inet_aton(record.data)


@given(st.binary(max_size=600))
@settings(max_examples=300, deadline=None)
def test_noise(data: bytes) -> None:
    _judge(data)
    _judge(QUERY.wire[:2] + data)
    _judge(GOOD[: 12 + len(QUERY.section)] + data)


@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8),
    st.integers(0, len(GOOD)),
)
@settings(max_examples=500, deadline=None)
def test_mutations_and_cuts(changes: list[tuple[int, int]], end: int) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    _judge(bytes(data))
    _judge(bytes(data[:end]))


def test_edns_offers_1232_octets_and_no_more() -> None:
    assert dns.message.from_wire(QUERY.wire).payload == 1232
    assert dns.message.from_wire(make_query(ASKED, edns=False).wire).edns == -1


def test_the_good_one_is_read() -> None:
    reply = parse_reply(GOOD, QUERY, ASKED)
    assert isinstance(reply, Reply)
    assert [(r.owner, r.rdtype, r.data) for r in reply.records] == [
        ("q.test", "CNAME", "x.test"),
        ("x.test", "A", "192.0.2.1"),
    ]
    assert reply.soa[0].minimum == 5


@pytest.mark.parametrize("flags", [0x0180, 0x8980])  # no response; opcode NOTIFY… not QUERY
def test_header_must_be_that_of_a_reply(flags: int) -> None:
    data = GOOD[:2] + struct.pack("!H", flags) + GOOD[4:]
    assert parse_reply(data, QUERY, ASKED) is None


def test_another_question_is_not_ours() -> None:
    """FAULTS 23."""
    other = make_query(Question("p.test", "A"), edns=False)
    data = GOOD[:12] + other.section + GOOD[12 + len(QUERY.section) :]
    assert parse_reply(data, QUERY, ASKED) is None
    six = make_query(Question("q.test", "AAAA"), edns=False)
    data = GOOD[:12] + six.section + GOOD[12 + len(QUERY.section) :]
    assert parse_reply(data, QUERY, ASKED) is None
    assert parse_reply(GOOD[:4] + b"\0\0" + GOOD[6:], QUERY, ASKED) is None


def test_a_thousand_pointers_cost_little() -> None:
    head = GOOD[:4] + struct.pack("!HHHH", 1, 0xFFFF, 0xFFFF, 0) + QUERY.section
    loop = struct.pack("!H", 0xC000 | len(head))
    _judge(head + loop * 5000)
    label = b"\x01a" * 120 + b"\0"
    record = struct.pack("!H", 0xC000 | len(head)) + struct.pack("!HHIH", 1, 1, 1, 4) + b"\1\2\3\4"
    for count in (1000, 3000):
        full = GOOD[:4] + struct.pack("!HHHH", 1, count, 0, 0) + QUERY.section
        _judge(full + label + struct.pack("!HHIH", 1, 1, 1, 4) + b"\1\2\3\4" + record * count)


def _chain(links: int) -> list[list[Any]]:
    names = ["q.test", *(f"n{i}.test" for i in range(links))]
    aliases = [[a, "CNAME", 60, b] for a, b in pairwise(names)]
    return [*aliases, [names[-1], "A", 60, "192.0.2.1"]]


HOSTILE: dict[str, tuple[dict[str, Any], type[ResolutionError]]] = {
    "loop to itself": (
        {"answers": [["q.test", "CNAME", 60, "q.test"]]},
        NameServersFailed,
    ),
    "loop of three": (
        {
            "answers": [
                ["q.test", "CNAME", 60, "b.test"],
                ["b.test", "CNAME", 60, "c.test"],
                ["c.test", "CNAME", 60, "b.test"],
            ]
        },
        NameServersFailed,
    ),
    "a hundred links": ({"answers": _chain(100)}, NameServersFailed),
    "only what was not asked": (
        {"answers": [["evil.test", "A", 60, "192.0.2.66"]]},
        NameServersFailed,
    ),
    "an address beside an alias": (
        {
            "answers": [["q.test", "CNAME", 60, "x.test"], ["evil.test", "A", 60, "192.0.2.66"]],
            "soa": 5,
        },
        NameNotFound,
    ),
    "the wrong type": ({"answers": [["q.test", "AAAA", 60, "2001:db8::1"]]}, NameNotFound),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_resolver_accepts_nothing_of(what: str) -> None:
    rule, error = HOSTILE[what]
    with Lab([{"q": "q.test", **rule}]) as lab, Resolver(lab.settings()) as resolver:
        begun = time.monotonic()
        with pytest.raises(error):
            resolver.resolve("q.test")
        assert time.monotonic() - begun < 1
        assert lab.count <= 4


def test_what_else_a_reply_holds_is_not_kept() -> None:
    rules = [
        {
            "q": "q.test",
            "answers": [["q.test", "A", 60, "192.0.2.1"], ["bank.test", "A", 60, "192.0.2.66"]],
        },
        a("bank.test", "192.0.2.2"),
    ]
    with Lab(rules) as lab, Resolver(lab.settings()) as resolver:
        assert resolver.resolve("q.test").addresses == ("192.0.2.1",)
        assert resolver.resolve("bank.test").addresses == ("192.0.2.2",)


def test_endless_alias_across_replies_is_bounded() -> None:
    rules = [
        {"q": f"n{i}.test", "answers": [[f"n{i}.test", "CNAME", 60, f"n{i + 1}.test"]]}
        for i in range(200)
    ]
    with Lab(rules) as lab, Resolver(lab.settings()) as resolver:
        with pytest.raises(NameServersFailed, match="aliases"):
            resolver.resolve("n0.test")
        assert lab.count <= 18


def test_huge_ttl_is_clamped() -> None:
    with Lab([a("q.test", "192.0.2.1", ttl=2**31 - 1)]) as lab:
        given = lab.settings(dns_ttl_ceiling_s=60)
        with Resolver(given) as resolver:
            assert resolver.resolve("q.test").ttl_s == 60


def _mangled(rng: random.Random) -> Callable[[dns.message.Message], bytes]:
    def mangle(query: dns.message.Message) -> bytes:
        data = bytearray(answer(query, "q.test", {"answers": _chain(rng.randrange(20))}).to_wire())
        for _ in range(rng.randrange(6)):
            data[rng.randrange(2, len(data))] = rng.randrange(256)
        return bytes(data[: rng.randrange(2, len(data) + 1)])

    return mangle


def test_mangled_replies_end_in_an_answer_or_an_error_of_ours() -> None:
    rng = random.Random(3)
    rule = {"q": "*", "raw": [_mangled(rng), _mangled(rng)]}
    with Lab([rule]) as lab:
        given = lab.settings(dns_timeout_s=0.02, dns_tries=1, dns_cache_size=0)
        with Resolver(given) as resolver:
            for _ in range(60):
                try:
                    found = resolver.resolve("q.test")
                except ResolutionError:
                    continue
                assert found.chain[0] == "q.test"
