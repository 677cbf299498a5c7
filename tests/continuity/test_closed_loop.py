"""Forced failovers, one after the other, under writers that never pause.

`make soak` runs a hundred of them; RESILIENT_TEST_FAILOVERS says another number.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from contextlib import nullcontext

import pytest

from resilient.lab import POSTGRES_FAULTS, Lab
from resilient.settings import Settings
from tests.replay.held import cut_off

from .closed_loop import ClosedLoop, Report, counted_steps, report

pytestmark = pytest.mark.lab

#: detection within 0.7 s, so that a hang costs no longer than a crash
SETTINGS = Settings(
    deadline_s=20,
    probe_interval_s=0.3,
    probe_timeout_s=0.2,
    connect_rate=1_000,
    retry_budget=1.0,
    retry_budget_floor=10_000,
)


def fail_over(lab: Lab, times: int, seed: int = 0, behind: bool = False) -> Report:
    """So many failovers, each kind in turn, each at a moment of its own; `behind`: what the old
    primary acknowledged last has reached no standby."""
    rng = random.Random(seed)
    skipped = {*lab.skipped_faults, *(["switchover"] if behind else [])}  # that one waits for them
    faults = [fault for fault in POSTGRES_FAULTS if fault not in skipped]
    with counted_steps() as steps:
        with ClosedLoop(lab, SETTINGS) as loop:
            loop.wait_for_more(200)
            for fault in itertools.islice(itertools.cycle(faults), times):
                with cut_off(lab) if behind else nullcontext():
                    time.sleep(rng.random() * 0.2)
                    run = lab.inject(fault, promote_after_s=0.1, dns_after_s=0, resume_after_s=0.5)
                    run.wait_writable()
                run.wait_done()
                loop.wait_for_more(100)
                lab.rejoin()
                loop.wait_for_more(50)
        result = report(lab, loop.told, steps)
    print(f"{times} failovers: {result}")
    for text, count in result.unknown_texts.most_common(5):
        print(f"  {count} × {text}")
    return result


def check(result: Report) -> None:
    assert result.failed == {}, list(result.failed.items())[:5]
    assert result.lost == []
    assert result.steps["commits-lost"] == 0, "nothing was lost, and it was said"
    assert result.duplicated == []
    assert result.ghosts == []
    assert result.miscounted == []


def test_nobody_notices(lab: Lab) -> None:
    """FAULTS 1–4: five faults in turn; nothing is lost or done twice, nobody sees an error."""
    check(fail_over(lab, int(os.environ.get("RESILIENT_TEST_FAILOVERS", "10"))))


@pytest.mark.soak
def test_nobody_notices_a_hundred_times(lab: Lab) -> None:
    check(fail_over(lab, int(os.environ.get("RESILIENT_TEST_FAILOVERS", "100")), seed=1))


def test_asynchronous_replication_loses_and_tells_and_never_doubles(asynchronous: Lab) -> None:
    """FAULTS 17: as many are told as are gone."""
    result = fail_over(asynchronous, 4, behind=True)
    assert len(result.lost) > 100
    assert result.steps["told lost"] == len(result.lost)
    assert result.duplicated == []
    assert result.miscounted == []
