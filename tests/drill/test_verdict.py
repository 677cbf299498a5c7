"""Limits, plan and the JSON form."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from resilient.drill.plan import ALL, EXEC, Case, Choice, plan
from resilient.drill.verdict import as_json, beyond, broken, judge
from resilient.errors import ConfigError

from .make import FACTS, NEW, case, judged, trace, write


def _late(by_s: float, of: Case) -> list[str]:
    """What is broken if both shells' first good write comes `by_s` after writable."""
    told = trace()
    told.writes[2:] = [write(3, 101 + by_s, NEW), write(4, 101 + by_s, NEW, "async")]
    return list(broken(judged(told, of=of)))


@pytest.mark.parametrize(
    ("of", "good_s", "bad_s"),
    [
        (case("crash"), 0.299, 0.301),
        (case("switchover"), 0.299, 0.301),
        (case("hang"), 1.44, 1.46),  # 99.95 → 102.45 is 2.5 s
        (case("blackhole"), 1.44, 1.46),
        (case("hang", promote_after_s=2), 2.44, 2.46),  # a later promotion adds its delay
        (case("crash", "cname"), 1.79, 1.81),  # DNS changed at 101.5, TTL 1
        (case("blackhole", "cname"), 1.79, 1.81),
    ],
)
def test_limits_of_time(of: Case, good_s: float, bad_s: float) -> None:
    assert _late(good_s, of) == []
    assert len(_late(bad_s, of)) == 1


def test_the_median_is_judged_over_a_faults_runs() -> None:
    findings = [
        replace(judged(trace()), after_writable_s=s) for s in (0.04, 0.12, 0.13, 0.05, 0.11)
    ]
    verdicts = judge(findings)
    assert [len(verdict) for verdict in verdicts] == [0, 0, 0, 0, 1]
    assert "median of 5" in verdicts[-1][0]
    assert judge([]) == []
    assert judge(findings[:1]) == [()]


def test_trouble_and_stuck_operations_break_a_run() -> None:
    found = replace(judged(trace()), trouble="it burnt", stuck=("sync run 1 for 5.0 s",))
    assert list(broken(found)) == ["it burnt", "stuck: sync run 1 for 5.0 s"]


def test_json_has_the_promised_names() -> None:
    told = json.loads(json.dumps(as_json(judged(trace()), ())))
    for name in ("fault", "runs", "errors", "acked", "lost", "duplicated", "ghost", "phases"):
        assert name in told
    for name in ("writable_s", "outage_s", "after_writable_s"):
        assert isinstance(told[name], float)
    assert set(told["phases"]) == {"detect_s", "promote_s", "resolve_s", "reconnect_s"}
    assert told["ok"] is True
    assert told["after_writable_s"] == 0.08
    bad = as_json(judged(trace(), [1, 2, 3]), ("lost: 1",))
    assert (bad["ok"], bad["lost"], bad["broken"]) == (False, 1, ["lost: 1"])


def test_the_default_plan_has_every_fault_and_each_endpoint_kind_together() -> None:
    cases = plan(Choice())
    assert {each.fault for each in cases} == set(ALL)
    kinds = [each.endpoint for each in cases]
    assert kinds == sorted(kinds, reverse=True)
    spread = [each.promote_after_s for each in cases if each.fault == "switchover"]
    assert sorted(spread) == [0.5, 1, 1.5, 2, 3, 5]
    by_name = {each.fault for each in cases if each.endpoint == "cname"}
    assert by_name == {"crash", "hang", "blackhole", "dns-flip"}


def test_choices_narrow_it() -> None:
    assert [(c.fault, c.endpoint) for c in plan(Choice(("crash",), ("multi",), runs=1))] == [
        ("crash", "multi")
    ]
    assert len(plan(Choice(("zombie",), ("cname",), runs=3))) == 3
    delays = plan(Choice(("hang",), ("multi",), runs=3, promote_after_s=(0.5, 2)))
    assert [each.promote_after_s for each in delays] == [0.5, 2, 0.5]
    assert plan(Choice(("hang",), skipped=frozenset({"hang"}))) == []
    assert {c.fault for c in plan(Choice(endpoints=("cname",)))} >= {"crash", "dns-flip"}


@pytest.mark.parametrize(
    "bad",
    [
        {"faults": ("fire",)},
        {"endpoints": ("dns",)},
        {"runs": 0},
        {"promote_after_s": (-1.0,)},
        {"dns_after_s": 1e9},
    ],
)
def test_bad_choices_say_what_is_accepted(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="accepted"):
        Choice(**bad)  # type: ignore[arg-type]


def test_facts_have_defaults() -> None:
    assert FACTS.deadline_s == 30.0


def test_an_outage_against_an_objective() -> None:
    """Of a drill on a system that is there: 99.95 to 101.08."""
    of = case(EXEC)
    finding = judged(trace(), of=of)
    assert list(broken(finding)) == []
    assert list(beyond(finding, 1.2)) == []
    (text,) = beyond(finding, 1.0)
    assert text.startswith("outage: 1.1")
    assert text.endswith("> 1.000 s")
    never = replace(finding, outage_s=None)
    assert list(beyond(never, 60)) == ["no good write after the failover"]
    assert list(beyond(replace(never, trouble="it fell over"), 60)) == []
