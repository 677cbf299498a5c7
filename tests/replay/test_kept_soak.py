"""Failover after failover under ORM transactions: no key twice, nothing untrue told."""

from __future__ import annotations

import pytest

from benchmarks.orm import orms
from benchmarks.orm.workers import play
from resilient.lab import Lab, LabOptions
from resilient.postgres.replay.parser import parser
from tests.postgres.conftest import settings_of

pytestmark = [
    pytest.mark.lab,
    pytest.mark.soak,
    pytest.mark.skipif(parser() is None, reason="neither pgparse nor pglast is installed"),
]

FAILOVERS = 100


@pytest.mark.parametrize("sync", [True, False], ids=["synchronous", "asynchronous"])
def test_no_key_twice_in_a_hundred_failovers(sync: bool) -> None:
    with Lab(LabOptions(sync=sync, http=False)) as lab:
        result = play(lab, settings_of(lab), orms.Plain, failovers=FAILOVERS, think_s=0.02)
    print(result)
    assert result.duplicates == 0
    assert not result.broken
    assert not (sync and result.lost)
    assert result.share > 0.9
