"""The benchmark's runner on real servers: correctness columns only, times are not for a test.

What a peer loses is the peer's affair: of peers only that the run came to its end.  Of ours, that
nothing is lost, done twice, torn or unseen; of the broken client, that the judge finds it out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.failover.clients import CLIENTS
from benchmarks.failover.clients.broken import SINS
from benchmarks.failover.explained import UNEXPLAINED, why
from benchmarks.failover.plan import FAULTS, Case, Choice, plan
from benchmarks.failover.report import report, table
from benchmarks.failover.runner import Runner
from benchmarks.failover.serverlog import ServerLogs
from benchmarks.failover.summary import beaten, cells
from benchmarks.rows import Rows
from resilient.lab import Lab

pytestmark = pytest.mark.lab


@pytest.fixture
def runner(lab: Lab, tmp_path: Path) -> Iterator[Runner]:
    with ServerLogs(lab).switched_on() as logs:
        yield Runner(lab, logs, give_up_s=15.0, histories=tmp_path)


def play(runner: Runner, client: str, way: str, fault: str, delay: float = 0.5) -> dict[str, Any]:
    if what := CLIENTS[client].missing():
        pytest.skip(f"{client}: {what} isn't installed")
    row = runner.play(Case(client, way, fault, "multi", delay, 1))
    assert row["trouble"] == ""
    assert row["acked"] > 50
    return row


@pytest.mark.parametrize(
    ("client", "way", "fault"),
    [
        ("resilient", "run", "crash"),
        ("resilient-async", "run", "hang"),
        ("resilient", "plain", "switchover"),
    ],
)
def test_ours_breaks_nothing(runner: Runner, client: str, way: str, fault: str) -> None:
    row = play(runner, client, way, fault)
    wrong = ("lost", "duplicated", "ghosts", "strangers", "torn", "forked", "backwards", "unseen")
    assert {name: row[name] for name in wrong if row[name]} == {}, row["texts"]
    assert row["outage_s"] is not None
    assert row["stuck"] == 0


def test_a_peer_comes_through(runner: Runner) -> None:
    row = play(runner, "psycopg_pool", "retry", "crash")
    assert row["errors"] > 0
    assert row["connections"] > 0
    assert row["outage_s"] is not None


def test_the_judge_finds_a_broken_client_out(runner: Runner, tmp_path: Path) -> None:
    row = play(runner, "broken", "plain", "brownout", 0.0)
    for columns in SINS.values():
        assert all(row[column] > 0 for column in columns), (columns, row)
    kept = json.loads(next(tmp_path.glob("broken*.json")).read_text())
    assert set(kept) == {"rows", "lists", "ops"}


def row_of(case: Case, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = dict.fromkeys(("errors", "connections", "connections_peak"), 0)
    given |= dict.fromkeys(("outage_s", "after_writable_s", "all_served_s", "detect_s"), 0.1)
    given |= {"after_dns_s": None, "writable_s": 1.0, "watched_s": 2.0, "acked": 9}
    given |= {"versions": "x 1", "trouble": ""}
    return {**case.as_dict(), "key": case.key, **given, **more}


def test_the_plan_covers_everything() -> None:
    cases = plan(Choice())
    assert {case.fault for case in cases} == set(FAULTS)
    assert len({case.key for case in cases}) == len(cases)
    assert "broken" not in {case.client for case in cases}
    for name, entry in CLIENTS.items():
        if not entry.ours or entry.only_named:
            continue
        for fault in FAULTS:
            for endpoint in ("multi", "cname"):
                runs = [c for c in cases if (c.client, c.way) == (name, "run")
                        and (c.fault, c.endpoint) == (fault, endpoint)]  # fmt: skip
                assert len(runs) >= 10, (name, fault, endpoint)


def test_rows_resume_and_report(tmp_path: Path) -> None:
    names = ("resilient", "psycopg_pool", "asyncpg", "hasql")
    ours, peer, off, hung = (Case(name, "plain", "crash", "multi", 1.0, 1) for name in names)
    rows = Rows(tmp_path / "failover.jsonl")
    rows.add(row_of(ours, errors=7, duplicated=1))
    rows.add(row_of(peer))
    rows.add(row_of(hung, outage_s=None, after_writable_s=None, connections=-9))
    rows.add(row_of(off, trouble="it fell over"))
    assert rows.done() == {ours.key, peer.key, hung.key}
    assert report(tmp_path, as_json=True) == 0
    summary = json.loads((tmp_path / "failover.json").read_text())
    assert {(b["column"], b["by"]) for b in summary["beaten"]} == {
        ("errors", "psycopg_pool"),
        ("duplicated", "psycopg_pool"),
    }
    assert summary["broken_off"] == {off.key: "it fell over"}
    assert [t["ok"] for t in summary["targets"]] == [False, False]
    text = table(cells(rows.read()), rows.read())
    assert "never (1 of 1" in text
    assert "7 ◄" in text
    assert (tmp_path / "failover.svg").read_text().startswith("<svg")
    rows.without([peer.key])
    assert rows.done() == {ours.key, hung.key}


PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "results"


def test_what_is_published_has_a_reason_for_every_cell_that_a_peer_wins() -> None:
    rows = Rows(PUBLISHED / "failover.jsonl").read()
    lost = list(beaten(cells(rows)))
    assert lost
    assert [
        f"{b.ours.fault} {b.ours.client} {b.column}" for b in lost if why(b) == UNEXPLAINED
    ] == []
    # the table beside the rows was made of them
    assert (PUBLISHED / "failover.md").read_text() == table(cells(rows), rows)
