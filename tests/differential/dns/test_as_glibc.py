"""What resolv.conf, the hosts file and the network say: glibc's getaddrinfo beside ours.

FAULTS 57.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from dns_world import Asked, World, glibc, tasks, threads

from resilient.errors import NameNotFound
from resilient.lab.namespace import inside, refusal

pytestmark = pytest.mark.skipif(not inside(), reason=refusal())

OURS = pytest.mark.parametrize("ask", [threads, tasks])
EACH = pytest.mark.parametrize("ask", [glibc, threads, tasks])
Ask = Callable[..., Asked]
NAME, ADDRESS = "api.vendor.test", "192.0.2.7"
FOUR = {"q": NAME, "type": "A", "answers": [[NAME, "A", 5, ADDRESS]]}
SIX = {"q": NAME, "type": "AAAA", "answers": [[NAME, "AAAA", 5, "2001:db8::7"]]}
NONE = {"q": NAME, "soa": 5}
SEARCH = "search shop.svc.cluster.local svc.cluster.local corp.example other.example\n"
CORP = f"{NAME}.corp.example"


# -- the search list


@EACH
@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NOTIMP"])
@pytest.mark.parametrize("family", [4, "any"])
def test_a_failing_search_domain_doesnt_hide_the_name(ask: Ask, rcode: str, family: Any) -> None:
    script = [FOUR, NONE, {"q": CORP, "rcode": rcode}]
    with World(script, conf=f"{SEARCH}options ndots:5\n") as world:
        asked = ask(NAME, family)
        assert asked.addresses == {ADDRESS}, asked
        assert asked.took_s < 0.5
        assert CORP in {name for name, _, _ in world.asked()}


@EACH
def test_a_silent_search_domain_doesnt_hide_the_name(ask: Ask) -> None:
    """glibc takes its whole time for it: 2 s here, 10 s by default."""
    script = [FOUR, NONE, {"q": CORP, "drop": True}]
    with World(script, conf=f"{SEARCH}options ndots:5 timeout:1\n"):
        asked = ask(NAME)
        assert asked.addresses == {ADDRESS}, asked
        assert asked.took_s < 4


@EACH
def test_the_search_goes_on_behind_a_failing_domain(ask: Ask) -> None:
    there = f"{NAME}.other.example"
    found = {"q": there, "type": "A", "answers": [[there, "A", 5, "192.0.2.9"]]}
    with World([found, {"q": CORP, "rcode": "SERVFAIL"}], conf=f"{SEARCH}options ndots:5\n"):
        assert ask(NAME).addresses == {"192.0.2.9"}


@EACH
@pytest.mark.parametrize("conf", [SEARCH, f"{SEARCH}options ndots:5\n"])
def test_the_given_names_absence_stands(ask: Ask, conf: str) -> None:
    with World([{"q": CORP, "rcode": "SERVFAIL"}], conf=conf):
        error = ask(NAME).error
        assert isinstance(error, socket.gaierror)
        assert error.errno == socket.EAI_NONAME


# -- the path


@EACH
@pytest.mark.parametrize("count", [1, 2])
def test_a_path_that_drops_edns_in_silence(ask: Ask, count: int) -> None:
    script = [{**FOUR, "edns": "drop"}, {"q": "*", "edns": "drop", "soa": 5}]
    with World(*[script] * count):
        asked = ask(NAME, "any")
        assert asked.addresses == {ADDRESS}, asked
        assert asked.took_s < count + 0.5


@OURS
def test_edns_isnt_tried_again_at_once(ask: Ask) -> None:
    from resilient import Settings
    from resilient.dns import Resolver

    script = [{**FOUR, "edns": "drop"}, {"q": "*", "edns": "drop", "soa": 5}]
    with World(script) as world, Resolver(Settings(dns_timeout_s=0.3)) as resolver:
        resolver.resolve(NAME)
        world.forget()
        assert Asked(lambda: resolver.resolve(NAME, fresh=True).addresses).took_s < 0.2
        assert world.servers[0].edns == [False]


@EACH
def test_use_vc_never_asks_over_udp(ask: Ask) -> None:
    deaf = {"q": "*", "proto": "udp", "drop": True}
    with World([deaf, FOUR, NONE], conf="options use-vc\n") as world:
        asked = ask(NAME, "any")
        assert asked.addresses == {ADDRESS}, asked
        assert asked.took_s < 0.5
        assert {transport for _, _, transport in world.asked()} == {"tcp"}


@EACH
def test_single_request_asks_one_after_the_other(ask: Ask) -> None:
    slow = {**FOUR, "delay_s": 0.2}
    with World([slow, SIX], conf="options single-request\n") as world:
        assert ask(NAME, "any").addresses == {ADDRESS, "2001:db8::7"}
        first, second = world.servers[0].times
        assert second - first >= 0.19


@EACH
def test_single_request_reopen_takes_other_ports(ask: Ask) -> None:
    with World([FOUR, SIX], conf="options single-request-reopen\n"):
        assert ask(NAME, "any").addresses == {ADDRESS, "2001:db8::7"}


@EACH
def test_no_aaaa(ask: Ask) -> None:
    with World([FOUR, SIX], conf="options no-aaaa\n") as world:
        assert ask(NAME, "any").addresses == {ADDRESS}
        assert isinstance(ask(NAME, 6).error, socket.gaierror)
        assert {kind for _, kind, _ in world.asked()} == {"A"}


# -- time


@EACH
def test_attempts_and_timeout(ask: Ask) -> None:
    silent = [{"q": "*", "drop": True}]
    with World(silent, conf="options timeout:1 attempts:3\n") as world:
        asked = ask(NAME)
        assert isinstance(asked.error, socket.gaierror)
        assert 2.9 < asked.took_s < 3.5
        times = world.servers[0].times
        assert len(times) == 3
        assert all(0.9 < later - earlier < 1.2 for earlier, later in pairwise(times))


@OURS
def test_the_environment_beats_resolv_conf(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENT_DNS_TIMEOUT_S", "0.2")
    monkeypatch.setenv("RESILIENT_DNS_TRIES", "2")
    with World([{"q": "*", "drop": True}], conf="options timeout:3 attempts:5\n") as world:
        assert 0.3 < ask(NAME).took_s < 0.7
        assert len(world.asked()) == 2


@OURS
@pytest.mark.parametrize("servers", [1, 2])
def test_a_slow_recursion_is_waited_for(ask: Ask, servers: int) -> None:
    """Late answers count: each server is asked again after a second, and each listened to."""
    with World(*[[{**FOUR, "delay_s": 2.2}]] * servers) as world:
        asked = ask(NAME)
        assert asked.addresses == {ADDRESS}, asked
        assert 2.1 < asked.took_s < 2.6
        assert len(world.asked()) <= 3


@OURS
def test_silence_is_broken_by_a_later_try(ask: Ask) -> None:
    """All that is asked in the first 2 s is lost."""
    lost = [{**FOUR, "drop": True, "nth": n} for n in (1, 2)]
    with World([*lost, FOUR]):
        asked = ask(NAME)
        assert asked.addresses == {ADDRESS}, asked
        assert 1.9 < asked.took_s < 2.6


# -- the hosts file


@EACH
def test_names_under_localhost_in_the_hosts_file(ask: Ask) -> None:
    hosts = "127.0.0.1 localhost\n172.20.0.5 app.localhost\n127.0.0.9 App.Sub.Localhost\n"
    with World([], hosts=hosts) as world:
        assert ask("app.localhost").addresses == {"172.20.0.5"}
        assert ask("app.sub.localhost").addresses == {"127.0.0.9"}
        assert ask("localhost").addresses == {"127.0.0.1"}
        assert world.asked() == []


@EACH
def test_localhost_is_what_the_hosts_file_says(ask: Ask) -> None:
    with World([], hosts="127.0.0.12 localhost\n"):
        assert ask("localhost").addresses == {"127.0.0.12"}


# -- what is no name

SPELLINGS = [
    *(
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f.1",
        "0x7F000001",
        "010.0.0.1",
        "0",
        "1.2.3",
        "1.0xff",
    ),
    *(
        "256.1",
        "1.256.1.1",
        "1.2.3.4.5",
        "0x",
        "08.1",
        "4294967296",
        "1.2.3.65536",
        "127.1.",
        "1..2",
    ),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_short_spellings_of_addresses(spelling: str) -> None:
    with World([]) as world:
        theirs = glibc(spelling)
        for ask in (threads, tasks):
            world.forget()
            ours = ask(spelling)
            assert ours.addresses == theirs.addresses
            assert (ours.error is None) == (theirs.error is None)
            if ours.error is None:
                assert world.asked() == []


@OURS
@pytest.mark.parametrize(
    "name",
    ["a..b", ".", "x" * 64 + ".test", ".".join(["y" * 60] * 5), "a" * 300, "", "ä" * 70],
    ids=["empty label", "root", "long label", "long", "300", "nothing", "unicode"],
)
def test_impossible_names_fail_at_once(ask: Ask, name: str) -> None:
    with World([]) as world:
        asked = ask(name, "any")
        assert isinstance(asked.error, NameNotFound)
        assert asked.took_s < 0.05  # a resolver is made and closed in that time
        assert world.asked() == []
