"""`resilient install-ledger`: the table of `COMMIT_RESOLVER=ledger`, shown, then installed."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .wrong_use import refused, wrong_use

if TYPE_CHECKING:
    import psycopg

__all__ = ["install_ledger"]

CONNECT_TIMEOUT_S = 10
#: two of a token that nobody else has: the second must be refused, else the ledger tells
#: nothing; rolled back, so nothing of it stays
SAMPLE = "00000000-0000-4000-8000-000000000000"

Dsn = Annotated[
    str | None,
    typer.Option(help="Connection string of the primary (default: RESILIENT_DATABASE_URL)."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Install it without asking.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


class _Finding(Exception):
    """It can't be installed; the text says why, and who can."""


@dataclass(frozen=True, slots=True)
class _Known:
    """The database, and what is there."""

    where: str
    database: str
    user: str
    usable: bool


def install_ledger(dsn: Dsn = None, yes: Yes = False, json_object: Json = False) -> None:
    """Install the ledger of commits, by which a COMMIT whose reply was lost is resolved.

    Shows the SQL and how old rows are removed, asks, and installs; a ledger that is there
    stays as it is.  Each database needs it once.
    """
    from ..postgres.commit import ledger

    target = _target(dsn)
    if not yes and not sys.stdin.isatty():
        wrong_use("install-ledger", "nobody can be asked here: say --yes to install it")
    if not json_object:
        _show(ledger.DDL, ledger.PURGE, ledger.RETENTION)
    import psycopg

    try:
        known, installed = _install(target, yes, json_object)
    except (_Finding, psycopg.Error) as error:
        text = _line(error)
        if json_object:
            print(json.dumps({"installed": False, "error": text}, ensure_ascii=False))
        print(f"resilient install-ledger: {text}", file=sys.stderr)
        raise typer.Exit(1) from None
    if json_object:
        found = {
            "installed": True,
            "already_there": not installed,
            "endpoint": known.where,
            "database": known.database,
            "table": ledger.TABLE,
            "retention": ledger.RETENTION,
            "ddl": ledger.DDL,
            "purge": ledger.PURGE,
        }
        print(json.dumps(found, ensure_ascii=False))
        return
    was = "is installed" if installed else "was there already, and works"
    print(f"{ledger.TABLE} {was}: database {known.database} on {known.where}.")
    if installed:
        print("Use it with RESILIENT_COMMIT_RESOLVER=ledger.")


def _target(dsn: str | None) -> dict[str, Any]:
    """Connection parameters; a server that takes writes, unless they say otherwise."""
    from psycopg.conninfo import conninfo_to_dict

    from ..postgres.target import default_conninfo
    from ..settings import from_environment

    with refused("install-ledger"):
        given = conninfo_to_dict(default_conninfo(from_environment()) if dsn is None else dsn)
    usual = {
        "target_session_attrs": "read-write",
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "resilient install-ledger",
    }
    return {**usual, **given}


def _install(target: dict[str, Any], yes: bool, quiet: bool) -> tuple[_Known, bool]:
    """What is known of the database, and whether anything was done.  Raises `_Finding`."""
    import psycopg
    from psycopg import errors as e

    from ..postgres.commit import ledger

    with psycopg.connect(**target) as conn:
        known = _look(conn)
        if known.usable:
            return known, False
        if not yes:
            question = f"Install it in database {known.database} on {known.where}?"
            if not typer.confirm(question, err=quiet):
                raise _Finding("nothing was installed: it was declined")
        try:
            conn.execute(ledger.DDL.encode())
        except (e.InsufficientPrivilege, e.ReadOnlySqlTransaction) as error:
            raise _Finding(
                f"user {known.user} may not install it in database {known.database}:"
                f" {_line(error)}; a role with CREATE on the database can"
            ) from error
        except e.ProgrammingError as error:
            raise _foreign(known, _line(error)) from error
        if not _look(conn).usable:  # leaves without committing
            raise _foreign(known, "it doesn't refuse a token that it has")
    return known, True


def _foreign(known: _Known, why: str) -> _Finding:
    from ..postgres.commit import ledger

    return _Finding(
        f"{ledger.TABLE} exists in database {known.database}, but isn't the ledger's: {why};"
        " rename it and try again"
    )


def _look(conn: psycopg.Connection[Any]) -> _Known:
    from psycopg import errors as e

    from ..postgres.commit import ledger

    insert = ledger.INSERT.replace(b"$1", b"%s")
    usable = False
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(insert, (SAMPLE,))
            conn.execute(insert, (SAMPLE,))
    except e.UniqueViolation as error:
        usable = error.diag.table_name == "commits"
    except (e.ProgrammingError, e.DataError, e.IntegrityError):
        pass  # no such table, column or privilege
    info = conn.info
    return _Known(f"{info.hostaddr or info.host}:{info.port}", info.dbname, info.user, usable)


def _show(ddl: str, purge: str, retention: str) -> None:
    print(ddl)
    print(f"-- Rows are of use for {retention} at most. To be run now and then, by the owner:")
    print(f"{purge};")
    print()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
