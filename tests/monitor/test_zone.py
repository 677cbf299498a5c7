"""Where this process runs, by the address that it would send from."""

from __future__ import annotations

from resilient.monitor.zone import local_address, own_zone
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
