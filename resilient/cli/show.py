"""How a drill is shown: live lines, tables at the end, and what their columns mean."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ..drill.checker import Finding
from ..drill.limits import LIMITS
from ..drill.words import MISSING, milliseconds, plural, seconds

if TYPE_CHECKING:
    from ..drill.preview import Preview

__all__ = ["Talk", "counts", "legend", "preview", "times"]

#: between two columns
GAP = 1


class Talk:
    """Live lines: seconds since the start, then what happened.  Moments are monotonic."""

    def __init__(self, console: Console, verbose: bool = False) -> None:
        self.began_at = time.monotonic()
        self._console = console
        self._verbose = verbose

    def say(self, at: float, text: str) -> None:
        """A line for the moment `at`."""
        style = "bold" if text.startswith("──") else ""
        line = " ".join(text.partition("\n")[0].split())
        since_s = max(0.0, at - self.began_at)
        self._console.print(Text(f"{since_s:8.2f} s  {line}", style=style), soft_wrap=True)

    def line(self, text: str) -> None:
        """A line for now."""
        self.say(time.monotonic(), text)

    def note(self, text: str) -> None:
        """A line about the drill itself."""
        self._console.print(Text(text), soft_wrap=True)

    def log(self, text: str) -> None:
        """A warning of the client's."""
        if self._verbose:
            self.say(time.monotonic(), f"   log {text}")

    def verdict(self, finding: Finding, verdict: Sequence[str]) -> None:
        """What a run came to, in a line."""
        parts = [f"{plural(finding.acked, 'write')} acknowledged, {finding.lost} lost"]
        if finding.after_writable_s is not None:
            good = milliseconds(finding.after_writable_s)
            parts.append(f"good again {good} ms after writable")
        if finding.case.is_http and finding.slowest_request_s is not None:
            parts.append(f"slowest request {seconds(finding.slowest_request_s, 3)} s")
        if finding.outage_s is not None:
            parts.append(f"outage {seconds(finding.outage_s, 2)} s")
        self.line(f"{'FAIL' if verdict else 'pass'}: {', '.join([*parts, *verdict])}")


@dataclass(frozen=True, slots=True)
class Column:
    """A head of one or two lines, and a cell a run."""

    head: str
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        return max(map(len, (*self.head.splitlines(), *self.cells)))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A table with a line a run, as wide as there is room.

    What doesn't fit beside the run and its verdict goes to a further table below, with both of
    them again: nothing is cut off, whatever the width.  Of a run's own columns the fault stays
    longest; where not even that leaves room for a column, each run is a list.
    """

    title: str
    keys: tuple[Column, ...]
    columns: tuple[Column, ...]
    verdicts: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        keys = self._keys(options.max_width)
        if self._taken(keys) + self._widest > options.max_width:
            yield from self._lists()
            return
        parts = list(self._parts(keys, options.max_width))
        for number, part in enumerate(parts, 1):
            more = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
            yield self._table(f"{self.title}{more}", keys, part)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def _keys(self, width: int) -> tuple[Column, ...]:
        """As many as leave room for one column."""
        keys = list(self.keys)
        while len(keys) > 1 and self._taken(keys) + self._widest > width:
            keys.pop()
        return tuple(keys)

    @property
    def _widest(self) -> int:
        return max(column.width for column in self.columns) + GAP

    def _lists(self) -> Iterator[Text]:
        yield Text(f"\n{self.title}", style="italic")
        for row, verdict in enumerate(self.verdicts):
            run = " ".join(key.cells[row] for key in self.keys)
            yield Text(f"{verdict} {run}", style="red" if verdict == "FAIL" else "")
            for column in self.columns:
                yield Text(f"  {' '.join(column.head.split())} {column.cells[row]}")

    @staticmethod
    def _taken(keys: Sequence[Column]) -> int:
        """By them and the verdict."""
        return sum(key.width + GAP for key in keys) + len("FAIL")

    def _parts(self, keys: Sequence[Column], width: int) -> Iterator[list[Column]]:
        part: list[Column] = []
        left = width - self._taken(keys)
        for column in self.columns:
            if part and column.width + GAP > left:
                yield part
                part, left = [], width - self._taken(keys)
            part.append(column)
            left -= column.width + GAP
        yield part

    def _table(self, title: str, keys: Sequence[Column], part: Sequence[Column]) -> Table:
        shown = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 0, 0, 0),
            title=Text(f"\n{title}", style="italic"),
            title_justify="left",
        )
        columns = [*keys, *part, Column("", self.verdicts)]
        for column in columns:
            right = column not in keys[:2] and bool(column.head)
            shown.add_column(
                Text(column.head),
                justify="right" if right else "left",
                no_wrap=True,
                min_width=column.width,
                vertical="bottom",
            )
        for row, verdict in enumerate(self.verdicts):
            style = "red" if verdict == "FAIL" else ""
            shown.add_row(*(Text(column.cells[row]) for column in columns), style=style)
        return shown


def times(findings: Sequence[Finding], verdicts: Sequence[Sequence[str]]) -> Fitted:
    """When what happened, a line a run."""
    heads = ("writable\ns", "sync\nms", "async\nms", "DNS\nms", "outage\ns", "detect\ns",
             "promote\ns", "resolve\ns", "reconn.\ns", "HTTP\nmax s")  # fmt: skip
    return _fitted("Times", heads, findings, verdicts, _times)


def counts(findings: Sequence[Finding], verdicts: Sequence[Sequence[str]]) -> Fitted:
    """What callers were told and what became of it, a line a run."""
    heads = ("acked", "lost", "dupl.", "ghost", "late", "un-\nknown", "errors\nrun",
             "errors\nplain", "errors\nread", "errors\nHTTP", "reads", "requests")  # fmt: skip
    return _fitted("Counts", heads, findings, verdicts, _counts)


def _fitted(
    title: str,
    heads: Sequence[str],
    findings: Sequence[Finding],
    verdicts: Sequence[Sequence[str]],
    row: Callable[[Finding], list[str]],
) -> Fitted:
    cases = [finding.case for finding in findings]
    after = [f"{c.promote_after_s:g}" if c.is_failover else MISSING for c in cases]
    keys = (
        Column("fault", tuple(case.fault for case in cases)),
        Column("known", tuple(case.endpoint for case in cases)),
        Column("prom.\nafter", tuple(after)),
    )
    cells = zip(*(row(finding) for finding in findings), strict=True)
    columns = tuple(Column(head, each) for head, each in zip(heads, cells, strict=True))
    told = tuple("FAIL" if verdict else "pass" for verdict in verdicts)
    return Fitted(title, keys, columns, told)


def _times(finding: Finding) -> list[str]:
    case, phases = finding.case, finding.phases
    by_name = finding.after_dns_s if case.endpoint == "cname" and case.is_failover else None
    return [
        seconds(finding.writable_s, 2),
        milliseconds(finding.by_shell.get("sync")),
        milliseconds(finding.by_shell.get("async")),
        milliseconds(by_name),
        seconds(finding.outage_s, 2),
        seconds(phases.detect_s, 3),
        seconds(phases.promote_s, 3),
        seconds(phases.resolve_s, 3),
        seconds(phases.reconnect_s, 3),
        seconds(finding.slowest_request_s, 2),
    ]


def _counts(finding: Finding) -> list[str]:
    numbers = (
        *(finding.acked, finding.lost, finding.duplicated),
        *(finding.ghosts_run + finding.ghosts_plain, finding.late_acks, finding.unknown),
        *(finding.errors_run, finding.errors_plain, finding.errors_read, finding.errors_http),
        *(finding.reads, finding.requests),
    )
    return [str(number) for number in numbers]


_COLUMNS = (
    ("known", "multi: the client knows every server's address; cname: one DNS name that is moved"
     " to the new primary 0.5 s (--dns-after) after the promotion, with a TTL of 1 s"),
    ("prom. after", "seconds from the fault to the beginning of a standby's promotion"),
    ("writable", "seconds from the fault until an observer beside the new primary could write"),
    ("sync, async", 'milliseconds from "writable" until the first write was acknowledged to a'
     " thread, to a task"),
    ("DNS", "to the slower of the two, from when the name server had the new address"),
    ("outage", "seconds from the last good write before the fault to the first one after it (the"
     " longest gap between two where nobody is promoted)"),
    ("detect", "fault → the library suspected the old primary"),
    ("promote", "fault → writable"),
    ("resolve", "writable → the library knew the new primary"),
    ("reconn.", "then → first good write"),
    ("HTTP max", "the slowest request; each has a deadline of 2 s"),
    ("acked to ghost", "writes acknowledged; of those missing at the end; applied twice; there"
     " although the caller was told an error"),
    ("late", "writes acknowledged by the old primary after the client had seen the new one"),
    ("unknown", "callers told CommitOutcomeUnknown: the reply to their COMMIT was lost with the"
     " server"),
    ("errors", "what callers saw: run = writes through pool.run(fn); plain = in blocks `with"
     " pool.connection()` or `pool.reader.connection()`, which can't be rerun; read = through"
     " pool.reader.run(fn); HTTP = GET requests"),
)  # fmt: skip


def legend(synchronous: bool) -> Group:
    """The columns, and the limits, in words."""
    most, middle = LIMITS.after_writable_s * 1000, LIMITS.after_writable_median_s * 1000
    words = Table.grid(padding=(0, 2, 0, 0))
    words.add_column(overflow="fold")
    words.add_column(overflow="fold")
    for name, meaning in _COLUMNS:
        words.add_row(name, Text(meaning))
    replication = (
        "Replication is synchronous: an acknowledged write must survive."
        if synchronous
        else "Replication is asynchronous: a failover may lose writes; lost ones are counted."
    )
    return Group(
        "",
        words,
        Text(f"""
{replication}
Limits
  crash, switchover (multi): ≤ {most:.0f} ms after writable, median ≤ {middle:.0f} ms
  hang, blackhole (multi): outage ≤ {LIMITS.outage_s:g} s with a promotion after 1 s
  cname: ≤ TTL + {LIMITS.after_dns_s * 1000:.0f} ms after DNS changed
  zombie: no write acknowledged by the old primary once the new one was seen
  all: none lost, none twice; no errors through run, of reads and of requests
"""),
    )


def preview(told: Preview) -> Group:
    """What a drill would touch, in words that wrap."""
    lines = Table.grid(padding=(0, 1, 0, 0))
    lines.add_column(no_wrap=True)
    lines.add_column()
    for text in told.touches:
        lines.add_row("·", Text(text))
    for fault, why in told.skipped.items():
        lines.add_row("·", Text(f"{fault} is skipped: {why}"))
    parts: list[Text | Table] = [Text("Nothing has been touched. The drill:"), lines]
    if told.lasts_s is not None:
        runs = Counter((run["fault"], run["endpoint"]) for run in told.runs)
        each = ", ".join(f"{fault} ({known}) {count} ×" for (fault, known), count in runs.items())
        parts.append(Text(f"{plural(len(told.runs), 'run')}: {each or 'nothing'}"))
        minutes = max(1, round(told.lasts_s / 60))
        parts.append(Text(f"It lasts about {plural(minutes, 'minute')}."))
    parts += [Text(f"It would not begin: {why}", style="red") for why in told.problems]
    return Group(*parts)
