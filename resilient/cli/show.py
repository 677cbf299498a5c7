"""How a drill is shown: live lines, a table at the end, and what its columns mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..drill.checker import Finding
from ..drill.limits import LIMITS

__all__ = ["Talk", "counts", "legend", "times"]


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
        self._console.print(
            Text(f"{at - self.began_at:8.2f} s  {line}", style=style), soft_wrap=True
        )

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
        parts = [f"{finding.acked} writes acknowledged, {finding.lost} lost"]
        if finding.after_writable_s is not None:
            parts.append(f"good again {finding.after_writable_s * 1000:.0f} ms after writable")
        if finding.case.is_http and finding.slowest_request_s is not None:
            parts.append(f"slowest request {finding.slowest_request_s:.3f} s")
        if finding.outage_s is not None:
            parts.append(f"outage {finding.outage_s:.2f} s")
        self.line(f"{'FAIL' if verdict else 'pass'}: {', '.join([*parts, *verdict])}")


def times(findings: Sequence[Finding], verdicts: Sequence[Sequence[str]]) -> Table:
    """When what happened, a line a run."""
    heads = ("writable\ns", "sync\nms", "async\nms", "DNS\nms", "outage\ns", "detect\ns",
             "promote\ns", "resolve\ns", "reconn.\ns", "HTTP\nmax s")  # fmt: skip
    return _table("Times", heads, findings, verdicts, _times)


def counts(findings: Sequence[Finding], verdicts: Sequence[Sequence[str]]) -> Table:
    """What callers were told and what became of it, a line a run."""
    heads = ("acked", "lost", "dupl.", "ghost", "late", "un-\nknown", "errors\nrun", "\nplain",
             "\nread", "\nHTTP", "reads", "requests")  # fmt: skip
    return _table("Counts", heads, findings, verdicts, _counts)


def _table(
    title: str,
    heads: Sequence[str],
    findings: Sequence[Finding],
    verdicts: Sequence[Sequence[str]],
    row: Callable[[Finding], list[str]],
) -> Table:
    shown = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left"
    )
    for name in ("fault", "known"):
        shown.add_column(name, no_wrap=True)
    for name in ("prom.\nafter", *heads):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("", no_wrap=True)
    for finding, verdict in zip(findings, verdicts, strict=True):
        case = finding.case
        after = f"{case.promote_after_s:g}" if case.is_failover else "–"
        told = "FAIL" if verdict else "pass"
        style = "red" if verdict else ""
        shown.add_row(case.fault, case.endpoint, after, *row(finding), told, style=style)
    return shown


def _times(finding: Finding) -> list[str]:
    case, phases = finding.case, finding.phases
    by_name = finding.after_dns_s if case.endpoint == "cname" and case.is_failover else None
    return [
        _s(finding.writable_s, 2),
        _ms(finding.by_shell.get("sync")),
        _ms(finding.by_shell.get("async")),
        _ms(by_name),
        _s(finding.outage_s, 2),
        _s(phases.detect_s, 3),
        _s(phases.promote_s, 3),
        _s(phases.resolve_s, 3),
        _s(phases.reconnect_s, 3),
        _s(finding.slowest_request_s, 2),
    ]


def _counts(finding: Finding) -> list[str]:
    numbers = (
        *(finding.acked, finding.lost, finding.duplicated),
        *(finding.ghosts_run + finding.ghosts_plain, finding.late_acks, finding.unknown),
        *(finding.errors_run, finding.errors_plain, finding.errors_read, finding.errors_http),
        *(finding.reads, finding.requests),
    )
    return [str(number) for number in numbers]


def _s(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value * 1000:.0f}"


def legend(synchronous: bool) -> Text:
    """The columns, and the limits, in words."""
    most, middle = LIMITS.after_writable_s * 1000, LIMITS.after_writable_median_s * 1000
    replication = (
        "Replication is synchronous: an acknowledged write must survive."
        if synchronous
        else "Replication is asynchronous: a failover may lose writes; lost ones are counted."
    )
    return Text(f"""\
known         multi: the client knows every server's address; cname: one DNS name that is moved
              to the new primary 0.5 s (--dns-after) after the promotion, with a TTL of 1 s
prom. after   seconds from the fault to the beginning of a standby's promotion
writable      seconds from the fault until an observer beside the new primary could write there
sync, async   milliseconds from "writable" until the first write was acknowledged to a thread, to
              a task;  DNS: to the slower of the two, from when the name server had the new address
outage        seconds from the last good write before the fault to the first one after it (the
              longest gap between two where nobody is promoted)
errors        what callers saw: run = writes through pool.run(fn); plain = in blocks
              `with pool.connection()` or `pool.reader.connection()`, which can't be rerun;
              read = through pool.reader.run(fn); HTTP = GET requests
late          writes acknowledged by the old primary after the client had seen the new one
unknown       callers told CommitOutcomeUnknown: the reply to their COMMIT was lost with the server
acked … ghost writes acknowledged; of those missing at the end; applied twice; there although the
              caller was told an error
detect        fault → the library suspected the old primary;  promote: fault → writable
resolve       writable → the library knew the new primary;  reconn.: then → first good write
HTTP max      the slowest request; each has a deadline of 2 s

{replication}
Limits: crash, switchover (multi): ≤ {most:.0f} ms after writable, median ≤ {middle:.0f} ms ·
hang, blackhole (multi): outage ≤ {LIMITS.outage_s:g} s with a promotion after 1 s · \
cname: ≤ TTL + {LIMITS.after_dns_s * 1000:.0f} ms after DNS changed ·
zombie: no write acknowledged by the old primary once the new one was seen · \
none lost, none twice · no errors through run, of reads and of requests.
""")
