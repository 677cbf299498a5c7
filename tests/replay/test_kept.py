"""Forced failovers in blocks whose callers have seen numbers, times and UUIDs."""

from __future__ import annotations

import pytest

from resilient.postgres.replay.parser import parser

from .acts_kept import KEPT
from .conftest import Perform

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(parser() is None, reason="neither pgparse nor pglast is installed"),
]


@pytest.mark.parametrize("act", KEPT.acts)
@pytest.mark.parametrize("shell", ["sync", "async"])
def test_values_are_kept(perform: Perform, shell: str, act: str) -> None:
    perform(shell, KEPT.title).check(act)
