"""The drill's small parts: the gate, the live lines, the pipe to a client that can't start."""

from __future__ import annotations

import os

import psycopg
import pytest

from resilient.drill.live import Live
from resilient.drill.process import ClientFailed, ClientProcess
from resilient.drill.records import Record
from resilient.drill.workload import Gate, Job, outcome_of
from resilient.errors import CommitOutcomeUnknown

from .make import NEW, OLD, failed, snapshot, write


def test_the_gate_knows_who_is_inside() -> None:
    gate = Gate()
    assert not gate.enter("a")
    gate.set(True)
    assert gate.enter("a")
    assert gate.enter("b")
    gate.set(False)
    assert not gate.enter("c")
    gate.leave("a")
    assert set(gate.inside()) == {"b"}
    gate.end()
    gate.leave("b")
    assert (gate.inside(), gate.ending) == ({}, True)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (CommitOutcomeUnknown("who knows"), "unknown"),
        (psycopg.OperationalError("gone\nand more"), "error"),
    ],
)
def test_outcomes(error: Exception | None, outcome: str) -> None:
    told, text = outcome_of(error)
    assert told == outcome
    assert "more" not in text


def test_live_lines() -> None:
    lines: list[str] = []
    live = Live(lambda at, text: lines.append(f"{at:.2f} {text}"))
    live.record(write(1, 99.9, OLD))  # before the fault: nothing to tell
    live.fault_at, live.old_primary = 100.0, OLD
    live.record(snapshot(100.01, OLD, "suspect"))
    live.record(snapshot(100.02, None, "dead"))
    live.record(failed(2, 100.03, way="plain"))
    live.record(failed(3, 100.04, way="plain"))  # told once
    live.record(write(4, 101.05, NEW))  # may arrive before the observer's word
    live.promoted(NEW, 101.0)
    live.record(write(5, 101.06, NEW))
    live.record(write(6, 101.07, NEW, "async"))
    assert lines == [
        f"100.01 client: {OLD} is suspect, after 0.010 s",
        f"100.02 client: {OLD} is dead, after 0.020 s",
        "100.02 client: no writer, callers wait",
        "100.03 sync plain block failed: OperationalError: gone",
        "101.05 first good write (sync) +0.050 s",
        "101.07 first good write (async) +0.070 s",
    ]
    assert set(live.good) == {"sync", "async"}


def test_a_client_that_cannot_start_says_why() -> None:
    records: list[Record] = []
    env = dict(os.environ) | {"RESILIENT_PROBE_INTERVAL_S": "-1"}
    client = ClientProcess(Job("host=127.0.0.1 port=1"), env, records.append, records.append)  # type: ignore[arg-type]
    with pytest.raises(ClientFailed, match="RESILIENT_PROBE_INTERVAL_S"):
        client.wait("ready", 20)
    client.close()
    assert records == []
