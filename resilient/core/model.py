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

    def __str__(self) -> str:
        host = self.address or self.name
        shown = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        return shown if self.name in (host, "") else f"{shown} ({self.name})"


@dataclass(frozen=True, slots=True)
class Observation:
    """What one server said of itself, at one moment.

    `timeline` is exact on a primary and a lower bound on a replica.  `incarnation` is
    `pg_postmaster_start_time()` in µs, as text: two addresses with the same one are one server.
    `lag_s` is None when it is not known, 0 when everything received is replayed and the
    receiver streams.  `clients`: about how many processes like this one it serves; None: it
    wasn't asked.
    """

    role: Role
    system_id: str = ""
    timeline: int | None = None
    incarnation: str = ""
    read_only: bool = False
    lag_s: float | None = None
    clients: int | None = None

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
    """A position in the primary's WAL that contains a commit.

    A replica has it once it replayed up to `lsn`, provided that `timeline` is still the
    newest: after a failover the same position may hold something else.
    """

    timeline: int | None
    lsn: int


@dataclass(frozen=True, slots=True)
class EndpointView:
    """One endpoint in a snapshot."""

    endpoint: Endpoint
    zone: str | None = None
    role: Role = Role.UNKNOWN
    health: Health = Health.UNKNOWN
    lag_s: float | None = None
    epoch: int | None = None
    fenced: bool = False
    retired: bool = False
    read_only: bool = False
    generation: int = 0
    reason: str = ""

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

    def refusal(self, intent: Intent) -> str:
        """Why it is not taken for the intent, for an error's text; empty when it fits."""
        if self.fenced:
            return self.reason or "fenced"
        if self.health is Health.DEAD:
            return f"dead: {self.reason}" if self.reason else "dead"
        if self.role is Role.UNKNOWN:
            return f"role unknown: {self.reason}" if self.reason else "role unknown"
        if intent is Intent.WRITE and self.role is not Role.PRIMARY:
            return "a replica"
        if intent is Intent.WRITE and self.read_only:
            return "a primary with default_transaction_read_only"
        return ""


_SHOWN = attrgetter(
    *(f.name for f in dataclasses.fields(EndpointView) if f.name not in ("lag_s", "reason"))
)


@dataclass(frozen=True, slots=True)
class Topology:
    """The snapshot that the monitor publishes.  `version` grows with every change of an
    endpoint's role, health, epoch or membership; lag may move without it."""

    version: int = 0
    endpoints: tuple[EndpointView, ...] = ()
    writer: EndpointView | None = None
    epoch: int | None = None
    conflict: str = ""

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
        return views, self.epoch, self.conflict, self.writer and self.writer.endpoint

    def reasons(self, intent: Intent) -> dict[str, str]:
        """Endpoint → why it was refused."""
        return {
            str(view.endpoint): self.conflict or view.refusal(intent) or "saturated"
            for view in self.endpoints
        }
