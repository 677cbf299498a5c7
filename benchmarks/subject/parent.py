"""The parent's end of the pipe to the client under test (see child.py)."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from typing import Any

from ..judge.history import Op, from_wire

__all__ = ["Subject", "SubjectFailed"]


class SubjectFailed(Exception):
    """The client under test did not start, or ended when it shouldn't."""


class Subject:
    """One client under test.  What it did is collected in `ops` and `log` by `pump`."""

    def __init__(self, module: str, *argv: str) -> None:
        self.ops: list[Op] = []
        self.log: list[tuple[float, str]] = []
        self._state = ""
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        # settings of this shell's environment are no part of the benchmark
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RESILIENT_", "PG"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *argv],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, name="subject-pipe", daemon=True).start()

    def tell(self, word: str, expect: str, timeout_s: float) -> None:
        """Send a command and wait for the state that it leads to."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise SubjectFailed(f"the client has ended: {error}") from error
        self.wait(expect, timeout_s)

    def wait(self, state: str, timeout_s: float) -> None:
        """Return when it says that it is in this state."""
        give_up_at = time.monotonic() + timeout_s
        while self._state != state:
            if time.monotonic() > give_up_at:
                raise SubjectFailed(f"the client is not {state} after {timeout_s:g} s")
            self.pump(0.05)

    def pump(self, timeout_s: float) -> None:
        """Take in what has arrived; wait up to `timeout_s` for the first of it."""
        with contextlib.suppress(queue.Empty):
            self._take(self._messages.get(timeout=timeout_s))
            while self._state != "stopped":
                self._take(self._messages.get_nowait())

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _take(self, message: dict[str, Any] | None) -> None:
        if message is None:
            self._messages.put(None)
            if self._state == "stopped":
                return
            raise SubjectFailed(f"the client ended (exit {self._process.poll()})")
        for row in message.get("ops", ()):
            self.ops.append(from_wire(row))
        if "log" in message:
            self.log.append((message["log"][0], message["log"][1]))
        if "failed" in message:
            raise SubjectFailed(message["failed"])
        self._state = message.get("state", self._state)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # cut off in the middle
                    self._messages.put(json.loads(line))
        self._messages.put(None)
