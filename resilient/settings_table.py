"""The table of settings in `docs/settings.md`, generated from `Settings`.

python -m resilient.settings_table [docs/settings.md]          rewrites the table
python -m resilient.settings_table --check [docs/settings.md]  exit 1 when it is out of date
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ._fields import Field
from ._parse import ZoneMap
from .settings import PREFIX, TIERS, Settings

BEGIN = "<!-- settings:begin -->"
END = "<!-- settings:end -->"


def table() -> str:
    """The table in Markdown, tier by tier, between its markers."""
    lines = ["| variable | default | accepted | meaning |", "| --- | --- | --- | --- |"]
    for tier in TIERS:
        lines.append(f"| **{tier}** | | | |")
        lines += [_row(name, info) for name, info in Settings.fields.items() if info.tier == tier]
    return "\n".join((BEGIN, *lines, END))


def updated(text: str) -> str:
    """The document with its table made anew.  ValueError when the markers are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} … {END} in there")
    return before + table() + after


def _row(name: str, info: Field) -> str:
    variable = f"`{PREFIX}{name.upper()}`"
    cells = (variable, _default(info), info.accepted, info.description)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(info: Field) -> str:
    value = info.default
    if value is None or value in ((), {}) or isinstance(value, ZoneMap):
        return ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; its exit code."""
    parser = argparse.ArgumentParser(prog="resilient.settings_table", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("file", nargs="?", type=Path, default=Path("docs/settings.md"))
    options = parser.parse_args(argv)
    text = options.file.read_text()
    new = updated(text)
    if new == text:
        return 0
    if options.check:
        sys.stderr.write(f"{options.file}: the table of settings is out of date\n")
        return 1
    options.file.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
