"""What is told of an HTTP failover: one span, a log line per step."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from http_lab import NAME, Names, Shell, Upstream, facts

from resilient import Settings
from tests.seen import Seen, steps

Run = Callable[..., list[Upstream]]


def zoned(one: Upstream, two: Upstream, **values: object) -> Settings:
    zones = f"az1={one.address}/32,az2={two.address}/32"
    return Settings(zone="az1", zones=zones, **values)  # type: ignore[arg-type]


def test_a_killed_upstream_is_one_span_and_its_steps_are_logged(
    shell: Shell,
    names: Names,
    run_upstreams: Run,
    port: int,
    seen: Seen,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="resilient.failover")
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    client = shell.client(zoned(one, two))
    url = f"http://{NAME}:{port}/x"
    for _ in range(3):
        assert facts(shell.get(client, url))["address"] == one.address
    assert seen.names() == []
    one.kill()
    for _ in range(5):
        with seen.tracers.get_tracer("app").start_as_current_span("call"):
            assert facts(shell.get(client, url))["address"] == two.address
    (span,) = seen.until()
    assert span.name == "resilient.failover"
    assert span.attributes is not None
    expected = {
        "url.scheme": "http",
        "server.address": NAME,
        "server.port": port,
        "network.peer.address": two.address,
        "cloud.availability_zone": "az2",
        "resilient.old.endpoint": f"{one.address}:{port} ({NAME})",
        "resilient.old.zone": "az1",
        "resilient.new.endpoint": f"{two.address}:{port} ({NAME})",
        "resilient.new.zone": "az2",
    }
    assert {key: span.attributes[key] for key in expected} == expected
    assert "db.system.name" not in span.attributes
    assert steps(span) == ["suspected", "lost", "reconnected"]
    times = [event.timestamp for event in span.events]
    assert times == sorted(times)
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time < 1e9
    told = [r.getMessage().split()[0] for r in caplog.records if r.name == "resilient.failover"]
    assert told == ["step=suspected", "step=lost", "step=reconnected", "step=over"]
    # The call that waited says so; the failover has a link to it.
    if shell.sync:  # whose loop has a context of its own in this test
        first, *others = seen.spans("call")
        assert first.attributes is not None
        assert first.attributes["resilient.failover.id"] == span.attributes["resilient.failover.id"]
        assert [event.name for event in first.events] == ["resilient.waited"]
        assert [link.context.span_id for link in span.links] == [first.context.span_id]
        assert not any(other.attributes for other in others)
    (detect,) = seen.spans("resilient.failover.detect")
    assert detect.parent is not None
    assert detect.parent.span_id == span.context.span_id
    points = seen.points()
    said = {"server.address": NAME, "url.scheme": "http"}
    # Its connect was won by another endpoint: that was no attempt.
    assert points["resilient.http.responses"] == [({**said, "resilient.attempts": "1"}, 8)]
    assert points["resilient.http.ejections"] == [({**said, "resilient.cause": "refused"}, 1)]
    assert [value for _, value in points["resilient.failovers.over"]] == [1]


def test_an_address_that_left_dns_is_a_failover_told(
    shell: Shell, names: Names, run_upstreams: Run, port: int, seen: Seen
) -> None:
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address,)
    client = shell.client()
    url = f"http://{NAME}:{port}/x"
    shell.get(client, url)
    names.change(NAME, two.address)
    while facts(shell.get(client, url))["address"] != two.address:
        pass
    (span,) = seen.until()
    assert steps(span) == ["suspected", "retired", "resolved", "reconnected"]
    assert seen.exporter.threads == {"resilient-telemetry"}


def test_nothing_in_use_nothing_told(
    shell: Shell, names: Names, run_upstreams: Run, subnet: str, port: int, seen: Seen
) -> None:
    (one,) = run_upstreams(1)
    names.answers[NAME] = (subnet + "7", one.address)  # one never lived
    client = shell.client()
    for _ in range(6):
        shell.get(client, f"http://{NAME}:{port}/x")
    assert seen.names() == []


def test_a_silent_upstream_is_suspected_from_the_first_unanswered_request(
    names: Names, run_upstreams: Run, port: int, seen: Seen
) -> None:
    shell = Shell("sync", "httpx2")
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    checked = {"probe_interval_s": 0.1, "probe_timeout_s": 0.1, "http_health_path": "/health"}
    client = shell.client(zoned(one, two, **checked))
    url = f"http://{NAME}:{port}/x"
    shell.get(client, url)
    one.hang()
    shell.get(client, url)
    one.go_on()
    shell.finish()
    (span,) = seen.until()
    assert steps(span) == ["suspected", "lost", "reconnected"]
    assert span.attributes is not None
    assert 0.2 < float(str(span.attributes["resilient.failover.detect_s"])) < 0.6
