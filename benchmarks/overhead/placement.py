"""Which processors the client and the server run on.

On a machine with few processors the scheduler decides the answer: a round trip to a server on the
same processor costs a switch (about 9 µs), to one on another an idle processor's wake-up (up to
75 µs in a virtual machine), and it moves them as it likes.  So they are put: *apart*, the client on
one and the server on the others, as two machines are; *together* on one, where a round trip costs
next to nothing and every instruction of the client counts; or *free*.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from resilient.lab import Lab
from resilient.lab.processes import children_of

__all__ = ["PLACEMENTS", "placed", "possible"]

PLACEMENTS = ("apart", "together", "free")


def possible() -> tuple[str, ...]:
    """On this machine."""
    return PLACEMENTS if len(os.sched_getaffinity(0)) > 1 else ("free",)


@contextlib.contextmanager
def placed(lab: Lab | None, placement: str) -> Iterator[None]:
    """Inside, this process and the lab's primary are where they should be; what they start too."""
    if placement == "free" or lab is None:
        yield
        return
    everywhere = os.sched_getaffinity(0)
    first = {min(everywhere)}
    _put(_threads(), first)
    _put(_servers(lab), first if placement == "together" else everywhere - first)
    try:
        yield
    finally:
        _put([*_threads(), *_servers(lab)], everywhere)


def _threads() -> list[int]:
    return [int(task.name) for task in Path("/proc/self/task").iterdir()]


def _servers(lab: Lab) -> list[int]:
    pid = lab.primary.pid
    return [] if pid is None else [pid, *children_of(pid)]


def _put(pids: list[int], processors: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(pid, processors)
