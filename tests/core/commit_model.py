"""A replicated database in steps so small that anything can happen between two of them.

What PostgreSQL does with WAL and transaction ids, and nothing else:

* A record is inserted, then flushed; only flushed WAL is streamed.  A position is a number
  of records.
* A commit is its record.  It is answered when that is flushed and, with synchronous
  replication, flushed by one follower too; until then the id is in progress.
* A crash loses WAL that wasn't flushed, or less of it.  The next id afterwards, and after a
  promotion, is one more than the highest in the WAL that is left: ids that left no trace,
  or whose trace is lost, are given again.
* A server that restarts knows no more where a promotion or a streaming connection was.

`Record.work` says whose record it is: the truth that no server can be asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from resilient.core.outcome import Incarnation, Mark, ServerFacts, XidStatus

FIRST_XID = 10


@dataclass(frozen=True, slots=True)
class Record:
    kind: str  # write, message, commit; recovery, shutdown
    xid: int | None = None
    work: str = ""


@dataclass(slots=True)
class Server:
    """`run` counts what the ids are unique in: runs of the shared memory as a primary."""

    name: str
    wal: list[Record] = field(default_factory=list)
    flushed: int = 0
    up: bool = True
    primary: bool = False
    timeline: int = 1
    started: int = 0
    recovered: int | None = None
    received: bool = False
    run: int = 0
    next_xid: int = FIRST_XID
    running: dict[int, str] = field(default_factory=dict)
    source: Server | None = None

    # -- WAL

    def insert(self, record: Record) -> int:
        """The position behind it."""
        assert self.up
        assert self.primary
        self.wal.append(record)
        return len(self.wal)

    def flush(self, upto: int | None = None) -> None:
        if self.up:
            upto = len(self.wal) if upto is None else upto
            self.flushed = max(self.flushed, min(upto, len(self.wal)))

    def stream(self, count: int | None = None) -> None:
        """Receive the next records of the source; even none tells its timeline."""
        source = self.source
        if source is None or not (self.up and source.up):
            return
        have = len(self.wal)
        assert source.wal[:have] == self.wal, "a follower has what its source has not"
        self.received = True
        self.timeline = source.timeline
        more = source.wal[have : source.flushed]
        self.wal += more if count is None else more[:count]
        self.flushed = len(self.wal)

    # -- transactions

    def begin(self, work: str) -> int:
        """A first write, to an unlogged table: an id and no record."""
        xid = self.next_xid
        self.next_xid += 1
        self.running[xid] = work
        return xid

    def emit(self, xid: int) -> int:
        return self.insert(Record("message", xid, self.running[xid]))

    def mark(self, xid: int) -> Mark:
        """What the piggyback reads."""
        return Mark(xid, self.emit(xid), self.incarnation)

    def commit(self, xid: int) -> int:
        """Its record is inserted; the transaction is still in progress."""
        return self.insert(Record("commit", xid, self.running[xid]))

    def end(self, xid: int) -> None:
        """Visible as committed, or as aborted."""
        self.running.pop(xid, None)

    def status(self, xid: int) -> XidStatus:
        if xid >= self.next_xid:
            return XidStatus.FUTURE
        if xid in self.running:
            return XidStatus.IN_PROGRESS
        committed = any(r.kind == "commit" and r.xid == xid for r in self.wal)
        return XidStatus.COMMITTED if committed else XidStatus.ABORTED

    # -- life

    @property
    def incarnation(self) -> Incarnation:
        return Incarnation("s1", self.timeline, str(self.started), self.recovered)

    def server_facts(self, xid: int) -> ServerFacts:
        return ServerFacts(self.incarnation, self.status(xid), self.received)

    def crash(self, survives: int = 0) -> None:
        """`survives`: how many records that weren't flushed are found on disk all the same."""
        self.up = False
        del self.wal[self.flushed + survives :]
        self.flushed = len(self.wal)
        self.running.clear()

    def restart(self, *, same_postmaster: bool = False) -> None:
        """After a crash.  `same_postmaster`: only its children had died."""
        assert not self.up
        self.up = True
        self._forget(new_postmaster=not same_postmaster)
        if self.primary:
            self._recover()

    def restart_cleanly(self) -> None:
        """A shutdown that writes down where the ids are, and a start without recovery."""
        assert self.primary
        self.running.clear()
        self.insert(Record("shutdown", self.next_xid - 1))
        self.flush()
        self._forget(new_postmaster=True)

    def promote(self) -> None:
        assert self.up
        assert not self.primary
        self.source = None
        self.primary = True
        self.timeline += 1
        self._recover()

    def _forget(self, *, new_postmaster: bool) -> None:
        self.run += 1
        self.received = False
        self.recovered = None
        self.started += new_postmaster

    def _recover(self) -> None:
        self.recovered = len(self.wal)
        self.next_xid = max([r.xid for r in self.wal if r.xid], default=FIRST_XID - 1) + 1
        self.insert(Record("recovery"))
        self.flush()

    def copy_of(self, source: Server) -> None:
        """Rewound to what the source has, a follower of it."""
        self.wal = source.wal[: source.flushed]
        self.flushed = len(self.wal)
        self.running.clear()
        self.up, self.primary, self.source = True, False, source
        self.timeline = source.timeline
        self._forget(new_postmaster=True)


class Cluster:
    """Three servers; `leader` is the one that was promoted last: its WAL is the history."""

    def __init__(self, *, sync: bool) -> None:
        self.sync = sync
        self.servers = [Server(name, started=n * 1000) for n, name in enumerate("ABC")]
        self.leader = self.servers[0]
        self.leader.primary = True
        for server in self.servers[1:]:
            server.source = self.leader
            server.stream()

    def followers(self, server: Server) -> Iterator[Server]:
        return (other for other in self.servers if other.source is server)

    def durable(self, server: Server, position: int) -> bool:
        """Would a commit at this position be answered?"""
        if server.flushed < position:
            return False
        return not self.sync or any(f.up and f.flushed >= position for f in self.followers(server))

    def may_promote(self, server: Server) -> bool:
        """It follows the leader and has seen its timeline.  Synchronous: nobody who may have
        acknowledged has more."""
        if server.source is not self.leader or not server.up:
            return False
        if server.timeline != self.leader.timeline:
            return False
        return not self.sync or all(
            server.flushed >= other.flushed for other in self.followers(self.leader)
        )

    def promote(self, server: Server) -> None:
        """The others follow it from now on, as far as they can without a rewind; the old
        leader isn't asked, and goes on if it is alive."""
        old, self.leader = self.leader, server
        for other in list(self.followers(old)):
            if other is not server:
                fits = server.wal[: len(other.wal)] == other.wal
                other.source = server if fits else None
        server.promote()

    def others_work(self, server: Server, *, commits: bool = True, logged: bool = True) -> int:
        """Another client's transaction from its first to its last step; its id."""
        xid = server.begin("others")
        if logged:
            server.insert(Record("write", xid, "others"))
        if commits:
            server.commit(xid)
        server.end(xid)
        return xid

    def committed(self, work: str) -> int:
        """How often the history has a commit of this work (a name, or the name's start)."""
        return sum(r.kind == "commit" and r.work.startswith(work) for r in self.leader.wal)


def insert_position(server: Server, xid: int) -> Mark:
    """A weaker mark: only a look at where the server inserts."""
    return Mark(xid, len(server.wal), server.incarnation)


def believing(seen: ServerFacts, **values: object) -> ServerFacts:
    """The server's facts with other words in its incarnation's mouth."""
    return replace(seen, incarnation=replace(seen.incarnation, **values))  # type: ignore[arg-type]
