"""Did a transaction commit whose COMMIT was never answered?  Decided from facts, never guessed.

The facts: the transaction's id and a WAL position `lsn` behind a record that carries this id
(`pg_logical_emit_message`, manual 9.27.6), both taken before the COMMIT was sent; the
incarnation of the server that they were taken on; and what the fenced primary says now.

Why each verdict is right.  Call *history* the WAL that the fenced primary continues.

* In one incarnation ids aren't reused: `pg_xact_status` (manual 9.27.5) is exact.
* Had our COMMIT survived into the history, the status of its id there were *committed*, on
  whatever server and after any number of promotions.  So *aborted*, and an id that lies in
  the future, prove that it did not.
* A standby replays a prefix of its primary's WAL.  So a position behind the switch point
  (`pg_last_wal_replay_lsn()` of a server that was promoted and has not restarted since)
  proves the same: a COMMIT lies behind every other record of its transaction.
* *Committed* may be said of another transaction: a server that crashed before it flushed our
  records gives the same id again.  Only a flush position at or behind ours, read in the same
  incarnation, excludes that.  (An acknowledged COMMIT is none: with `synchronous_commit` off
  it comes before the flush.)
* A shutdown ends the wait for standbys with a warning of the function that waits, before the
  session ends.  The wait begins behind the flush of the COMMIT (manual 20.6.1), so the warning
  under a COMMIT is a reading of the flush position as good as any.

All of it assumes that timelines chain: that n + 1 forks from n, the one that was fenced.  Two
standbys promoted at once to the same number, without an archive that keeps them apart, break
that; no client can see it.
"""

from __future__ import annotations

from enum import StrEnum

from .._dataclass import dataclass


def lsn_text(position: int) -> str:
    """A WAL position as PostgreSQL writes it (manual 8.20): `16/B374D848`."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def lsn(text: str) -> int:
    """`16/B374D848` → the position in bytes (manual 8.20)."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


class Outcome(StrEnum):
    """What may be said of the transaction."""

    COMMITTED = "committed"
    NOT_COMMITTED = "not-committed"
    RUNNING = "running"  # ask again
    UNKNOWN = "unknown"


class XidStatus(StrEnum):
    """What `pg_xact_status` says; `FUTURE` is its error, `FORGOTTEN` its null."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    IN_PROGRESS = "in progress"
    FUTURE = "future"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One run of a server's shared memory, in which transaction ids aren't reused.

    `recovered_lsn`: `pg_last_wal_replay_lsn()` of a primary, where its last recovery ended;
    None after a clean start.  It changes when a crash of one backend made the postmaster
    start over, which leaves `started` (`pg_postmaster_start_time()`) as it was.
    """

    system_id: str
    timeline: int
    started: str
    recovered_lsn: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """What is known of a transaction that writes, before its COMMIT is sent."""

    xid: int
    lsn: int
    incarnation: Incarnation


#: id and position as the server wrote them, and where
Written = tuple[bytes, bytes, Incarnation]


def mark_of(written: Written) -> Mark:
    """The same in numbers: few are ever needed."""
    xid, position, incarnation = written
    return Mark(int(xid), lsn(position.decode()), incarnation)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the fenced primary says.  `received`: `pg_last_wal_receive_lsn()` isn't null, so
    this run of the server has been a streaming standby and was promoted."""

    incarnation: Incarnation
    status: XidStatus
    received: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    reason: str


def resolve(mark: Mark, seen: ServerFacts, flushed_lsn: int) -> Verdict:
    """The outcome of the marked transaction.

    `flushed_lsn`: the highest flush position (`pg_current_wal_flush_lsn()`, or what a wait that
    was ended proves) that anybody read in the mark's own incarnation, 0 when nobody did.
    """
    then, now = mark.incarnation, seen.incarnation
    if not then.system_id or then.system_id != now.system_id:
        return Verdict(Outcome.UNKNOWN, "the new primary is another cluster, or doesn't say")
    if now.timeline < then.timeline:
        return Verdict(Outcome.UNKNOWN, "the server asked is on an older timeline")
    if now == then:
        return _same(seen.status)
    if seen.status is XidStatus.ABORTED:
        return Verdict(Outcome.NOT_COMMITTED, "the surviving history has it as aborted")
    if seen.status is XidStatus.FUTURE:
        return Verdict(Outcome.NOT_COMMITTED, "the surviving history never reached its id")
    if now.timeline != then.timeline + 1 or now.recovered_lsn is None or not seen.received:
        return Verdict(Outcome.UNKNOWN, _no_switch_point(then, now))
    if mark.lsn > now.recovered_lsn:
        return Verdict(Outcome.NOT_COMMITTED, "the surviving history ends before its records")
    if seen.status is not XidStatus.COMMITTED:
        return Verdict(Outcome.UNKNOWN, f"its id is {seen.status.value} on the new primary")
    if mark.lsn > flushed_lsn:
        return Verdict(
            Outcome.UNKNOWN,
            "its id is committed on the new primary, but nobody saw its records flushed on the"
            " old one, which may have lost them and given the id again",
        )
    return Verdict(Outcome.COMMITTED, "its records were flushed, and its id is committed")


def _no_switch_point(then: Incarnation, now: Incarnation) -> str:
    if now.timeline == then.timeline:
        return (
            f"the server restarted on timeline {now.timeline}: what it had not flushed is gone,"
            " and its ids are given again"
        )
    if now.timeline > then.timeline + 1:
        return (
            f"timeline {then.timeline} became {now.timeline}: there was more than one promotion,"
            " and the first one's switch point isn't known"
        )
    return (
        f"the new primary has restarted since it was promoted to timeline {now.timeline}: its"
        " switch point isn't known any more"
    )


def _same(status: XidStatus) -> Verdict:
    where = "on the server that ran it"
    if status is XidStatus.COMMITTED:
        return Verdict(Outcome.COMMITTED, f"committed {where}")
    if status is XidStatus.ABORTED:
        return Verdict(Outcome.NOT_COMMITTED, f"aborted {where}")
    if status is XidStatus.IN_PROGRESS:
        return Verdict(Outcome.RUNNING, f"still running {where}")
    return Verdict(Outcome.UNKNOWN, f"its id is {status.value} {where}")
