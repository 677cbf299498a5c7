"""Settings: where a value comes from, and what a bad one says."""

from __future__ import annotations

import copy
import ipaddress
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import Settings
from resilient._given import Given
from resilient._parse import (
    NameServer,
    comma_list,
    parse_name_map,
    parse_name_servers,
    parse_networks,
    parse_zones,
    split_host_port,
)
from resilient.errors import ConfigError
from resilient.settings import PREFIX, TIERS, from_environment


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def test_the_defaults_are_valid_and_the_window_is_their_sum() -> None:
    settings = Settings()
    assert settings.window_s == 1 + 2 * 0.5
    assert settings.database_url is None


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENT_DNS_TRIES", "5")
    monkeypatch.setenv("RESILIENT_DATABASE_READERS", "r1, r2:5433")
    settings = Settings()
    assert settings.dns_tries == 5
    assert settings.database_readers == ("r1", "r2:5433")


def test_code_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENT_DNS_TRIES", "5")
    assert Settings(dns_tries=7).dns_tries == 7


def test_empty_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.fields:
        monkeypatch.setenv(PREFIX + name.upper(), "")
    settings = Settings()
    for name, field in Settings.fields.items():
        assert getattr(settings, name) == field.default
        assert not settings.has_chosen(name)


def test_an_empty_list_in_code_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENT_DNS_SEARCH", "example.com")
    assert Settings(dns_search=[]).dns_search == ()


def test_from_environment_follows_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENT_DNS_TRIES", "3")
    first = from_environment()
    assert from_environment() is first
    monkeypatch.setenv("RESILIENT_DNS_TRIES", "4")
    assert from_environment().dns_tries == 4


def test_settings_are_immutable_and_hashable() -> None:
    settings = Settings()
    with pytest.raises(Exception, match="frozen"):
        settings.dns_tries = 9
    assert hash(settings) == hash(Settings())


def test_no_setting_can_be_changed_or_deleted() -> None:
    settings = Settings()
    for name in Settings.fields:
        with pytest.raises(FrozenInstanceError, match=name):
            setattr(settings, name, 1)
        with pytest.raises(FrozenInstanceError, match=name):
            delattr(settings, name)


ALL_KINDS: dict[str, Any] = {
    "database_url": f"postgresql://u:{'s3cret'}@db",
    "database_readers": "r1,r2:5433",
    "zones": "az1=10.0.0.0/8,az2=*.b",
    "dns_nameservers": "10.0.0.1:53,::1",
    "dns_mode": "db=rotating",
    "dns_rotate": "no",
    "dns_ndots": "2",
    "http_fallbacks": "http://u:s3cret@h",
    "deadline_s": "7.5",
    "replay": "off",
}


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda given: pickle.loads(pickle.dumps(given)), Settings.replace],
    ids=["copy", "deepcopy", "pickle", "replace"],
)
def test_a_copy_is_the_same(again: Callable[[Settings], Settings]) -> None:
    settings = Settings(**ALL_KINDS)
    other = again(settings)
    assert other is not settings
    assert other == settings
    assert hash(other) == hash(settings)
    assert repr(other) == repr(settings)
    for name in Settings.fields:
        assert type(getattr(other, name)) is type(getattr(settings, name))
        assert other.has_chosen(name) == settings.has_chosen(name) == (name in ALL_KINDS)
    assert other.database_url is not None
    assert other.database_url.get_secret_value() == ALL_KINDS["database_url"]
    assert other != Settings()


def test_a_changed_copy_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENT_DNS_TRIES", "3")
    settings = Settings(zone=None, deadline_s=9)
    monkeypatch.setenv("RESILIENT_DNS_TRIES", "4")
    monkeypatch.setenv("RESILIENT_EJECT_AFTER", "7")
    changed = settings.replace(deadline_s=8)
    assert (changed.dns_tries, changed.eject_after, changed.deadline_s) == (3, 5, 8)
    assert (settings.deadline_s, changed.has_chosen("zone")) == (9, True)
    with pytest.raises(ConfigError, match="RESILIENT_DEADLINE_S=0"):
        settings.replace(deadline_s=0)


def test_maps_are_nobodys_but_theirs() -> None:
    first: Any = Settings()
    first.dns_mode["db"] = "strict"
    assert Settings().dns_mode == {}


def test_the_case_of_a_variable_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("resilient_dns_tries", "6")
    assert Settings().dns_tries == 6


def test_a_secret_of_another_library_is_taken() -> None:
    class Theirs:
        def get_secret_value(self) -> str:
            return "host=db"

    url = Settings(database_url=Theirs()).database_url
    assert url is not None
    assert url.get_secret_value() == "host=db"


def test_what_type_checkers_know_is_what_there_is() -> None:
    assert list(Given.__annotations__) == list(Settings.fields)
    assert set(Settings.fields) < set(Settings.__annotations__)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        *((True, True), (1, True), (1.0, True), ("YES", True), ("On", True), ("t", True)),
        *((False, False), (0, False), ("0", False), ("Off", False), ("n", False)),
    ],
)
def test_flags_are_read_as_people_write_them(value: Any, found: bool) -> None:
    assert Settings(dns_rotate=value).dns_rotate is found


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("deadline_s", "0", "Input should be greater than 0"),
        ("deadline_s", "soon", "a valid number, unable to parse string as a number"),
        ("deadline_s", "\u0661", "a valid number, unable to parse string as a number"),
        ("deadline_s", "inf", "a finite number"),
        ("deadline_s", None, "Input should be a valid number"),
        ("deadline_s", [1], "Input should be a valid number"),
        ("dns_refresh_ahead", 1, "Input should be less than 1"),
        ("retry_budget", 1.5, "Input should be less than or equal to 1"),
        ("dns_tries", 0, "Input should be greater than or equal to 1"),
        ("dns_tries", "1.5", "a valid integer, unable to parse string as an integer"),
        ("dns_tries", 1.5, "a valid integer, got a number with a fractional part"),
        ("dns_tries", float("nan"), "Input should be a finite number"),
        ("dns_tries", None, "Input should be a valid integer"),
        ("dns_rotate", 2, "a valid boolean, unable to interpret input"),
        ("replay", "ON", "Input should be 'on' or 'off'"),
        ("replay", ["on"], "Input should be 'on' or 'off'"),
        ("commit_resolver", "x", "Input should be 'auto', 'lsn', 'ledger' or 'off'"),
        ("zone", 5, "Input should be a valid string"),
        ("database_readers", None, "Input should be a valid tuple"),
        ("database_readers", [5], "Input should be a valid string"),
        ("patroni_urls", None, "Input should be a valid tuple"),
    ],
)
def test_what_is_wrong_is_said_plainly(field: str, value: Any, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(**{field: value})
    accepted = Settings.fields[field].accepted
    assert str(caught.value).startswith(f"{PREFIX}{field.upper()}={value!r}: ")
    assert f"{why}; accepted: {accepted}" in str(caught.value)


@pytest.mark.parametrize(("value", "found"), [(" 3 ", 3), ("3.0", 3), (3.0, 3), ("1_0", 10)])
def test_whole_numbers(value: Any, found: int) -> None:
    assert Settings(dns_tries=value).dns_tries == found
    assert type(Settings(dns_tries=value).dns_tries) is int


def test_nothing_heavy_is_imported() -> None:
    """Every process pays for what the settings stand on."""
    heavy = "{'pydantic', 'asyncio', 'psycopg', 'httpx2', 'typing_extensions'}"
    code = f"import sys, resilient.settings; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "set()\n"


BAD = {
    "deadline_s": ["-1", "0", "soon", "inf", "nan"],
    "probe_interval_s": ["0", "x"],
    "failure_threshold": ["0", "1.5"],
    "standby_min_size": ["-1"],
    "replica_max_size": ["0", "1.5"],
    "retry_budget": ["1.1", "-0.1"],
    "replay": ["maybe"],
    "commit_resolver": ["magic"],
    "dns_nameservers": ["dns.example", "1.2.3.4:0", "1.2.3.4:", "[::1"],
    "dns_refresh_ahead": ["1"],
    "dns_ndots": ["16"],
    "dns_rotate": ["perhaps"],
    "dns_mode": ["db", "db=sometimes"],
    "dns_allowed_networks": ["10.0.0.0/33", "here"],
    "tls_names": ["=x", "a="],
    "http_health_path": ["ready"],
    "http_fallbacks": ["ftp://x", "https://", "http://h:port"],
    "patroni_urls": ["patroni:8008"],
    "lease": ["etcd"],
    "zones": ["az1", "az1=10.0.0.0/40", "az1=//"],
    "eject_after": ["0"],
    "connect_rate": ["0"],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in BAD.items() for value in values]
)
def test_a_bad_value_names_the_variable_the_value_and_what_is_accepted(
    monkeypatch: pytest.MonkeyPatch, field: str, value: str
) -> None:
    variable = PREFIX + field.upper()
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        Settings()
    text = str(caught.value)
    assert f"{variable}={value!r}" in text
    assert "accepted: " in text
    assert Settings.fields[field].accepted in text


def test_a_bad_value_in_code_is_a_config_error_too() -> None:
    with pytest.raises(ConfigError, match="RESILIENT_DNS_TRIES=0: "):
        Settings(dns_tries=0)


def test_several_bad_values_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENT_DNS_TRIES", "0")
    monkeypatch.setenv("RESILIENT_LEASE", "etcd")
    with pytest.raises(ConfigError) as caught:
        Settings()
    assert "RESILIENT_DNS_TRIES" in str(caught.value)
    assert "RESILIENT_LEASE" in str(caught.value)


def test_an_unknown_setting_in_code_is_named() -> None:
    with pytest.raises(ConfigError, match="dns_trys: no such setting"):
        Settings(dns_trys=1)


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENT_DATABASE_URL", "postgresql://app:hunter2@db/app")
    settings = Settings()
    assert "hunter2" not in repr(settings) + str(settings) + str(vars(settings))
    with pytest.raises(ConfigError) as caught:
        Settings(database_url=["hunter2"])
    assert "hunter2" not in str(caught.value)
    assert "RESILIENT_DATABASE_URL=(hidden)" in str(caught.value)


def test_an_unknown_zone_names_the_known_ones() -> None:
    zones = "az1=10.0.1.0/24,az2=*.az2.example"
    with pytest.raises(ConfigError, match=r"RESILIENT_ZONE='az9'.*accepted: az1, az2, auto"):
        Settings(zone="az9", zones=zones)
    assert Settings(zone="auto", zones=zones).zone == "auto"


def test_a_floor_above_the_ceiling_is_refused() -> None:
    with pytest.raises(ConfigError, match="RESILIENT_DNS_TTL_CEILING_S"):
        Settings(dns_ttl_floor_s=10, dns_ttl_ceiling_s=5)


def test_every_setting_says_what_it_is() -> None:
    for name, field in Settings.fields.items():
        assert field.tier in TIERS, name
        assert field.accepted, name
        assert field.description, name


# -- parsers

LABEL = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
HOST = st.lists(LABEL, min_size=1, max_size=3).map(".".join)
PORT = st.integers(1, 65535)
NETWORK = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: f"{ip}/24"), st.ip_addresses(v=6).map(lambda ip: f"{ip}/64")
)


@given(st.lists(st.text(st.characters(exclude_characters=",", exclude_categories=["Z", "C"]))))
def test_comma_list_is_the_inverse_of_join(items: list[str]) -> None:
    kept = tuple(item.strip() for item in items if item.strip())
    assert comma_list(",".join(items)) == kept
    assert comma_list(items) == kept


@given(HOST, PORT)
def test_host_and_port_come_back(host: str, port: int) -> None:
    assert split_host_port(f"{host}:{port}", 1) == (host, port)
    assert split_host_port(host, port) == (host, port)


@given(st.ip_addresses(v=6).map(str), PORT)
def test_ipv6_with_and_without_port(address: str, port: int) -> None:
    assert split_host_port(f"[{address}]:{port}", 53) == (address, port)
    assert split_host_port(address, 53) == (address, 53)


@given(st.text())
def test_host_and_port_or_a_value_error(text: str) -> None:
    try:
        host, port = split_host_port(text, 53)
    except ValueError:
        return
    assert host
    assert 0 < port < 65536


@given(st.lists(st.tuples(st.ip_addresses().map(str), PORT)))
def test_name_servers_survive_their_text(servers: list[tuple[str, int]]) -> None:
    given_ = tuple(NameServer(address, port) for address, port in servers)
    assert parse_name_servers(",".join(map(str, given_))) == given_


@given(st.lists(NETWORK))
def test_networks_are_canonical(networks: list[str]) -> None:
    once = parse_networks(",".join(networks))
    assert parse_networks(once) == once


@given(st.dictionaries(HOST, st.sampled_from(["strict", "rotating"])))
def test_name_maps_ignore_case_and_final_dot(names: dict[str, str]) -> None:
    text = ",".join(f"{name.upper()}.={mode}" for name, mode in names.items())
    assert parse_name_map("strict", "rotating")(text) == names


@given(st.dictionaries(LABEL, NETWORK, min_size=1))
def test_an_address_lies_in_its_zone(zones: dict[str, str]) -> None:
    zone_map = parse_zones(",".join(f"{zone}={network}" for zone, network in zones.items()))
    assert zone_map.names() == tuple(zones)
    for network in zones.values():
        address = str(ipaddress.ip_network(network, strict=False)[1])
        found = zone_map.zone_of(address)
        assert found is not None
        assert ipaddress.ip_address(address) in ipaddress.ip_network(zones[found], strict=False)


@pytest.mark.parametrize(
    ("address", "names", "zone"),
    [
        ("10.0.1.5", (), "az1"),
        ("10.0.3.5", ("db.AZ2.example.",), "az2"),
        ("10.0.1.5", ("db.az2.example",), "az1"),
        ("10.0.3.5", ("db.example",), None),
        ("", (), None),
        ("/run/postgresql", (), None),
    ],
)
def test_zone_of(address: str, names: tuple[str, ...], zone: str | None) -> None:
    zone_map = parse_zones({"az1": ["10.0.1.0/24"], "az2": "*.az2.example"})
    assert zone_map.zone_of(address, names) == zone
    assert parse_zones(zone_map) is zone_map


@pytest.mark.parametrize("value", [5, object()])
def test_a_list_setting_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="RESILIENT_DATABASE_READERS"):
        Settings(database_readers=value)


# -- secrets, and what no name can be

SECRET = "s3cret"
URLS = [
    f"http://admin:{SECRET}@patroni:8008",
    f"http://admin:x@{SECRET}@patroni:8008",
    f"http://{SECRET}@patroni:8008",
    f"http://patroni:8008/?token={SECRET}",
]
BROKEN_URLS = [
    f"http://admin:{SECRET}@patroni:99999",
    f"http://admin:{SECRET}/x@patroni",
    f"http://admin:a,{SECRET}@patroni:port",
    f"ftp://admin:{SECRET}@patroni",
    f"admin:{SECRET}@patroni:8008",
    f"http://admin:{SECRET}@",
    f"http://admin:{SECRET}@patroni:8008\nx",
    f"patroni?password={SECRET}",
]


@pytest.mark.parametrize("field", ["patroni_urls", "http_fallbacks"])
@pytest.mark.parametrize("url", URLS)
def test_a_urls_password_is_used_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, field: str, url: str
) -> None:
    monkeypatch.setenv(PREFIX + field.upper(), url)
    for settings in (Settings(), Settings(**{field: [url]})):
        assert getattr(settings, field) == (url,)
        for shown in (repr(settings), str(settings), f"{settings}", repr(getattr(settings, field))):
            assert SECRET not in shown
            assert "patroni" in shown


@pytest.mark.parametrize("field", ["patroni_urls", "http_fallbacks"])
@pytest.mark.parametrize("url", BROKEN_URLS)
def test_a_broken_urls_password_isnt_shown_either(
    monkeypatch: pytest.MonkeyPatch, field: str, url: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(**{field: [url, "http://good"]})
    assert SECRET not in str(caught.value)
    monkeypatch.setenv(PREFIX + field.upper(), f"http://good,{url}")
    with pytest.raises(ConfigError) as caught:
        Settings()
    assert SECRET not in str(caught.value)
    assert f"{PREFIX}{field.upper()}=" in str(caught.value)
    assert "accepted: " in str(caught.value)


NO_NAMES: list[tuple[str, Any]] = [
    *(("database_readers", f"r1{bad}x") for bad in "\n\0\t \x1b\x9b"),
    *(("database_readers", bad) for bad in ("r1:99999", "r1:0", "r1:-1", "r1:", "[::1]:70000")),
    *(("database_url", f"postgresql://{bad}/db") for bad in ("a:99999", "a:1,b:99999", "[::1]:0")),
    *(("database_url", bad) for bad in ("postgresql://a\nb/db", "postgresql://a\0/db", "host=a\0")),
    *(("database_url", bad) for bad in ("host='a\nb' port=1", "host=a port=99999", "port='1,0'")),
    *(("patroni_urls", bad) for bad in ("http://a\nb", "http://a\0", "http://a:99999")),
    *(("http_fallbacks", bad) for bad in ("http://a\nb", "http://a\0", "http://a:99999")),
    *(("dns_search", bad) for bad in ("a\nb", "a..b", "a\0b", "x" * 64)),
    *(("dns_mode", bad) for bad in ("a\nb=strict", "a\0=strict")),
    *(("tls_names", bad) for bad in ("a=b\nc", "a\0=b")),
    *(("zones", bad) for bad in ("z=*.a\nb",)),
    *(("zone", bad) for bad in ("az\n1", "az\x1b[31m1")),
    ("http_health_path", "/x\ny"),
    ("dns_nameservers", "10.0.0.1:99999"),
]


@pytest.mark.parametrize(("field", "value"), NO_NAMES)
def test_what_no_name_can_be_is_refused(field: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(**{field: value})
    text = str(caught.value)
    assert f"{PREFIX}{field.upper()}=" in text
    assert "accepted: " in text
    assert text.isprintable()
    if field == "database_url":
        assert f"{PREFIX}DATABASE_URL=(hidden)" in text


@pytest.mark.parametrize(
    "value",
    [
        "host=a,b port=5432,5433\nuser=u password='p q\n@:/99999'",
        "postgresql://u:p%40@a,b:5433,[::1]:5434/db?sslmode=require",
        "postgresql://u:p@w@a/db",
        "postgresql:///db?host=/run/postgresql",
        "postgres://",
        "dbname=x",
    ],
)
def test_connection_strings_that_libpq_takes_pass(value: str) -> None:
    url = Settings(database_url=value).database_url
    assert url is not None
    assert url.get_secret_value() == value


def test_what_a_server_says_is_logged_as_text(caplog: pytest.LogCaptureFixture) -> None:
    import logging

    from resilient._logs import LOGGERS

    hostile = "gone\x1b[2J\nlevel=info forged\x9b31m\u202e"
    with caplog.at_level(logging.INFO):
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.warning("error=%s n=%d", hostile, 3)
            logger.warning("error=%s", OSError(hostile))
    assert len(caplog.records) == 2 * len(LOGGERS)
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert "\\x1b[2J\\nlevel=info" in caplog.records[0].getMessage()


# -- names that nobody reads


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("DEADLINE", "DEADLINE_S"),
        ("DB_URL", "DATABASE_URL"),
        ("ZONE_S", "ZONE"),
        ("DEADLINE_SECONDS", "DEADLINE_S"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("DATABSE_URL", "DATABASE_URL"),
        ("URL_DATABASE", "DATABASE_URL"),
        ("DNS_NAME_SERVERS", "DNS_NAMESERVERS"),
        ("PROBE_TIMEOUT_MS", "PROBE_TIMEOUT_S"),
        ("PATRONI_URL", "PATRONI_URLS"),
        ("DEADLINE-S", "DEADLINE_S"),
        ("_ZONES", "ZONES"),
    ],
)
def test_a_near_miss_is_refused_and_the_name_suggested(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, other: str
) -> None:
    monkeypatch.setattr("resilient.settings._warned", set())
    monkeypatch.setenv(PREFIX + name, "1")
    with pytest.raises(ConfigError, match=f"did you mean {PREFIX}{other}\\?"):
        Settings()
    monkeypatch.setenv("RESILIENT_STRICT", "off")
    for _ in range(3):
        Settings()
    assert caplog.text.count(f"did you mean {PREFIX}{other}?") == 1


@pytest.mark.parametrize("prefix", ["RESILENT_", "RESILLIENT_", "RESLIIENT_", "RESILIANT_"])
def test_a_misspelt_prefix_is_a_near_miss_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, prefix: str
) -> None:
    monkeypatch.setattr("resilient.settings._warned", set())
    monkeypatch.setenv(f"{prefix}DEADLINE_S", "1")
    with pytest.raises(ConfigError, match=f"{prefix}DEADLINE_S: .*mean RESILIENT_DEADLINE_S\\?"):
        Settings()
    monkeypatch.setenv("RESILIENT_STRICT", "off")
    Settings()
    assert caplog.text.count("did you mean RESILIENT_DEADLINE_S?") == 1


def test_every_near_miss_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENT_DEADLINE", "1")
    monkeypatch.setenv("RESILIENT_DB_URL", "1")
    with pytest.raises(ConfigError, match=r"(?s)mean RESILIENT_DATABASE_URL.*RESILIENT_DEADLINE_S"):
        Settings()


@pytest.mark.parametrize(
    "name",
    ["RESILIENT_DEADLINE", "RESILIENT_COLOUR", "RESILENT_ZONE"],
)
def test_an_empty_variable_is_unset_whatever_its_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv(name, "")
    Settings()
    assert caplog.text == ""


@pytest.mark.parametrize(
    "name", ["RESILIENCE_ZONE", "RESILIENT", "RESILENT_COLOUR", "ZONE", "RESILIENTZONE"]
)
def test_what_is_anothers_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    Settings()
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("HEALTH_PATH", "HTTP_HEALTH_PATH"),
        ("READERS", "DATABASE_READERS"),
        ("URL", "DATABASE_URL"),
        ("DNS_CACHE", "DNS_CACHE_SIZE"),
        ("RETRY_MAX_ATTEMPTS", "RETRY_ATTEMPTS"),
    ],
)
def test_a_word_less_or_more_may_be_a_newer_version_and_is_a_hint(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, other: str
) -> None:
    monkeypatch.setattr("resilient.settings._warned", set())
    monkeypatch.setenv(PREFIX + name, "1")
    Settings()
    assert f"did you mean {PREFIX}{other}?" in caplog.text


@pytest.mark.parametrize("name", ["COLOUR", "HTTP_RETRY_AFTER_S", "REPORT_TO"])
def test_unknown_variables_are_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """After a rollback there are variables of a newer version."""
    monkeypatch.setattr("resilient.settings._warned", set())
    monkeypatch.setenv(PREFIX + name, "1")
    for _ in range(3):
        Settings()
    assert caplog.text.count(PREFIX + name) == 1


@pytest.mark.parametrize(
    "name",
    [
        *("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_5432_TCP"),
        *("PORT_5432_TCP_ADDR", "DB_SERVICE_HOST", "DB_PORT", "DATABASE_PORT_5432_TCP_PROTO"),
    ],
)
def test_what_kubernetes_injects_is_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv(PREFIX + name, "tcp://10.0.0.1:5432")
    Settings()
    assert caplog.text == ""


@pytest.mark.parametrize(
    "given",
    [
        {"probe_interval_s": 500},
        {"deadline_s": 1.5},
        {"dns_timeout_s": 9},
        {"zone": "az1"},
        {"zone": "auto"},
        {"probe_timeout_s": 500},
        {"failure_threshold": 500, "deadline_s": 300},
        {"deadline_s": 30_000},
        {"probe_burst_interval_s": 0.001},
        {"probe_burst_interval_s": 2},
        {"dns_ttl_ceiling_s": 86_400},
        {"dns_ttl_floor_s": 600, "dns_ttl_ceiling_s": 600},
        {"retry_attempts": 10_000},
        {"connect_rate": 0.001},
        {"eject_s": 86_400},
        {"success_threshold": 1000},
    ],
)
def test_values_that_no_one_means_are_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, given: dict[str, Any]
) -> None:
    monkeypatch.setattr("resilient.settings._warned", set())
    for _ in range(3):
        Settings(**given)
    assert len(caplog.records) == len([r for r in caplog.records if r.levelname == "WARNING"]) == 1
    assert next(iter(given)).upper() in caplog.text


@pytest.mark.parametrize(
    "given",
    [{"probe_interval_s": 0.005}, {"deadline_s": 3}, {"dns_ttl_ceiling_s": 300}, {"eject_s": 0.1}],
)
def test_what_somebody_may_mean_is_left_alone(
    caplog: pytest.LogCaptureFixture, given: dict[str, Any]
) -> None:
    Settings(**given)
    assert caplog.text == ""


def test_each_default_is_something_that_one_means(caplog: pytest.LogCaptureFixture) -> None:
    Settings()
    assert caplog.text == ""


def test_warnings_of_settings_are_logfmt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logfmt = pytest.importorskip("logfmt", reason="the logfmt package isn't installed")
    monkeypatch.setattr("resilient.settings._warned", set())
    monkeypatch.setenv("RESILIENT_STRICT", "off")
    monkeypatch.setenv("RESILIENT_DEADLINE", "1")
    monkeypatch.setenv("RESILIENT_COLOUR", "1")
    Settings(probe_interval_s=500)
    read = list(logfmt.parse([record.getMessage() for record in caplog.records]))
    assert [list(each) for each in read] == 3 * [["event", "reason"]]
    assert {each["event"]: each["reason"].split(":")[0].split()[0] for each in read} == {
        "setting.misspelt": "RESILIENT_DEADLINE",
        "setting.unknown": "RESILIENT_COLOUR",
        "setting.odd": "RESILIENT_PROBE_INTERVAL_S=500",
    }
