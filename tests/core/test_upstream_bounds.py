"""The caller's word on time above ours, phase by phase."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from resilient.core.upstream_bounds import Bounds, bounds

FIVE: dict[str, float | None] = dict.fromkeys(("connect", "read", "write", "pool"), 5.0)
NONE: dict[str, float | None] = dict.fromkeys(FIVE)


@pytest.mark.parametrize(
    ("given", "explicit", "asked_s", "expected"),
    [
        # a client's untouched default: ours bounds getting a connection and the answer
        (FIVE, False, None, Bounds(130.0, 130.0, 130.0, 5.0)),
        (FIVE, False, 2.0, Bounds(102.0, 102.0, 102.0, 5.0)),
        # chosen: each phase as it says, longer or shorter than ours
        (FIVE, True, None, Bounds(inf, 105.0, 105.0, 5.0)),
        ({**FIVE, "connect": 60.0, "read": 600.0}, True, None, Bounds(inf, 160.0, 160.0, 5.0)),
        (FIVE, True, 2.0, Bounds(102.0, 102.0, 102.0, 5.0)),
        # None is no bound; waiting for somebody, which is our own doing, has one
        (NONE, True, None, Bounds(inf, inf, 130.0, inf)),
        (NONE, True, 2.0, Bounds(102.0, 102.0, 102.0, inf)),
        # a bare transport that is given nothing
        ({}, True, None, Bounds(130.0, 130.0, 130.0, 30.0)),
        ({"read": 60.0}, True, None, Bounds(inf, 130.0, 130.0, 30.0)),
    ],
)
def test_bounds(given: Any, explicit: bool, asked_s: float | None, expected: Bounds) -> None:
    assert bounds(given, explicit, asked_s, 30.0, 100.0) == expected
