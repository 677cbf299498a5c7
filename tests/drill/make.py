"""A run as it should go, for tests to spoil: fault at 100.0, writable at 101.0, good at 101.05."""

from __future__ import annotations

from dataclasses import replace

from resilient.drill.checker import Facts, Finding, check
from resilient.drill.plan import Case
from resilient.drill.records import Read, Request, Shell, Snapshot, Trace, Way, Write

OLD, NEW = "127.0.1.10", "127.0.2.10"
FACTS = Facts(
    fault_at=100.0,
    writable_at=101.0,
    durable_at=101.01,
    dns_changed_at=101.5,
    ended_at=102.0,
    old_primary=OLD,
    new_primary=NEW,
)


def case(fault: str = "crash", endpoint: str = "multi", promote_after_s: float = 1.0) -> Case:
    return Case(fault, endpoint, 1, 1, promote_after_s, 0.5)  # type: ignore[arg-type]


def write(
    number: int, at: float, server: str | None, shell: Shell = "sync", way: Way = "run"
) -> Write:
    return Write(number, shell, way, at - 0.01, at, "ok", server)


def failed(number: int, at: float, text: str = "OperationalError: gone", way: Way = "run") -> Write:
    outcome = "unknown" if text.startswith("CommitOutcomeUnknown") else "error"
    return Write(number, "sync", way, at - 0.01, at, outcome, None, text)  # type: ignore[arg-type]


def snapshot(at: float, writer: str | None, old: str = "up", new: str = "up") -> Snapshot:
    return Snapshot(at, int(at * 1000), writer, {OLD: old, NEW: new}, {})


def trace() -> Trace:
    return Trace(
        writes=[
            write(1, 99.95, OLD),
            write(2, 99.96, OLD, "async"),
            write(3, 101.05, NEW),
            write(4, 101.08, NEW, "async"),
        ],
        reads=[Read("sync", "run", 99.9, 99.91, NEW)],
        requests=[Request("sync", 99.9, 99.92, 2.0, "az1")],
        snapshots=[
            snapshot(99.0, OLD),
            snapshot(100.02, OLD, "suspect"),
            snapshot(100.05, None, "dead"),
            snapshot(101.03, NEW, "dead"),
        ],
    )


def judged(
    told: Trace,
    present: list[int] | None = None,
    facts: Facts = FACTS,
    of: Case | None = None,
    **more: object,
) -> Finding:
    rows = [1, 2, 3, 4] if present is None else present
    return check(of or case(), told, replace(facts, **more), rows)  # type: ignore[arg-type]
