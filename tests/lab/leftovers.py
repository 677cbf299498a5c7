"""What a lab could leave behind, and a look for it."""

from __future__ import annotations

import time
from pathlib import Path

from resilient.lab.guard import posix_memory_of, processes_in


def shared_memory() -> set[str]:
    """Segments that nobody is attached to: what is in use belongs to somebody else's servers."""
    head, *rows = map(str.split, Path("/proc/sysvipc/shm").read_text().splitlines())
    segments = [dict(zip(head, row, strict=False)) for row in rows]
    unused = {f"System V memory {s['shmid']}" for s in segments if s["nattch"] == "0"}
    posix = {str(path) for path in Path("/dev/shm").glob("PostgreSQL.*")}
    if posix:
        for process in Path("/proc").glob("[0-9]*"):
            posix -= posix_memory_of(int(process.name))
    return unused | {f"shared memory {path}" for path in posix}


def of(root: Path, memory_before: set[str]) -> list[str]:
    """Whatever is still there of the lab in `root`."""
    found = [f"process {pid}" for pid in processes_in(root)]
    found += [f"folder {root}"] if root.exists() else []
    return found + sorted(shared_memory() - memory_before)


def gone(root: Path, memory_before: set[str], timeout_s: float = 5.0) -> list[str]:
    """Empty as soon as nothing is left; what is left after `timeout_s` otherwise."""
    give_up_at = time.monotonic() + timeout_s
    while (found := of(root, memory_before)) and time.monotonic() < give_up_at:
        time.sleep(0.02)
    return found
