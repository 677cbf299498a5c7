"""The lines that we log: logfmt (`key=value key="a value"`), one event each.

What a server says goes into them as text, never as something that a terminal obeys.
"""

from __future__ import annotations

import logging
import re

from ._parse import visible

__all__ = ["LOGGERS", "Line", "Visible"]

LOGGERS = ("resilient.dns", "resilient.failover", "resilient.health", "resilient.http",
           "resilient.monitor", "resilient.postgres", "resilient.settings")  # fmt: skip


#: what stands in a line without quotes
_PLAIN = re.compile(r'[^\s"=\x00-\x1f\x7f-\x9f]+')


class Line:
    """What one line says, in its order; fields that are None are left out.

    `logger.info("%s", Line(step="lost", endpoint=place))`.  The text is made when somebody wants
    it; who wants the fields (a JSON formatter) takes them from `record.args[0].fields`.
    """

    __slots__ = ("fields",)

    def __init__(self, **fields: object) -> None:
        self.fields = {name: value for name, value in fields.items() if value is not None}

    def __str__(self) -> str:
        return " ".join(f"{name}={_value(value)}" for name, value in self.fields.items())


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    if _PLAIN.fullmatch(text) and text.isprintable():
        return text
    # A line break is a blank here: not every reader of logfmt knows more than \\" by its escape.
    shown = visible(" ".join(text.split()).replace("\\", "\\\\"))
    escaped = shown.replace('"', '\\"')
    return f'"{escaped}"'


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
