"""`resilient report`: timelines as one HTML file, from a drill's or a flight recording."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..drill.about import command_line
from ..drill.flight import dumped, failovers
from ..drill.page import page
from ..drill.timeline import Timeline
from ..drill.words import plural
from ..errors import ConfigError
from .wrong_use import wrong_use

__all__ = ["report"]

Recording = Annotated[
    Path,
    typer.Argument(
        help="What `drill --record` or `resilient.recorder.dump` wrote, or `watch --json` printed;"
        " - is stdin."
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(help="File to write (default: the recording's, .html).", dir_okay=False),
]
Json = Annotated[
    bool, typer.Option("--json", help="The timelines as JSON lines on standard output instead.")
]


def report(recording: Recording, html: Html = None, json_lines: Json = False) -> None:
    """Draw a recording as one self-contained HTML file: swim lanes of what happened, what the
    client believed, what its callers were told and how long they took, and each phase planned
    against measured.

    Exit code 1 when the recording has no failover, or one with a broken limit.
    """
    try:
        timelines = list(_timelines(recording))
    except ConfigError as error:
        wrong_use("report", str(error))
    if json_lines:
        for one in timelines:
            print(json.dumps(one.as_dict(), ensure_ascii=False))
    else:
        _write(recording, html, timelines)
    fine = bool(timelines) and not any(one.verdict for one in timelines)
    raise typer.Exit(0 if fine else 1)


def _timelines(recording: Path) -> Iterator[Timeline]:
    text = _text(recording)
    dump = _dump(text)
    if dump is not None:
        yield from dumped(dump, _zone_of)
        return
    lines = list(_lines(recording, text))
    drills = [line for line in lines if "format" in line]
    watched = [line for line in lines if "format" not in line]
    yield from (Timeline.from_dict(line) for line in drills)
    yield from failovers(watched)


def _zone_of(place: str) -> str | None:
    """Of `host:port`, by this environment's `RESILIENT_ZONES`: the recorder's file has none."""
    from ..settings import from_environment

    host = place.rpartition(":")[0].strip("[]")
    return from_environment().zones.zone_of(host, (host,))


def _text(recording: Path) -> str:
    try:
        return sys.stdin.read() if str(recording) == "-" else recording.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{recording} can't be read: {error}") from None


def _dump(text: str) -> dict[str, Any] | None:
    """The flight recorder's own file; None: lines."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "failovers" in found else None


def _lines(recording: Path, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or not ("format" in found or "at" in found):
            raise ConfigError(
                f"{recording}, line {number}: accepted: the lines that `resilient drill --record`"
                " wrote or `resilient watch --json` printed"
            )
        yield found


def _write(recording: Path, html: Path | None, timelines: list[Timeline]) -> None:
    if html is None:
        stem = Path("report") if str(recording) == "-" else recording
        html = stem.with_suffix(".html")
    try:
        drawn = page("Failovers", timelines, command_line(sys.argv[1:]))
        html.write_text(drawn, encoding="utf-8")
    except OSError as error:
        wrong_use("report", f"{html} can't be written: {error.strerror}")
    print(f"{plural(len(timelines), 'timeline')}: {html}")
