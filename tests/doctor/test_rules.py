"""Each rule: what it finds, and that it is silent where all is well.  Nothing is asked here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resilient.core.model import Endpoint, Role
from resilient.doctor import Facts, Finding, examine
from resilient.doctor.facts import NameFacts, Record, ServerFacts, UrlFacts, in_words
from resilient.doctor.rules import RULES

ALIAS = NameFacts(
    "db.example",
    chain=(Record("db.example", "CNAME", 5), Record("a.example", "A", 3600)),
    addresses=("10.0.1.5",),
)
PRIMARY = ServerFacts(
    Endpoint("db.example", "10.0.1.5", 5432),
    zone="az1",
    role=Role.PRIMARY,
    system_id="7",
    incarnation="1",
    timeline=3,
    standbys=1,
    synchronous=True,
    timeouts_s=(30.0, 60.0),
)
REPLICA = replace(
    PRIMARY,
    endpoint=Endpoint("db2.example", "10.0.2.5", 5432),
    zone="az2",
    role=Role.REPLICA,
    incarnation="2",
    lag_s=0.0,
    standbys=None,
    synchronous=None,
)
SERVICE = UrlFacts(
    "https://pay.example",
    NameFacts(
        "pay.example", chain=(Record("pay.example", "A", 10),), addresses=("10.0.1.9", "10.0.2.9")
    ),
    "/health/ready",
    200,
    ("db", "cache"),
)
WELL = Facts(
    names=(ALIAS,),
    servers=(PRIMARY,),
    urls=(SERVICE,),
    name_servers=("10.0.1.2", "10.0.2.2"),
    sslmode="verify-full",
    zone="az1",
    zones=("az1", "az2"),
)


def found(**changes: Any) -> list[Finding]:
    return examine(replace(WELL, **changes))


def test_where_all_is_well_nothing_is_found() -> None:
    assert examine(WELL) == []
    hosts = tuple(replace(ALIAS, host=f"db{n}.example", chain=()) for n in (1, 2))
    assert found(names=hosts, servers=(PRIMARY, REPLICA)) == []
    assert examine(Facts()) == []


LITERAL = NameFacts("10.0.1.5", "literal", addresses=("10.0.1.5",))
DIRECT = NameFacts("a.example", chain=(Record("a.example", "A", 5),), addresses=("10.0.1.5",))


#: one name for each server, as in host=db1,db2,db3
STATIC = tuple(
    NameFacts(f"db{n}.example", chain=(Record(f"db{n}.example", "A", 3600),)) for n in (1, 2, 3)
)


@pytest.mark.parametrize(
    ("changes", "check", "where"),
    [
        ({"names": (LITERAL,)}, "pinned-address", "10.0.1.5"),
        ({"names": (replace(LITERAL, kind="hosts"),)}, "pinned-address", "10.0.1.5"),
        ({"names": (NameFacts("/run/pg", "socket"),)}, "pinned-address", "/run/pg"),
        ({"urls": (replace(SERVICE, name=LITERAL),)}, "pinned-address", "https://pay.example"),
        ({"names": (DIRECT,)}, "bypasses-cname", "a.example"),
        ({"names": (NameFacts("the file", "service"),)}, "service-file", "the file"),
        (
            {"names": (replace(ALIAS, chain=(Record("db.example", "CNAME", 31), ALIAS.chain[1])),)},
            *("long-ttl", "db.example"),
        ),
        ({"names": (NameFacts("no.example", error="NXDOMAIN"),)}, "unknown-name", "no.example"),
        (
            {"servers": (PRIMARY, replace(REPLICA, error="refused"))},
            *("unreachable", "10.0.2.5:5432 (db2.example)"),
        ),
        (
            {"servers": (PRIMARY, replace(REPLICA, role=Role.PRIMARY, timeline=2))},
            "two-primaries",
            "10.0.1.5:5432 (db.example) on timeline 3; 10.0.2.5:5432 (db2.example) on timeline 2",
        ),
        ({"servers": (PRIMARY, replace(REPLICA, system_id="8"))}, "two-clusters", "7, 8"),
        ({"servers": (REPLICA,)}, "no-primary", "10.0.2.5:5432 (db2.example)"),
        (
            {"servers": (replace(PRIMARY, standbys=0, synchronous=False),)},
            *("one-endpoint", "10.0.1.5:5432 (db.example)"),
        ),
        ({"servers": (PRIMARY, replace(REPLICA, zone="az1"))}, "one-zone", "zone az1"),
        (
            {"servers": (PRIMARY, replace(REPLICA, lag_s=11.0))},
            *("lag", "10.0.2.5:5432 (db2.example)"),
        ),
        (
            {"servers": (PRIMARY, replace(REPLICA, lag_s=None))},
            *("lag", "10.0.2.5:5432 (db2.example)"),
        ),
        (
            {"servers": (PRIMARY, replace(REPLICA, lag_s=0.3)), "max_staleness_s": 0.2},
            *("lag", "10.0.2.5:5432 (db2.example)"),
        ),
        (
            {"servers": (replace(PRIMARY, timeouts_s=(0.0, 60.0)),)},
            *("missing-deadline", "10.0.1.5:5432 (db.example)"),
        ),
        (
            {"servers": (PRIMARY, replace(REPLICA, paused=True))},
            *("paused", "10.0.2.5:5432 (db2.example)"),
        ),
        (
            {"urls": (replace(SERVICE, refused=(("10.0.1.9:443", "refused"),)),)},
            *("unreachable", "https://pay.example at 10.0.1.9:443"),
        ),
        ({"sslmode": "prefer"}, "sslmode", "sslmode=prefer"),
        ({"sslmode": "require"}, "sslmode", "sslmode=require"),
        ({"zone": None}, "no-zone", "RESILIENT_ZONE"),
        ({"zones": ()}, "no-zone", "RESILIENT_ZONES"),
        ({"servers": (replace(PRIMARY, zone=None),)}, "no-zone", "10.0.1.5:5432 (db.example)"),
        (
            {"urls": (replace(SERVICE, name=replace(SERVICE.name, addresses=("10.0.1.9",))),)},
            *("one-endpoint", "https://pay.example"),
        ),
        ({"urls": (replace(SERVICE, health_path=""),)}, "shallow-health", "https://pay.example"),
        (
            {"urls": (replace(SERVICE, named=()),)},
            *("shallow-health", "https://pay.example/health/ready"),
        ),
        (
            {"urls": (replace(SERVICE, status=404),)},
            *("shallow-health", "https://pay.example/health/ready"),
        ),
        (
            {"urls": (replace(SERVICE, status=None, error="refused"),)},
            *("unreachable", "https://pay.example/health/ready"),
        ),
    ],
)
def test_one_thing_is_wrong_and_found(changes: dict[str, Any], check: str, where: str) -> None:
    """It alone, with words for all that one wants to know."""
    (finding,) = found(**changes)
    assert (finding.check, finding.where, finding.grave) == (check, where, True)
    assert all(finding.as_dict().values())


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"servers": (replace(PRIMARY, synchronous=False),)}, "asynchronous"),
        ({"servers": (PRIMARY, replace(REPLICA, others=True))}, "balancer"),
        ({"servers": (replace(PRIMARY, pooled=True),)}, "pooler"),
        ({"names": STATIC, "servers": (PRIMARY, REPLICA)}, "long-ttl"),
        (
            {
                "names": tuple(replace(name, kind="hosts", chain=()) for name in STATIC),
                "servers": (PRIMARY, REPLICA),
            },
            "pinned-address",
        ),
        ({"servers": (PRIMARY, replace(REPLICA, exact=False))}, "late-timeline"),
        ({"name_servers": ("10.0.1.2",)}, "one-endpoint"),
        (
            {"names": (replace(ALIAS, chain=(Record("db.example", "CNAME", 4, exact=False),)),)},
            "long-ttl",
        ),
        (
            {
                "sslmode": "prefer",
                "servers": (replace(PRIMARY, endpoint=Endpoint("db", "127.0.0.1", 5432)),),
            },
            "sslmode",
        ),
    ],
)
def test_notes_dont_count(changes: dict[str, Any], check: str) -> None:
    (finding,) = found(**changes)
    assert (finding.check, finding.grave) == (check, False)


def test_where_the_alias_points_to_is_told() -> None:
    (finding,) = found(names=(DIRECT,), aliases=(("RESILIENT_DATABASE_URL", ALIAS),))
    assert "db.example (RESILIENT_DATABASE_URL)" in finding.cause
    assert finding.fix.startswith("use db.example")


def test_what_moves_must_be_short_not_what_stays() -> None:
    """Behind a CNAME, the server's own address record may be long; a cached one is at least so."""
    long = replace(ALIAS, chain=(Record("db.example", "CNAME", 3600, exact=False), ALIAS.chain[1]))
    (finding,) = found(names=(long,))
    assert "1 h" in finding.symptom
    assert "at least" in finding.cause


def test_hosts_that_are_all_known_need_no_alias() -> None:
    hosts = (DIRECT, replace(DIRECT, host="b.example"))
    assert found(names=hosts, servers=(PRIMARY, REPLICA)) == []


def test_addresses_are_one_finding() -> None:
    (finding,) = found(names=(LITERAL, replace(LITERAL, host="10.0.2.5")))
    assert finding.where == "10.0.1.5, 10.0.2.5"


def test_grave_ones_come_first() -> None:
    kinds = [finding.grave for finding in found(name_servers=("10.0.1.2",), zone=None)]
    assert kinds == [True, False]


def test_every_rule_is_tried_here() -> None:
    assert len(RULES) == len(set(RULES)) == 18


def test_durations_for_people() -> None:
    assert [in_words(s) for s in (5, 90, 3600, 172800)] == ["5 s", "1.5 min", "1 h", "2 d"]


def test_what_a_server_says_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    from resilient.cli.doctor import _show

    hostile = "bye\x1b[2J\x9b31m\nforged\u202e"
    broken = replace(PRIMARY, error=hostile)
    facts = replace(WELL, servers=(broken,), urls=(replace(SERVICE, status=None, error=hostile),))
    _show(facts, examine(facts))
    said = capsys.readouterr().out
    assert said.replace("\n", "").isprintable()
    assert "\nforged" not in said
    assert "bye\\x1b[2J" in said


def test_a_services_password_isnt_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from resilient import Settings
    from resilient.doctor.look import gather
    from resilient.errors import ConfigError

    said: list[str] = []
    facts = gather(
        None, ["http://user:s3cret@127.0.0.1:1"], Settings(http_health_path="/x"), said.append
    )
    assert "s3cret" not in repr(facts) + repr(examine(facts)) + "".join(said)
    with pytest.raises(ConfigError) as caught:
        gather(None, ["ftp://user:s3cret@127.0.0.1"], Settings(), said.append)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("sslmode", "symptom", "cause"),
    [
        ("disable", "cross the network in plain text", "switched off by the connection string"),
        ("allow", "may cross", "only if the server insists"),
        ("prefer", "may cross", "may decide that nothing is encrypted"),
        ("require", "whoever answers", "isn't verified"),
        ("verify-ca", "this authority has signed", "the server's name in it isn't"),
    ],
)
def test_what_an_sslmode_means(sslmode: str, symptom: str, cause: str) -> None:
    (finding,) = found(sslmode=sslmode)
    assert symptom in finding.symptom
    assert cause in finding.cause
    assert found(sslmode="verify-full") == []


def test_a_paused_replay_is_resumed_not_reconnected() -> None:
    for lag_s in (None, 0.0, 60.0):
        (finding,) = found(servers=(PRIMARY, replace(REPLICA, lag_s=lag_s, paused=True)))
        assert finding.fix == "SELECT pg_wal_replay_resume() there"


def test_a_role_is_quoted_where_it_must_be() -> None:
    for user, shown in (("app", "app"), ("My App", '"My App"'), ('a"b', '"a""b"')):
        server = replace(PRIMARY, timeouts_s=(0.0, 0.0), user=user)
        (finding,) = found(servers=(server,))
        assert f"ALTER ROLE {shown} SET statement_timeout = '30s'; ALTER ROLE" in finding.fix
