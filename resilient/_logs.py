"""What a server says goes into our logs as text, never as something that a terminal obeys."""

from __future__ import annotations

import logging

from ._parse import visible

__all__ = ["LOGGERS", "Visible"]

LOGGERS = ("resilient.dns", "resilient.failover", "resilient.health", "resilient.http",
           "resilient.monitor", "resilient.settings")  # fmt: skip


class Visible(logging.Filter):
    """Writes line breaks and other control characters of a record's arguments as escapes."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true."""
        if isinstance(record.args, tuple) and record.args:
            record.args = tuple(
                visible(arg) if isinstance(arg, str) else _text(arg) for arg in record.args
            )
        return True


def _text(arg: object) -> object:
    """An exception as text; numbers stay, for `%d`."""
    return visible(str(arg)) if isinstance(arg, BaseException) else arg


for _name in LOGGERS:
    logging.getLogger(_name).addFilter(Visible())
