"""`resilient doctor`: what a fire drill would find, with symptom, cause and fix."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._parse import visible
from .wrong_use import refused, wrong_use

if TYPE_CHECKING:
    from ..doctor import Facts, Finding

__all__ = ["doctor"]

Dsn = Annotated[
    str | None,
    typer.Option(help="Connection string to look at (default: RESILIENT_DATABASE_URL)."),
]
Url = Annotated[
    list[str] | None,
    typer.Option(help="A service to look at, by its base URL; may be given several times."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing about what is asked.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def doctor(
    dsn: Dsn = None, url: Url = None, quiet: Quiet = False, json_object: Json = False
) -> None:
    """Look for what a failover would bring to light: addresses that are pinned, TTLs that are
    long, a name past the CNAME, lone servers, shallow health checks.

    Asks DNS, each server (a few SELECTs) and each service once; changes nothing. Exit code 1
    when there is a finding; notes don't count.
    """
    from ..doctor import examine, gather
    from ..settings import from_environment

    def progress(text: str) -> None:
        if not quiet:
            sys.stderr.write(f"asking {text}\n")  # in one piece: several are asked at once

    with refused("doctor"):
        settings = from_environment()
        facts = gather(_conninfo(dsn, bool(url), settings), url or (), settings, progress)
    found = examine(facts)
    if json_object:
        print(json.dumps(_told(facts, found), ensure_ascii=True))
    else:
        _show(facts, found)
    raise typer.Exit(1 if any(finding.grave for finding in found) else 0)


def _conninfo(dsn: str | None, other: bool, settings: Any) -> str | None:
    """What to look at; None: no database, for services were named and none is configured."""
    from ..postgres.target import default_conninfo

    if dsn is not None:
        return dsn
    usual = default_conninfo(settings)
    if usual or "PGHOST" in os.environ or "PGSERVICE" in os.environ:
        return usual
    if not other:
        wrong_use(
            "doctor",
            "nothing to look at: give --dsn or --url, or set RESILIENT_DATABASE_URL"
            " (DATABASE_URL, PGHOST)",
        )
    return None


def _told(facts: Facts, found: list[Finding]) -> dict[str, Any]:
    return {
        "ok": not any(finding.grave for finding in found),
        "findings": [finding.as_dict() for finding in found if finding.grave],
        "notes": [finding.as_dict() for finding in found if not finding.grave],
        "names": {
            name.host: {
                "kind": name.kind,
                "addresses": list(name.addresses),
                "chain": [[link.name, link.rdtype, link.ttl_s] for link in name.chain],
            }
            for name in facts.names
        },
        "servers": [
            {
                "endpoint": server.where,
                "zone": server.zone,
                "role": server.role.value,
                "timeline": server.timeline,
                "lag_s": server.lag_s,
                "error": server.error,
            }
            for server in facts.servers
        ],
        "urls": [each.url for each in facts.urls],
    }


def _show(facts: Facts, found: list[Finding]) -> None:
    for server in facts.servers:
        lag = "" if server.lag_s is None else f", {server.lag_s:.1f} s behind"
        state = server.error or f"{server.role.value}, timeline {server.timeline}{lag}"
        print(visible(f"{server.where}, zone {server.zone or 'unknown'}: {state}"))
    for finding in found:
        print(f"\n{'' if finding.grave else 'note: '}{finding.check}: {visible(finding.where)}")
        for word in ("symptom", "cause", "fix"):
            print(f"  {word:8}{visible(getattr(finding, word))}")
    grave = sum(finding.grave for finding in found)
    notes = len(found) - grave
    print(f"\n{grave} finding{'s' * (grave != 1)}, {notes} note{'s' * (notes != 1)}")
