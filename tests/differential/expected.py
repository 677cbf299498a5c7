"""What is known to be wrong, by the names of tests (with * for anything): a list to shorten."""

from __future__ import annotations

_KILL = "an operator's kill is taken for a failover"
_OWN = "the application's own error is taken for a failover"
_LIMIT = "a limit of time is taken for a failover"
EXPECTED: dict[str, str] = {}
