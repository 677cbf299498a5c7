"""Raw rows: one JSON object a line, one line a run, appended as soon as the run is over.

A run that is there is not made again, so whoever was interrupted goes on where he stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["Rows", "machine"]

Row = dict[str, Any]


class Rows:
    """The file.  A row is known by its `key`; a later one replaces an earlier one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Row]:
        """All rows, in order of their first appearance."""
        found: dict[str, Row] = {}
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                row = json.loads(line)
                found[row["key"]] = row
        return list(found.values())

    def done(self) -> set[str]:
        """Keys of the runs that came to their end."""
        return {row["key"] for row in self.read() if not row.get("trouble")}

    def add(self, row: Row) -> None:
        """Append and flush: the next moment may be the last."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def without(self, keys: Iterable[str]) -> None:
        """Forget these runs."""
        gone = set(keys)
        kept = [row for row in self.read() if row["key"] not in gone]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        new = self.path.with_suffix(".new")
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text)
        new.replace(self.path)


def machine() -> dict[str, Any]:
    """What the figures were measured on; no names."""
    import os
    import platform

    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
