"""Names, their table, what a call costs, the shipped dashboard and rules."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import timeit
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
import yaml
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision

from resilient._logs import Line
from resilient.core.model import Endpoint
from resilient.postgres.pool.base import PoolCore
from resilient.settings import Settings
from resilient.telemetry import failover_log, instruments, names
from resilient.telemetry.names import Kind
from resilient.telemetry.sampler import KeepFailovers

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "examples" / "observability"
SAID = {"db.system.name": "postgresql", names.POOL: "orders", names.DATABASE: "shop"}


def test_the_reference_is_generated() -> None:
    """`docs/observability.md` has the table of `names`, word by word."""
    assert names.reference() in (ROOT / "docs" / "observability.md").read_text()
    assert len({metric.name for metric in names.METRICS}) == len(names.METRICS)
    assert set(names.METRICS) == {v for v in vars(names).values() if isinstance(v, names.Metric)}


def test_a_call_costs_next_to_nothing_without_an_sdk() -> None:
    """What a checkout and its end record, over and above the clock that they read anyway: 1 µs
    where an empty function takes 33 ns."""
    core = PoolCore(Settings())
    core._said = SAID
    conn: Any = SimpleNamespace(_resilient=SimpleNamespace(out_since_s=0.0))

    def best(call: Callable[[], None]) -> float:
        return min(timeit.repeat(call, number=200, repeat=100)) / 200

    later_s = time.monotonic() + 60  # nobody has waited

    def again() -> None:
        conn._resilient.out_since_s = later_s
        core.came_back(conn)

    most = 30 * best(lambda: None)
    assert best(lambda: core.handed_out(conn, later_s)) < most
    assert best(again) < most


def test_who_keeps_opentelemetry_out_has_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sys.modules[…] = None` makes an import of it fail; no caller may notice."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.setattr(instruments, "_made", {})
    monkeypatch.setattr(instruments, "_observed", False)
    made = failover_log._spans("id", SAID)
    assert isinstance(made, failover_log._NoSpans)
    assert failover_log._current_span() is None
    instruments.count(names.STARTED, SAID)
    instruments.observe(PoolCore(Settings()))
    assert instruments._made == {}
    assert not instruments._observed


def test_others_names_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruments, "_few", {})
    said = [instruments.few("server.address", f"host{n}.example") for n in range(1000)]
    assert len(set(said)) == instruments.FEW + 1
    assert said[-1] == "other"
    assert instruments.few("server.address", "host1.example") == "host1.example"


def test_the_sampler_keeps_failovers_and_asks_for_the_rest() -> None:
    sampler = KeepFailovers(ALWAYS_OFF)

    def decision(name: str) -> Decision:
        return sampler.should_sample(None, 1, name).decision

    assert decision("resilient.failover") is Decision.RECORD_AND_SAMPLE
    assert decision("resilient.failover.detect") is Decision.RECORD_AND_SAMPLE
    assert decision("resilient.failovers") is Decision.DROP
    assert decision("GET /") is Decision.DROP
    assert "AlwaysOff" in sampler.get_description()


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "two words",
        'a "quoted" word',
        "a=b",
        "",
        "back\\slash",
        "Zürich",
        1,
        True,
        "two\nlines",
    ],
)
def test_lines_are_logfmt(value: Any) -> None:
    logfmter = pytest.importorskip("logfmt", reason="the logfmt package isn't installed")
    line = str(Line(step="lost", reason=value, endpoint=Endpoint("db", "::1", 5432).place, no=None))
    (read,) = logfmter.parse([line])
    assert list(read) == ["step", "reason", "endpoint"]
    assert read["endpoint"] == "[::1]:5432"
    shown = "true" if value is True else " ".join(str(value).split())
    assert read["reason"] == shown


def test_what_a_server_says_forges_no_line() -> None:
    line = str(Line(step="lost", reason='x" step=over\nstep=over \x1b[2J\u202e'))
    assert line.isprintable()
    assert line.count("step=") == 3
    assert line.startswith('step=lost reason="x\\" step=over step=over ')


# -- what is shipped


def queries() -> list[str]:
    """Of the dashboard and the rules."""
    board = json.loads((SHIPPED / "dashboard.json").read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    found += [each["expr"] for each in board["annotations"]["list"]]
    rules = yaml.safe_load((SHIPPED / "alerts.yaml").read_text())
    return found + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def in_prometheus(metric: names.Metric) -> str:
    """The name that it has there (OpenTelemetry's rules for Prometheus)."""
    name = metric.name.replace(".", "_") + ("_seconds" if metric.unit == "s" else "")
    return f"{name}_total" if metric.kind is Kind.COUNTER else name


def test_queries_name_metrics_that_there_are() -> None:
    known = {in_prometheus(metric): metric for metric in names.METRICS}
    used: set[str] = set()
    for query in queries():
        for name in re.findall(r"\b((?:resilient|db_client|dns)_\w+)(?=[\[{ )]|$)", query):
            bare = re.sub(r"_(bucket|sum|count)$", "", name)
            if name in known or bare in known:
                used.add(name if name in known else bare)
            else:
                attributes = {a.replace(".", "_") for m in names.METRICS for a in m.attributes}
                assert name in attributes, (name, query)
        for label in re.findall(r"(\w+)(?:=~?|!=)\"", query):
            assert label in {a.replace(".", "_") for m in names.METRICS for a in m.attributes}
    unused = set(known) - used - {"db_client_connection_idle_min", "db_client_connection_idle_max"}
    assert unused == {"db_client_connection_create_time_seconds"}


def test_the_rules_are_prometheus_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool isn't installed (Debian: prometheus)")
    done = subprocess.run(
        [promtool, "check", "rules", str(SHIPPED / "alerts.yaml")],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_collectors_pipelines_name_what_there_is() -> None:
    config = yaml.safe_load((SHIPPED / "collector.yaml").read_text())
    for pipeline in config["service"]["pipelines"].values():
        for kind, used in pipeline.items():
            assert set(used) <= set(config[kind])


@pytest.fixture
def scraped(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port where the SDK's Prometheus exporter shows a point of every metric."""
    exporter = pytest.importorskip(
        "opentelemetry.exporter.prometheus", reason="the Prometheus exporter isn't installed"
    )
    import prometheus_client
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider

    class Shown:
        def measures(self) -> Iterator[tuple[names.Metric, float, dict[str, str]]]:
            for metric in names.METRICS:
                if "observed" in metric.kind.value:
                    yield metric, 1.0, attributes_of(metric)

    reader = exporter.PrometheusMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    monkeypatch.setattr(instruments, "_made", {})
    monkeypatch.setattr(instruments, "_watched", {Shown()})
    instruments._observed = False
    instruments._make_observed()
    instruments_of = [m for m in names.METRICS if "observed" not in m.kind.value]
    registry = prometheus_client.REGISTRY

    def app(environ: Any, start: Callable[..., Any]) -> list[bytes]:
        for metric in instruments_of:
            for attributes in {"all": attributes_of(metric), "none": {}}.values():
                instruments.record(metric, 1, attributes)
        start("200 OK", [("Content-Type", prometheus_client.CONTENT_TYPE_LATEST)])
        return [prometheus_client.generate_latest(registry)]

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()
    provider.shutdown()
    instruments._observed = False


def attributes_of(metric: names.Metric) -> dict[str, str]:
    words = {
        "resilient.endpoint.role": "replica",
        "resilient.endpoint.health": "up",
        "resilient.commit.outcome": "unknown",
        "resilient.retry.result": "refused",
    }
    return {name: words.get(name, "x") for name in metric.attributes}


def test_every_query_runs_on_a_real_prometheus(scraped: int, tmp_path: Path) -> None:
    """And each names series that there are, but those that compare."""
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("prometheus isn't installed (Debian: prometheus)")
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 250ms, scrape_timeout: 200ms}\n"
        f"rule_files: ['{SHIPPED / 'alerts.yaml'}']\n"
        "scrape_configs: [{job_name: app, static_configs:"
        f" [{{targets: ['127.0.0.1:{scraped}']}}]}}]\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(prometheus, f"--config.file={tmp_path / 'prometheus.yml'}"),
            *(f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={tmp_path / 'db'}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while not asked(port, "count_over_time(up[1m]) > 3"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for query in queries():
            compares = re.search(r"(==|>) *\d+$", query.strip())
            deadline = time.monotonic() + 10
            while not asked(port, query.replace("$pool", ".*")) and not compares:
                assert time.monotonic() < deadline, query
                time.sleep(0.1)
    finally:
        process.terminate()
        process.wait(10)


def asked(port: int, query: str) -> list[Any]:
    """What Prometheus answers; it refuses what is no query."""
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return []  # it isn't ready yet
        raise AssertionError((query, error.read())) from error
    except OSError:
        return []  # it isn't there yet
    assert found["status"] == "success", (query, found)
    return list(found["data"]["result"])
