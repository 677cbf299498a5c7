"""What is known to be wrong, by the names of tests (with * for anything): a list to shorten."""

from __future__ import annotations

EXPECTED: dict[str, str] = {
    "test_stop.py::test_a_user_who_may_only_read[*role*": "taken for a demotion",
}
