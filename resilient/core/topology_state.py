"""What is remembered of a cluster between two events; `topology` folds the events into it."""

from __future__ import annotations

from dataclasses import field, replace

from .._dataclass import dataclass
from .health import Detector, ProbeConfig
from .members import Members
from .model import Endpoint, EndpointView, Switch, Topology

Key = tuple[str, int, str]


def key_of(endpoint: Endpoint) -> Key:
    """Two names for one address are one endpoint; a path or service is its name."""
    return (endpoint.address, endpoint.port, "" if endpoint.address else endpoint.name)


@dataclass(frozen=True, slots=True)
class Known:
    """One endpoint and all that is remembered of it.  `clients`: see `Observation`; 0: unknown.

    `order`: which name led there first, and which address of it.  `reader`: only names that are
    given for reading lead to it.  `lag_s`: as it was told; whose lag it is, is decided when it is
    published.  `parent`: the timeline before a primary's, where that is proved, and a
    standby's own.
    """

    view: EndpointView
    detector: Detector = field(default_factory=Detector)
    system_id: str = ""
    incarnation: str = ""
    order: tuple[int, int] = (0, 0)
    clients: int = 0
    reader: bool = False
    lag_s: float | None = None
    streams: bool = False
    members: Members = field(default_factory=Members)
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class NameRecord:
    """Where a name leads.  `reader`: it was given for reading only."""

    keys: tuple[Key, ...] = ()
    absences: tuple[tuple[Key, int], ...] = ()
    rotating: bool = False
    reader: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """All of a cluster.  `highest` is the highest timeline ever seen in cluster `system_id`,
    `heights` the same for each cluster that was seen, `switches` where its timelines began;
    `burst_at` since when nobody, or only a suspect, may write.  `leased`: who holds the lease, as
    primary of `lease_timeline`.  `led`: a primary was published, ever; `first_at`: when there was
    the first to publish; `heard_at`: when anybody was heard first.  `until_s`: something is
    decided at that moment although nothing happens.  `settled`: publishing it once more would
    change nothing."""

    config: ProbeConfig = field(default_factory=ProbeConfig)
    known: tuple[tuple[Key, Known], ...] = ()
    names: tuple[tuple[str, NameRecord], ...] = ()
    system_id: str = ""
    highest: int | None = None
    heights: tuple[tuple[str, int], ...] = ()
    switches: tuple[tuple[str, int, Switch], ...] = ()
    burst_at: float | None = None
    leased: frozenset[Key] = frozenset()
    lease_timeline: int | None = None
    topology: Topology = field(default_factory=Topology)
    led: bool = False
    first_at: float | None = None
    heard_at: float | None = None
    until_s: float | None = None
    settled: bool = False

    def get(self, endpoint: Endpoint) -> Known | None:
        wanted = key_of(endpoint)
        return next((known for key, known in self.known if key == wanted), None)

    def put(self, known: Known) -> State:
        wanted = key_of(known.view.endpoint)
        items = tuple((key, known if key == wanted else old) for key, old in self.known)
        return replace(self, known=items)
