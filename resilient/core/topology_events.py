"""What the topology state machine is told; `topology` says what becomes of it."""

from __future__ import annotations

from .._dataclass import dataclass
from .model import Endpoint, FailureKind, Observation


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configured name has these endpoints now.  `zones` follows their order.  `reader`: the
    name was given for reading only."""

    name: str
    endpoints: tuple[Endpoint, ...]
    zones: tuple[str | None, ...] = ()
    rotating: bool = False
    reader: bool = False


@dataclass(frozen=True, slots=True)
class ProbeSent:
    endpoint: Endpoint
    probe: int


@dataclass(frozen=True, slots=True)
class Observed:
    """A probe's answer, or what a new connection said of itself (`probe` is None).

    `held_s`: the endpoint was asked to keep it back, and did for so long.
    """

    endpoint: Endpoint
    observation: Observation
    probe: int | None = None
    held_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    endpoint: Endpoint
    probe: int
    kind: FailureKind
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    """A connection's socket had data from the endpoint, at this moment; `probe` was spared."""

    endpoint: Endpoint
    at_s: float
    probe: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Something went wrong outside a probe, on a connection of `generation`."""

    endpoint: Endpoint
    kind: FailureKind
    generation: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Leased:
    """A lease source says who holds the lease, and of which timeline it is the primary.

    `holders`: the known endpoints that it may mean; none when nobody holds it, it is a stranger,
    or nothing was heard from the source for a while.
    """

    holders: tuple[Endpoint, ...] = ()
    timeline: int | None = None


@dataclass(frozen=True, slots=True)
class Fenced:
    """Others of this process have seen this timeline in the cluster; their writers' names and
    ours have led to a common server."""

    system_id: str
    timeline: int


@dataclass(frozen=True, slots=True)
class Promoted:
    """A primary says where its timeline began: `lsn` in bytes.  `incarnation`: as in
    `Observation`, of the run in which it was promoted."""

    endpoint: Endpoint
    system_id: str
    incarnation: str
    timeline: int
    lsn: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed.  `late_s`: it was to be noticed so long ago, but this process didn't run."""

    late_s: float = 0.0


Event = (
    Resolved
    | ProbeSent
    | Observed
    | ProbeFailed
    | Received
    | Evidence
    | Leased
    | Fenced
    | Promoted
    | Tick
)
