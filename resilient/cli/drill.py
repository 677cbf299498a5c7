"""`resilient drill`: real faults on an embedded lab, a service's workload, a judgement."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..drill.checker import Finding
from ..drill.limits import LIMITS
from ..drill.page import page
from ..drill.plan import ALL, EXEC, Case, Choice, Endpoint, plan
from ..drill.timeline import Timeline
from ..drill.verdict import as_json, beyond, broken, judge
from ..drill.words import plural
from ..errors import ConfigError, ResilientError
from .show import Talk, counts, legend, preview, times
from .wrong_use import MALFORMED, wrong_use

if TYPE_CHECKING:
    from ..drill.real import Command
    from ..lab import Lab

__all__ = ["drill"]

#: columns without a terminal, unless COLUMNS says otherwise
WIDE = 126
FAULTS = ", ".join(ALL)


Faults = Annotated[list[str] | None, typer.Option(help=f"Only this (repeatable): {FAULTS}.")]
Runs = Annotated[int | None, typer.Option(help="Runs of each fault; delays are taken in turn.")]
PromoteAfter = Annotated[
    list[str] | None,
    typer.Option(help="Seconds from fault to promotion (repeatable, or 0.5,1,2)."),
]
DnsAfter = Annotated[float, typer.Option(help="Seconds from the promotion to the change of DNS.")]
Known = Annotated[
    str | None,
    typer.Option(help="What the client knows: multi (every host), cname (one name), both."),
]
Asynchronous = Annotated[
    bool, typer.Option("--async-replication", help="Commits wait for no standby: may lose.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a run on standard output.")]
Dsn = Annotated[
    str | None,
    typer.Option(help="With --exec: drill this system instead of the lab's (default: settings)."),
]
Exec = Annotated[
    str | None,
    typer.Option("--exec", help="Shell command that forces the failover of a real system."),
]
Rto = Annotated[
    float, typer.Option(help="With --exec: the longest outage that is accepted, seconds.", min=0)
]
GiveUp = Annotated[
    float, typer.Option(help="With --exec: no recovery by then is a failure, seconds.", min=1)
]
Html = Annotated[
    Path | None, typer.Option(help="Write the runs' timelines to this HTML file.", dir_okay=False)
]
Keep = Annotated[
    Path | None,
    typer.Option("--record", help="Write them as JSON lines too, for `report`.", dir_okay=False),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what it would touch, and touch nothing.")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the client's own warnings too.")]


@dataclass(slots=True)
class Found:
    """What has been measured so far."""

    findings: list[Finding] = field(default_factory=list)
    timelines: list[Timeline] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Real:
    """A system that is there, and how its failover is forced."""

    conninfo: str
    what: Command
    endpoint: Endpoint


def drill(  # noqa: PLR0917  # the options of the command line
    fault: Faults = None,
    runs: Runs = None,
    promote_after: PromoteAfter = None,
    dns_after: DnsAfter = 0.5,
    endpoint: Known = None,
    async_replication: Asynchronous = False,
    dsn: Dsn = None,
    command: Exec = None,
    rto: Rto = 60.0,
    give_up: GiveUp = 300.0,
    html: Html = None,
    record: Keep = None,
    json_lines: Json = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Force failovers on an embedded three-zone lab and measure how the library lives through.

    A service's workload (writers, readers, HTTP requests; threads and tasks) runs
    in a process of its own while PostgreSQL servers, names and HTTP upstreams are
    killed, stopped, cut off or moved. The default is every fault a few times, in
    a few minutes.

    With --exec it is the system that --dsn names: a canary writes and reads
    there, in a table of its own (public.resilient_drill, dropped at the end), the
    command forces the failover, and the outage is held against --rto.

    Exit code 1 for a broken limit, or where the drill didn't come to its end.
    """
    try:
        choice = _choice(fault, runs, promote_after, dns_after, endpoint)
        real = _real(dsn, command, choice, give_up)
    except ConfigError as error:
        wrong_use("drill", str(error))
    for file in filter(None, (html, record)):
        _must_be_writable(file)
    if real is None:
        _enter_namespace()
    if dry_run:
        raise typer.Exit(_preview(real, choice, not async_replication, (html, record), json_lines))
    console = _console()
    talk = Talk(Console(stderr=True, highlight=False) if json_lines else console, verbose)
    found = Found()
    complete = _attempt(real, choice, not async_replication, talk, found)
    verdicts = judge(found.findings)
    if real is not None:
        judged = zip(found.findings, verdicts, strict=True)
        verdicts = [(*verdict, *beyond(finding, rto)) for finding, verdict in judged]
    if not found.findings:
        print("Nothing was measured: there is no result, no file is written.", file=sys.stderr)
        raise typer.Exit(1)
    _keep(found.timelines, verdicts, html, record, talk)
    if json_lines:
        for finding, verdict, told in zip(found.findings, verdicts, found.timelines, strict=False):
            row = as_json(finding, verdict) | _told_with(told, None if real is None else rto)
            print(json.dumps(row, ensure_ascii=False))
    else:
        _report(console, talk, found.findings, verdicts)
        if real is not None:
            talk.note(f"Accepted outage (--rto): {rto:g} s.")
    raise typer.Exit(0 if complete and not any(verdicts) else 1)


def _console() -> Console:
    """As wide as the terminal; elsewhere as COLUMNS says, or wide."""
    wide = None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit() else WIDE
    return Console(highlight=False, width=wide)


def _told_with(told: Timeline, rto_s: float | None) -> dict[str, Any]:
    """What else a result has: when, how it is judged, with what."""
    at = None if told.at is None else datetime.fromtimestamp(told.at, UTC).isoformat()
    limits = {"outage_s": rto_s} if rto_s is not None else asdict(LIMITS)
    return {"at": at, "limits": limits, "zones": dict(told.zones), "about": dict(told.about)}


def _preview(
    real: Real | None,
    choice: Choice,
    synchronous: bool,
    files: Sequence[Path | None],
    json_lines: bool,
) -> int:
    """The exit code: 1 when the drill wouldn't begin."""
    from ..drill.preview import of_lab, of_system, writes

    if real is None:
        from ..lab import LabOptions

        told = of_lab(plan(choice), LabOptions(sync=synchronous))
    else:
        from ..settings import from_environment

        told = of_system(real.conninfo, real.what, from_environment())
    told.touches += writes(files)
    if json_lines:
        print(json.dumps(told.as_dict(), ensure_ascii=False))
    else:
        _console().print(preview(told), soft_wrap=False)
    return 1 if told.problems else 0


def _attempt(
    real: Real | None, choice: Choice, synchronous: bool, talk: Talk, found: Found
) -> bool:
    """Whether it came to its end; if not, it says why."""
    try:
        if real is None:
            _play(choice, synchronous, talk, found)
        else:
            _force(real, talk, found)
    except KeyboardInterrupt:
        talk.note("interrupted: this is what had been measured until then")
    except ResilientError as error:
        print(f"resilient drill: the drill could not go on: {error}", file=sys.stderr)
    else:
        return True
    return False


def _must_be_writable(file: Path) -> None:
    """Said before the drill, not after it; leaves no file that wasn't there."""
    new = not file.exists()
    try:
        file.open("a").close()
    except OSError as error:
        wrong_use("drill", f"{file} can't be written: {error.strerror}")
    if new:
        file.unlink()


def _keep(
    timelines: Sequence[Timeline],
    verdicts: Sequence[Sequence[str]],
    html: Path | None,
    record: Path | None,
    talk: Talk,
) -> None:
    judged = [
        replace(one, verdict=tuple(verdict))
        for one, verdict in zip(timelines, verdicts, strict=False)
    ]
    if record is not None:
        lines = (json.dumps(one.as_dict(), ensure_ascii=False) for one in judged)
        record.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        talk.note(f"Timelines recorded: {record}")
    if html is not None:
        html.write_text(page("Fire drill", judged), encoding="utf-8")
        talk.note(f"Timelines drawn: {html}")


def _choice(
    faults: list[str] | None,
    runs: int | None,
    promote_after: list[str] | None,
    dns_after_s: float,
    endpoint: str | None,
) -> Choice:
    delays: list[float] = []
    for text in ",".join(promote_after or []).split(","):
        try:
            delays += [float(text)] if text.strip() else []
        except ValueError:
            raise ConfigError(
                f"--promote-after {text}: accepted: seconds, such as 1 or 0.5,1,2"
            ) from None
    kinds = {None: (), "both": ("multi", "cname")}.get(endpoint, (endpoint,))
    return Choice(
        faults=tuple(dict.fromkeys(faults or ())),
        endpoints=kinds,  # type: ignore[arg-type]  # Choice says which are accepted
        runs=runs,
        promote_after_s=tuple(delays),
        dns_after_s=dns_after_s,
    )


def _enter_namespace() -> None:
    """Go on inside a namespace of our own, where that is allowed; the lab says when not."""
    from ..lab.namespace import reexec_inside

    reexec_inside([sys.executable, "-m", "resilient.cli", *sys.argv[1:]])


def _play(choice: Choice, synchronous: bool, talk: Talk, found: Found) -> None:
    from ..drill.runner import Drill
    from ..lab import Lab, LabOptions

    talk.note("Setting up three zones: a primary, two standbys, DNS, an HTTP upstream in each.")
    with Lab(LabOptions(sync=synchronous), progress=talk.line) as lab:
        cases = _possible(choice, lab, talk)
        talk.note(
            f"{plural(len(cases), 'run')}; client in zone az2, its process apart from the lab's."
        )
        drill = Drill(lab, talk.say, talk.log, found.timelines)
        with closing(drill.play(cases)) as findings:
            for finding in findings:
                found.findings.append(finding)
                talk.verdict(finding, tuple(broken(finding)))
    talk.note(f"Lab taken down, {time.monotonic() - talk.began_at:.0f} s after the start.")


def _real(dsn: str | None, command: str | None, choice: Choice, give_up_s: float) -> Real | None:
    """What to drill instead of the lab; None: the lab."""
    import psycopg

    from ..drill.real import Command
    from ..postgres.target import default_conninfo, parse
    from ..settings import from_environment

    if command is None:
        if dsn is not None:
            raise ConfigError("--dsn needs --exec: the command that forces the failover there")
        return None
    if choice.faults or choice.promote_after_s:
        raise ConfigError("--exec forces the failover: --fault and --promote-after are the lab's")
    settings = from_environment()
    conninfo = default_conninfo(settings) if dsn is None else dsn
    try:
        names = parse(conninfo, {}, settings).names
    except psycopg.ProgrammingError:
        raise ConfigError(MALFORMED) from None
    if not conninfo:
        raise ConfigError("--exec needs --dsn, or RESILIENT_DATABASE_URL (DATABASE_URL)")
    endpoint: Endpoint = "multi" if len(names) > 1 else "cname"
    return Real(conninfo, Command(command, choice.runs or 1, give_up_s), endpoint)


def _force(real: Real, talk: Talk, found: Found) -> None:
    from ..drill.real import RealDrill
    from ..lab.processes import end_on_sigterm

    talk.note("A canary writes to public.resilient_drill there; the table goes at the end.")
    drill = RealDrill(real.conninfo, real.what, talk.say, talk.log, found.timelines)
    undo = end_on_sigterm()  # so that the table goes then too
    try:
        with closing(drill.play(real.endpoint)) as findings:
            for finding in findings:
                found.findings.append(finding)
                talk.verdict(finding, tuple(broken(finding)))
    finally:
        undo()


def _possible(choice: Choice, lab: Lab, talk: Talk) -> list[Case]:
    skipped = lab.skipped_faults
    cases = plan(choice)
    for fault in sorted({case.fault for case in cases} & set(skipped)):
        talk.note(f"SKIPPED {fault}: {skipped[fault]}")
    return [case for case in cases if case.fault not in skipped]


def _report(
    console: Console, talk: Talk, findings: Sequence[Finding], verdicts: Sequence[Sequence[str]]
) -> None:
    for shown in (times(findings, verdicts), counts(findings, verdicts)):
        console.print(shown, crop=False)
    if findings[0].case.fault != EXEC:  # it speaks of the lab
        console.print(legend(findings[0].facts.synchronous))
    for finding, verdict in zip(findings, verdicts, strict=True):
        for why in verdict:
            case = finding.case
            talk.note(f"BROKEN  {case.fault} ({case.endpoint}) run {case.number}: {why}")
        if verdict:
            for text, count in finding.error_texts.items():
                if text.startswith("plain"):  # those break nothing
                    continue
                talk.note(f"        callers were told, {count} ×: {text}")
    bad = sum(map(bool, verdicts))
    state = f"{bad} with a broken limit" if bad else "every limit held"
    talk.note(f"{plural(len(findings), 'run')}, {state}.")
