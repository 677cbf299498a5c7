"""The simulation of many clients: what the core promises, at any number of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rows import Rows
from benchmarks.scale.cli import costs_of
from benchmarks.scale.report import report
from benchmarks.scale.sim import simulate
from benchmarks.scale.soak import flat
from benchmarks.scale.world import Machine, Params


@pytest.fixture(scope="module")
def crowds() -> dict[int, dict[str, Any]]:
    return {clients: simulate(Params(clients)) for clients in (10, 40)}


@pytest.mark.parametrize("clients", [10, 40])
def test_everybody_comes_back(crowds: dict[int, dict[str, Any]], clients: int) -> None:
    told = crowds[clients]
    assert told["full_all_s"] is not None
    assert told["held"] > clients / 2
    assert told["held_longest_s"] < 1.0
    assert told["failed"] == 0


@pytest.mark.parametrize("clients", [10, 40])
def test_no_more_attempts_than_the_budget_allows(
    crowds: dict[int, dict[str, Any]], clients: int
) -> None:
    assert 1.0 <= crowds[clients]["amplification"] <= 1.2


def test_the_new_primary_is_dialled_once_for_each_connection(
    crowds: dict[int, dict[str, Any]],
) -> None:
    for clients, told in crowds.items():
        # one of four was warm
        assert told["dials_new"] == clients * (told["size"] - 1)
        assert told["refused_53300"] == 0


def test_load_grows_with_the_clients_and_no_faster(crowds: dict[int, dict[str, Any]]) -> None:
    few, many = crowds[10], crowds[40]
    for column in ("probes_quiet_s", "probes_peak_s"):
        assert many[column] <= 1.5 * 4 * few[column], column


def test_one_name_is_asked_for_in_bounds() -> None:
    told = simulate(Params(20, ttl_s=5.0))
    assert told["full_all_s"] is not None
    # two questions, twenty times a second, from everybody in trouble
    assert 0 < told["queries_peak_s"] <= 20 * 2 * 21
    assert told["ready_median_s"] - told["dns_after_s"] <= 0.05
    assert told["ready_all_s"] - told["dns_after_s"] <= 0.12
    assert simulate(Params(20, ttl_s=5.0)) | {"took_s": 0} == told | {"took_s": 0}  # no chance


def test_a_name_behind_a_cache_is_asked_for_when_its_record_is_over() -> None:
    told = simulate(Params(40, ttl_s=5.0, caches=1))
    connected_s = simulate(Params(40))["ready_all_s"]
    assert told["ready_all_s"] <= told["dns_after_s"] + 5.0 + 0.06 + connected_s
    assert told["queries_own_peak_s"] <= 2, "the authority is asked by the cache alone"


@pytest.mark.parametrize("caches", [0, 4])
def test_a_crowd_asks_two_thousand_questions_a_second(caches: int) -> None:
    """Whom a question every 50 ms would give to 6 000."""
    told = simulate(Params(150, ttl_s=5.0, caches=caches))
    assert told["full_all_s"] is not None
    assert 1000 < told["queries_peak_s"] <= 2000
    assert told["queries_own_peak_s"] <= (2 * caches or 2000)


def test_first_connections_do_not_wait_for_refills() -> None:
    """As one server takes 50 connections a second, the first of each take two seconds."""
    told = simulate(Params(100, ttl_s=5.0, accept_rate_s=50.0))
    first_s = 100 / told["accept_rate_s"]
    assert told["ready_all_s"] < told["dns_after_s"] + 1.2 * first_s + 0.3
    assert told["full_all_s"] < told["dns_after_s"] + 1.2 * first_s * told["size"] + 0.3
    assert told["amplification"] <= 1.2


def test_probes_are_as_many_as_a_server_answers() -> None:
    """Bursts of a hundred would be two thousand a second; it answers two hundred."""
    told = simulate(Params(100, answer_rate_s=200.0))
    assert told["probes_peak_s"] < 5 * 100
    assert told["held_longest_s"] < 1.5


def test_idle_connections_carry_the_probes(crowds: dict[int, dict[str, Any]]) -> None:
    assert all(told["sides_peak"] == 0 for told in crowds.values())


def test_a_machine_works_before_the_crash_as_after_it() -> None:
    machine = Machine(2)
    assert [machine.work(-5.0, 0.5) for _ in range(3)] == [-4.5, -4.5, -4.0]
    assert machine.work(1.0, 0.5) == 1.5


def test_a_machine_that_all_share_is_slower(crowds: dict[int, dict[str, Any]]) -> None:
    costs = {"probe_cost_s": 0.0004, "op_cost_s": 0.002, "dial_cost_s": 0.012}
    told = simulate(Params(40, cores=2, **costs))
    # what the new sessions alone cost its two cores
    assert told["full_all_s"] > 40 * 3 * costs["dial_cost_s"] / 2
    assert told["held_longest_s"] > 3 * crowds[40]["held_longest_s"]


def test_costs_are_what_was_done_over_what_was_asked() -> None:
    asked = {"clients": 10, "size": 4, "ops_rate_s": 2.0, "promote_after_s": 1.0}
    did = {"busy_cores_quiet": 0.05, "busy_cores": 0.35, "refill_s": 0.36, "opened_after": 30}
    found = costs_of(asked | did)
    # two live servers and a dead one are asked some 20 times a second by each, in a burst
    assert found["probe_cost_s"] == pytest.approx(0.3 / (3 * 10 * 20), rel=0.2)
    assert found["op_cost_s"] == pytest.approx((0.05 - 30 * found["probe_cost_s"]) / 20, rel=0.2)
    assert found["dial_cost_s"] == pytest.approx(0.36 / 30)


def test_a_full_server_is_no_failover() -> None:
    """There is room for half of what is wanted; nobody storms, and who has one goes on."""
    told = simulate(Params(10, max_connections=40), look_s=10.0)
    assert told["failed"] == 0
    assert told["held_longest_s"] is not None


def test_who_searches_alone_storms() -> None:
    """The comparison that the curves show: many dials for each connection."""
    ours, naive = simulate(Params(40)), simulate(Params(40), "naive")
    assert naive["amplification"] > ours["amplification"]
    assert naive["dials_new"] > naive["size"] * 40


def test_the_report(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "scale-sim.jsonl")
    for clients in (3, 6):
        for kind in ("ours", "naive"):
            rows.add(simulate(Params(clients), kind) | {"key": f"{kind}/{clients}"})
    text = report(tmp_path)
    assert "Amplification of ours at most" in text
    assert json.loads((tmp_path / "scale.json").read_text())["simulated"]
    assert (tmp_path / "scale.svg").read_text().startswith("<svg")


def minute(**more: float) -> dict[str, Any]:
    return {"rss_mb": 50.0, "threads": 9, "sockets": 8, "files": 12, **more}


def test_what_grows_is_said() -> None:
    level = [minute(rss_mb=50.0 + n % 3) for n in range(20)]
    assert flat(level) == []
    assert flat([minute(files=12 + n) for n in range(20)]) == ["files grew from 12 to 27"]
    assert flat([*level, {"broken": {"lost": 2}, "rss_mb": "–"}]) == ["the judge found {'lost': 2}"]
