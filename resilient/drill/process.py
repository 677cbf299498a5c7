"""The parent's end of the pipe to the client under test (see client.py)."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ..errors import ResilientError
from .records import Record, from_wire
from .workload import Job

__all__ = ["ClientFailed", "ClientNotStarted", "ClientProcess"]


class ClientFailed(ResilientError):
    """The client process did not start, or ended when it shouldn't."""


class ClientNotStarted(ClientFailed):
    """It can't even begin: no run would fare better."""


class ClientProcess:
    """One client under test.  Its records are handed to `sink` by `pump`, on the caller's
    thread."""

    def __init__(
        self,
        job: Job,
        env: Mapping[str, str],
        sink: Callable[[Record], None],
        log: Callable[[str], None],
    ) -> None:
        self._sink = sink
        self._log = log
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.stuck: tuple[str, ...] = ()
        self._state = ""
        argv = [sys.executable, "-m", "resilient.drill.client", json.dumps(asdict(job))]
        self._process = subprocess.Popen(
            argv,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,  # a Ctrl-C in the terminal is ours to handle
        )
        self._listener = threading.Thread(target=self._listen, name="drill-pipe", daemon=True)
        self._listener.start()

    def tell(self, word: str, expect: str, timeout_s: float) -> None:
        """Send a command and wait for the state that it leads to."""
        assert self._process.stdin is not None
        self._state = ""
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ClientFailed(f"the client under test has ended: {error}") from error
        self.wait(expect, timeout_s)

    def wait(self, state: str, timeout_s: float) -> None:
        """Return when it says that it is in this state."""
        give_up_at = time.monotonic() + timeout_s
        while self._state != state:
            if time.monotonic() > give_up_at:
                raise ClientFailed(f"the client under test is not {state} after {timeout_s:g} s")
            self.pump(0.05)

    def pump(self, timeout_s: float) -> None:
        """Take in what has arrived; wait up to `timeout_s` for the first of it."""
        try:
            self._take(self._messages.get(timeout=timeout_s))
            while True:
                self._take(self._messages.get_nowait())
        except queue.Empty:
            return

    def close(self, timeout_s: float = 10.0) -> None:
        """Ask it to end; kill it if it doesn't."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already
            self._process.stdin.close()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._log("the client under test did not close in time; killed")
        self.kill()

    def kill(self) -> None:
        """End it at once."""
        assert self._process.stdin is not None
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._listener.join(2)

    def _take(self, message: dict[str, Any] | None) -> None:
        if message is None:
            self._messages.put(None)
            raise ClientFailed(f"the client under test ended (exit {self._process.poll()})")
        for row in message.get("records", ()):
            self._sink(from_wire(row))
        if "log" in message:
            self._log(message["log"])
        if "failed" in message:
            raise ClientFailed(message["failed"])
        if "state" in message:
            self._state = message["state"]
            self.stuck = tuple(message.get("stuck", ()))

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # cut off in the middle
                    self._messages.put(json.loads(line))
        self._messages.put(None)
