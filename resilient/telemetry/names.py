"""Every span, attribute and metric of ours, in one place; `docs/observability.md` has the table.

Names are OpenTelemetry's where it has some (`db.client.connection.*`, `dns.lookup.duration`,
`server.address`, `error.type`); there are none for failovers, so those are `resilient.*`.

What a metric's attributes may say comes from the configuration and from fixed sets: addresses and
names that were learnt go to spans and logs, which aren't kept by value.
"""

from __future__ import annotations

from enum import StrEnum

from .._dataclass import dataclass
from ..core.failover import PHASES

#: of a failover, a root span
FAILOVER = "resilient.failover"
#: its parts, which are its children and are exported as they end
PHASE_SPANS = tuple(f"{FAILOVER}.{phase}" for phase in PHASES)
#: of a span of the caller's, and of ours: which failover it was
FAILOVER_ID = "resilient.failover.id"
#: what a call of the caller's met, as events of its span
WAITED, REPLAYED, RESOLVED = "resilient.waited", "resilient.replayed", "resilient.resolved"

#: boundaries of what takes as long as a statement, a dial, a probe; in seconds
QUICK_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: of what takes as long as a failover
LONG_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)


class Kind(StrEnum):
    """Of an instrument; those that are observed are asked when somebody collects."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge, observed"
    UP_DOWN = "up-down counter, observed"


@dataclass(frozen=True, slots=True)
class Metric:
    """One instrument.  `attributes`: all that its points may have."""

    name: str
    kind: Kind
    unit: str
    text: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Attribute:
    """Of spans.  `where`: on which."""

    name: str
    where: str
    text: str


POOL, DATABASE = "db.client.connection.pool.name", "db.namespace"
_POOL = ("db.system.name", POOL, DATABASE)
_ORIGIN = ("server.address", "url.scheme")
_SYSTEM = ("db.system.name", POOL, DATABASE, *_ORIGIN)


def _of_pools(name: str, unit: str, text: str, *more: str) -> Metric:
    return Metric(f"db.client.connection.{name}", Kind.UP_DOWN, unit, text, (*_POOL, *more))


_ROLE = "resilient.endpoint.role"
USED = _of_pools(
    "count", "{connection}", "Connections, `idle` or `used`.", "db.client.connection.state", _ROLE
)
IDLE_MIN = _of_pools("idle.min", "{connection}", "The pool's `min_size`.")
IDLE_MAX = _of_pools("idle.max", "{connection}", "Idle connections that the pool keeps at most.")
MOST = _of_pools("max", "{connection}", "The pool's `max_size`; on each server, see Sizing.")
PENDING = _of_pools("pending_requests", "{request}", "Callers that wait for a connection.")
TIMEOUTS = Metric(
    "db.client.connection.timeouts",
    Kind.COUNTER,
    "{timeout}",
    "Checkouts that got no connection in their time.",
    _POOL,
)
CREATE_TIME = Metric(
    "db.client.connection.create_time",
    Kind.HISTOGRAM,
    "s",
    "What it took to make a connection.",
    _POOL,
    QUICK_S,
)
WAIT_TIME = Metric(
    "db.client.connection.wait_time",
    Kind.HISTOGRAM,
    "s",
    "What a checkout took.",
    _POOL,
    QUICK_S,
)
USE_TIME = Metric(
    "db.client.connection.use_time",
    Kind.HISTOGRAM,
    "s",
    "Between a checkout and its end.",
    _POOL,
    QUICK_S,
)
WRITER = Metric(
    "resilient.writer.available",
    Kind.GAUGE,
    "{writer}",
    "1: there is a server to write to; 0: nobody may write.  Alert on this one.",
    _POOL,
)
ENDPOINTS = Metric(
    "resilient.endpoint.count",
    Kind.UP_DOWN,
    "{endpoint}",
    "Servers, by role and health.",
    (*_POOL, "server.address", "cloud.availability_zone", _ROLE, "resilient.endpoint.health"),
)
LAG = Metric(
    "resilient.replica.lag",
    Kind.GAUGE,
    "s",
    "How far the replicas are behind; of several under one name and zone, the furthest.",
    (*_POOL, "server.address", "cloud.availability_zone"),
)
PROBES = Metric(
    "resilient.probe.duration",
    Kind.HISTOGRAM,
    "s",
    "What the answer to a probe took; with `error.type` where none came.",
    ("db.system.name", DATABASE, "server.address", "error.type"),
    QUICK_S,
)
STARTED = Metric(
    "resilient.failovers.started", Kind.COUNTER, "{failover}", "A writer was lost.", _SYSTEM
)
OVER = Metric(
    "resilient.failovers.over",
    Kind.COUNTER,
    "{failover}",
    "It is over: the first connection to the new writer can be used.",
    (*_SYSTEM, "resilient.failover.cause"),
)
FAILED = Metric(
    "resilient.failovers.failed",
    Kind.COUNTER,
    "{failover}",
    "It wasn't over within 60 s, or when the pool was closed.",
    (*_SYSTEM, "resilient.failover.cause"),
)
DURATION = Metric(
    "resilient.failover.duration",
    Kind.HISTOGRAM,
    "s",
    "From the first suspicion to the first usable connection.",
    (*_SYSTEM, "resilient.failover.cause"),
    LONG_S,
)
PHASE = Metric(
    "resilient.failover.phase.duration",
    Kind.HISTOGRAM,
    "s",
    "Its parts: `detect`, `promote`, `reconnect`.",
    (*_SYSTEM, "resilient.failover.phase"),
    LONG_S,
)
REPLAYS = Metric(
    "resilient.replays",
    Kind.COUNTER,
    "{transaction}",
    "Transactions whose server was lost: `replayed`, `mismatch`, or `refused` with the reason.",
    (*_POOL, "resilient.replay.result", "resilient.replay.reason"),
)
COMMITS = Metric(
    "resilient.commits",
    Kind.COUNTER,
    "{transaction}",
    "COMMITs whose reply was lost: `committed`, `not-committed`, `unknown`.",
    (*_POOL, "resilient.commit.outcome"),
)
LOST = Metric(
    "resilient.commits.lost",
    Kind.COUNTER,
    "{transaction}",
    "Acknowledged transactions that the new primary doesn't have.",
    ("db.system.name", "server.address"),
)
BUDGET = Metric(
    "resilient.retry.budget",
    Kind.GAUGE,
    "{retry}",
    "Retries that would be granted now.",
    _POOL,
)
RETRIES = Metric(
    "resilient.retries",
    Kind.COUNTER,
    "{retry}",
    "Retries beyond the first: `granted` or `refused` by the budget.",
    (*_POOL, "resilient.retry.result"),
)
READS = Metric(
    "resilient.reads",
    Kind.COUNTER,
    "{checkout}",
    "Checkouts for reading, by where they went: role and `zone.relation` (same, other, unknown)."
    "  The role `primary` is the fallback.",
    (*_POOL, _ROLE, "resilient.zone.relation"),
)
ATTEMPTS = Metric(
    "resilient.http.attempts",
    Kind.COUNTER,
    "{attempt}",
    "Attempts beside a request's first, by reason: `unsent`, `lost`, `answer`, `hedge`, `nobody`.",
    ("server.address", "resilient.attempt.reason"),
)
RESPONSES = Metric(
    "resilient.http.responses",
    Kind.COUNTER,
    "{response}",
    "Responses that were handed out, by the number of attempts that they took (1, 2, 3, more).",
    (*_ORIGIN, "resilient.attempts"),
)
EJECTIONS = Metric(
    "resilient.http.ejections",
    Kind.COUNTER,
    "{endpoint}",
    "Endpoints that were taken out of use.",
    (*_ORIGIN, "resilient.cause"),
)
LOOKUPS = Metric(
    "dns.lookup.duration",
    Kind.HISTOGRAM,
    "s",
    "Measures the time taken to perform a DNS lookup.",
    ("dns.question.name", "error.type"),
    (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0),
)
CHANGES = Metric(
    "resilient.dns.changes",
    Kind.COUNTER,
    "{change}",
    "A name's answer has changed.",
    ("dns.question.name",),
)

METRICS = (
    *(WRITER, ENDPOINTS, LAG, PROBES, STARTED, OVER, FAILED, DURATION, PHASE),
    *(USED, IDLE_MIN, IDLE_MAX, MOST, PENDING, TIMEOUTS, CREATE_TIME, WAIT_TIME, USE_TIME),
    *(REPLAYS, COMMITS, LOST, RETRIES, BUDGET, READS),
    *(RESPONSES, ATTEMPTS, EJECTIONS, LOOKUPS, CHANGES),
)

SPAN_ATTRIBUTES = (
    Attribute(FAILOVER_ID, "all of these, and the caller's spans", "Which failover it was."),
    Attribute("db.system.name", "database", "`postgresql`."),
    Attribute(POOL, "database", "The pools that follow it, by `name=`."),
    Attribute(DATABASE, "database", "The database's name."),
    Attribute("url.scheme", "HTTP", "`http` or `https`."),
    Attribute("server.address", "root", "As the caller configured it."),
    Attribute("server.port", "root", "The same."),
    Attribute("network.peer.address", "root", "The new server's address, learnt."),
    Attribute("network.peer.port", "root", "Its port."),
    Attribute("cloud.availability_zone", "root", "The new server's zone."),
    Attribute("error.type", "root", "Only where it isn't over: `NoEndpointAvailable`."),
    Attribute("resilient.failover.cause", "root", "One of a few words: `refused`, `silent`, …"),
    Attribute("resilient.failover.reason", "root", "The same in a server's or our own words."),
    Attribute("resilient.failover.result", "root", "`over`, `recovered` or `unfinished`."),
    Attribute("resilient.failover.phase", "root", "What an `unfinished` one is in the middle of."),
    Attribute("resilient.failover.part", "root", "From 1: each 60 s a new, linked root begins."),
    Attribute("resilient.failover.calls", "root", "Calls that waited, linked ones or not."),
    Attribute("resilient.failover.detect_s", "root", "Seconds until it wasn't trusted any more."),
    Attribute("resilient.failover.promote_s", "root", "Until there was somebody to write to."),
    Attribute("resilient.failover.reconnect_s", "root", "Until a connection could be used."),
    Attribute("resilient.old.endpoint", "root", "What was lost: `host:port (name)`."),
    Attribute("resilient.old.zone", "root", "Its zone."),
    Attribute("resilient.old.timeline", "root", "Its timeline."),
    Attribute("resilient.new.endpoint", "root", "What took over."),
    Attribute("resilient.new.zone", "root", "Its zone."),
    Attribute("resilient.new.timeline", "root", "Its timeline."),
    Attribute("resilient.step.detail", "root's events", "What a step says of itself."),
    Attribute("http.request.resend_count", "the caller's span", "Attempts beyond the first."),
)


def reference() -> str:
    """The tables of `docs/observability.md`, as Markdown."""
    rows = ["| Metric | Kind, unit | What it says | Attributes |", "|---|---|---|---|"]
    for metric in METRICS:
        said = ", ".join(f"`{name}`" for name in metric.attributes)
        kind = f"{metric.kind.value}; `{metric.unit}`"
        rows.append(f"| `{metric.name}` | {kind} | {metric.text} | {said} |")
    rows += ["", "| Span attribute | On | What it says |", "|---|---|---|"]
    rows += [f"| `{a.name}` | {a.where} | {a.text} |" for a in SPAN_ATTRIBUTES]
    return "\n".join(rows) + "\n"
