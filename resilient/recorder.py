"""The flight recorder: what became of the last 20 failovers of this process.

It is always on, in memory, and costs nothing while nothing fails.  `pool.failovers` has those of
one pool's cluster.  `resilient report` reads what `dump` writes.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from types import FrameType

from .telemetry.records import Event, Record, kept

__all__ = ["Event", "Record", "dump", "dump_on_signal", "failovers"]


def failovers() -> tuple[Record, ...]:
    """The last ones, of all pools and HTTP clients, oldest first."""
    return kept()


def dump(path: str | os.PathLike[str]) -> int:
    """Write them to the JSON file `path`, `{"failovers": [...]}`, replaced as a whole; how many
    there are.

    Raises `OSError` where that can't be written.
    """
    records = kept()
    text = json.dumps({"failovers": [record.as_dict() for record in records]}, indent=1)
    target = Path(path)
    with tempfile.NamedTemporaryFile(
        "w", dir=target.parent, prefix=f".{target.name}.", delete=False, encoding="utf-8"
    ) as file:
        file.write(text + "\n")
    Path(file.name).replace(target)
    return len(records)


def dump_on_signal(path: str | os.PathLike[str], signum: signal.Signals = signal.SIGUSR2) -> None:
    """`dump(path)` whenever the process gets the signal `signum`; call it on the main thread.

    A handler that was there before is called as well.  What can't be written is skipped: nobody
    is there to be told.
    """
    before = signal.getsignal(signum)

    def handle(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):
            dump(path)
        if callable(before):
            before(number, frame)

    signal.signal(signum, handle)
