"""What is asked of a server so that a lost COMMIT can be resolved later: `core.outcome`'s facts.

The *piggybacked query* follows a statement of the block in the same message, until the block has
written: it gives the transaction's id, a position behind a WAL record that carries the id, and
how far the server has flushed.  All functions are unprivileged (PostgreSQL manual 9.27), but a
server may have revoked them: `commit_facts` finds that out before any transaction depends on it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence

from psycopg import errors as e
from psycopg import generators, pq
from psycopg.abc import PQGen

from ..._dataclass import dataclass
from ...core.losses import succeeds
from ...core.outcome import Incarnation, Written, XidStatus, lsn
from ...core.reach import AT_ONCE, FAR_EXTENSIONS
from ...core.sqlstates import INVALID_PARAMETER_VALUE

#: the first that has xid8 and its functions
MIN_VERSION = 130000

_WHO = b"""\
SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system()),
 CASE WHEN r THEN NULL ELSE
 pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END,
 (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint,
 CASE WHEN r THEN NULL ELSE pg_catalog.pg_last_wal_replay_lsn() END,
 pg_catalog.pg_last_wal_receive_lsn() IS NOT NULL"""
_FROM = b"""
FROM (SELECT pg_catalog.pg_is_in_recovery() AS r OFFSET 0) q"""
#: is there anything in this database by which a statement reaches beyond its transaction?
BEYOND = b"""\
(EXISTS (SELECT FROM pg_catalog.pg_foreign_table)
 OR EXISTS (SELECT FROM pg_catalog.pg_extension
 WHERE extname = ANY (pg_catalog.string_to_array('%s', ',')))
 OR EXISTS (SELECT FROM pg_catalog.pg_language
 WHERE NOT lanpltrusted AND lanname NOT IN ('internal', 'c'))
 OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE oid >= 16384 AND prosrc ~* '%s'))""" % (
    ",".join(FAR_EXTENSIONS).encode(),
    AT_ONCE.encode(),
)
#: who it is; of all that is asked, a new session answers this in a twentieth of the time
WHO = _WHO + _FROM
COMMIT_FACTS = (
    _WHO
    + b""",
 pg_catalog.has_function_privilege(
 'pg_catalog.pg_logical_emit_message(boolean,text,text)', 'execute')
 AND pg_catalog.has_function_privilege('pg_catalog.pg_current_wal_flush_lsn()', 'execute'),
 (SELECT pg_catalog.has_schema_privilege(n.oid, 'usage')
 AND pg_catalog.has_table_privilege(c.oid, 'insert') FROM pg_catalog.pg_class c
 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'resilient' AND c.relname = 'commits'),
 """
    + BEYOND
    + _FROM
)

#: the id, a position behind a record with it, the flush position; nothing is written by a
#: block that has written nothing
PIGGYBACK = b"""\
SELECT x, CASE WHEN x IS NOT NULL THEN
 pg_catalog.pg_logical_emit_message(true, 'resilient', '') END,
 pg_catalog.pg_current_wal_flush_lsn()
FROM (SELECT pg_catalog.pg_current_xact_id_if_assigned() AS x OFFSET 0) q"""
PIGGYBACK_NAME = b"_resilient_piggyback"

#: behind a pooler, where each transaction may meet another server: the same, and who says so
POOLED_PIGGYBACK = (
    PIGGYBACK.replace(b"\nFROM", b",\n%s\nFROM")
    % b"""\
 (SELECT system_identifier FROM pg_catalog.pg_control_system()),
 pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()),
 (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint,
 pg_catalog.pg_last_wal_replay_lsn()"""
)

FLUSHED = b"SELECT NULL, NULL, pg_catalog.pg_current_wal_flush_lsn()"

#: a transaction of its own, whose acknowledgement covers all commits before it
CONFIRM = b"SELECT pg_catalog.pg_logical_emit_message(true, 'resilient', '')"

#: a backend that only waits for its client may be ended; one that waits for a standby must
#: not (it would report success), nor one that is busy.  Its pid 0: a pooler keeps it to itself
END_BACKEND = b"""\
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE ($1::int = 0 OR pid = $1::int) AND backend_xid::text = $2
AND state LIKE 'idle in transaction%'"""

#: of many ids, those that aren't committed; an id in the future would be an error
STATUSES = b"""\
SELECT pg_catalog.string_agg(x::text || '=' || status, ' ') FROM (
 SELECT x, CASE WHEN x >= pg_catalog.pg_snapshot_xmax(now) THEN 'future'
 ELSE coalesce(pg_catalog.replace(pg_catalog.pg_xact_status(x), ' ', '_'), 'forgotten') END
 FROM (SELECT pg_catalog.pg_current_snapshot() AS now OFFSET 0) s,
 pg_catalog.unnest($1::pg_catalog.xid8[]) AS x) q (x, status)
WHERE status <> 'committed'"""

#: so many marks of acknowledged transactions are kept for each incarnation
KEPT_MARKS = 4096


class Flushed:
    """What is known to have been written in one incarnation; shared by its links.

    The highest flush position that was read: `latest` is a reading as the server wrote it, put
    there by whoever has one; it is looked at when somebody wants to know.  A race between
    threads loses a reading, never invents one.

    `acknowledged` is called with what each transaction had `Written` whose COMMIT was acknowledged;
    the last of them are in `marks`.  `places`: which configured names have led there.
    `judging`: held by who finds out what was lost with it; `judged`: that was found out once, and
    what is in `marks` since came late.
    """

    __slots__ = ("_highest", "acknowledged", "judged", "judging", "latest", "marks", "places")

    def __init__(self) -> None:
        self.latest = b"0/0"
        self._highest = 0
        self.marks: deque[Written] = deque(maxlen=KEPT_MARKS)
        self.acknowledged: Callable[[Written], object] = self.marks.append
        self.places: set[object] = set()
        self.judging = threading.Lock()
        self.judged = False

    @property
    def lsn(self) -> int:
        self.seen(lsn(self.latest.decode()))
        return self._highest

    def seen(self, position: int) -> None:
        self._highest = max(self._highest, position)


@dataclass(frozen=True, slots=True)
class CommitFacts:
    """One server, at the time of asking."""

    incarnation: Incarnation
    received: bool
    marks: bool  # its functions may be used
    ledger: bool | None  # it has the table, and lets us write to it; None: it hasn't
    beyond: bool  # its database has what reaches beyond a transaction, see `catalogue`
    flushed: Flushed


def commit_facts(
    pgconn: pq.abc.PGconn, lately: CommitFacts | None = None
) -> PQGen[CommitFacts | None]:
    """Ask on an idle connection.  None: it doesn't tell, or is a standby.

    `lately`: what another session of this user and database was told a moment ago.  It is so here
    too, if this is the same run of the same server; not to be given behind a pooler, where two
    questions may meet two servers.
    """
    if pgconn.server_version < MIN_VERSION:
        return None
    if lately is not None:
        who = yield from ask(pgconn, WHO)
        if who is not None and (incarnation_of(who[:4]), who[4] == "t") == (
            lately.incarnation,
            lately.received,
        ):
            return lately
    row = yield from ask(pgconn, COMMIT_FACTS)
    if row is None or row[0] is None or row[1] is None:
        return None
    received, marks, ledger, beyond = row[4:]
    incarnation = incarnation_of(row[:4])
    return CommitFacts(
        *(incarnation, received == "t", marks == "t"),
        None if ledger is None else ledger == "t",
        *(beyond == "t", _shared(incarnation)),
    )


def incarnation_of(row: Sequence[str | None]) -> Incarnation:
    """Four columns as a primary tells them."""
    system_id, wal_file, started, recovered = row
    return Incarnation(
        system_id or "",
        int((wal_file or "0")[:8], 16),
        started or "",
        lsn(recovered) if recovered else None,
    )


#: incarnation → its watermark; a handful per process and failover
_watermarks: dict[Incarnation, Flushed] = {}
_KEPT = 64
#: what was acknowledged to a parent is the parent's to report
os.register_at_fork(after_in_child=_watermarks.clear)


def flushed_in(incarnation: Incarnation, seen: CommitFacts) -> Flushed:
    """What is known of an incarnation, which behind a pooler need not be the one that the
    session has met."""
    here = seen.incarnation
    if incarnation is here or incarnation == here:
        return seen.flushed
    return _shared(incarnation)


def _shared(incarnation: Incarnation) -> Flushed:
    found = _watermarks.get(incarnation)
    if found is None:
        while len(_watermarks) >= _KEPT:
            _watermarks.pop(next(iter(_watermarks)), None)
        found = _watermarks.setdefault(incarnation, Flushed())
    return found


def flushed_of(then: Incarnation) -> int:
    """How far a server is known to have flushed in this incarnation; 0: nobody has read it."""
    found = _watermarks.get(then)
    return 0 if found is None else found.lsn


def earlier(now: Incarnation) -> list[tuple[Incarnation, Flushed]]:
    """What is known of the incarnations that this one is a later history of."""
    return [(then, known) for then, known in list(_watermarks.items()) if succeeds(then, now)]


def known_of(system_id: str) -> list[tuple[Incarnation, Flushed]]:
    """What is known of this cluster's incarnations."""
    if not _watermarks:
        return []
    return [item for item in list(_watermarks.items()) if item[0].system_id == system_id]


def xid_statuses(pgconn: pq.abc.PGconn, xids: list[int]) -> PQGen[dict[int, XidStatus]]:
    """Each id's status; none for what the server doesn't tell.  On an idle connection."""
    if not xids:
        return {}
    row = yield from ask(pgconn, STATUSES, [b"{%s}" % b",".join(b"%d" % xid for xid in xids)])
    if row is None:
        return {}
    found = dict.fromkeys(xids, XidStatus.COMMITTED)
    for word in (row[0] or "").split():
        xid, _, status = word.partition("=")
        found[int(xid)] = XidStatus(status.replace("_", " "))
    return found


def xid_status(pgconn: pq.abc.PGconn, xid: int) -> PQGen[XidStatus]:
    """`pg_xact_status` on an idle connection.  Raises `OperationalError` when it is lost."""
    text = b"SELECT pg_catalog.pg_xact_status('%d'::pg_catalog.xid8)" % xid
    pgconn.send_query(text)
    (result,) = yield from generators.execute(pgconn)
    if result.status == pq.ExecStatus.FATAL_ERROR:
        state = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
        if state.decode() == INVALID_PARAMETER_VALUE:
            return XidStatus.FUTURE
        raise e.error_from_result(result)
    value = result.get_value(0, 0)
    return XidStatus.FORGOTTEN if value is None else XidStatus(value.decode())


def ask(
    pgconn: pq.abc.PGconn, query: bytes, params: list[bytes] | None = None
) -> PQGen[list[str | None] | None]:
    """The first row of a query on an idle connection; None for an error or no row.

    Raises `OperationalError` when the connection is lost.
    """
    if params:
        pgconn.send_query_params(query, params)
    else:
        pgconn.send_query(query)
    (result,) = yield from generators.execute(pgconn)
    if result.status != pq.ExecStatus.TUPLES_OK or not result.ntuples:
        if pgconn.status == pq.ConnStatus.BAD:
            raise e.OperationalError("the connection was lost")
        return None
    values = [result.get_value(0, col) for col in range(result.nfields)]
    return [None if value is None else value.decode("utf-8", "replace") for value in values]
