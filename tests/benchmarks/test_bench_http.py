"""The HTTP benchmark on real upstreams: correctness columns only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.http_failover.losses import UNEXPLAINED, losses
from benchmarks.http_failover.plan import FAULTS, Case, plan
from benchmarks.http_failover.report import cells, report
from benchmarks.http_failover.runner import figures, play
from benchmarks.http_failover.subject import SESSIONS
from benchmarks.http_failover.world import World
from benchmarks.http_ordinary.report import COLUMNS, worse
from benchmarks.http_ordinary.report import report as ordinary_report
from benchmarks.judge.history import Op
from benchmarks.rows import Rows
from resilient.lab.namespace import inside, refusal

RESULTS = Path(__file__).parents[2] / "benchmarks/results"


@pytest.mark.skipif(not inside(), reason=refusal() or "no namespace")
def test_an_upstream_is_killed() -> None:
    for _ in range(3):
        with World() as world:
            row = play(world, Case("resilient", "plain", "killed", 1), give_up_s=10.0)
        assert row["trouble"] == ""
        assert row["acked"] > 50
        assert (row["lost"], row["duplicated"], row["strangers"]) == (0, 0, 0)
        assert not row["never"]
        assert row["stuck"] == 0
        if row["errors"] == 0:
            break
        # An order was on its way, which nobody may send again: it is met between two of them.
        assert row["errors"] == 1, row["texts"]
    assert row["errors"] == 0, row["texts"]


def op(session: str, began_at: float, ended_at: float, **more: Any) -> Op:
    kind = "order" if session.startswith("order") else "get"
    given: dict[str, Any] = {"outcome": "ok", "server": "az2"} | more
    return Op(session, kind, began_at, ended_at, **given)  # type: ignore[arg-type]


def test_figures() -> None:
    ops = [op(name, at, at + 0.1) for name in SESSIONS for at in (9.0, 12.5, 13.9)]
    ops += [op(SESSIONS[0], 10.0, 12.0, outcome="error", attempts=1, error="Timeout: x")]
    ops += [op(SESSIONS[1], 10.0, 10.2, server="az1")]
    found = figures(ops, FAULTS["killed"], "az1", since=10.0, ended_at=14.0)
    assert found["stall_s"] == pytest.approx(12.6 - 9.1)
    assert found["back_s"] == pytest.approx(2.6)
    assert found["left_s"] == pytest.approx(0.2)
    assert found["slowest_s"] == pytest.approx(2.0)
    assert (found["errors"], found["told"], found["never"]) == (1, 1, False)
    assert figures(ops[:6], FAULTS["killed"], "az1", since=10.0, ended_at=14.0)["never"]


def test_the_plan_and_the_report(tmp_path: Path) -> None:
    cases = plan((), (), (), runs=10, peer_runs=3)
    assert {case.fault for case in cases} == set(FAULTS)
    assert len({case.key for case in cases}) == len(cases)
    ours = [c for c in cases if c.client == "resilient" and (c.fault, c.way) == ("down", "plain")]
    assert len(ours) == 10
    rows = Rows(tmp_path / "http.jsonl")
    given: dict[str, Any] = dict.fromkeys(("stall_s", "slowest_s", "back_s"), 0.1)
    given |= dict.fromkeys(("errors", "told", "stuck", "answers", "acked", "lost"), 0)
    given |= {"duplicated": 1, "ghosts": 0, "connections": 2, "left_s": None, "never": False}
    rows.add({**ours[0].as_dict(), "key": ours[0].key, "trouble": "", "versions": "x 1", **given})
    assert report(tmp_path, as_json=False) == 0
    summary = json.loads((tmp_path / "http.json").read_text())
    assert summary["cells"][0]["duplicated"] == 1
    assert "**resilient**" in (tmp_path / "http.md").read_text()
    assert (tmp_path / "http.svg").read_text().startswith("<svg")


def test_a_peer_that_is_better_is_marked_and_explained(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "http.jsonl")
    for row in Rows(RESULTS / "http.jsonl").read():
        rows.add(row)
    found = list(losses(cells(rows.read())))
    assert found
    assert not [loss for loss in found if loss.why == UNEXPLAINED]
    assert report(tmp_path, as_json=False) == 0
    text = (tmp_path / "http.md").read_text()
    assert text == (RESULTS / "http.md").read_text()
    assert text.count(" ◄ |") == len({(id(loss.ours), loss.column) for loss in found})


def test_what_counts_as_worse_on_an_ordinary_day(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    column = next(column for column in COLUMNS if column.measure == "ms")
    assert worse(column, [10.0, 11.0, 10.5], [3.0, 3.1, 3.0])
    assert not worse(column, [3.1, 3.2, 9.0], [3.0, 3.1, 3.0])
    assert not worse(column, [4.0, 4.0, 4.0], [3.0, 3.1, 5.0])  # plain itself does that
    rows = Rows(tmp_path / "rows.jsonl")
    for client, value in (("httpx2", 3.0), ("resilient", 30.0)):
        row = {"key": f"refused {client} 0", "case": "refused", "client": client}
        rows.add({**row, "trouble": "", "measured": {"ms": value}})
    assert ordinary_report(rows, tmp_path) == 1
    shown = capsys.readouterr()
    assert "| refused: ms | 3.0 (3.0) | 30.0 (30.0) |" in shown.out
    assert "resilient, refused: ms: 30, plain 3" in shown.err
    assert (tmp_path / "http-ordinary.md").read_text() in shown.out
