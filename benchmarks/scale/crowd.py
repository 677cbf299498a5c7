"""Many processes with a pool each: one is started, it forks the others.

    python -m benchmarks.scale.crowd JOB          (JSON: conninfo, processes, size, rate_s, folder)

Prints `up` when all write, goes on until its input ends, then leaves a file for each process:
operations as [began, ended, error], and the processor time that it took.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from resilient.postgres import ConnectionPool

INSERT = "INSERT INTO public.bench_rows VALUES (%s) RETURNING id"
#: processes start so far apart, and so many at a time: their start is not what is measured
STAGGER_S, AT_ONCE = 0.04, 8
#: the servers come first, as if they had processors of their own: else their postmasters wait for
#: hundreds of clients' threads
NICE = 10
#: ids of different processes are so far apart
APART = 1_000_000


class Process:
    """One client: `size` threads that write now and then."""

    def __init__(self, job: dict[str, Any], number: int) -> None:
        self._job, self._number = job, number
        self._rng = random.Random(number)
        self._operations: list[tuple[int, float, float, str]] = []
        self._ending = False
        self._next = APART * number
        self._lock = threading.Lock()

    def run(self, stop: int, ready: int) -> None:
        """Until `stop` is readable; `ready` gets a byte when the pool is full."""
        size = self._job["size"]
        pool = ConnectionPool(self._job["conninfo"], min_size=size, max_size=size, open=True)
        pool.wait(60)
        for _ in range(size):
            threading.Thread(target=self._session, args=(pool,), daemon=True).start()
        os.write(ready, b".")
        os.read(stop, 1)
        self._ending = True
        told = {"operations": self._operations, "cpu_s": time.process_time()}
        Path(self._job["folder"], f"{self._number}.json").write_text(json.dumps(told))

    def _session(self, pool: Any) -> None:
        pace = self._job["rate_s"] / self._job["size"]
        while True:
            time.sleep(self._rng.expovariate(pace))
            if self._ending:
                return
            with self._lock:
                self._next += 1
                number = self._next
            began_at, text = time.monotonic(), ""
            try:
                pool.run(lambda conn, n=number: conn.execute(INSERT, [n]))
            except Exception as error:  # whatever a caller would see
                text = f"{type(error).__name__}: {error}"
            self._operations.append((number, began_at, time.monotonic(), text))


def main(argv: list[str]) -> None:
    """See the module."""
    job = json.loads(argv[1])
    os.nice(NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    stop, stopper = os.pipe()
    heard, ready = os.pipe()
    children: list[int] = []
    up = 0
    gc.freeze()  # else each child's collector copies every page that they share
    for number in range(1, job["processes"] + 1):
        while len(children) - up >= AT_ONCE:
            up += len(os.read(heard, AT_ONCE))
        child = os.fork()
        if child == 0:
            os.close(stopper)
            try:
                Process(job, number).run(stop, ready)
            finally:
                os._exit(0)
        children.append(child)
        time.sleep(STAGGER_S)
    while up < len(children):
        up += len(os.read(heard, AT_ONCE))
    print("up", flush=True)
    sys.stdin.read()
    os.close(stopper)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv)
