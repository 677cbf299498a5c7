"""Child processes that die with us.

A child gets its parent-death signal from the kernel when the *thread* that forked it ends, so
every child of a lab is forked from one thread that lives as long as the interpreter.  Children
have sessions of their own: a Ctrl-C in the terminal is the owner's to handle.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from .options import LabError

__all__ = ["Account", "Spawner", "children_of", "is_alive", "kill_family", "server_account"]

Process = subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Account:
    """The user that servers run as.  `switch` is False when we are that user already."""

    name: str
    uid: int
    gid: int
    switch: bool


def server_account() -> Account:
    """Ourselves; for root, which PostgreSQL refuses, `postgres` or else `nobody`."""
    if os.getuid() != 0:
        uid, gid = os.getuid(), os.getgid()
        return Account(name=str(uid), uid=uid, gid=gid, switch=False)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid, switch=True)
    raise LabError(
        "PostgreSQL refuses to run as root and there is no user postgres or nobody to run it as: "
        "add one (useradd --system postgres) or run the lab as an ordinary user"
    )


class Spawner:
    """Starts processes, always from the same thread (see the module's first paragraph)."""

    def __init__(self, root: Path, account: Account) -> None:
        self.root = root
        self.account = account
        self._setpriv = shutil.which("setpriv")
        if account.switch and self._setpriv is None:
            raise LabError("setpriv (Debian: util-linux) is needed to run PostgreSQL as root")
        self._jobs: queue.SimpleQueue[tuple[Future[Process], list[str], dict[str, object]] | None]
        self._jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="lab-spawner", daemon=True)
        self._thread.start()

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path | None = None,
        cwd: Path | None = None,
        death_signal: str = "KILL",
        as_server: bool = True,
    ) -> Process:
        """Start a child.  `death_signal` is what it gets when we die; `log` takes its output
        (None throws it away); `as_server` runs it under the servers' account."""
        command = [*self._prefix(death_signal, as_server), *map(str, argv)]
        where = cwd or self.root
        future: Future[Process] = Future()
        self._jobs.put((future, command, {"cwd": where, "log": log}))
        return future.result()

    def run(self, argv: Sequence[str | Path], *, cwd: Path, timeout_s: float, what: str) -> str:
        """Run a tool to its end; its output, or a `LabError` that quotes it."""
        log = cwd / f"{Path(argv[0]).name}.log"
        process = self.start(argv, log=log, cwd=cwd)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise LabError(f"{what}: not done after {timeout_s:g} s\n{tail(log)}") from None
        if code != 0:
            raise LabError(f"{what}: exit code {code}\n{tail(log)}")
        return log.read_text(errors="replace")

    def close(self) -> None:
        """End the thread; no child may be alive any more."""
        self._jobs.put(None)
        self._thread.join(5)

    def _prefix(self, death_signal: str, as_server: bool) -> list[str]:
        if self._setpriv is None:
            return []
        prefix = [self._setpriv, "--pdeathsig", death_signal]
        if as_server and self.account.switch:
            prefix += [f"--reuid={self.account.uid}", f"--regid={self.account.gid}"]
            prefix += ["--clear-groups"]
        return [*prefix, "--"]

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, command, how = job
            try:
                future.set_result(_popen(command, how["cwd"], how["log"]))
            except BaseException as error:  # it belongs to the caller's thread
                future.set_exception(error)


def _popen(command: list[str], cwd: object, log: object) -> Process:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    environment |= {"LC_ALL": "C", "TZ": "UTC"}
    assert isinstance(cwd, Path)
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if isinstance(log, Path) else None
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output or subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def start_guard(root: Path) -> Process:
    """The process that cleans up when we can't (see guard.py)."""
    script = Path(__file__).with_name("guard.py")
    argv = [sys.executable, "-I", "-S", script, str(os.getpid()), root]
    # no working directory inside the lab: it must not be found among what it kills
    command = [str(part) for part in argv]
    return subprocess.Popen(
        command,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def dismiss(watchdog: Process) -> None:
    """End the guard: there is nothing left for it to do."""
    watchdog.kill()
    watchdog.wait()


def end_on_sigterm() -> Callable[[], None]:
    """Let SIGTERM unwind the stack as Ctrl-C does; how to undo that.

    Without it the guard still cleans up, a moment later.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return lambda: None

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)

    def undo() -> None:
        if signal.getsignal(signal.SIGTERM) is end:
            with contextlib.suppress(ValueError):  # closed on another thread
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    return undo


def tail(log: Path, lines: int = 12) -> str:
    """The end of a log file, for an error text."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    return ""


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def children_of(pid: int) -> list[int]:
    """Direct children, zombies left out."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid and fields[0] not in "ZX":
                    found.append(int(entry.name))
    return found


def signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    """Send to each that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def stop_family(pid: int) -> list[int]:
    """SIGSTOP a server and its children, the parent first so that it forks no more.  It stops a
    moment after it was told to: a child that it was just forking is found by another look."""
    family = [pid]
    signal_all(family, signal.SIGSTOP)
    give_up_at = time.monotonic() + 1.0
    while time.monotonic() < give_up_at:
        halted = _state_of(pid) not in "RSD"
        more = [child for child in children_of(pid) if child not in family]
        signal_all(more, signal.SIGSTOP)
        family += more
        if halted and not more:
            break
    return family


def _state_of(pid: int) -> str:
    """`T`: stopped, see proc(5); `X`: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def kill_family(process: Process, timeout_s: float = 10.0) -> None:
    """kill -9 of a server and its children, with no last words from any of them.

    All are stopped first: a PostgreSQL backend that sees the postmaster die, or a sibling
    crash, still tells its client (57P01 / 57P02), which a lost machine never does.
    """
    if process.poll() is not None:
        return
    family = stop_family(process.pid)
    signal_all([*family[1:], family[0]], signal.SIGKILL)
    process.wait(timeout_s)
    give_up_at = time.monotonic() + timeout_s
    while any(is_alive(pid) for pid in family) and time.monotonic() < give_up_at:
        time.sleep(0.002)
