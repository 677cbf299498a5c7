"""What is told of a failover: spans, lines, metrics, a record."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from resilient import recorder
from resilient.lab import Lab
from resilient.postgres import AsyncConnectionPool, ConnectionPool
from resilient.telemetry import failover_log, names
from resilient.telemetry.sampler import KeepFailovers

from ..seen import Seen, steps
from .conftest import settings_of

pytestmark = pytest.mark.lab

logfmt = pytest.importorskip("logfmt", reason="the logfmt package isn't installed")


def fields(record: logging.LogRecord) -> dict[str, str]:
    """A line's fields, as a library reads them."""
    (line,) = logfmt.parse([record.getMessage()])
    return dict(line)


@pytest.mark.parametrize("shell", ["sync", "async"])
def test_a_failover_is_told(
    shell: str,
    lab: Lab,
    orders: str,
    make_seen: Callable[..., Seen],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """One crash, under a sampler that drops all: a root of its own with its parts, linked to the
    calls that waited, four lines at most, metrics, and a record."""
    monkeypatch.setattr(
        failover_log, "GRACE_S", 20.0
    )  # a busy machine; `close` waits for none of it
    seen = make_seen(KeepFailovers(ParentBased(ALWAYS_OFF)))
    caplog.set_level(logging.INFO, logger="resilient")
    old = lab.primary
    tracer = seen.tracers.get_tracer("app")
    before = len(recorder.failovers())
    failovers = _sync(lab, tracer) if shell == "sync" else asyncio.run(_async(lab, tracer))
    new = lab.primary
    (root,) = seen.until()
    said = dict(root.attributes or {})
    failover_id = said["resilient.failover.id"]
    assert root.parent is None
    assert said["resilient.failover.result"] == "over"
    assert "error.type" not in said
    assert said["resilient.failover.cause"] in {
        "refused",
        "lost",
        "shutdown",
        "silent",
        "not-ready",
    }
    assert said["server.address"] == new.address  # as the connection string has it
    assert said["network.peer.address"] == new.address
    assert said["cloud.availability_zone"] == new.zone
    assert str(said["resilient.old.endpoint"]).startswith(old.address)
    assert said["db.client.connection.pool.name"] == "orders"
    assert said["db.namespace"] == "app"
    assert [s for s in steps(root) if s in ("lost", "promoted", "reconnected")] == [
        *("lost", "promoted", "reconnected"),
    ]
    assert steps(root)[0] == "suspected"
    assert root.start_time is not None
    assert root.end_time is not None
    assert 0.3e9 < root.end_time - root.start_time < 5e9
    # Its parts are its children, exported before it, and cover it.
    parts = [span for name in names.PHASE_SPANS for span in seen.spans(name)]
    assert [span.name for span in parts] == list(names.PHASE_SPANS)
    assert {span.parent.span_id for span in parts if span.parent} == {root.context.span_id}
    assert seen.names().index("resilient.failover.detect") < seen.names().index(root.name)
    assert sum((span.end_time or 0) - (span.start_time or 0) for span in parts) == pytest.approx(
        root.end_time - root.start_time, abs=1e6
    )
    assert said.keys() <= {attribute.name for attribute in names.SPAN_ATTRIBUTES}
    # The calls that waited weren't sampled: the links are there all the same.
    assert said["resilient.failover.calls"] == len(root.links) == 4
    assert seen.exporter.threads == {"resilient-telemetry"}
    # Lines: logfmt; a story at Python's default level, of at most four.
    loud = [r for r in caplog.records if r.levelno >= logging.WARNING and "wal" not in r.msg]
    story = [fields(record) for record in loud if record.name.startswith("resilient")]
    assert [line["step"] for line in story] == ["lost", "promoted", "over"]
    assert all(line["pool"] == "orders" and line["database"] == "app" for line in story)
    assert story[0]["endpoint"] == f"{old.address}:{lab.port}"
    assert story[-1]["new"] == f"{new.address}:{lab.port}"
    assert float(story[-1]["total_s"]) == pytest.approx(
        sum(float(story[-1][f"{phase}_s"]) for phase in ("detect", "promote", "reconnect")),
        abs=0.01,
    )
    assert {line["failover"] for line in story} == {failover_id}
    for record in caplog.records:
        if record.name.startswith("resilient"):
            line = fields(record)
            assert line
            assert (line["pool"], line["database"]) == ("orders", "app"), line
    assert [r for r in loud if not r.name.startswith("resilient")] == []
    # The record.
    (record,) = failovers
    assert record.id == failover_id
    assert record.result == "over"
    assert record.calls == 4
    names_of = [event.name for event in record.events]
    assert names_of[0] == "suspected"
    assert {"reconnected", names.WAITED, names.REPLAYED} <= set(names_of)
    assert recorder.failovers()[-1].id == failover_id
    target = tmp_path / "failovers.json"
    assert recorder.dump(target) == min(20, before + 1)
    dumped = json.loads(target.read_text())["failovers"][-1]
    assert (dumped["id"], dumped["pool"], dumped["result"]) == (failover_id, "orders", "over")
    # Metrics.
    points = seen.points()
    mine = {"db.system.name": "postgresql", names.POOL: "orders", names.DATABASE: "app"}
    known = {metric.name: metric for metric in names.METRICS}
    for name, found in points.items():
        for attributes, _ in found:
            assert attributes.keys() <= set(known[name].attributes), name
    assert points["resilient.failovers.started"] == [(mine, 1)]
    assert [value for _, value in points["resilient.failovers.over"]] == [1]
    assert "resilient.failovers.failed" not in points
    phases = {a["resilient.failover.phase"] for a, _ in points["resilient.failover.phase.duration"]}
    assert phases == {"detect", "promote", "reconnect"}
    assert ({**mine, "resilient.replay.result": "replayed"}, 1) in points["resilient.replays"]
    assert points["db.client.connection.wait_time"][0][1].count >= 4
    assert points["db.client.connection.wait_time"][0][1].explicit_bounds == names.QUICK_S
    assert points["db.client.connection.use_time"][0][1].count >= 4
    assert points["db.client.connection.create_time"][0][1].count >= 2
    assert points["resilient.probe.duration"]


def _sync(lab: Lab, tracer: object) -> tuple[recorder.Record, ...]:
    with ConnectionPool(
        lab.dsn, settings=settings_of(lab), min_size=2, max_size=8, name="orders"
    ) as pool:
        pool.wait()
        began = threading.Barrier(2)
        struck = threading.Event()

        def call(within: bool) -> None:
            with tracer.start_as_current_span("call"):  # type: ignore[attr-defined]
                if within:
                    with pool.connection() as conn:
                        conn.execute("select 1")
                        began.wait(10)
                        struck.wait(10)
                        assert conn.execute("select 2").fetchone() == (2,)
                else:
                    struck.wait(10)
                    with pool.connection() as conn:
                        conn.execute("select 3")

        threads = [threading.Thread(target=call, args=(n == 0,)) for n in range(4)]
        for thread in threads:
            thread.start()
        began.wait(10)
        run = lab.inject("crash", promote_after_s=0.5)
        run.wait_struck()
        time.sleep(0.05)  # a reply may have been under way
        struck.set()
        for thread in threads:
            thread.join(20)
        run.wait_done()
        seen_writer = [m for m in pool._core.measures() if m[0] is names.WRITER]
        assert seen_writer[0][1] == 1
    return pool.failovers


async def _async(lab: Lab, tracer: object) -> tuple[recorder.Record, ...]:
    async with AsyncConnectionPool(
        lab.dsn, settings=settings_of(lab), min_size=2, max_size=8, name="orders", open=False
    ) as pool:
        await pool.wait()
        began, struck = asyncio.Event(), asyncio.Event()

        async def call(within: bool) -> None:
            with tracer.start_as_current_span("call"):  # type: ignore[attr-defined]
                if within:
                    async with pool.connection() as conn:
                        await conn.execute("select 1")
                        began.set()
                        await struck.wait()
                        assert await (await conn.execute("select 2")).fetchone() == (2,)
                else:
                    await struck.wait()
                    async with pool.connection() as conn:
                        await conn.execute("select 3")

        tasks = [asyncio.create_task(call(n == 0)) for n in range(4)]
        await began.wait()
        run = await asyncio.to_thread(lab.inject, "crash", promote_after_s=0.5)
        await asyncio.to_thread(run.wait_struck)
        await asyncio.sleep(0.05)  # a reply may have been under way
        struck.set()
        await asyncio.gather(*tasks)
        await asyncio.to_thread(run.wait_done)
    return pool.failovers


def test_a_primary_that_is_dead_with_nobody_promoted_is_told(
    lab: Lab,
    orders: str,
    seen: Seen,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """Detected: exported at once.  After a minute (here a moment) the root ends as unfinished, a
    linked one with the same id goes on; `close` ends that one."""
    monkeypatch.setattr(failover_log, "UNFINISHED_S", 0.8)
    target = tmp_path / "failovers.json"
    before = signal.getsignal(signal.SIGUSR2)
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    try:
        recorder.dump_on_signal(target)
        with ConnectionPool(dsn, settings=settings_of(lab), min_size=1, name="orders") as pool:
            pool.wait()
            _until(lambda: _writer(seen) == [1])
            lab.primary.kill()
            (detect,) = seen.until("resilient.failover.detect")
            assert detect.parent is not None
            assert seen.spans() == []
            _until(lambda: _writer(seen) == [0])
            (first, second) = seen.until(count=2)[:2]
            os.kill(os.getpid(), signal.SIGUSR2)
            dumped = json.loads(target.read_text())["failovers"][-1]
            assert dumped["result"] == "unfinished"
    finally:
        signal.signal(signal.SIGUSR2, before)
    (*_, last) = seen.spans()
    assert first.context.span_id == detect.parent.span_id
    for one, other, part in ((first, second, 1), (second, last, 2)):
        said = dict(one.attributes or {})
        assert said["resilient.failover.result"] == "unfinished"
        assert said["error.type"] == "NoEndpointAvailable"
        assert said["resilient.failover.phase"] == "promote"
        assert said["resilient.failover.part"] == part
        assert not one.status.is_ok
        if other is not one:
            assert other.links[0].context.span_id == one.context.span_id
    assert len({(span.attributes or {})["resilient.failover.id"] for span in seen.spans()}) == 1
    points = seen.points()
    assert [value for _, value in points["resilient.failovers.failed"]] == [1]
    loud = [r for r in caplog.records if r.name == "resilient.failover" and r.levelno >= 30]
    assert [fields(record)["step"] for record in loud] == ["lost", "unfinished"]


@pytest.mark.parametrize("what", ["block", "autocommit"])
def test_a_session_that_was_lost_for_good_is_linked_too(
    lab: Lab, orders: str, seen: Seen, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """It waited for another one, and had none by its deadline."""
    monkeypatch.setattr(failover_log, "UNFINISHED_S", 20.0)
    tracer = seen.tracers.get_tracer("app")
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    settings = settings_of(lab).replace(deadline_s=1)
    with ConnectionPool(
        dsn, settings=settings, min_size=1, kwargs={"autocommit": what == "autocommit"}
    ) as pool:
        pool.wait()
        with tracer.start_as_current_span("request"):
            conn = pool.getconn()
            conn.execute("SELECT 1")
            lab.primary.kill()
            with pytest.raises(psycopg.OperationalError):
                conn.execute("SELECT 1")
            pool.putconn(conn)
    (request,) = seen.spans("request")
    (root,) = seen.spans()
    said = dict(root.attributes or {})
    assert (request.attributes or {})["resilient.failover.id"] == said["resilient.failover.id"]
    assert [event.name for event in request.events] == [names.WAITED]
    assert said["resilient.failover.calls"] == 1
    assert [link.context.span_id for link in root.links] == [request.context.span_id]


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _writer(seen: Seen) -> list[float]:
    return [value for _, value in seen.points()["resilient.writer.available"]]


def test_a_slow_server_is_no_failover(lab: Lab, orders: str, seen: Seen) -> None:
    """Stopped for less than the window: suspected, recovered, no span, nothing dropped."""
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    with ConnectionPool(dsn, settings=settings_of(lab), min_size=1) as pool:
        pool.wait()
        with pool.connection() as conn:
            backend = conn.info.backend_pid
        for _ in range(3):
            lab.primary.pause()
            time.sleep(0.6)
            lab.primary.resume()
            time.sleep(0.3)
        with pool.connection() as conn:
            assert conn.info.backend_pid == backend
        assert pool.failovers == ()
    assert seen.names() == []


LATER = """
import logging, sys, time
from resilient.postgres import ConnectionPool

def told():
    return "opentelemetry" in sys.modules

def crash():
    print("crash", flush=True)
    sys.stdin.readline()

logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
with ConnectionPool(min_size=1, name="orders") as pool:
    pool.wait()
    assert not told()
    crash()
    pool.run(lambda conn: conn.execute("insert into orders (id) values (1)"))
    assert len(pool.failovers) == 1 and not told()

    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    reader, exporter, tracers = InMemoryMetricReader(), InMemorySpanExporter(), TracerProvider()
    metrics.set_meter_provider(MeterProvider([reader]))
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(tracers)
    wanted = {"resilient.writer.available", "db.client.connection.count"}
    deadline = time.monotonic() + 10
    while True:  # the next probes bring them
        data = reader.get_metrics_data()
        found = {
            metric.name
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
        if wanted <= found:
            break
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    crash()
    pool.run(lambda conn: conn.execute("insert into orders (id) values (2)"))
assert "resilient.failover" in {span.name for span in exporter.get_finished_spans()}
"""


def test_who_imports_opentelemetry_later_is_told_from_then_on(lab: Lab, orders: str) -> None:
    """Nothing of it is imported for whom doesn't want it, and a failover is told all the same."""
    child = subprocess.Popen(
        [sys.executable, "-c", LATER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **lab.env()},
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    lines = []
    try:
        while line := child.stdout.readline():
            lines.append(line)
            if line == "crash\n":
                lab.rejoin()
                lab.inject("crash", promote_after_s=0.5).wait_struck()
                print(file=child.stdin, flush=True)
    finally:
        child.kill()
        _, errors = child.communicate()
    assert "Traceback" not in errors, errors
    assert sum(line.startswith("step=over") for line in lines) == 2
