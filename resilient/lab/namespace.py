"""Runs a command where it can disturb nothing: a network, mount and IPC namespace of its own.

    python -m resilient.lab.namespace -- command args...

Port 53, `/etc/resolv.conf` and packet drops are private in there, and shared memory goes away with
it.  Root needs nothing else; an ordinary user gets a user namespace too, in which it keeps
its uid (PostgreSQL refuses to be root).  Where the kernel says no, the command runs plainly, and
the lab says which faults it has to skip.

No process stands between the caller and the command: each step is an `exec`, so exit code,
signals and process id are the command's own.  Standard library only; the second step runs this
file as a script.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["inside", "lift_loopback", "reexec_inside", "refusal", "use_resolv_conf"]

#: set inside only, to the namespace's identity: inherited by accident it proves nothing
VARIABLE = "RESILIENT_LAB_NAMESPACE"
#: why there is no namespace, for the lab to tell
REFUSED = "RESILIENT_LAB_NAMESPACE_REFUSED"

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_MS_NOSUID, _MS_NODEV, _MS_BIND = 2, 4, 4096


def inside() -> bool:
    """Whether this process is in a namespace that was made here."""
    return os.environ.get(VARIABLE) == _identity()


def refusal() -> str:
    """Why we are outside, in words for a person; empty inside."""
    if inside():
        return ""
    return os.environ.get(REFUSED) or (
        "not in a network namespace of our own "
        "(start with: python -m resilient.lab.namespace -- command)"
    )


def reexec_inside(argv: Sequence[str]) -> str | None:
    """Replace this process by `argv`, inside a namespace.

    Returns only if that isn't so: None when we are inside already, else the reason for which
    the kernel refuses (`Lab.skipped_faults` will show it).
    """
    if inside():
        return None
    command = _unshare_command()
    why = _refused(command) if command else "unshare (Debian: util-linux) isn't installed"
    if not why:
        _flush()
        os.execvp(command[0], [*command, sys.executable, "-I", __file__, "--enter", "--", *argv])
    os.environ[REFUSED] = f"network namespaces are refused here: {why}"
    return os.environ[REFUSED]


def use_resolv_conf(text: str) -> None:
    """Make `text` this namespace's /etc/resolv.conf.  Only inside; may be called again."""
    if not inside():
        raise RuntimeError(f"/etc/resolv.conf stays as it is: {refusal()}")
    target = Path("/etc/resolv.conf").resolve()
    if str(target) in _mount_points():
        target.write_text(text)
        return
    with tempfile.NamedTemporaryFile("w", prefix="resilient-lab-resolv-") as private:
        private.write(text)
        private.flush()
        os.fchmod(private.fileno(), 0o644)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(private.name.encode(), str(target).encode(), None, _MS_BIND, None) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(target))
    # the name is gone, the mount keeps the file


def lift_loopback() -> None:
    """`ip link set lo up`, without needing ip."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def main(argv: Sequence[str]) -> int:
    """`[--enter] -- command args...`: runs the command in place of this process."""
    entering, rest = argv[:1] == ["--enter"], list(argv)
    rest = rest[1:] if entering else rest
    rest = rest[1:] if rest[:1] == ["--"] else rest
    if not rest or rest[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if rest else 2
    if entering:
        lift_loopback()
        _empty_shared_memory()
        os.environ[VARIABLE] = _identity()
    elif reason := reexec_inside(rest):
        print(f"{reason}; running without", file=sys.stderr)
    _flush()
    try:
        os.execvp(rest[0], rest)
    except OSError as error:
        print(f"{rest[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126


def _empty_shared_memory() -> None:
    """A /dev/shm of our own; where the kernel refuses it, the machine's."""
    if os.path.isdir("/dev/shm"):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=1777")


def _identity() -> str:
    try:
        return os.readlink("/proc/self/ns/net")
    except OSError:
        return "unknown"


def _unshare_command() -> list[str]:
    unshare = shutil.which("unshare")
    if unshare is None:
        return []
    user = [] if os.getuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    return [unshare, *user, "--net", "--mount", "--ipc", "--"]


def _refused(command: list[str]) -> str:
    """Empty if the kernel lets us; it is asked, not guessed."""
    script = [sys.executable, "-I", "-S", __file__, "--enter", "--", "true"]
    try:
        done = subprocess.run(
            [*command, *script], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _mount_points() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
