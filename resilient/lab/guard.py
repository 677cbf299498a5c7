"""Cleans up after a lab whose owner died without doing so (SIGKILL, a lost terminal).

The lab starts this file as a script, in a session of its own: it waits for the owner's end
and then kills whatever works in the lab's folder, frees its System V memory and removes the
folder.  Only the standard library, so that it starts in milliseconds.

What belongs to a lab is found by working directory: PostgreSQL's processes keep theirs in the
data directory, whatever they do to their title and environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

IPC_RMID = 0
#: time for PostgreSQL to end by itself (its parent's death sends it SIGQUIT)
GRACE_S = 0.25


def processes_in(root: Path) -> Iterator[int]:
    """Ids of the live processes whose working directory is in `root`, our own excepted."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            cwd = os.readlink(f"/proc/{entry.name}/cwd")
            if cwd == str(root) or cwd.startswith(f"{root}/"):
                yield int(entry.name)


def kill_all_in(root: Path, timeout_s: float = 5.0) -> None:
    """SIGKILL everything that works in `root`, until nothing does, and free what it mapped."""
    give_up_at = time.monotonic() + timeout_s
    mapped: set[str] = set()
    while pids := list(processes_in(root)):
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if number is signal.SIGKILL:
                        mapped |= posix_memory_of(pid)
                    os.kill(pid, number)
        if time.monotonic() > give_up_at:
            break
        time.sleep(0.005)
    for path in mapped:
        Path(path).unlink(missing_ok=True)


def posix_memory_of(pid: int) -> set[str]:
    """PostgreSQL's POSIX shared memory in this process: initdb uses it whatever the settings."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    return {line.split()[5] for line in lines if " /dev/shm/PostgreSQL." in line}


def free_posix_memory(root: Path) -> None:
    """Remove what a server that died by itself left in /dev/shm: made since the lab's folder was,
    by the account of its servers, and mapped by nobody."""
    try:
        folders = (root, *root.glob("*"), *root.glob("*/*"))
        since = min(folder.stat().st_ctime for folder in folders)  # some never changed
        accounts = {folder.stat().st_uid for folder in root.glob("*/data")}
    except OSError:
        return
    left = _unmapped(accounts, since)
    if left:
        time.sleep(0.05)  # another server's that was just made is mapped a moment later
        for name in left & _unmapped(accounts, since):
            Path(name).unlink(missing_ok=True)


def _unmapped(accounts: set[int], since: float) -> set[str]:
    """PostgreSQL's POSIX segments that no process has mapped."""
    found = set()
    for path in Path("/dev/shm").glob("PostgreSQL.*"):
        with contextlib.suppress(OSError):
            seen = path.stat()
            if seen.st_uid in accounts and seen.st_ctime >= since:
                found.add(str(path))
    if found:
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                found -= posix_memory_of(int(entry.name))
    return found


def free_shared_memory(data: Path) -> None:
    """Free the System V segment that a killed server left behind.

    Its pid file names it (line 7); one that was killed before it wrote that line has made its
    segment under the number of its data directory (PostgreSQL: InternalIpcMemoryCreate,
    PGSharedMemoryCreate).  A segment that somebody is attached to, or that has another key,
    isn't ours to free.
    """
    try:
        rows = Path("/proc/sysvipc/shm").read_text().splitlines()
        own_key = data.stat().st_ino & 0xFFFFFFFF
    except OSError:
        return
    key, shmid = _named_segment(data / "postmaster.pid")
    for row in rows[1:]:
        found = dict(zip(rows[0].split(), row.split(), strict=False))
        its_key = int(found["key"]) & 0xFFFFFFFF
        named = (its_key, found["shmid"]) == (key, shmid)
        unnamed = its_key == own_key and not Path(f"/proc/{found['cpid']}").exists()
        if (named or unnamed) and found["nattch"] == "0":
            ctypes.CDLL(None, use_errno=True).shmctl(int(found["shmid"]), IPC_RMID, None)


def _named_segment(pid_file: Path) -> tuple[int | None, str]:
    """(key, id) of the segment that a server's pid file names; (None, "") where it names none."""
    try:
        key, shmid = pid_file.read_text().splitlines()[6].split()[:2]
        return int(key) & 0xFFFFFFFF, shmid
    except (OSError, IndexError, ValueError):
        return None, ""


def clean(root: Path) -> None:
    """Leave no process, no shared memory and no file of this lab."""
    kill_all_in(root)
    for data in root.glob("*/data"):
        free_shared_memory(data)
    free_posix_memory(root)
    for _ in range(3):  # a process that was just born may still have written something
        shutil.rmtree(root, ignore_errors=True)
        if not root.exists():
            return
        kill_all_in(root)


def wait_for_end_of(pid: int) -> None:
    """Return when the process is gone.  It must be our parent at the time of the call."""
    try:
        watched = os.pidfd_open(pid)
    except OSError:  # an old kernel, or gone already
        watched = -1
    if os.getppid() != pid:
        return
    if watched >= 0:
        select.select([watched], [], [])
    while os.getppid() == pid:
        time.sleep(0.1 if watched < 0 else 0.002)


def main(argv: list[str]) -> int:
    """`guard.py OWNER_PID ROOT`"""
    owner, root = int(argv[1]), Path(argv[2])
    wait_for_end_of(owner)
    time.sleep(GRACE_S)
    clean(root)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
