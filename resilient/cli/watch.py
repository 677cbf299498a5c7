"""`resilient watch`: the endpoints as the library sees them, and failovers as they happen."""

from __future__ import annotations

import json
import logging
import queue
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from .._logs import Line
from .._parse import visible
from ..core.model import Topology
from .endpoints import FOLDS, drawn, folded, table
from .in_flight import InFlight
from .wrong_use import refused

if TYPE_CHECKING:
    from ..postgres import ConnectionPool

__all__ = ["table", "watch"]

#: the last lines that are kept; as many of them stay below the table as there is room for
LINES = 100
#: rows that the last lines have at least, however many endpoints there are
LEAST_LINES = 4
#: said of every endpoint alike
SAME = frozenset({"pool", "database", "failover"})
#: how often is looked whether something has changed, in seconds
LOOK_S = 0.05

Dsn = Annotated[
    str | None, typer.Option(help="Connection string to watch (default: RESILIENT_DATABASE_URL).")
]
For = Annotated[
    float | None,
    typer.Option("--for", help="Seconds after which it ends (default: Ctrl-C).", min=0),
]
Json = Annotated[bool, typer.Option("--json", help="A JSON object a line, one for each change.")]


def watch(dsn: Dsn = None, for_s: For = None, json_object: Json = False) -> None:
    """Watch the endpoints of a database, live: role, timeline, zone, lag, health, in flight, and
    each step of a failover as it happens.

    It monitors as an application does, with one connection to the writer and one to each server
    for the sessions that are in flight. On a terminal a table that is kept up to date, elsewhere
    a line for each change. Exit code 1 when nobody may write at the end.
    """
    shown: _Screen | _Lines = _Lines(json_object)
    if sys.stdout.isatty() and not json_object:
        shown = _Screen(Console())
    with ExitStack() as stack:
        lines = stack.enter_context(_told())
        pool, params = stack.enter_context(_opened(dsn))
        in_flight = stack.enter_context(InFlight(lambda: pool.topology, params))
        stack.enter_context(shown)
        with suppress(KeyboardInterrupt):
            _follow(pool, shown, lines, in_flight, for_s)
        writer = pool.topology.writer
    raise typer.Exit(0 if writer is not None else 1)


def _follow(
    pool: ConnectionPool[Any],
    shown: _Screen | _Lines,
    lines: queue.SimpleQueue[logging.LogRecord],
    in_flight: InFlight,
    for_s: float | None,
) -> None:
    until = None if for_s is None else time.monotonic() + for_s
    while until is None or time.monotonic() < until:
        while not lines.empty():
            shown.line(lines.get())
        shown.topology(pool.topology, in_flight)
        time.sleep(LOOK_S)


@contextmanager
def _opened(dsn: str | None) -> Iterator[tuple[ConnectionPool[Any], dict[str, str]]]:
    """A pool, and its connection parameters but those of the place."""
    from ..postgres import ConnectionPool
    from ..postgres.target import default_conninfo, parse
    from ..settings import from_environment

    with refused("watch"):
        settings = from_environment().replace(standby_min_size=0)
        conninfo = default_conninfo(settings) if dsn is None else dsn
        params = dict(parse(conninfo, {}, settings).params)
    given = {"application_name": "resilient watch"}
    with ConnectionPool(
        conninfo, min_size=1, max_size=1, open=True, settings=settings, kwargs=given
    ) as pool:
        yield pool, params


@contextmanager
def _told() -> Iterator[queue.SimpleQueue[logging.LogRecord]]:
    """What the library logs meanwhile."""
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.put(record)

    handler = Handler()
    levels = {
        "resilient.failover": logging.INFO,
        "resilient.monitor": logging.INFO,
        "resilient.postgres": logging.WARNING,  # what a restart won't mend, and how to
        "psycopg.pool": logging.CRITICAL,  # that a dial failed is said better by the monitor
    }
    before = {}
    for name, level in levels.items():
        logger = logging.getLogger(name)
        before[name] = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    try:
        yield lines
    finally:
        for name in levels:
            logger = logging.getLogger(name)
            logger.removeHandler(handler)
            level, logger.propagate = before[name]
            logger.setLevel(level)


def _clock(at: float) -> str:
    """The time of day, as an operator's other logs have it."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]


class _Screen:
    """A table that is kept up to date, and the last lines of what happened."""

    def __init__(self, console: Console) -> None:
        self._console = console
        #: whether it matters, and what it says
        self._lines: list[tuple[bool, str]] = []
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._drawn_at = 0.0
        self._version = -1
        self._news = False

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.__exit__(None, None, None)

    def line(self, record: logging.LogRecord) -> None:
        self._lines.append(
            (record.levelno >= logging.WARNING, f"{_clock(record.created)} {_said(record)}")
        )
        del self._lines[:-LINES]
        self._news = True

    def topology(self, seen: Topology, in_flight: InFlight) -> None:
        now = time.monotonic()
        if seen.version == self._version and not self._news and now - self._drawn_at < 0.5:
            return
        self._drawn_at, self._version, self._news = now, seen.version, False
        width, height = self._console.size
        shown = drawn(
            seen, in_flight, width, max(1, height - 1 - min(LEAST_LINES, len(self._lines)))
        )
        used = len(self._console.render_lines(shown, self._console.options, pad=False))
        below = self._newest(width, max(1, height - 1 - used))
        self._live.update(Group(shown, *below), refresh=True)

    def _newest(self, width: int, room: int) -> list[Text]:
        """Newest lines win.  Those that tell a failover are folded, the others cut."""
        below: list[Text] = []
        for matters, text in reversed(self._lines):
            rows = folded(text, width, min(FOLDS, room) if matters else 1)
            if len(rows) > room:
                break
            room -= len(rows)
            below[:0] = [Text(row, style="red" if matters else "", no_wrap=True) for row in rows]
        return below


def _said(record: logging.LogRecord) -> str:
    """A line without what all of them say."""
    said = record.args[0] if isinstance(record.args, tuple) and record.args else None
    if isinstance(said, Line):
        return str(Line(**{name: value for name, value in said.fields.items() if name not in SAME}))
    return visible(record.getMessage())


class _Lines:
    """A line for each change."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._version = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def line(self, record: logging.LogRecord) -> None:
        if self._as_json:
            event = {"at": record.created, "level": record.levelname.lower()}
            self._print(event | fields(record))
        else:
            print(f"{_clock(record.created)} {visible(record.getMessage())}", flush=True)

    def topology(self, seen: Topology, in_flight: InFlight) -> None:
        if seen.version == self._version:
            return
        self._version = seen.version
        if self._as_json:
            self._print({"at": time.time()} | as_dict(seen, in_flight))

    @staticmethod
    def _print(told: dict[str, Any]) -> None:
        print(json.dumps(told, ensure_ascii=True), flush=True)


def as_dict(seen: Topology, in_flight: InFlight) -> dict[str, Any]:
    """A snapshot for JSON."""
    return {
        "version": seen.version,
        "writer": None if seen.writer is None else str(seen.writer.endpoint),
        "timeline": seen.timeline,
        "conflict": seen.conflict,
        "endpoints": [
            {
                "endpoint": str(view.endpoint),
                "zone": view.zone,
                "role": view.role.value,
                "health": view.health.value,
                "timeline": view.timeline,
                "lag_s": view.lag_s,
                "in_flight": in_flight.at(view.endpoint),
                "fenced": view.fenced,
                "reason": view.reason,
            }
            for view in seen.endpoints
        ],
    }


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says, by name; numbers stay numbers."""
    said = record.args[0] if isinstance(record.args, tuple) and record.args else None
    if isinstance(said, Line):
        plain = (str, int, float, bool)
        return {k: v if isinstance(v, plain) else str(v) for k, v in said.fields.items()}
    return {"event": "log", "text": record.getMessage()}
