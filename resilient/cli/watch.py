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
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .._parse import visible
from ..core.model import Health, Topology
from .in_flight import InFlight
from .wrong_use import refused

if TYPE_CHECKING:
    from ..postgres import ConnectionPool

__all__ = ["watch"]

#: the last lines that stay below the table
LINES = 12
#: how often is looked whether something has changed, in seconds
LOOK_S = 0.05
STYLES = {Health.UP: "green", Health.SUSPECT: "yellow", Health.DEAD: "red"}

Dsn = Annotated[
    str | None, typer.Option(help="Connection string to watch (default: RESILIENT_DATABASE_URL).")
]
For = Annotated[
    float | None,
    typer.Option("--for", help="Seconds after which it ends (default: Ctrl-C).", min=0),
]
Json = Annotated[bool, typer.Option("--json", help="A JSON object a line, one for each change.")]


def watch(dsn: Dsn = None, for_s: For = None, json_object: Json = False) -> None:
    """Watch the endpoints of a database, live: role, epoch, zone, lag, health, in flight, and
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
    names = ("resilient.failover", "resilient.monitor")
    # that a dial failed is said better by the monitor
    loggers = dict.fromkeys(names, handler) | {"psycopg.pool": logging.NullHandler()}
    before = {}
    for name, each in loggers.items():
        logger = logging.getLogger(name)
        before[name] = logger.level, logger.propagate
        logger.addHandler(each)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield lines
    finally:
        for name, each in loggers.items():
            logger = logging.getLogger(name)
            logger.removeHandler(each)
            level, logger.propagate = before[name]
            logger.setLevel(level)


def _clock(at: float) -> str:
    """The time of day, as an operator's other logs have it."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]


class _Screen:
    """A table that is kept up to date, and the last lines of what happened."""

    def __init__(self, console: Console) -> None:
        self._lines: list[Text] = []
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
        style = "red" if record.levelno >= logging.WARNING else ""
        self._lines.append(
            Text(f"{_clock(record.created)} {visible(record.getMessage())}", style=style)
        )
        del self._lines[:-LINES]
        self._news = True

    def topology(self, seen: Topology, in_flight: InFlight) -> None:
        now = time.monotonic()
        if seen.version == self._version and not self._news and now - self._drawn_at < 0.5:
            return
        self._drawn_at, self._version, self._news = now, seen.version, False
        self._live.update(Group(table(seen, in_flight), *self._lines), refresh=True)


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
            self._print(event | {"event": record.getMessage()})
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
        "epoch": seen.epoch,
        "conflict": seen.conflict,
        "endpoints": [
            {
                "endpoint": str(view.endpoint),
                "zone": view.zone,
                "role": view.role.value,
                "health": view.health.value,
                "epoch": view.epoch,
                "lag_s": view.lag_s,
                "in_flight": in_flight.at(view.endpoint),
                "fenced": view.fenced,
                "reason": view.reason,
            }
            for view in seen.endpoints
        ],
    }


def table(seen: Topology, in_flight: InFlight) -> Table:
    """A snapshot for people; * is where writes go."""
    writer = "nobody may write" if seen.writer is None else f"writes go to {seen.writer.endpoint}"
    title = f"version {seen.version}: {seen.conflict or writer}"
    # As Text: what a server says is no markup either.
    shown = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=Text(visible(title)), title_justify="left"
    )
    for name in ("endpoint", "zone", "role", "health"):
        shown.add_column(name, no_wrap=True)
    for name in ("epoch", "lag s", "in flight"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("why")
    for view in seen.endpoints:
        here = seen.writer is not None and view.endpoint == seen.writer.endpoint
        busy = in_flight.at(view.endpoint)
        shown.add_row(
            Text(visible(f"{view.endpoint}{' *' if here else ''}")),
            Text(view.zone or "–"),
            f"{view.role.value}{' (fenced)' if view.fenced else ''}",
            Text(view.health.value, style=STYLES.get(view.health, "")),
            "–" if view.epoch is None else str(view.epoch),
            "–" if view.lag_s is None else f"{view.lag_s:.1f}",
            "–" if busy is None else str(busy),
            Text(visible(view.reason)),
        )
    return shown
