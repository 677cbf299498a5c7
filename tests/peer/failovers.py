"""A lab whose primary changes every so many seconds, for other people's suites."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from resilient.lab import Lab, LabOptions

PROMOTE_AFTER_S = 0.3
#: a suite makes its databases over connections of the bare driver first, in seconds
FIRST_AFTER_S = 5.0


@dataclass
class Failovers:
    """Forces them until the block ends.  `faults` take turns."""

    lab: Lab
    every_s: float
    faults: Sequence[str] = ("switchover",)
    count: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._work, name="failovers")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            wait_s = max(self.every_s, FIRST_AFTER_S)
            while not self._over.wait(wait_s):
                wait_s = self.every_s
                fault = self.faults[self.count % len(self.faults)]
                self.lab.inject(fault, promote_after_s=PROMOTE_AFTER_S, dns_after_s=0.0).wait_done()
                self.count += 1
                self.lab.rejoin()
        except BaseException as exc:
            self._error = exc
            print(f"no more failovers: {exc}", file=sys.stderr, flush=True)


@contextmanager
def failing_servers() -> Iterator[Lab]:
    """Three servers with a database `peer`."""
    with Lab(LabOptions(http=False, fsync=False)) as lab:
        lab.admin(None, "CREATE DATABASE peer")
        yield lab


def conninfo_of(lab: Lab) -> str:
    """All of its servers, for a superuser."""
    hosts = ",".join(member.address for member in lab.members)
    return f"host={hosts} port={lab.port} user=postgres dbname=peer"
