"""The database cluster, with the lab in the part of its high-availability manager.

Order of a promotion: the standby that received most is chosen; the others are moved away from
the old primary *before* it is promoted, so a zombie gets no synchronous acknowledgement any more
from anyone; then the promotion begins.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg

from .options import LabError, LabOptions, zone_address
from .postgres import Connection, Member, ServerSettings
from .processes import Spawner

__all__ = ["Cluster", "Observer", "Promotion"]

_SETUP = """
CREATE ROLE app LOGIN PASSWORD 'app';
CREATE DATABASE app OWNER app;
CREATE TABLE public.resilient_lab_observer (at double precision);
"""
_WRITE = "INSERT INTO public.resilient_lab_observer VALUES (%s)"
_STREAMING = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'"
#: for the first moments a standby streams but doesn't count for synchronous commits yet
_COUNTING = f"{_STREAMING} AND sync_state IN ('sync', 'quorum')"


@dataclass(frozen=True, slots=True)
class Promotion:
    """A promotion that has begun.  `begin_at` is monotonic."""

    begin_at: float
    member: Member
    observer: Observer


class Observer:
    """The independent observer: it alone says when a server takes writes."""

    POLL_S = 0.001

    def __init__(self, member: Member) -> None:
        self._connection: Connection = member.connect()  # made ahead, so connecting isn't measured
        self._written_lsn: object = None

    def wait_writable(self, timeout_s: float) -> float:
        """The monotonic moment at which a write was first accepted."""
        give_up_at = time.monotonic() + timeout_s
        while time.monotonic() < give_up_at:
            rows = self._connection.execute("SELECT pg_is_in_recovery()").fetchall()
            if rows == [(False,)]:
                self._connection.execute(_WRITE, [time.monotonic()])
                writable_at = time.monotonic()
                # flushed, not inserted: the latter may count records that nobody flushes for long
                rows = self._connection.execute("SELECT pg_current_wal_flush_lsn()").fetchall()
                self._written_lsn = rows[0][0]
                return writable_at
            time.sleep(self.POLL_S)
        raise LabError(f"not writable {timeout_s:g} s after the promotion began")

    def is_durable(self) -> bool:
        """Whether a synchronous standby has flushed the observer's write."""
        rows = self._connection.execute(
            "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"
            " AND sync_state IN ('sync', 'quorum') AND flush_lsn >= %s::pg_lsn LIMIT 1",
            [self._written_lsn],
        ).fetchall()
        return bool(rows)

    def close(self) -> None:
        """End its connection."""
        self._connection.close()


class Cluster:
    """One primary, the others stream from it."""

    def __init__(
        self, options: LabOptions, root: Path, binaries: Path, port: int, spawner: Spawner
    ) -> None:
        self._options = options
        zones = options.zone_names
        settings = ServerSettings(
            binaries=binaries,
            port=port,
            fsync=options.fsync,
            synchronous_standby_names="ANY 1 ({others})" if options.sync else "",
            peers=zones,
            start_timeout_s=options.start_timeout_s,
        )
        self.members = tuple(
            Member(zone, zone_address(zone), root / zone, settings, spawner) for zone in zones
        )
        self.primary = self.members[0]

    @property
    def standbys(self) -> tuple[Member, ...]:
        """The members that are not the primary, in whatever state."""
        return tuple(member for member in self.members if member is not self.primary)

    def member(self, zone: str) -> Member:
        """The member of this zone; LabError if there is none."""
        for member in self.members:
            if member.zone == zone:
                return member
        raise LabError(f"zone {zone!r}: the lab has {', '.join(self._options.zone_names)}")

    def start(self, progress: Callable[[str], None]) -> None:
        """Make and start all members; returns when every standby streams."""
        progress(f"initdb in {self.primary.zone}")
        self.primary.initdb()
        progress("copying it to the standbys, starting all")
        with ThreadPoolExecutor(len(self.members), "lab-start") as pool:
            list(pool.map(self._start_standby, self.standbys))
            list(pool.map(Member.start, self.members))
        with contextlib.closing(self.primary.connect()) as connection:
            for statement in filter(None, map(str.strip, _SETUP.split(";"))):
                connection.execute(statement.encode())
            (made,) = connection.execute("SELECT pg_current_wal_lsn()::text").fetchall()
        self.wait_streaming(self.standbys, self._options.start_timeout_s, str(made[0]))

    def _start_standby(self, member: Member) -> None:
        member.copy_from(self.primary)
        member.follow(self.primary)

    def wait_streaming(
        self, members: tuple[Member, ...], timeout_s: float, replayed: str = ""
    ) -> None:
        """Return when all of them stream from the primary (and, with `sync`, count for its
        commits), and have replayed up to this LSN; LabError after `timeout_s`."""
        give_up_at = time.monotonic() + timeout_s
        wanted = {member.zone for member in members}
        query = (_COUNTING if self._options.sync else _STREAMING).encode()
        if replayed:
            query += f" AND replay_lsn >= '{replayed}'".encode()
        with contextlib.closing(self.primary.connect()) as connection:
            while True:
                missing = wanted - {str(row[0]) for row in connection.execute(query)}
                if not missing:
                    return
                if time.monotonic() > give_up_at:
                    names = ", ".join(sorted(missing))
                    raise LabError(f"{names}: not streaming after {timeout_s:g} s")
                time.sleep(0.005)

    def begin_promotion(self, old: Member) -> Promotion:
        """Choose the new primary, move the others to it, promote it (see the module)."""
        candidates = [m for m in self.members if m is not old and m.is_standby]
        if not candidates:
            raise LabError("no standby is up, nobody can be promoted: call heal() and rejoin()")
        begin_at = time.monotonic()
        chosen = max(candidates, key=_received)
        for _ in range(3):
            for other in candidates:
                if other is not chosen:
                    other.follow(chosen)
            for other in candidates:
                if other is not chosen:
                    _wait_detached(other, old)
            # the old one may have sent more until it was cut off
            ahead = max(candidates, key=_received)
            if _received(ahead) <= _received(chosen):
                break
            chosen = ahead
        observer = Observer(chosen)
        chosen.promote()
        return Promotion(begin_at=begin_at, member=chosen, observer=observer)

    def finish_promotion(self, promotion: Promotion) -> None:
        """It is the primary now; a later start must not bring it back as a standby."""
        promotion.member.follow(None)
        self.primary = promotion.member

    def rejoin(self, member: Member, *, diverged: bool = True, timeout_s: float = 30.0) -> str:
        """Make the member a streaming standby of the primary; how that was done, in a word."""
        member.stop("fast", timeout_s=1.0)
        if not diverged and self._try_start(member, 2.0):
            return "restart"
        member.stop("immediate", timeout_s=2.0)
        try:
            member.rewind(self.primary)
        except LabError:
            pass  # the base backup below is what repairs it
        else:
            if self._try_start(member, 5.0):
                return "pg_rewind"
        member.kill()
        member.base_backup(self.primary)
        member.follow(self.primary)
        member.start()
        self.wait_streaming((member,), timeout_s)
        return "pg_basebackup"

    def _try_start(self, member: Member, timeout_s: float) -> bool:
        try:
            member.follow(self.primary)
            member.start()
            self.wait_streaming((member,), timeout_s)
        except LabError:
            member.kill()
            return False
        return True

    def is_streaming(self, member: Member, patience_s: float = 0.0) -> bool:
        """Whether it is a healthy standby of the primary, or becomes one within `patience_s`."""
        if not member.is_standby or member.source is not self.primary:
            return False
        try:
            self.wait_streaming((member,), patience_s)
        except LabError:
            return False
        return True

    def remove(self) -> None:
        """End all servers; their files stay for the caller to remove."""
        with ThreadPoolExecutor(len(self.members), "lab-stop") as pool:
            list(pool.map(Member.remove, self.members))


def _received(member: Member) -> int:
    """How far it has received and flushed, in bytes of WAL."""
    rows = member.execute(
        "SELECT (coalesce(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0')"
        " - '0/0')::bigint"
    )
    value = rows[0][0]
    assert isinstance(value, int)
    return value


def _wait_detached(member: Member, old: Member, timeout_s: float = 5.0) -> None:
    """Return when the member's receiver is no longer connected to the old primary."""
    give_up_at = time.monotonic() + timeout_s
    query = "SELECT sender_host FROM pg_stat_wal_receiver"
    with contextlib.closing(member.connect()) as connection:
        while time.monotonic() < give_up_at:
            with contextlib.suppress(psycopg.errors.QueryCanceled):
                if (old.address,) not in connection.execute(query.encode()).fetchall():
                    return
            time.sleep(0.002)
    raise LabError(f"{member.zone}: still receives from {old.zone}")
