"""What a pool's connections are for, and who serves that: libpq's `target_session_attrs`.

The words of the connection string are the *default intent* of a checkout (PostgreSQL manual
34.1.2, `target_session_attrs`):

    any, prefer-primary     writing; on a list that consists of replicas only, reading
    primary                 writing
    read-write              writing, and not where `default_transaction_read_only` is on
    standby                 reading, on replicas only
    prefer-standby          reading, on replicas, and where there is none on the primary
    read-only               reading, where a session can't write by default

`load_balance_hosts` says in which order hosts are taken, and never which role: `disable` as they
are listed, `random` evenly.  Pure: a snapshot in, endpoints out.
"""

from __future__ import annotations

from .._dataclass import dataclass
from .model import Endpoint, EndpointView, Health, Intent, Observation, Role, Topology
from .routing import Balance, Candidate, Request, Rng, Target, fitting, pick

Try = tuple[Endpoint, int, Role]

READING = frozenset({Target.STANDBY, Target.PREFER_STANDBY, Target.READ_ONLY})


def try_of(view: EndpointView) -> Try:
    """What makes another dial worth while: a restart, a promotion; not a mere suspicion."""
    return (view.endpoint, view.generation, view.role)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the connections of one pool are for.  `zone`: where reads are preferred."""

    target: Target = Target.ANY
    balance: Balance = Balance.ORDER
    zone: str | None = None

    def reads(self, topology: Topology) -> bool:
        """Is a checkout that says nothing for reading?"""
        if self.target in READING:
            return True
        return topology.replicas_only and self.target in (Target.ANY, Target.PREFER_PRIMARY)

    def intent(self, topology: Topology) -> Intent:
        return Intent.READ if self.reads(topology) else Intent.WRITE

    @property
    def strict(self) -> bool:
        """Does it want a server that takes writes without being asked to?"""
        return self.target is Target.READ_WRITE

    def places(self, topology: Topology) -> tuple[EndpointView, ...]:
        """Whom connections may go to, best first; for writing the writer or nobody."""
        if not self.reads(topology):
            writer = topology.writer
            barred = writer is not None and writer.read_only and self.strict
            return () if writer is None or barred else (writer,)
        zones = (self.zone, None) if self.zone else (None,)
        found = tuple(Candidate(view) for view in topology.endpoints if view.health is Health.UP)
        fit = fitting(found, Request(self._reading, zones, balance=self.balance))
        return tuple(item.view for item in fit)

    def content(self, topology: Topology) -> bool:
        """Would the answers of those that haven't said anything yet change nothing?"""
        if not self.reads(topology):
            return topology.writer is not None
        places = self.places(topology)
        if not any(view.role is Role.REPLICA for view in places):
            return False
        views = topology.endpoints
        if self.balance is Balance.ORDER:  # one that is listed before may be about to answer
            views = views[: views.index(places[0])]
        return not any(view.health is Health.UNKNOWN and not view.reason for view in views)

    @property
    def _reading(self) -> Target:
        return self.target if self.target in READING else Target.PREFER_STANDBY

    def misplaced(self, topology: Topology, endpoint: Endpoint) -> bool:
        """A connection to this endpoint isn't for what the pool is for any more, and there is
        another place for it."""
        view = topology.find(endpoint)
        places = self.places(topology)
        if view is None or not places:
            return False
        if not self.reads(topology):
            return view.role is Role.REPLICA
        if self.target is Target.READ_ONLY:
            return view.role is Role.PRIMARY and not view.read_only
        return view.role is Role.PRIMARY and all(p.role is Role.REPLICA for p in places)

    def serves(self, topology: Topology, endpoint: Endpoint) -> bool:
        """May this pool have connections there?"""
        if not self.reads(topology):
            return topology.writer is not None and topology.writer.endpoint == endpoint
        view = topology.find(endpoint)
        return view is not None and view.readable and not self.misplaced(topology, endpoint)

    def to_dial(self, topology: Topology, tried: set[Try], rng: Rng | None) -> EndpointView | None:
        """Whom to dial next: who fits, or while nobody does whoever might."""
        places = self.places(topology)
        known = bool(topology.conflict) or topology.writer is not None
        if not places and known and not self.reads(topology):
            return None
        left = [view for view in places if try_of(view) not in tried]
        if left:
            if rng is None or self.balance is Balance.ORDER:
                return left[0]
            return pick(tuple(map(Candidate, left)), self.balance, rng).view
        if places:
            return None
        maybe = [
            view
            for view in topology.endpoints
            if not view.fenced and view.role is Role.UNKNOWN and try_of(view) not in tried
            if self.reads(topology) or not view.reader
        ]
        # Dead ones last; but they are dialled: one endpoint, never seen up, is all there is.
        maybe.sort(key=lambda view: view.health is Health.DEAD)
        return maybe[0] if maybe else None

    def by_chance(self, topology: Topology) -> EndpointView | None:
        """Where nobody fits: who has said that it doesn't, and may lead to another server next.

        A group may.  So may the only address that is configured; in a list each says what it is.
        """
        reads = self.reads(topology)
        writer = topology.writer
        if topology.conflict or (writer is not None and not (reads or writer.group)):
            return None
        current = [
            view for view in topology.endpoints if not view.retired and (reads or not view.reader)
        ]
        alone = len(current) == 1 and not self.places(topology)
        for view in current:
            known = view.health is Health.UP and view.role is not Role.UNKNOWN and not view.astray
            # What was fenced is the server that answered last; each connection is judged anew.
            if known and (alone or (view.group and not view.fenced)):
                return view
        return None

    def refusal(self, view: EndpointView, topology: Topology) -> str:
        """Why an endpoint isn't taken, for an error's text; empty when it fits."""
        reads = self.reads(topology)
        why = view.refusal(Intent.READ if reads else Intent.WRITE)
        if why.endswith("default_transaction_read_only") and not self.strict:
            why = ""
        if why or not reads:
            return why
        writes = view.role is Role.PRIMARY
        if writes and self.target is Target.STANDBY:
            return "a primary (target_session_attrs=standby)"
        if writes and not view.read_only and self.target is Target.READ_ONLY:
            return "a primary that takes writes (target_session_attrs=read-only)"
        return ""


def refused(
    wanted: Wanted, topology: Topology, endpoint: Endpoint, seen: Observation
) -> tuple[str, bool]:
    """(why a new connection isn't taken, its server is fenced): by what it said of itself."""
    foreign = seen.system_id and topology.system_id and seen.system_id != topology.system_id
    if foreign and topology.writer is not None:
        text = f"{endpoint} belongs to cluster {seen.system_id}, not {topology.system_id}"
        return text, True
    if wanted.reads(topology):
        if why := _outlived(topology, endpoint, seen):
            return why, True
        return _not_for_reading(wanted, endpoint, seen), False
    return _not_for_writing(wanted, topology, endpoint, seen)


def _outlived(topology: Topology, endpoint: Endpoint, seen: Observation) -> str:
    """A primary of another branch than the one that is written to has nothing to read."""
    if seen.role is not Role.PRIMARY or seen.timeline is None or topology.timeline is None:
        return ""
    if seen.system_id not in ("", topology.system_id):
        return ""  # its timelines are others
    view = topology.find(endpoint)
    above = view is not None and view.reader and seen.timeline > topology.timeline
    if seen.timeline < topology.timeline or above:
        return f"{endpoint} is a primary of timeline {seen.timeline}; {topology.timeline} was seen"
    return ""


def _not_for_reading(wanted: Wanted, endpoint: Endpoint, seen: Observation) -> str:
    if seen.role is Role.UNKNOWN:
        return f"{endpoint} does not tell its role"
    if seen.role is Role.REPLICA:
        return ""
    if wanted.target is Target.STANDBY:
        return f"{endpoint} is a primary, and target_session_attrs=standby"
    if wanted.target is Target.READ_ONLY and not seen.read_only:
        return f"{endpoint} is a primary that takes writes, and target_session_attrs=read-only"
    return ""


def _not_for_writing(
    wanted: Wanted, topology: Topology, endpoint: Endpoint, seen: Observation
) -> tuple[str, bool]:
    if seen.role is not Role.PRIMARY:
        return f"{endpoint} is no primary ({seen.role.value})", False
    if seen.read_only and wanted.strict:
        return f"{endpoint} is a primary with default_transaction_read_only", False
    view, writer = topology.find(endpoint), topology.writer
    if view is not None and view.fenced and view.timeline == seen.timeline:
        return f"{endpoint}: {view.reason}", True
    if topology.conflict:
        return f"{endpoint}: {topology.conflict}", True
    if seen.timeline is not None and seen.timeline < (topology.timeline or 0):
        told = f"{endpoint} is a primary of timeline {seen.timeline}; {topology.timeline} was seen"
        return told, True
    if writer is not None and writer.endpoint == endpoint:
        return "", False
    if view is not None and view.reader:
        return f"{endpoint} is a primary, but only a reader's name leads there", False
    if writer is None:
        return _too_early(topology, endpoint, seen), False
    text = f"{endpoint} says it is the primary; it isn't published as the writer yet"
    return text, False


def _too_early(topology: Topology, endpoint: Endpoint, seen: Observation) -> str:
    """The first one that answers isn't taken while others haven't had the time to: what it said
    is known to the monitor now, and is published in a moment."""
    others = [view for view in topology.endpoints if view.endpoint != endpoint]
    told = any(view.timeline is not None for view in others)
    if seen.timeline is None and told:
        return f"{endpoint} tells no timeline, and others do"
    silent = [v for v in others if v.health is Health.UNKNOWN and not (v.reason or v.reader)]
    if topology.doubt or (silent and topology.timeline is None):
        return f"{endpoint} says it is the primary; others haven't answered yet"
    return ""
