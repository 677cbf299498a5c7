"""What a drill will touch, told before it touches anything.

Of a system that is there each server is asked once, in a read-only session; the command isn't
run.  Of the lab nothing is started.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..errors import ResilientError
from ..lab.binaries import find_binaries
from ..lab.namespace import inside, refusal
from ..lab.netfilter import PacketDrops
from ..lab.options import LabError, LabOptions, zone_address
from ..settings import Settings
from .about import plain_command
from .places import Place, Places, why_not
from .plan import Case
from .real import BEFORE_S, READERS, WRITERS, Command
from .words import plural
from .workload import TABLE

__all__ = ["Preview", "of_lab", "of_system"]

#: of a run, beside its planned pauses: good load before, watching, judgement, repair; seconds
_RUN_S, _SET_UP_S = 3.0, 3.0
_LOOK = """\
SELECT pg_is_in_recovery(), current_user,
 has_schema_privilege('public', 'CREATE'), to_regclass(%s) IS NOT NULL,
 current_setting('synchronous_standby_names') <> '',
 current_setting('max_connections')::int
  - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')"""


@dataclass(slots=True)
class Preview:
    """`touches`: what will be made, changed, started, in sentences; `runs`: of JSON values;
    `skipped`: fault → why; `problems`: why it wouldn't begin, each with what to change."""

    touches: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    lasts_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"dry_run": True, "ok": not self.problems, **asdict(self)}


def skipped_here() -> dict[str, str]:
    """Faults that this machine's kernel doesn't allow, each with why."""
    why = PacketDrops("resilient_preview").probe() if inside() else refusal()
    return {"blackhole": why} if why else {}


def of_lab(cases: Sequence[Case], options: LabOptions) -> Preview:
    """A drill on the embedded lab."""
    told = Preview(skipped=skipped_here())
    try:
        told.touches.append(f"starts PostgreSQL from {find_binaries()}")
    except LabError as error:
        told.problems.append(str(error))
    addresses = ", ".join(zone_address(zone) for zone in options.zone_names)
    where = (
        "in a network namespace of its own"
        if inside()
        else f"on this machine's loopback, on free ports ({refusal()})"
    )
    told.touches += [
        f"one server, one HTTP upstream a zone on {addresses}, and a DNS server, {where}",
        f"files in a new folder in {tempfile.gettempdir()}, removed at the end",
        f"a client process with threads and tasks, in zone {options.zone_names[1]}",
        "no other system, and no service of this machine",
    ]
    kept = [case for case in cases if case.fault not in told.skipped]
    told.runs = [_run(case) for case in kept]
    told.lasts_s = _SET_UP_S + sum(
        _RUN_S + case.promote_after_s + case.dns_after_s for case in kept
    )
    return told


def _run(case: Case) -> dict[str, Any]:
    return {
        "fault": case.fault,
        "endpoint": case.endpoint,
        "run": case.number,
        "runs": case.of,
        "promote_after_s": case.promote_after_s if case.is_failover else None,
        "dns_after_s": case.dns_after_s,
    }


def of_system(conninfo: str, command: Command, settings: Settings) -> Preview:
    """A drill on the system that the connection string leads to."""
    told = Preview()
    with Places(conninfo, settings) as places:
        try:
            found = places.now()
        except ResilientError as error:
            told.problems.append(str(error))
            found = []
        seen = [_server(place, conninfo, settings, told) for place in found]
    if found and not any(role == "primary" for role in seen):
        told.problems.append(
            "no primary is among them: name it in --dsn, or wait until there is one"
        )
    sessions = 2 * (WRITERS + READERS)
    told.touches += [
        f"table {TABLE}: made anew (what has that name is dropped), dropped at the end",
        f"about {sessions} sessions that write and read there, and an observer that connects"
        " ten times a second",
        f"by a shell, {plural(command.runs, 'time')}, after {BEFORE_S:g} s of load each:"
        f" {plain_command(command.text)}",
        f"waits {command.give_up_s:g} s (--give-up) for the recovery",
    ]
    told.runs = [{"run": n + 1, "runs": command.runs} for n in range(command.runs)]
    return told


def _server(place: Place, conninfo: str, settings: Settings, told: Preview) -> str:
    """Its role as it says; what stands in the way goes to `told`."""
    try:
        with _dialled(place, conninfo) as conn:
            row = conn.execute(_LOOK, [TABLE]).fetchone()
            version = conn.info.parameter_status("server_version")
    except psycopg.Error as error:
        told.touches.append(f"server {place}: not reached: {why_not(error, settings)}")
        return "unknown"
    assert row is not None
    standby, user, may_create, there, synchronous, free = row
    role = "standby" if standby else "primary"
    words = [f"server {place}: {role}, PostgreSQL {version}, as user {user}"]
    if role == "primary":
        words.append("synchronous replication" if synchronous else "asynchronous replication")
        words.append(f"{TABLE} is there and will be dropped" if there else f"no {TABLE} yet")
        if not may_create:
            told.problems.append(
                f"{user} may not make {TABLE}: GRANT CREATE ON SCHEMA public TO {user}"
            )
    words.append(f"{plural(free, 'connection')} free")
    told.touches.append("; ".join(words))
    return role


def _dialled(place: Place, conninfo: str) -> psycopg.Connection[tuple[Any, ...]]:
    given = {
        key: value
        for key, value in conninfo_to_dict(conninfo).items()
        if key not in ("host", "hostaddr", "port", "target_session_attrs", "load_balance_hosts")
    }
    if place.port:
        given |= {"host": place.host, "hostaddr": place.address, "port": str(place.port)}
    given["options"] = f"{given.get('options') or ''} -c default_transaction_read_only=on".strip()
    return psycopg.connect(
        make_conninfo("", **given),
        autocommit=True,
        connect_timeout=3,
        application_name="resilient drill preview",
    )


def writes(files: Sequence[Path | None]) -> list[str]:
    """What becomes of the files that are asked for."""
    return [
        f"file {file}: {'replaced' if file.exists() else 'made'}"
        for file in files
        if file is not None
    ]
