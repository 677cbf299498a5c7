"""PostgreSQL's error codes that say more than their class does: one line for each.

The manual's appendix A has all of them; `reaction` says what is done about a failure, by class and
by how far the operation had come.  Here is what a code *says*, whoever asks: of the endpoint, of
the statement, of its transaction.
"""

from __future__ import annotations

from enum import Flag, auto
from typing import NamedTuple

from .model import FailureKind as Kind


class Says(Flag):
    """What may be concluded from a code."""

    NOTHING = 0
    #: the same transaction may succeed when it is run again as a whole (manual 13.5)
    RERUN = auto()
    #: a conflict of a statement with others: it may succeed in a little while
    CONFLICT = auto()
    #: no statement under way is to blame for it: a shutdown, another process's crash, idleness
    BLAMELESS = auto()
    #: a statement in autocommit that is answered so did nothing
    DID_NOTHING = auto()
    #: as a COMMIT's *first* reply, with which the session ends: it wasn't committed.  The server
    #: handles a termination request only outside the critical part of a commit, and inside of
    #: it ends without any reply (PostgreSQL: CommitTransaction, SyncRepWaitForLSN)
    NOT_COMMITTED = auto()
    #: what was prepared is gone, or is another's: dropped, or a pooler has lent another session
    FORGOTTEN = auto()
    #: a table can't be used: no privilege, gone, not as it should be
    UNUSABLE = auto()


class Code(NamedTuple):
    """`kind`: what it says of the endpoint; None: it is the application's own."""

    name: str
    kind: Kind | None = None
    says: Says = Says.NOTHING


TABLE: dict[str, Code] = {
    "08000": Code("connection_exception", Kind.LOST),
    "08001": Code("sqlclient_unable_to_establish_sqlconnection", Kind.LOST),
    "08003": Code("connection_does_not_exist", Kind.LOST),
    "08006": Code("connection_failure", Kind.LOST),
    "08P01": Code("protocol_violation", Kind.LOST),  # also a pooler's whose server is gone
    "22023": Code("invalid_parameter_value"),
    "23505": Code("unique_violation"),
    "25006": Code("read_only_sql_transaction", Kind.READ_ONLY, Says.DID_NOTHING),
    "25P03": Code("idle_in_transaction_session_timeout", None, Says.NOT_COMMITTED),
    "26000": Code("invalid_sql_statement_name", None, Says.FORGOTTEN),
    "28000": Code("invalid_authorization_specification", Kind.REJECTED),
    "28P01": Code("invalid_password", Kind.REJECTED),
    "3D000": Code("invalid_catalog_name", Kind.REJECTED),
    "3F000": Code("invalid_schema_name", None, Says.UNUSABLE),
    "40001": Code("serialization_failure", None, Says.RERUN | Says.CONFLICT),
    "40P01": Code("deadlock_detected", None, Says.RERUN | Says.CONFLICT),
    "42501": Code("insufficient_privilege", None, Says.UNUSABLE),
    "42703": Code("undefined_column", None, Says.UNUSABLE),
    "42804": Code("datatype_mismatch", None, Says.UNUSABLE),
    "42P01": Code("undefined_table", None, Says.UNUSABLE),
    "42P05": Code("duplicate_prepared_statement", None, Says.FORGOTTEN),
    "53300": Code("too_many_connections", Kind.CROWDED),
    "55P03": Code("lock_not_available", None, Says.CONFLICT),
    "57014": Code("query_canceled"),
    "57P01": Code("admin_shutdown", Kind.SHUTDOWN, Says.BLAMELESS | Says.NOT_COMMITTED),
    "57P02": Code("crash_shutdown", Kind.LOST, Says.BLAMELESS),  # another process has died
    "57P03": Code("cannot_connect_now", Kind.NOT_READY, Says.BLAMELESS),
    "57P05": Code("idle_session_timeout", None, Says.BLAMELESS | Says.DID_NOTHING),
}
_NONE = Code("")


def _named(name: str) -> str:
    (found,) = (sqlstate for sqlstate, code in TABLE.items() if code.name == name)
    return found


#: those that somebody asks for by name
ADMIN_SHUTDOWN = _named("admin_shutdown")
CRASH_SHUTDOWN = _named("crash_shutdown")
INVALID_PARAMETER_VALUE = _named("invalid_parameter_value")
INVALID_SQL_STATEMENT_NAME = _named("invalid_sql_statement_name")
LOCK_NOT_AVAILABLE = _named("lock_not_available")
QUERY_CANCELED = _named("query_canceled")
READ_ONLY_SQL_TRANSACTION = _named("read_only_sql_transaction")
SERIALIZATION_FAILURE = _named("serialization_failure")
UNIQUE_VIOLATION = _named("unique_violation")


def says(sqlstate: str | None, what: Says) -> bool:
    """May this be concluded from the code?  Not from a failure without one."""
    return what in TABLE.get(sqlstate or "", _NONE).says


def kind_of(sqlstate: str | None) -> Kind | None:
    """What the code says of the endpoint; None when it is the application's own."""
    return TABLE.get(sqlstate or "", _NONE).kind


def codes(what: Says) -> list[str]:
    """All codes that say so."""
    return [code for code, found in TABLE.items() if what in found.says]
