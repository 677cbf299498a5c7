"""Connections, as the servers' own logs tell of them.

A connection costs its server a process whoever opens it and however, so the servers count, not the
clients.  What a dead or silent server never saw isn't counted.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resilient.lab import Lab, LabError, Member

__all__ = ["Accepted", "ServerLogs"]

PREFIX = "%n|"
SETTINGS = {"log_connections": "on", "log_line_prefix": PREFIX}
#: a client of the benchmark has logged in; the lab's own use another user
OPENED = "connection authorized: user=app "
FULL = ("too many clients", "remaining connection slots")


@dataclass(frozen=True, slots=True)
class Accepted:
    """`opened`: monotonic moments; `full`: how many were refused by 53300."""

    opened: tuple[float, ...]
    full: int

    def peak(self, window_s: float = 1.0) -> int:
        """Most connections opened within any window."""
        moments, first, most = sorted(self.opened), 0, 0
        for last, at in enumerate(moments):
            while moments[first] < at - window_s:
                first += 1
            most = max(most, last - first + 1)
        return most


class ServerLogs:
    """Reads what was logged since `mark`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._offsets: dict[Path, int] = {}

    @contextlib.contextmanager
    def switched_on(self) -> Iterator[ServerLogs]:
        """Servers log connections inside the block, and no longer than that."""
        self._set("ALTER SYSTEM SET {} = '{}'")
        try:
            yield self
        finally:
            with contextlib.suppress(LabError):
                self._set("ALTER SYSTEM RESET {}")

    def _set(self, statement: str) -> None:
        for member in self._lab.members:
            for name, value in SETTINGS.items():
                member.execute(statement.format(name, value))
            member.execute("SELECT pg_reload_conf()")

    def mark(self) -> None:
        """What follows counts."""
        self._offsets = {member.log: _size(member.log) for member in self._lab.members}

    def read(self, only: Member | None = None) -> Accepted:
        """What was opened since `mark`, on all servers or on one."""
        ahead_s = time.time() - time.monotonic()
        opened: list[float] = []
        full = 0
        for path, offset in self._offsets.items():
            if only is not None and path != only.log:
                continue
            with contextlib.suppress(FileNotFoundError), path.open(errors="replace") as file:
                file.seek(offset)
                for line in file:
                    at, _, text = line.partition("|")
                    if OPENED in text:
                        with contextlib.suppress(ValueError):
                            opened.append(float(at) - ahead_s)
                    full += any(words in text for words in FULL)
        return Accepted(tuple(sorted(opened)), full)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
