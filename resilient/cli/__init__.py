"""The command line: `resilient VERB …`, or `python -m resilient.cli VERB …`.

Exit codes: 0 fine, 1 a finding or a broken limit, 2 wrong use.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

MISSING = (
    "resilient: the command line needs typer and rich, which are not installed ({name}):"
    " pip install 'resilient-connect[cli,lab]'"
)


def main() -> None:
    """Entry point of the `resilient` command."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("typer", "rich", "click"):
            raise
        print(MISSING.format(name=error.name), file=sys.stderr)
        raise SystemExit(2) from None
    app(prog_name="resilient")
