"""The HTTP upstreams: one process per zone, same port, so that each can die or hang alone."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from .options import LabError
from .processes import Spawner, signal_all, stop_family, tail

__all__ = ["Upstream", "all_orders"]


class Upstream:
    """The service of one zone (see upstream_server.py)."""

    def __init__(self, zone: str, address: str, port: int, root: Path, spawner: Spawner) -> None:
        self.zone = zone
        self.address = address
        self.port = port
        self._folder = root / f"http-{zone}"
        self._spawner = spawner
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None else None

    @property
    def orders(self) -> list[str]:
        """Ids of the orders recorded here, each as often as it was carried out."""
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / "orders").read_text().splitlines()
        return []

    def start(self) -> None:
        """Start the process; `wait_ready` says when it serves."""
        self._folder.mkdir(mode=0o755, exist_ok=True)
        script = Path(__file__).with_name("upstream_server.py")
        argv: list[str | Path] = [sys.executable, "-I", "-S", script]
        argv += [self.zone, self.address, str(self.port)]
        # as ourselves: its interpreter may be one that only we may read
        self._process = self._spawner.start(
            [*argv, self._folder / "orders"],
            log=self._folder / "log",
            cwd=self._folder,
            as_server=False,
        )
        self._paused = False

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Return when it accepts connections."""
        give_up_at = time.monotonic() + timeout_s
        process = self._process
        while process is not None and process.poll() is None and time.monotonic() < give_up_at:
            with contextlib.suppress(OSError):
                socket.create_connection((self.address, self.port), 1.0).close()
                return
            time.sleep(0.003)
        log = tail(self._folder / "log")
        raise LabError(f"{self.zone}: the HTTP upstream on port {self.port} did not start\n{log}")

    def kill(self) -> None:
        """SIGKILL; its kernel resets the connections."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def pause(self) -> None:
        """SIGSTOP: connections are accepted, nothing is answered."""
        if self._process is not None:
            stop_family(self._process.pid)
            self._paused = True

    def resume(self) -> None:
        """SIGCONT, or a new process if there is none; returns when it serves."""
        if self._process is None:
            self.start()
        elif self._paused:
            signal_all([self._process.pid], signal.SIGCONT)
            self._paused = False
        self.wait_ready()


def all_orders(upstreams: Iterable[Upstream]) -> list[str]:
    """The orders of every zone, duplicates kept."""
    return [order for upstream in upstreams for order in upstream.orders]
