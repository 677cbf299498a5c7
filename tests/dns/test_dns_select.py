"""The order of addresses (RFC 6724), and an answer that lacks one family for a moment."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Any

import pytest
from dns_lab import FakeClock, Lab, a
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.dns import Answer, rotations
from resilient.core.dns_select import Reach, own_ipv4, own_ipv6, rank
from resilient.dns import Change

GLOBAL6, ULA, GLOBAL4 = "2001:db8::1", "fd00::9", "192.0.2.1"
LOOPBACK = IPv6Address("::1")


def first(addresses: list[str], reach: Reach) -> list[str]:
    return sorted(addresses, key=lambda address: rank(address, reach))


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (None, [GLOBAL6, GLOBAL4, "2002::1", "2001::1", ULA]),
        (["2001:db8::7"], [GLOBAL6, GLOBAL4, "2002::1", "2001::1", ULA]),
        # A machine with a ULA only: its way out is another label's (rule 5).
        (["fd00::7"], [GLOBAL4, ULA, GLOBAL6, "2002::1", "2001::1"]),
        # No IPv6 but loopback and link-local: IPv4 first, nothing dropped.
        (["::1", "fe80::7"], [GLOBAL4, GLOBAL6, "2002::1", "2001::1", ULA]),
    ],
)
def test_the_order_follows_what_this_machine_can_send_from(
    own: list[str] | None, expected: list[str]
) -> None:
    six = None if own is None else tuple(map(IPv6Address, own))
    assert first([ULA, "2001::1", "2002::1", GLOBAL4, GLOBAL6], Reach(True, six)) == expected


def test_without_an_ipv4_route_ipv4_is_last_but_loopback_is_always_near() -> None:
    reach = Reach(False, (IPv6Address("2001:db8::7"), LOOPBACK))
    assert first([GLOBAL4, ULA, GLOBAL6], reach) == [GLOBAL6, ULA, GLOBAL4]
    assert not rank("127.0.0.1", reach)[0]
    assert not rank("::1", reach)[0]
    assert rank("fe80::1", reach)[0]


def test_smaller_scope_wins_in_a_tie() -> None:
    reach = Reach(True, (IPv6Address("fe80::7"), IPv6Address("2001:db8::7")))
    assert first([GLOBAL6, "fe80::1"], reach) == ["fe80::1", GLOBAL6]
    assert first([GLOBAL4, "169.254.0.1"], reach) == ["169.254.0.1", GLOBAL4]


def test_the_kernels_files() -> None:
    text = (
        "fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n"
        "00000000000000000000000000000001 01 80 10 80       lo\nnonsense\n"
    )
    assert own_ipv6(text) == (IPv6Address("fe80::fc:ff:fe00:1"), LOOPBACK)
    head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
    assert own_ipv4(f"{head}eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n")
    assert not own_ipv4(f"{head}lo 0000007F 00000000 0001 0 0 0 000000FF 0 0 0\n")
    assert not own_ipv4("")


def test_families_alternate_and_the_unreachable_come_last() -> None:
    answer = Answer((GLOBAL6, GLOBAL4, "2001:db8::2", "192.0.2.2"), "a", ("a",), 1, 1)
    none = Reach(True, (LOOPBACK,))
    turns = rotations(answer, frozenset(), lambda address: rank(address, none))
    assert [turn.addresses for turn in turns] == [
        (GLOBAL4, "192.0.2.2", GLOBAL6, "2001:db8::2"),
        ("192.0.2.2", GLOBAL4, GLOBAL6, "2001:db8::2"),
    ]
    ula = Reach(True, (IPv6Address("fd00::7"),))
    turns = rotations(answer, frozenset({GLOBAL4}), lambda address: rank(address, ula))
    assert turns[0].addresses == ("192.0.2.2", GLOBAL6, "2001:db8::2", GLOBAL4)


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@given(
    addresses=st.lists(ADDRESSES, min_size=1, max_size=8, unique=True),
    own=st.none() | st.lists(st.ip_addresses(v=6), max_size=3).map(tuple),
    four=st.sampled_from([None, True, False]),
    dead=st.sets(st.integers(0, 7)),
)
def test_no_address_is_lost_and_dead_ones_are_last(
    addresses: list[str], own: Any, four: bool | None, dead: set[int]
) -> None:
    reach = Reach(four, own)
    gone = frozenset(addresses[i] for i in dead if i < len(addresses))
    answer = Answer(tuple(addresses), "a", ("a",), 1, 1)
    for turn in rotations(answer, gone, lambda address: rank(address, reach)):
        assert sorted(turn.addresses) == sorted(addresses)
        live = len(addresses) - len(gone)
        assert set(turn.addresses[live:]) == gone
        away = [rank(address, reach)[0] for address in turn.addresses[:live]]
        assert away == sorted(away)


async def test_a_family_that_fails_is_no_change(kind: Any, clock: FakeClock) -> None:
    """One lost AAAA must not look as if its addresses had gone."""
    both = [a("a.test", GLOBAL4, ttl=10), a("a.test", GLOBAL6, ttl=10)]
    half = [both[0], {"q": "a.test", "type": "AAAA", "rcode": "SERVFAIL"}]
    with Lab(both) as lab:
        resolver = kind(lab.settings(dns_tries=1, dns_stale_s=60), clock)
        changes: list[Change] = []
        resolver.watch("a.test", changes.append, "any")
        await resolver.resolve("a.test", "any")
        lab.servers[0].set(half)
        clock.now += 11
        answer = await resolver.resolve("a.test", "any")
        assert set(answer.addresses) == {GLOBAL4, GLOBAL6}
        assert answer.stale
        assert answer.ttl_s == 5  # asked again soon
        assert changes == []
        # A real change of the other family is told, and takes nothing of this one.
        lab.servers[0].set([a("a.test", "192.0.2.2", ttl=10), half[1]])
        clock.now += 11
        await resolver.resolve("a.test", "any")
        (change,) = changes
        assert (change.removed, change.added) == ({GLOBAL4}, {"192.0.2.2"})
        assert change.mode == "strict"  # the family that stayed is no overlap
        # Beyond the stale rule nothing of it is served.
        clock.now += 61
        assert (await resolver.resolve("a.test", "any")).addresses == ("192.0.2.2",)
        await resolver.close()


async def test_what_is_kept_of_a_family_obeys_the_stale_rule(kind: Any, clock: FakeClock) -> None:
    both = [a("a.test", GLOBAL4, ttl=10), a("a.test", GLOBAL6, ttl=10)]
    with Lab(both) as lab:
        resolver = kind(lab.settings(dns_tries=1, dns_stale_s=60), clock)
        await resolver.resolve("a.test", "any")  # both until 10, stale until 70
        lab.servers[0].set([both[0], {"q": "a.test", "type": "AAAA", "rcode": "SERVFAIL"}])
        clock.now = 64
        assert GLOBAL6 in (await resolver.resolve("a.test", "any")).addresses
        lab.servers[0].set([{"q": "a.test", "rcode": "SERVFAIL"}])
        for clock.now in (69.5, 71, 80):
            assert (await resolver.resolve("a.test", "any")).addresses == (GLOBAL4,)
        await resolver.close()


async def test_an_alias_that_moved_takes_no_address_along(kind: Any, clock: FakeClock) -> None:
    def alias(target: str, address: str) -> list[dict[str, Any]]:
        rdtype = "AAAA" if ":" in address else "A"
        answers = [["w.test", "CNAME", 5, target], [target, rdtype, 5, address]]
        return [{"q": "w.test", "type": rdtype, "answers": answers}]

    failing = {"q": "w.test", "type": "AAAA", "rcode": "SERVFAIL"}
    with Lab([*alias("one.test", GLOBAL4), *alias("one.test", GLOBAL6)]) as lab:
        resolver = kind(lab.settings(dns_tries=1, dns_stale_s=60), clock)
        await resolver.resolve("w.test", "any")
        lab.servers[0].set([*alias("two.test", "192.0.2.2"), failing])
        clock.now += 6
        assert (await resolver.resolve("w.test", "any")).addresses == ("192.0.2.2",)
        await resolver.close()


async def test_the_mode_of_a_name(kind: Any, clock: FakeClock) -> None:
    with Lab([a("a.test", "192.0.2.1", "192.0.2.2"), a("b.test", "192.0.2.3")]) as lab:
        resolver = kind(lab.settings(dns_mode="B.test.=rotating"), clock)
        await resolver.resolve("a.test")
        assert resolver.mode("A.test.") == "strict"
        assert resolver.mode("b.test") == "rotating"
        lab.servers[0].set([a("a.test", "192.0.2.2", "192.0.2.4")])
        clock.now += 101
        await resolver.resolve("a.test")
        assert resolver.mode("a.test") == "rotating"  # subsets that overlap
        await resolver.close()
