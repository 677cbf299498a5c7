"""The client under test's side: a process of its own, that obeys and records.

Standard input, a word a line: `open`, `go`, `stop`; its end kills us.  Standard output, JSON lines:
`{"state": "loaded" | "ready" | "running" | "stopped"}`, `{"ops": […]}`, `{"log": [at, text]}`,
`{"failed": text}`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, Any, NoReturn

from ..judge.history import to_wire
from .loops import AsyncSessions, Session, Shared, SyncSessions

__all__ = ["serve"]

BATCH_S = 0.02
#: an operation that is under way this long after `stop` is called stuck
PATIENCE_S = 2.0


class Pipe:
    """Our side of the pipe; lines of several threads never mix."""

    def __init__(self, stream: IO[str], shared: Shared) -> None:
        self._stream, self._shared = stream, shared
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any] | None = None) -> None:
        """One line, after all operations so far."""
        with self._lock:
            queue = self._shared.ops
            message = dict(message or {})
            if ops := [to_wire(queue.popleft()) for _ in range(len(queue))]:
                message["ops"] = ops
            if message:
                self._stream.write(json.dumps(message, separators=(",", ":")) + "\n")
                self._stream.flush()

    def serve(self) -> None:
        """Send batches for ever (a daemon thread's work)."""
        while True:
            time.sleep(BATCH_S)
            try:
                self.send()
            except BrokenPipeError:  # the parent is gone
                os._exit(1)


class Told(logging.Handler):
    """The library's own log: by it a client shows that it noticed something."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        self._pipe.send({"log": [time.monotonic(), record.getMessage()[:300]]})


def _stop(shared: Shared, pipe: Pipe) -> None:
    shared.ending = True
    give_up_at = time.monotonic() + PATIENCE_S
    while shared.under_way and time.monotonic() < give_up_at:
        time.sleep(0.005)
    stuck = [to_wire(task.stuck()) for task in list(shared.under_way.values())]
    pipe.send()
    pipe.send({"ops": stuck, "state": "stopped"} if stuck else {"state": "stopped"})


def serve(
    way: str, make: Callable[[], tuple[Any, Callable[[Any], Any]]], sessions: list[Session]
) -> NoReturn:
    """`make`: the client, not yet open, and how it performs a task.  Ends the process."""
    shared = Shared(way)
    pipe = Pipe(os.fdopen(os.dup(1), "w"), shared)
    os.dup2(2, 1)  # whatever prints must not spoil the pipe
    try:
        client, perform = make()
        kind = AsyncSessions if client.asynchronous else SyncSessions
        loops = kind(client, perform, shared)
        pipe.send({"state": "loaded"})
        for line in sys.stdin:
            word = line.strip()
            if word == "open":
                loops.open()
                pipe.send({"state": "ready"})
            elif word == "go":
                _listen(client, pipe)
                loops.start(sessions)
                pipe.send({"state": "running"})
            elif word == "stop":
                _stop(shared, pipe)
                break
    except Exception as error:
        pipe.send({"failed": f"{type(error).__name__}: {error}"})
    os._exit(0)  # what is left are threads, some of which wait for ever


def _listen(client: Any, pipe: Pipe) -> None:
    name, level = client.log
    logger = logging.getLogger(name)
    logger.setLevel(level)
    logger.addHandler(Told(pipe))
    threading.Thread(target=pipe.serve, name="pipe", daemon=True).start()
