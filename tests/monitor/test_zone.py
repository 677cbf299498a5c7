"""Where this process runs, by the address that it would send from."""

from __future__ import annotations

import pytest

from resilient.core.model import Endpoint, EndpointView, Health, Topology
from resilient.monitor.zone import judged, local_address, own_zone
from resilient.settings import Settings


def test_a_named_zone_is_taken_as_it_is() -> None:
    settings = Settings(zone="az2", zones="az1=127.0.0.0/16,az2=10.0.0.0/8")
    assert own_zone(settings, ["127.0.1.10"]) == "az2"


def test_auto_finds_the_zone_of_the_local_address() -> None:
    settings = Settings(zone="auto", zones="az9=192.0.2.0/24,az1=127.0.0.0/8")
    assert own_zone(settings, ["127.0.1.10"]) == "az1"


def test_auto_without_a_rule_that_fits_is_no_zone() -> None:
    settings = Settings(zone="auto", zones="az9=192.0.2.0/24")
    assert own_zone(settings, ["127.0.1.10"]) is None


def test_no_route_is_no_error() -> None:
    assert local_address("not an address") == ""


SOCKET = Endpoint("/run/postgresql", "", 5432)
ZONES = Settings(zones="az1=10.0.1.0/24,az2=*.b")


def seen(*zones: str | None, health: Health = Health.UP) -> Topology:
    views = (
        EndpointView(Endpoint("db", f"192.0.2.{n}", 5432), zone, health=health)
        for n, zone in enumerate(zones, 1)
    )
    return Topology(version=1, endpoints=tuple(views))


@pytest.fixture(autouse=True)
def nothing_was_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilient.settings._warned", set())


def test_zones_that_cover_no_endpoint_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        assert judged(ZONES, seen(None, None))
    assert caplog.messages == [
        'event=setting.odd reason="RESILIENT_ZONES: no endpoint lies in az1, az2; the endpoints are'
        ' 192.0.2.1, 192.0.2.2"'
    ]
    assert caplog.records[0].levelname == "WARNING"


@pytest.mark.parametrize(
    ("settings", "topology", "decided"),
    [
        (Settings(), seen(None), True),
        (ZONES, seen("az1", None), True),  # and nobody in az2: applications may run there
        (ZONES, Topology(), False),
        (ZONES, seen(None, health=Health.UNKNOWN), False),
        (ZONES, Topology(endpoints=(EndpointView(SOCKET, health=Health.UP),)), True),
    ],
)
def test_else_nothing_is_said(
    caplog: pytest.LogCaptureFixture, settings: Settings, topology: Topology, decided: bool
) -> None:
    assert judged(settings, topology) is decided
    assert caplog.messages == []
