"""The client under test, in its own process.

    python -m resilient.drill.client JOB          (JOB: the fields of `workload.Job` as JSON)

Standard input, a word a line: `go` lets the workload run, `pause` stops it, `end` (or the end of
the input, so that it can't outlive its parent) closes everything.  Standard output, JSON lines:
`{"records": […]}`, `{"state": "ready" | "running" | "paused" | "ended"}` (paused with `stuck`:
operations that don't end), `{"log": …}`, `{"failed": …}`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from typing import IO, Any

from ..core.model import Topology
from .records import Snapshot, to_wire
from .workload import Job, Shared, SyncWorkload
from .workload_async import AsyncWorkload

#: records leave in batches, this far apart
BATCH_S = 0.02
#: an operation that is under way this long after `pause` is called stuck
PATIENCE_S = 5.0
#: closing may take this long before the process simply ends
CLOSE_S = 8.0


class Pipe:
    """Our side of the pipe; lines of several threads never mix."""

    def __init__(self, stream: IO[str], shared: Shared) -> None:
        self._stream = stream
        self._shared = shared
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """One line, after all records so far."""
        with self._lock:
            queue = self._shared.records
            rows = [to_wire(queue.popleft()) for _ in range(len(queue))]
            if rows:
                message = {"records": rows, **message}
            if message:
                self._stream.write(json.dumps(message, separators=(",", ":")) + "\n")
                self._stream.flush()

    def serve(self) -> None:
        """Send batches for ever (a daemon thread's work)."""
        while True:
            time.sleep(BATCH_S)
            try:
                self.send({})
            except BrokenPipeError:  # the parent is gone
                os._exit(1)


class Observer(logging.Handler):
    """Notes when the library's topology changes.

    The library logs each change on the thread that publishes it, so this runs at that very
    moment; a slow sampler beside it would catch a change that nobody logged.
    """

    SAMPLE_S = 0.01

    def __init__(self, workload: SyncWorkload, shared: Shared) -> None:
        super().__init__(logging.INFO)
        self._workload = workload
        self._shared = shared
        self._look_lock = threading.Lock()
        self._version = -1

    def emit(self, record: logging.LogRecord) -> None:
        self.look()

    def look(self, again: bool = False) -> None:
        """Record the topology if it is another one (or `again`)."""
        at = time.monotonic()
        with self._look_lock:
            topology = self._workload.pool.topology
            if topology.version != self._version or again:
                self._version = topology.version
                self._shared.records.append(_snapshot(at, topology))

    def sample(self) -> None:
        """Look for ever (a daemon thread's work)."""
        while True:
            time.sleep(self.SAMPLE_S)
            self.look()


class Forward(logging.Handler):
    """Sends warnings to the parent, who may show them."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(logging.WARNING)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        self._pipe.send({"log": f"{record.name}: {record.getMessage()}", "at": time.monotonic()})


def _snapshot(at: float, topology: Topology) -> Snapshot:
    writer = topology.writer
    return Snapshot(
        at,
        topology.version,
        writer.address if writer is not None else None,
        {view.address: str(view.health) for view in topology.endpoints},
        {view.address: str(view.role) for view in topology.endpoints},
        {view.address: view.zone for view in topology.endpoints if view.zone},
    )


def _pause(shared: Shared, pipe: Pipe) -> None:
    shared.gate.set(False)
    give_up_at = time.monotonic() + PATIENCE_S
    while shared.gate.inside() and time.monotonic() < give_up_at:
        time.sleep(0.005)
    now = time.monotonic()
    stuck = [f"{name} for {now - at:.1f} s" for name, at in sorted(shared.gate.inside().items())]
    pipe.send({"state": "paused", "stuck": stuck})


def _serve(shared: Shared, pipe: Pipe, observer: Observer) -> None:
    """Obey until `end` or the end of the input."""
    pipe.send({"state": "ready"})
    for line in sys.stdin:
        word = line.strip()
        if word == "go":
            observer.look(again=True)
            shared.gate.set(True)
            pipe.send({"state": "running"})
        elif word == "pause":
            _pause(shared, pipe)
        elif word == "end":
            break


def main(argv: list[str]) -> int:
    """See the module."""
    shared = Shared(Job(**json.loads(argv[1])))
    pipe = Pipe(os.fdopen(os.dup(1), "w"), shared)
    os.dup2(2, 1)  # whatever prints must not spoil the pipe
    logging.getLogger().addHandler(Forward(pipe))
    try:
        sync, asynchronous = SyncWorkload(shared), AsyncWorkload(shared)
        observer = Observer(sync, shared)
        monitor = logging.getLogger("resilient.monitor")
        monitor.setLevel(logging.INFO)
        monitor.addHandler(observer)
        sync.start()
        asynchronous.start()
    except Exception as exc:
        pipe.send({"failed": f"{type(exc).__name__}: {exc}"})
        return 1
    for work in (pipe.serve, observer.sample):
        threading.Thread(target=work, name=work.__name__, daemon=True).start()
    _serve(shared, pipe, observer)
    threading.Timer(CLOSE_S, os._exit, [1]).start()
    shared.gate.end()
    sync.stop()
    asynchronous.stop()
    pipe.send({"state": "ended"})
    os._exit(0)  # what is left are threads that would only delay us


if __name__ == "__main__":
    sys.exit(main(sys.argv))
