"""What the overhead benchmark measures with; how long anything takes is no matter here."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from benchmarks.failover.clients import CLIENTS
from benchmarks.overhead.batches import Samples, figures
from benchmarks.overhead.cases import CASES
from benchmarks.overhead.database import AWS_CLIENT, Place, prepare
from benchmarks.overhead.delay import delayed
from benchmarks.overhead.phases import Phase, phases, play
from benchmarks.overhead.placement import PLACEMENTS, placed, possible
from benchmarks.overhead.report import report
from benchmarks.overhead.targets import target
from benchmarks.rows import Rows
from resilient.lab import Lab


@pytest.fixture
def place(lab: Lab) -> Place:
    found = Place((lab.primary.address, *(one.address for one in lab.standbys)), lab.port)
    prepare(found)
    return found


@pytest.mark.lab
@pytest.mark.parametrize(("shell", "workers"), [("sync", 1), ("sync", 4), ("async", 4)])
def test_every_side_is_measured(place: Place, shell: str, workers: int) -> None:
    rows = play(Phase(("checkout", "autocommit", "transaction"), shell, workers), place, rounds=1)
    wanted = {("checkout", "lsn"), ("autocommit", "lsn")}
    wanted |= {("transaction", way) for way in ("lsn", "ledger", "off")}
    if shell == "sync" and not CLIENTS[AWS_CLIENT].missing():
        wanted |= {("autocommit", "aws"), ("transaction", "aws")}
    assert {(row["case"], row["side"]) for row in rows} == wanted
    assert all(row["this"]["us"] > 0 and row["bare"]["us"] > 0 for row in rows)
    with psycopg.connect(place.conninfo()) as conn:
        count = conn.execute("select count(*) from bench").fetchone()
    assert count is not None
    assert count[0] > 0


@pytest.mark.parametrize("case", ["http", "dns"])
def test_what_needs_no_database(case: str) -> None:
    (row,) = play(Phase((case,), "async"), Place(("127.0.0.1",), 1), rounds=1)
    assert (row["case"], row["side"]) == (case, "resilient")


@pytest.mark.lab
def test_a_round_trip_takes_what_it_should(place: Place) -> None:
    with delayed(place, 20.0) as (reached, how), psycopg.connect(reached.conninfo()) as conn:
        assert how.startswith(("netem", "proxy"))
        for _ in range(3):
            began_at = time.monotonic()
            conn.execute("select 1")
            assert time.monotonic() - began_at >= 0.02
    with psycopg.connect(place.conninfo()) as conn:  # and it is gone
        assert conn.execute("select 1").fetchone() == (1,)


@pytest.mark.lab
@pytest.mark.skipif("apart" not in possible(), reason="one processor only")
def test_client_and_server_are_put_where_they_should_be(lab: Lab) -> None:
    everywhere = os.sched_getaffinity(0)

    def seen() -> tuple[set[int], set[int]]:
        with psycopg.connect(f"host={lab.primary.address} port={lab.port} user=app") as conn:
            return os.sched_getaffinity(0), os.sched_getaffinity(conn.info.backend_pid)

    with placed(lab, "apart"):
        client, server = seen()
        assert (len(client), client | server, client & server) == (1, everywhere, set())
    with placed(lab, "together"):
        client, server = seen()
        assert client == server == {min(everywhere)}
    assert seen() == (everywhere, everywhere)


def test_figures() -> None:
    samples = Samples()
    samples.add([[0.0, 1.0, 3.0], [0.5, 1.5, 2.5]], cpu_s=2.0)
    assert list(samples.single) == [1.0, 2.0, 1.0, 1.0]
    found = figures(samples, inner=10)
    assert (found["us"], found["cpu_us"]) == (75_000.0, 50_000.0)
    assert found["p50_us"] == 100_000.0


def test_the_phases() -> None:
    found = phases([*CASES, "import", "weight"], ["sync", "async"], [1, 16], 0.5, PLACEMENTS)
    assert {phase.workers for phase in found if phase.placement != "free"} == {1}
    assert {phase.placement for phase in found if "transaction" in phase.cases} == {*PLACEMENTS}
    assert {phase.cases for phase in found if phase.round_trip_ms} == {
        ("autocommit", "transaction")
    }
    assert [phase.workers for phase in found if phase.cases == ("dns",)] == [1, 1]
    assert found[-1].cases == ("weight",)
    assert len(set(found)) == len(found)


def row_of(case: str, side: str, **more: Any) -> dict[str, Any]:
    each = {"us": 2.0, "p50_us": 2.0, "p99_us": 3.0, "ops_s": 5}
    given: dict[str, Any] = {"key": f"{case}/{side}", "case": case, "side": side, "shell": "sync"}
    given |= {"workers": 1, "round_trip_ms": 0.0, "network": "loopback", "added_us": 2.0}
    given |= {"bare": each, "this": each, "cpu_ratio": 1.0, "noise_ratio": 1.0, "ratio": 1.0}
    return {**given, **more}


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (row_of("checkout", "lsn", added_us=3.0), ("≤ +3 µs", True)),
        (row_of("checkout", "lsn", workers=16), None),
        (row_of("transaction", "lsn", ratio=0.96), ("≤ 0.95", False)),
        (row_of("transaction", "lsn", ratio=0.84, round_trip_ms=0.5), ("≤ 0.85", True)),
        (row_of("transaction", "ledger", ratio=1.0, round_trip_ms=0.5), ("≤ 0.9", False)),
        (row_of("transaction", "aws"), None),
        (row_of("transaction", "lsn", placement="together"), None),
        (row_of("checkout", "lsn", placement="together"), ("≤ +3 µs", True)),
        (row_of("dns", "resilient"), ("≤ 1 µs", False)),
        ({"case": "import", "against": "below", "ratio": 1.31}, ("≤ 1.3", False)),
        ({"case": "import", "against": "bare", "ratio": 2.0}, None),
        ({"case": "first", "ratio": 1.4, "added_mb": 6.0}, ("≤ 1.4, ≤ +6 MB", True)),
        ({"case": "first", "ratio": 1.3, "added_mb": 6.1}, ("≤ 1.4, ≤ +6 MB", False)),
        ({"case": "first", "ratio": 1.41, "added_mb": 1.0}, ("≤ 1.4, ≤ +6 MB", False)),
    ],
)
def test_targets(row: dict[str, Any], wanted: tuple[str, bool] | None) -> None:
    assert target(row) == wanted


def test_the_report(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "overhead.jsonl")
    rows.add(row_of("transaction", "lsn"))
    rows.add(row_of("checkout", "lsn"))
    weight = {"case": "weight", "imported_kb": 1024, "resident_kb": 2048, "threads": 5}
    rows.add({**weight, "key": "w", "side": "bare", "hosts": 1, "sockets": 4})
    imported = {"case": "import", "key": "i", "bare_ms": 100.0, "ms": 125.0, "ratio": 1.25}
    rows.add({**imported, "against": "below"})
    assert report(tmp_path, as_json=False) == 0
    assert json.loads((tmp_path / "overhead.json").read_text())["missed"] == ["transaction/lsn"]
    text = (tmp_path / "overhead.md").read_text()
    assert "≤ 0.95 ◄" in text
    assert "| 1 | bare | 1.0 | 2.0 | 5 | 4 |" in text
    drawn = (tmp_path / "overhead.svg").read_text()
    assert drawn.startswith("<svg")
    # two cases and the import, each with a dot, a name, and what is wanted
    assert drawn.count("<circle") == 3
    assert f"{CASES['transaction'].text} (sync)" in drawn
    assert drawn.count("≤ 0.95") == drawn.count("≤ +3 µs") == drawn.count("≤ 1.3") == 1


def test_the_picture_has_a_panel_for_each_place(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "overhead.jsonl")
    rows.add(row_of("transaction", "lsn", placement="apart"))
    far = row_of("transaction", "lsn", round_trip_ms=0.5, workers=16)
    rows.add({**far, "key": "far"})
    assert report(tmp_path, as_json=False) == 0
    drawn = (tmp_path / "overhead.svg").read_text()
    assert "client and server on processors of their own" in drawn
    assert "Over a network of 0.5 ms; 16 at once" in drawn
