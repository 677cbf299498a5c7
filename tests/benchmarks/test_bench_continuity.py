"""The closed loop as a benchmark: correctness columns of ours, and that the counting counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.continuity.plan import FAULTS, USUAL, Round, plan
from benchmarks.continuity.report import SUMS, report
from benchmarks.continuity.runner import TASKS, THREADS, LoopRunner, sizes_of, steps_of
from benchmarks.judge.checker import BROKEN
from benchmarks.rows import Rows
from resilient.lab import Lab


@pytest.mark.lab
@pytest.mark.parametrize(("client", "fault"), [("resilient", "crash"), ("resilient-async", "hang")])
def test_ours_breaks_nothing(lab: Lab, tmp_path: Path, client: str, fault: str) -> None:
    row = LoopRunner(lab, client, histories=tmp_path).play_round(Round(client, 1, (fault,)))
    assert row["trouble"] == ""
    assert row["acked"] > 50
    assert {name: row[name] for name in BROKEN if row[name]} == {}, row["texts"]
    assert (row["told"] - row["unknown_all"], row["stuck"], row["stalled"]) == (0, 0, 0)
    assert row["steps"]["promoted"] == 1


def test_the_plan_has_as_many_failovers_as_wanted() -> None:
    rounds = plan(10)
    assert {case.client for case in rounds} == set(USUAL)
    assert len({case.key for case in rounds}) == len(rounds)
    faults = [fault for case in rounds if case.client == "resilient" for fault in case.faults]
    assert faults == [*FAULTS, *FAULTS, *FAULTS[:2]]
    assert {case.way for case in rounds if case.client.startswith("resilient")} == {"plain"}
    assert {case.way for case in rounds if "pool" in case.client} == {"retry"}
    assert not {case.key for case in rounds} & {case.key for case in plan(10, sync=False)}


def test_the_load_has_no_pauses() -> None:
    for client, sessions in (("resilient", THREADS), ("psycopg_pool-async", TASKS)):
        sizes = sizes_of(client)
        assert (len(sizes.writers), sizes.sessions, sizes.append_pace_s) == (sessions, sessions, 0)


def test_steps_are_counted() -> None:
    lines = [
        "step=replayed endpoint=127.0.1.10:5432 statements=2 seconds=0.0100",
        "step=replayed endpoint=127.0.1.10:5432 statements=3 seconds=0.0100",
        "step=resolved outcome=committed reason='seen'",
        "step=resolved outcome=not-committed reason='aborted'",
        "step=commits-lost count=4 at_least=true endpoint=127.0.1.10:5432",
        "step=commits-lost count=2 endpoint=127.0.1.10:5432",
        "something else",
    ]
    assert steps_of(lines) == {
        "replayed": 2, "committed": 1, "not-committed": 1, "commits-lost": 2, "told-lost": 6,
    }  # fmt: skip


def row_of(case: Round, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = dict.fromkeys(SUMS, 0)
    given |= {"steps": {}, "texts": {}, "sessions": 4, "versions": "x 1", "trouble": ""}
    given |= {"key": case.key, "client": case.client, "way": case.way}
    return {**given, "faults": case.faults, "replication": case.replication, **more}


def test_rows_are_summed_and_resumed(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "continuity.jsonl")
    first, second = plan(8, ["resilient"])
    (peer,) = plan(4, ["psycopg_pool"])
    rows.add(row_of(first, acked=10, steps={"replayed": 3}))
    rows.add(row_of(second, acked=5, lost=1, steps={"replayed": 2, "told-lost": 7}))
    rows.add(row_of(peer, trouble="it fell over"))
    assert rows.done() == {first.key, second.key}
    assert report(tmp_path, as_json=True) == 0
    summary = json.loads((tmp_path / "continuity.json").read_text())
    (ours,) = summary["clients"]
    assert (ours["failovers"], ours["acked"], ours["lost"]) == (8, 15, 1)
    assert ours["steps"] == {"replayed": 5, "told-lost": 7}
    assert summary["broken_off"] == {peer.key: "it fell over"}
    assert "1 ◄" in (tmp_path / "continuity.md").read_text()
