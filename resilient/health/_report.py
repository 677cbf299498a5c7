"""What a check of health found."""

from __future__ import annotations

import json
from collections.abc import Mapping

from .._dataclass import dataclass

__all__ = ["ERROR", "OK", "TIMEOUT", "Report", "result_of"]

OK, TIMEOUT, ERROR = "ok", "timeout", "error"


@dataclass(frozen=True, slots=True)
class Report:
    """`results`: name of a check → `ok`, `timeout` or `error`; why, the log says, not the world."""

    results: Mapping[str, str]
    latency_ms: int = 0

    @property
    def ok(self) -> bool:
        """Did all checks succeed?"""
        return all(result == OK for result in self.results.values())

    @property
    def status(self) -> int:
        """Of the HTTP response: 200, or 503 (RFC 9110, 15.6.4)."""
        return 200 if self.ok else 503

    def as_dict(self) -> dict[str, str | int]:
        """`{"db": "ok", "cache": "ok", "latency_ms": 3}`."""
        return {**self.results, "latency_ms": self.latency_ms}

    def body(self) -> bytes:
        """The same as JSON."""
        return json.dumps(self.as_dict(), separators=(",", ":")).encode()


def result_of(failure: BaseException | None) -> str:
    """The word for how a check ended.

    Libraries have time-outs of their own (`PoolTimeout`, `ReadTimeout`, `NameTimeout`), few of
    them a `TimeoutError`.
    """
    if failure is None:
        return OK
    names = [kind.__name__ for kind in type(failure).__mro__]
    late = any("Timeout" in name or name == "DeadlineExceeded" for name in names)
    return TIMEOUT if late else ERROR
