"""The vocabulary as values: endpoints, what they are, and the snapshot that is published."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from operator import attrgetter

from .._dataclass import dataclass


class Role(StrEnum):
    """What a server was observed to be, never what somebody hopes it is."""

    UNKNOWN = "unknown"
    PRIMARY = "primary"
    REPLICA = "replica"


class Health(StrEnum):
    """What the probes say of an endpoint."""

    UNKNOWN = "unknown"  # never heard of
    UP = "up"
    SUSPECT = "suspect"  # evidence against it, no verdict
    DEAD = "dead"


class Intent(StrEnum):
    """What a caller wants to do."""

    WRITE = "write"
    READ = "read"


class FailureKind(StrEnum):
    """What a failed probe, connect or statement says about the endpoint."""

    REFUSED = "refused"  # nothing listens there: dead
    LOST = "lost"  # reset, EOF: the server process went away; ask again at once
    SHUTDOWN = "shutdown"  # 57P01 57P02: it said so itself
    NOT_READY = "not-ready"  # 57P03: alive, takes no sessions
    READ_ONLY = "read-only"  # 25006: maybe demoted
    SILENT = "silent"  # no answer in time
    UNREACHABLE = "unreachable"  # no route
    CROWDED = "crowded"  # 53300: alive, no room
    REJECTED = "rejected"  # password, database, TLS name: alive, but not for us
    LOCAL = "local"  # our own fault (out of descriptors): says nothing of the server
    ERROR = "error"  # it answered something else


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Something that can be dialled.

    `name` is the configured name (what TLS verifies), `address` the literal address that it
    resolved to.  An empty address leaves the dialling to libpq (Unix sockets, services).
    """

    name: str
    address: str
    port: int

    @property
    def place(self) -> str:
        """`host:port`, what is dialled.  `[local]` is libpq's own socket, as in a server's log."""
        host = self.address or self.name
        return f"[{host}]:{self.port}" if ":" in host else f"{host or '[local]'}:{self.port}"

    @property
    def configured(self) -> str:
        """What the configuration calls it; a literal address where it has no name."""
        return self.name or self.address

    def __str__(self) -> str:
        known = self.name in (self.address or self.name, "")
        return self.place if known else f"{self.place} ({self.name})"


@dataclass(frozen=True, slots=True)
class Observation:
    """What one server said of itself, at one moment.

    `timeline` is exact on a primary and a lower bound on a replica.  `incarnation` is
    `pg_postmaster_start_time()` in µs, as text: two addresses with the same one are one server.
    `lag_s` is None when it is not known, 0 when everything received is replayed and the
    receiver streams; `streams`: a standby receives WAL from somebody.  `clients`: about how many
    processes like this one it serves; None: it wasn't asked.  `begun_at`: when the session was
    begun that it was asked on, monotonic seconds; None: some time before, nobody looked.
    `exact`: a standby's timeline is no mere lower bound.  `pooled`: a pooler is in between, the
    session isn't the one that greeted us.
    """

    role: Role
    system_id: str = ""
    timeline: int | None = None
    incarnation: str = ""
    read_only: bool = False
    lag_s: float | None = None
    clients: int | None = None
    streams: bool = False
    begun_at: float | None = None
    exact: bool = False
    pooled: bool = False

    def goes_on_in(self, later: Observation) -> bool:
        """Is `later`, seen at the same address, the same run of the same server in the same role?
        A server that doesn't tell its incarnation is taken at its word that it has the role."""
        same = (self.role, self.system_id, self.incarnation) == (
            later.role,
            later.system_id,
            later.incarnation,
        )
        # A standby's timeline is a lower bound, which rises by itself.
        return same and (self.role is not Role.PRIMARY or self.timeline == later.timeline)


@dataclass(frozen=True, slots=True)
class CausalToken:
    """A position in the primary's WAL that contains a commit: `lsn`, in bytes, on `timeline` of
    the cluster `system_id`.

    A replica has it once it has replayed up to `lsn` on that timeline (`core.position`): on
    another one the same position may hold something else.
    """

    timeline: int | None
    lsn: int
    system_id: str = ""


@dataclass(frozen=True, slots=True)
class Switch:
    """A timeline began where another was left: `parent` at `lsn`, in bytes."""

    parent: int
    lsn: int


@dataclass(frozen=True, slots=True)
class EndpointView:
    """One endpoint in a snapshot.

    `reason`: why it is as it is, in words; `cause`: the same as one of a few words (a
    `FailureKind`'s, `fenced`).  `system_id`: its cluster.  `reader`: only names that are given
    for reading lead to it, so it never writes.  `astray`: and its data is another branch's.
    `group`: several servers stand behind it; `pooled`: a pooler does.
    """

    endpoint: Endpoint
    zone: str | None = None
    role: Role = Role.UNKNOWN
    health: Health = Health.UNKNOWN
    lag_s: float | None = None
    timeline: int | None = None
    fenced: bool = False
    retired: bool = False
    read_only: bool = False
    generation: int = 0
    reason: str = ""
    system_id: str = ""
    reader: bool = False
    astray: bool = False
    group: bool = False
    pooled: bool = False
    cause: str = ""

    @property
    def name(self) -> str:
        return self.endpoint.name

    @property
    def address(self) -> str:
        return self.endpoint.address

    @property
    def port(self) -> int:
        return self.endpoint.port

    @property
    def usable(self) -> bool:
        """Not dead, not fenced: connections to it may live."""
        return self.health is not Health.DEAD and not self.fenced

    @property
    def readable(self) -> bool:
        """It answers, and what it answers is of this cluster's data."""
        return (
            self.health is Health.UP
            and self.role is not Role.UNKNOWN
            and not (self.fenced or self.astray)
        )

    def refusal(self, intent: Intent) -> str:
        """Why it is not taken for the intent, for an error's text; empty when it fits."""
        if self.fenced:
            return self.reason or "fenced"
        if self.health is Health.DEAD:
            return f"dead: {self.reason}" if self.reason else "dead"
        if self.role is Role.UNKNOWN:
            return f"role unknown: {self.reason}" if self.reason else "role unknown"
        if self.astray:
            return "on another branch, and only a reader's name leads there"
        if intent is Intent.WRITE and self.role is not Role.PRIMARY:
            return "a replica"
        if intent is Intent.WRITE and self.reader:
            return "a primary, but only a reader's name leads there"
        if intent is Intent.WRITE and self.read_only:
            return "a primary with default_transaction_read_only"
        return ""


_UNSEEN = frozenset({"lag_s", "reason", "cause"})
_SHOWN = attrgetter(*(f.name for f in dataclasses.fields(EndpointView) if f.name not in _UNSEEN))


@dataclass(frozen=True, slots=True)
class Topology:
    """The snapshot that the monitor publishes.  `version` grows with every change of an
    endpoint's role, health, timeline or membership; lag may move without it.

    `system_id`: the cluster that is meant.  `replicas_only`: it consists of replicas, as far as
    the names lead; their primary is elsewhere.  `doubt`: why a primary isn't believed yet.
    `switches`: of that cluster, (timeline, where it began), as far as that is proved.
    """

    version: int = 0
    endpoints: tuple[EndpointView, ...] = ()
    writer: EndpointView | None = None
    timeline: int | None = None
    conflict: str = ""
    system_id: str = ""
    replicas_only: bool = False
    doubt: str = ""
    switches: tuple[tuple[int, Switch], ...] = ()

    def foreign(self, endpoint: Endpoint) -> bool:
        """Does it belong to another cluster than the one that is meant?"""
        view = self.find(endpoint)
        if view is None or not view.system_id or not self.system_id:
            return False
        return view.system_id != self.system_id

    @property
    def calm(self) -> bool:
        """Who is needed is there: the writer, or where there are only replicas, one of them."""
        if self.writer is not None:
            return self.writer.health is Health.UP
        return self.replicas_only and any(view.readable for view in self.endpoints)

    @property
    def somewhere(self) -> bool:
        """Is there anywhere to go for who has lost their server?"""
        return self.writer is not None or (
            self.replicas_only and any(view.readable for view in self.endpoints)
        )

    def find(self, endpoint: Endpoint) -> EndpointView | None:
        """The view of an endpoint, compared by where it is, not by the name it has."""
        for view in self.endpoints:
            same = view.endpoint
            if (same.address, same.port) != (endpoint.address, endpoint.port):
                continue
            if endpoint.address or same.name == endpoint.name:
                return view
        return None

    def live(self, endpoint: Endpoint, generation: int) -> bool:
        """May a connection that was made to the endpoint in that generation still be used?"""
        view = self.find(endpoint)
        return view is not None and view.usable and view.generation == generation

    @property
    def shape(self) -> tuple[object, ...]:
        """What makes a new version when it changes."""
        views = tuple(_SHOWN(view) for view in self.endpoints)
        writer = self.writer and self.writer.endpoint
        doubts = bool(self.doubt), self.replicas_only
        return views, self.timeline, self.conflict, writer, self.system_id, doubts

    def reasons(self, intent: Intent) -> dict[str, str]:
        """Endpoint → why it was refused."""
        return {
            str(view.endpoint): self.conflict or view.refusal(intent) or self.doubt or "saturated"
            for view in self.endpoints
        }
