"""The command line: `resilient VERB …`, or `python -m resilient.cli VERB …`.

Exit codes: 0 fine, 1 a finding or a broken limit, 2 wrong use.
"""

from __future__ import annotations

import errno
import io
import os
import sys

__all__ = ["main"]

MISSING = (
    "resilient: the command line needs typer and rich, which are not installed ({name}):"
    " pip install 'resilient-connect[cli,lab]'"
)

#: why an output can't be written that is no mistake of ours
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main() -> None:
    """Entry point of the `resilient` command."""
    try:
        _main()
    except KeyboardInterrupt:  # whenever it came, while modules are imported too
        raise SystemExit(130) from None


def _main() -> None:
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("typer", "rich", "click"):
            raise
        print(MISSING.format(name=error.name), file=sys.stderr)
        raise SystemExit(2) from None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a sign gets a ?
            stream.reconfigure(errors="replace")
    try:
        try:
            app(prog_name="resilient")
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # no more of it at the end
        print(f"resilient: the output can't be written: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from None
