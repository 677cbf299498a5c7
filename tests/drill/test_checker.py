"""The checker must be able to fail: each harm, planted by hand, is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.drill.checker import check
from resilient.drill.plan import Case
from resilient.drill.records import Read, Request, from_wire, to_wire
from resilient.drill.verdict import broken

from .make import FACTS, NEW, OLD, case, failed, judged, snapshot, trace, write


def test_a_good_run() -> None:
    found = judged(trace())
    assert list(broken(found)) == []
    assert (found.acked, found.lost, found.duplicated, found.late_acks) == (4, 0, 0, 0)
    assert found.by_shell == {"sync": pytest.approx(0.05), "async": pytest.approx(0.08)}
    assert found.after_writable_s == pytest.approx(0.08)
    assert found.outage_s == pytest.approx(1.12)
    assert found.phases.detect_s == pytest.approx(0.02)
    assert found.phases.promote_s == pytest.approx(1.0)
    assert found.phases.resolve_s == pytest.approx(0.03)
    assert found.phases.reconnect_s == pytest.approx(0.02)


def test_a_lost_write() -> None:
    found = judged(trace(), [2, 3, 4])
    assert found.lost == 1
    assert any("lost: 1" in why for why in broken(found))


def test_a_write_of_an_earlier_run_that_is_gone_now() -> None:
    found = check(case(), trace(), FACTS, [1, 2, 3, 4, 8], earlier=[8, 9])
    assert found.lost == 1


def test_a_lost_write_is_counted_but_expected_with_asynchronous_replication() -> None:
    found = judged(trace(), [2, 3, 4], synchronous=False)
    assert found.lost == 1
    assert list(broken(found)) == []


def test_a_write_applied_twice() -> None:
    found = judged(trace(), [1, 2, 3, 3, 4])
    assert found.duplicated == 1
    assert any("twice: 1" in why for why in broken(found))


def test_an_unacknowledged_write_applied_twice_counts_too() -> None:
    told = trace()
    told.writes.append(failed(5, 100.1, "CommitOutcomeUnknown: lost"))
    assert judged(told, [1, 2, 3, 4, 5, 5]).duplicated == 1


@pytest.mark.parametrize(("way", "is_broken"), [("run", True), ("plain", False)])
def test_a_ghost(way: str, is_broken: bool) -> None:
    told = trace()
    told.writes.append(failed(5, 100.1, way=way))  # type: ignore[arg-type]
    found = judged(told, [1, 2, 3, 4, 5])
    assert found.ghosts_run + found.ghosts_plain == 1
    assert any("ghost" in why for why in broken(found)) is is_broken


@pytest.mark.parametrize("present", [[1, 2, 3, 4], [1, 2, 3, 4, 5]])
def test_an_unknown_outcome_is_no_ghost_and_no_error(present: list[int]) -> None:
    told = trace()
    told.writes.append(failed(5, 100.1, "CommitOutcomeUnknown: the reply was lost"))
    found = judged(told, present)
    assert (found.unknown, found.unknown_present) == (1, len(present) - 4)
    assert (found.ghosts_run, found.errors_run) == (0, 0)
    assert list(broken(found)) == []


def test_a_late_acknowledgement_by_the_old_primary() -> None:
    told = trace()
    told.writes.append(write(5, 101.04, OLD))  # the new one was published at 101.03
    found = judged(told, [1, 2, 3, 4, 5], of=case("zombie"))
    assert found.late_acks == 1
    assert any("late" in why for why in broken(found))


def test_an_acknowledgement_by_the_new_primary_counts_as_having_seen_it() -> None:
    told = trace()
    told.snapshots = told.snapshots[:1]
    told.writes.append(write(5, 101.06, OLD))
    assert judged(told, [1, 2, 3, 4, 5]).late_acks == 1


def test_the_old_primary_may_acknowledge_before_the_new_one_was_seen() -> None:
    told = trace()
    told.writes.append(write(5, 101.02, OLD))
    assert judged(told, [1, 2, 3, 4, 5]).late_acks == 0


def test_errors_are_counted_by_how_the_caller_came() -> None:
    told = trace()
    told.writes += [failed(5, 100.1), failed(6, 100.1, way="plain")]
    told.reads += [
        Read("sync", "run", 100, 100.1, None, "OperationalError: x"),
        Read("sync", "plain", 100, 100.1, None, "OperationalError: x"),
    ]
    told.requests.append(Request("async", 100, 100.1, 2.0, None, "ConnectError: x"))
    found = judged(told)
    counts = (found.errors_run, found.errors_plain, found.errors_read, found.errors_http)
    assert counts == (1, 2, 1, 1)
    assert len(list(broken(found))) == 3  # plain blocks may still see one
    assert found.error_texts["run read: OperationalError: x"] == 1


def test_what_comes_after_its_deadline() -> None:
    told = trace()
    told.requests += [Request("sync", 100, 102.05, 2.0, "az1"), Request("sync", 100, 102.2, 2.0)]
    told.writes.append(write(5, 140.0, NEW))  # slow and good is no breach
    told.writes.append(failed(6, 131.0).__class__(6, "sync", "plain", 100, 130.2, "error"))
    assert judged(told).overdue == 1
    late = judged(told, deadline_s=0.005)
    assert late.overdue == 1  # an error without text isn't one


def test_one_shell_that_never_recovers() -> None:
    told = trace()
    told.writes = [w for w in told.writes if (w.shell, w.server) != ("async", NEW)]
    found = judged(told, [1, 2, 3])
    assert found.after_writable_s is None
    assert found.outage_s is None
    assert any("no good write" in why for why in broken(found))


def test_without_a_promotion_the_outage_is_the_longest_gap() -> None:
    told = trace()
    told.writes = [
        write(n, at, OLD, shell)  # type: ignore[arg-type]
        for shell in ("sync", "async")
        for n, at in enumerate((99.5, 99.9, 100.2, 101.0, 101.1), 1)
    ]
    calm = Case("dns-flip", "cname", 1, 1, 0.0, 0.5)
    found = judged(
        told, [1, 2, 3, 4, 5], of=calm, new_primary=None, writable_at=None, ended_at=101.1
    )
    assert found.outage_s == pytest.approx(0.8)
    assert found.after_writable_s is None
    assert list(broken(found)) == []


def test_a_write_in_flight_through_the_fault_is_a_first_good_write() -> None:
    told = trace()
    told.writes[2] = write(3, 101.05, NEW).__class__(3, "sync", "run", 99.99, 101.05, "ok", NEW)
    assert judged(told).by_shell["sync"] == pytest.approx(0.05)


def test_a_vanished_endpoint_counts_as_detected() -> None:
    told = trace()
    told.snapshots = [snapshot(99.0, OLD)]
    told.snapshots.append(snapshot(100.3, OLD).__class__(100.3, 2, OLD, {NEW: "up"}, {}))
    assert judged(told).phases.detect_s == pytest.approx(0.3)


@given(
    acked=st.sets(st.integers(0, 30)),
    present=st.lists(st.integers(0, 30)),
)
def test_the_counts_are_set_differences(acked: set[int], present: list[int]) -> None:
    told = trace()
    told.writes = [write(n, 99.0, OLD) for n in acked]
    found = judged(told, present)
    assert found.lost == len(acked - set(present))
    assert found.duplicated == sum(present.count(n) > 1 for n in set(present))


def test_records_survive_the_pipe() -> None:
    told = trace()
    for record in [*told.writes, *told.reads, *told.requests, *told.snapshots]:
        assert from_wire(to_wire(record)) == record
    with pytest.raises(ValueError, match="not a record"):
        from_wire(["?", 1])
    assert FACTS.synchronous
