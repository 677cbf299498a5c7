"""What every pool knows and decides, sync and async alike.  No waiting happens here."""

# long: one object, and what it decides with
from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import psycopg_pool

from ..._logs import Line
from ...core import routing
from ...core.budget import RetryBudget
from ...core.intent import Wanted, refused
from ...core.model import (
    CausalToken,
    Endpoint,
    EndpointView,
    FailureKind,
    Health,
    Observation,
    Role,
    Topology,
)
from ...core.position import leads_to
from ...core.reach import Asked
from ...core.topology import Promoted
from ...errors import ConfigError, ResilientError
from ...monitor.cluster import DEADLINE, Cluster
from ...monitor.prober import ClusterListener
from ...monitor.sockets import Link
from ...monitor.zone import own_zone
from ...settings import Settings, from_environment
from ...telemetry import instruments
from .. import target
from .._psycopg import BaseConnection
from ..classify import (
    connect_failure,
    credentials_refused,
    crowded_out,
    login_of,
    server_refused,
    statement_failure,
    stays,
    unfit_for_tls,
)
from ..commit.facts import CommitFacts
from ..commit.knowledge import Knowledge, brief
from ..errors import (
    DeadlineExceeded,
    FencedPrimary,
    NoEndpointAvailable,
    TransactionReplayMismatch,
    WrongRole,
    reason_of,
)
from ..session.beside import beside
from ..session.dial import Dial
from ..session.keeper import ATTRIBUTE, keeper_of, link_of
from . import clusters
from .calls import Calls
from .complaints import Complaints, advice, name_advice
from .deadline import RETRY_DELAY_S
from .sessions import Sessions
from .siblings import WRITER
from .telling import Telling

if TYPE_CHECKING:
    from .replica_tasks import ReplicaTasks

logger = logging.getLogger("resilient.postgres")

#: a replica that couldn't prove a token, because this role isn't told its timeline, isn't asked
#: again for so long, in seconds
LATE_S = 1.0


class Replica(NamedTuple):
    """A pool of a replica's connections, and what it decides with."""

    pool: Any
    core: PoolCore


class PoolCore(Telling, ClusterListener):
    """The decisions of one pool, and its hold on the cluster's monitor.

    `stock`: warm connections of a promoted replica, for whoever would dial otherwise.
    `deferred`: maintenance tasks that wait for a topology under which they can work.
    """

    # long: its state, named
    def __init__(
        self,
        settings: Settings | None,
        *,
        owner: PoolCore | None = None,
        bound: Endpoint | None = None,
    ) -> None:
        self.settings = settings if settings is not None else from_environment()
        self.shared: clusters.Shared | None = None
        self._had: clusters.Shared | None = None
        self.stock: deque[BaseConnection[Any]] = deque()
        self.deferred: set[Any] = set()
        #: of a replica's pool: the core of the pool that owns it, and what it is bound to
        self.owner: PoolCore | None = owner  # pyright: ignore[reportIncompatibleVariableOverride]
        self.bound = bound
        self.replicas: dict[Endpoint, Replica] = {}
        #: what its replicas want done; it is there once the pool was opened
        self.replica_tasks: ReplicaTasks | None = owner.replica_tasks if owner else None
        #: it has pools for replicas
        self.arranges = True
        self.sessions = Sessions()
        #: the pool, and what it does when it is called; what is lent of it (see `borrowing`)
        self.lender: Callable[[], Any] = lambda: None
        self.calls = Calls()
        #: who comes back stays (a Null pool keeps nobody)
        self.keeps_idle = True
        self.lent: set[Any] = set()
        #: checkouts that a probe has seen, and when it last saw a new one
        self.taken, self.taken_at = 0, float("-inf")
        self.rng = random.Random()
        self._zone = None if self.settings.zone == "auto" else self.settings.zone
        #: its own connections have gone to replicas
        self.read_from = False
        #: the topology for which `plain` is so, and the one for which it isn't, asked last
        self.plain_in: Topology | None = None
        self._not_plain_in: Topology | None = None
        #: instead of what the connection string says of roles
        self.purpose: Wanted | None = None
        #: in a forked child: the pool was open in its parent
        self.reopen = False
        #: of the writer, when this pool last dialled
        self._losses = 0
        self._first_attempts = 0
        self._lock = threading.Lock()
        self._budget = RetryBudget.full(
            self.settings.retry_budget, self.settings.retry_budget_floor, time.monotonic()
        )
        self._parsed: tuple[str, dict[str, Any]] = ("", {})
        #: held by who attaches or detaches; no more of it once the pool is closed
        self._attaching, self._detached = threading.Lock(), False
        self._target: target.Target | None = None
        self.last_failure: BaseException | None = None
        self.complaints: Complaints = owner.complaints if owner else Complaints()
        #: where the connection string is from, for who has to change it
        self.source = "the pool's conninfo"
        #: what was learnt of its servers; a replica's pool has its owner's
        me = weakref.ref(self)
        self.known: Knowledge = (
            owner.known
            if owner
            else Knowledge(
                self.settings.commit_resolver, lambda: core.labels if (core := me()) else {}
            )
        )
        self._renewed_at = float("-inf")
        #: replicas that aren't asked to prove a token until then
        self._late: dict[Endpoint, float] = {}
        #: whom the present thread may dial: nothing else runs on it until it does
        self._granted = threading.local()
        instruments.observe(self)

    # -- the cluster

    @property
    def beneath(self) -> list[Telling]:
        """Those of its replicas' pools."""
        return [replica.core for replica in list(self.replicas.values())]

    def belongs(
        self, pool: Any, calls: Calls, *, keeps_idle: bool, source: str | None = None
    ) -> None:
        """It is this pool's, which does what it is called for."""
        self.lender = weakref.ref(pool)
        self.calls = calls
        self.keeps_idle = keeps_idle
        self.source = source or self.source

    def opened(self, replica_tasks: ReplicaTasks) -> None:
        """Its pool has workers now, which do these as well."""
        self.replica_tasks = replica_tasks

    def for_replica(self, endpoint: Endpoint) -> PoolCore:
        """That of a replica's pool, which uses this one's cluster: this attaches and detaches."""
        return PoolCore(self.settings, owner=self, bound=endpoint)

    def add_replica(self, endpoint: Endpoint, pool: Any, core: PoolCore) -> None:
        """There is a pool for it, which decides with this core."""
        self.replicas[endpoint] = Replica(pool, core)

    def only_writes(self) -> None:
        """It is that of a pool for explicit writes, beside one that reads."""
        self.purpose = WRITER
        self.arranges = False

    def reopened(self) -> None:
        """In a forked child: its pool is open again."""
        self.reopen = False

    @property
    def cluster(self) -> Cluster:
        shared = self.owner.shared if self.owner else self.shared
        if shared is None:
            if self.over:
                raise psycopg_pool.PoolClosed("the pool is closed")
            raise ResilientError("the pool has no cluster before it is opened")
        return shared.cluster

    @property
    def over(self) -> bool:
        """It is closed: connections that are out go on, and nobody dials for them."""
        return self._detached if self.owner is None else self.owner.over

    @property
    def topology(self) -> Topology:
        shared = self.owner.shared if self.owner else self.shared
        return shared.cluster.topology if shared else Topology()

    def attach(self, conninfo: str, kwargs: Mapping[str, Any]) -> None:
        """Follow the cluster that these parameters name; again when they changed."""
        if self.owner is not None:
            return self.owner.attach(conninfo, kwargs)
        if self.shared is not None and (conninfo, kwargs) == self._parsed:
            return None
        try:
            with self._attaching:
                self._attach_now(conninfo, kwargs)
        except psycopg.ProgrammingError as exc:
            self.last_failure = exc  # it can't be parsed
            raise
        return None

    def _attach_now(self, conninfo: str, kwargs: Mapping[str, Any]) -> None:
        """One worker at a time; a worker that is late, after the pool was closed, does nothing."""
        if self._detached:
            return
        wanted = target.parse(conninfo, kwargs, self.settings)
        self._parsed = (conninfo, dict(kwargs))
        if self.shared is not None and wanted == self._target:
            return
        old, self.shared = self.shared, clusters.attach(wanted, self.settings)
        self._target = wanted
        self.plain_in = self._not_plain_in = None
        if old is not None:
            clusters.detach(old)
        self._said, self._failover_log = None, self.shared.cluster.failover_log
        self.shared.cluster.listen(self)

    def detach(self, wait: bool = True) -> None:
        with self._attaching:
            self._detached = True
            shared, self.shared = self.shared, None
            self._had = shared
        if shared is not None:
            clusters.detach(shared, wait)

    def after_fork(self, was_open: bool) -> None:
        """Forget the parent's cluster and what belonged to its threads."""
        self.shared, self.reopen = None, was_open
        self._target, self._parsed, self._had = None, ("", {}), None
        self._detached, self._attaching = False, threading.Lock()
        self._lock = threading.Lock()
        self.stock.clear()
        self.deferred.clear()
        for core in (self, *(replica.core for replica in self.replicas.values())):
            for conn in core.lent:
                conn._closed = True
            core.lent.clear()
        self.replicas.clear()
        self.sessions.forget()

    def may_dial(
        self, endpoint: Endpoint, burst: int, by_chance: EndpointView | None = None
    ) -> float:
        """Seconds until a worker asks again; 0: it dials, see `core.pace`.

        A pool's first dial after a loss never waits: it ends the outage for its callers.
        `by_chance`: what it said, which doesn't fit; see `core.chance`.
        """
        if by_chance is not None:
            return self.cluster.may_chance(by_chance)
        cluster = self.cluster
        with self._lock:
            first, self._losses = cluster.losses != self._losses, cluster.losses
        wait_s = cluster.may_dial(endpoint, burst, first)
        if not wait_s and (wait_s := cluster.may_log_in(endpoint, self.secret)):
            cluster.dialled(endpoint, 0.0, False)  # it isn't, after all
        if not wait_s:
            self._granted.leave = endpoint
        return wait_s

    @property
    def secret(self) -> tuple[tuple[str, str], ...]:
        """What is told a server: equal ones fare alike."""
        if self.owner is not None:
            return self.owner.secret
        return self._target.params if self._target else ()

    def rejected(self) -> None:
        """A probe was.  Where a function gives the credentials it is asked again, on a worker:
        who has all of its connections lent dials nobody, and would never ask."""
        now = time.monotonic()
        pool = self.lender()
        if pool is None or now < self._renewed_at + RETRY_DELAY_S:
            return
        if callable(pool.conninfo) or callable(pool.kwargs):
            self._renewed_at = now
            self.calls.renew()

    def dialled(self, dial: Dial, connected: bool) -> None:
        """A worker's dial is over."""
        took_s = time.monotonic() - dial.began_at
        self.cluster.dialled(dial.endpoint, took_s, connected)
        if connected:
            self.made(took_s)

    def topology_changed(self, old: Topology, new: Topology) -> None:
        self.calls.changed(old, new)

    # -- what it is for

    @property
    def wanted(self) -> Wanted:
        """What a checkout that says nothing is for."""
        if self.purpose is not None:
            return self.purpose
        wanted = self._target.wanted if self._target is not None else Wanted()
        zone = self.zone if wanted.zone is None and wanted.reads(self.topology) else wanted.zone
        return wanted if zone is None else replace(wanted, zone=zone)

    @property
    def reads(self) -> bool:
        """Is a checkout that says nothing for reading?"""
        if self.purpose is not None or self._target is None:
            return False
        return self._target.wanted.reads(self.topology)

    @property
    def plain(self) -> bool:
        """Does a checkout that says nothing go to the writer, and wait for nothing else?  Asked
        once for each topology: every checkout does."""
        topology = self.topology
        if topology is self.plain_in:
            return True
        if topology is self._not_plain_in:
            return False
        plain = not (self.reads or self.barred())
        self.plain_in, self._not_plain_in = (topology, None) if plain else (None, topology)
        return plain

    def serves(self, endpoint: Endpoint) -> bool:
        """Do the pool's own connections go there?"""
        if self.bound is not None:
            return self.bound == endpoint
        return self.wanted.serves(self.topology, endpoint)

    def misplaced(self, conn: BaseConnection[Any]) -> bool:
        """Isn't it for what the pool is for any more?"""
        link = link_of(conn) if self.read_from else None
        return link is not None and self.wanted.misplaced(self.topology, link.endpoint)

    def on_replica(self, conn: BaseConnection[Any]) -> bool:
        """Is this connection of the pool's own one to a replica?"""
        link = link_of(conn)
        view = self.topology.find(link.endpoint) if link is not None else None
        if view is None or link is None:
            return False
        role = link.observed.role if view.group and link.observed is not None else view.role
        return role is Role.REPLICA

    def met_standby(self, conn: BaseConnection[Any]) -> bool:
        """Has this connection of the pool's own met a standby, while checkouts were for reading?
        Its address may have led to the primary before and since."""
        link = link_of(conn) if self.read_from else None
        seen = link.observed if link is not None else None
        if seen is None or seen.role is not Role.REPLICA:
            return False
        return conn.pgconn.parameter_status(b"in_hot_standby") != b"off"

    def barred(self) -> bool:
        """The writer is there and takes no writes by default: who insists on them waits."""
        writer = self.topology.writer
        return writer is not None and writer.read_only

    @property
    def place(self) -> object:
        """The configured names that it follows.  A copy of the cluster elsewhere has the same
        system id; what is missing there isn't lost."""
        shared = (self.owner or self).shared
        return shared.key[0] if shared is not None else None

    def locks_out(self, link: Link, refusal: BaseException) -> bool:
        """Is the server up, and doesn't let this user or database in any more?  Whoever ends
        sessions there wants them to stay away; one that shuts down or starts says so instead."""
        writer = self.topology.writer
        if writer is not None and writer.endpoint != link.endpoint:
            return False
        if isinstance(refusal, ResilientError):  # it wasn't asked: somebody else just was
            return bool(self.cluster.refusing(link.endpoint))
        sqlstate = refusal.sqlstate if isinstance(refusal, psycopg.Error) else None
        return server_refused(sqlstate, str(refusal), login_of(refusal))

    def crowded(self) -> bool:
        """Had the server that was dialled last no room?"""
        return crowded_out(self.last_failure)

    def look_up(self, reads: list[Asked], idle: int) -> bool:
        """Have a worker ask the catalogue whether these can only read, where so many connections
        are idle.  False: there aren't."""
        return bool(self.calls.look_up(reads, idle))

    def cut_at(self, when_s: float, link: Link, why: str) -> None:
        """Shut its socket down at a monotonic time, unless it has connected by then."""
        self.cluster.at(when_s, link, why)

    # -- dialling

    def dial(self, endpoint: Endpoint, wanted: Wanted, deadline_at: float) -> Dial:
        """One attempt: its link is registered before the first packet leaves."""
        topology = self.topology
        view = topology.find(endpoint)
        link = Link(endpoint, view.generation if view else 0)
        self.read_from = self.read_from or wanted.reads(topology)
        cluster = self.cluster
        granted, self._granted.leave = getattr(self._granted, "leave", None), None
        if granted != endpoint and cluster.refuses(endpoint, self.secret):
            raise psycopg.OperationalError(
                f"{endpoint}: authentication failed just now, and isn't tried again yet"
            )
        cluster.links.add(link)  # before the topology is looked at again, see Cluster._publish

        def judge(seen: Observation) -> None:
            own = replace(self._own_options(seen), begun_at=link.begun_at)
            link.observed = own
            self._judge(endpoint, wanted, own)

        def watch(link: Link) -> None:
            cluster.at(deadline_at, link, "the deadline for connecting passed")

        return Dial(endpoint, link, deadline_at, judge, watch)

    def _own_options(self, seen: Observation) -> Observation:
        options = dict(self._target.params).get("options", "") if self._target else ""
        own = "default_transaction_read_only" in options
        return replace(seen, read_only=False) if own else seen

    def _judge(self, endpoint: Endpoint, wanted: Wanted, seen: Observation) -> None:
        shared = self.owner.shared if self.owner else self.shared
        if shared is not None:
            shared.prober.met(endpoint, seen)
        self.cluster.observe(endpoint, seen)
        why, fenced = refused(wanted, self.topology, endpoint, seen)
        if why:
            raise (FencedPrimary if fenced else WrongRole)(why)
        # What the pool is for may have changed since it was dialled.
        self.read_from = self.read_from or seen.role is Role.REPLICA

    def met(self, endpoint: Endpoint, seen: CommitFacts) -> None:
        """A session's server says where its timeline began, if it was promoted in this run."""
        at, shared = seen.incarnation, (self.owner or self).shared
        if shared is not None and seen.received and at.recovered_lsn is not None:
            shared.cluster.promoted(
                Promoted(endpoint, at.system_id, at.started, at.timeline, at.recovered_lsn)
            )

    def dial_failed(self, dial: Dial, exc: BaseException) -> None:
        """Remember why, and tell the monitor what that says of the endpoint."""
        self.last_failure = exc
        if not dial.made:
            self.complaints.failed(self, dial.endpoint, exc)
        else:
            self.complaints.unfit(self, dial.endpoint, exc)
        told = isinstance(exc, psycopg.Error) and not isinstance(exc, ResilientError)
        said = getattr(exc, "sqlstate", None), str(exc), login_of(exc)
        if told and credentials_refused(*said):
            self.cluster.log_in_refused(dial.endpoint, self.secret, brief(exc))
        else:
            self.cluster.logged_in(dial.endpoint, self.secret, connected=False)
        if dial.made:  # what failed is the user's `configure`
            session = dial.session() if dial.session is not None else None
            if session is not None:  # which the error's traceback would keep open
                session.finish()
            return
        evicted = dial.link.evicted
        if not evicted:  # the link outlives its dial in the error's traceback
            dial.link.evict("the dial failed")
        if isinstance(exc, psycopg.errors.ConnectionTimeout):
            return  # how little time was left for it is no news of the server
        if isinstance(exc, psycopg.Error) and not isinstance(exc, ResilientError):
            kind = connect_failure(exc.sqlstate, str(exc))
            if kind is not FailureKind.SILENT and not evicted:
                self.cluster.report(dial.link, kind, brief(exc))

    def connected(self, conn: BaseConnection[Any], dial: Dial) -> None:
        """A dial has ended well.  A class that replaces `connect` may have gone around it."""
        keeper = keeper_of(conn)
        if keeper is None:
            if hasattr(conn, ATTRIBUTE):
                raise ConfigError(f"a connection has its own {ATTRIBUTE!r}, which is the library's")
            keeper = beside(conn, hooked=False)
            setattr(conn, ATTRIBUTE, keeper)
        if keeper.link is None:
            keeper.wire.attach(dial.link)
            dial.link.bind(conn.pgconn.socket)
            dial.admitted()
        keeper.belongs(self)
        self.cluster.logged_in(dial.endpoint, self.secret, connected=True)
        self.cluster.reconnected(dial.endpoint)
        self.complaints.connected(dial.endpoint)

    @staticmethod
    def final(exc: BaseException) -> bool:
        """No other try would fare better: credentials, a malformed conninfo, a bug."""
        if isinstance(exc, ResilientError):
            return False
        if not isinstance(exc, psycopg.OperationalError):
            return True
        if unfit_for_tls(str(exc)):
            return False
        return stays(exc.sqlstate, str(exc), login_of(exc))

    def note(self, conn: BaseConnection[Any], exc: BaseException) -> FailureKind | None:
        """A statement failed on a checkout: evidence, unless it is the application's own."""
        keeper = keeper_of(conn)
        if keeper is None or (isinstance(exc, psycopg.Error) and keeper.judge.own_failure(exc)):
            return None
        return self.lost(keeper.link, exc, conn.broken)

    def lost(self, link: Link | None, exc: BaseException, broken: bool) -> FailureKind | None:
        """A session has failed with something that isn't the application's own."""
        if link is None or not isinstance(exc, psycopg.Error) or self.shared is None:
            return None
        if isinstance(exc, TransactionReplayMismatch):
            return None  # the server did as it was told
        kind = statement_failure(exc.sqlstate, broken, str(exc))
        if kind is not None and kind is not FailureKind.REJECTED:
            self.cluster.report(link, kind, brief(exc))
        return kind

    def raise_for(self, conn: BaseConnection[Any], exc: psycopg.Error) -> FailureKind | None:
        """`note`, and the library's own error where it says more than the driver's."""
        kind = self.note(conn, exc)
        keeper = keeper_of(conn)
        link = keeper.link if keeper is not None else None
        if kind is not None and keeper is not None:
            keeper.judge.tell_why(exc, dealt=True)
        if isinstance(exc, ResilientError):
            return kind  # whatever cut it: it says what may have happened, or what is in the way
        if link is not None and link.evicted.startswith(DEADLINE) and conn.broken:
            text = f"{link.endpoint}: {link.evicted} (RESILIENT_DEADLINE_S){reason_of(exc)}"
            raise DeadlineExceeded(text) from exc
        return kind

    def explain(self, exc: psycopg_pool.PoolTimeout, waited_s: float) -> psycopg_pool.PoolTimeout:
        """A pool's timeout, with the reasons when nobody could be had."""
        wanted, shared = self.wanted, self.last_shared
        if shared is None and isinstance(self.last_failure, psycopg.ProgrammingError):
            why = f"{brief(self.last_failure)} (in {self.source})"
            return psycopg_pool.PoolTimeout(f"{exc}: {why}")
        if shared is None or wanted.places(shared.cluster.topology):
            return exc
        if isinstance(exc, ResilientError):
            return exc
        return self.nobody(wanted, waited_s)

    def whole_wait(self, exc: psycopg_pool.PoolTimeout, limit_s: float) -> psycopg_pool.PoolTimeout:
        """The timeout of a reader's last round, told of all that it has waited."""
        if isinstance(exc, NoEndpointAvailable):
            return self.nobody(self.wanted, limit_s)
        return psycopg_pool.PoolTimeout(f"couldn't get a connection after {limit_s:.2f} sec")

    def nobody(self, wanted: Wanted, since_s: float | None = None) -> NoEndpointAvailable:
        """The error that says why, endpoint by endpoint."""
        shared = self.last_shared
        topology = shared.cluster.topology if shared is not None else Topology()
        intent = wanted.intent(topology)
        reasons = {
            str(view.endpoint): topology.conflict
            or wanted.refusal(view, topology)
            or topology.doubt
            or "saturated"
            for view in topology.endpoints
        }
        names = self.name_errors()
        waited = f" after {since_s:.2f} sec" if since_s is not None else ""
        text = " ".join(f"{name}: {why}" for name, why in reasons.items())
        fix = name_advice(self.source) if names else advice(text, self.source)
        return NoEndpointAvailable(
            f"couldn't get a connection{waited}: no endpoint for intent {intent.value!r}"
            f"{f'; {fix}' if fix else ''}",
            topology=topology,
            reasons=reasons | names,
        )

    def name_errors(self) -> dict[str, str]:
        """Configured names that don't resolve → why."""
        shared = self.last_shared
        return shared.cluster.name_errors() if shared is not None else {}

    @property
    def last_shared(self) -> clusters.Shared | None:
        """Of a pool that `wait` has closed, what it had."""
        return self.owner.last_shared if self.owner is not None else self.shared or self._had

    def nobody_to_dial(self, wanted: Wanted, timeout: float | None) -> NoEndpointAvailable:
        """`nobody`; a worker's is told."""
        error = self.nobody(wanted, timeout)
        if timeout is None:
            self.complaints.nobody(self, error, wanted.intent(self.topology).value)
        return error

    # -- the retry budget of this pool

    def deposit(self) -> None:
        """A first attempt is made."""
        self._first_attempts += 1

    def withdraw(self) -> bool:
        """May one more retry be made?"""
        now = time.monotonic()
        with self._lock:
            made, self._first_attempts = self._first_attempts, 0
            self._budget, granted = self._budget.deposit(made, now).try_withdraw()
        self.retried(granted)
        return granted

    # -- routing

    @property
    def zone(self) -> str | None:
        """The zone that this process runs in."""
        if self._zone is None and self.settings.zone == "auto":
            addresses = [view.address for view in self.topology.endpoints if view.address]
            self._zone = own_zone(self.settings, addresses)
        return self._zone

    def reader(
        self, max_staleness_s: float | None, exclude: frozenset[object]
    ) -> EndpointView | None:
        """Where to read: a replica here, else elsewhere, else the primary; None: nobody."""
        bound = max_staleness_s if max_staleness_s is not None else self.settings.max_staleness_s
        request = routing.read_request(self.zone, bound, exclude)
        found = [
            routing.Candidate(view, self._in_flight(view.endpoint))
            for view in self.topology.endpoints
        ]
        chosen = routing.choose(found, request, self.rng)
        return chosen.view if chosen else None

    def bounded(self, max_staleness_s: float | None, after: CausalToken | None) -> bool:
        """Does a read ask for more than whatever a replica has?"""
        bound_s = max_staleness_s if max_staleness_s is not None else self.settings.max_staleness_s
        return bound_s is not None or after is not None

    def replicas_may_have(self, token: CausalToken) -> bool:
        """Only on a branch that the token lies on, and in its cluster, does a replica's position
        prove anything."""
        topology = self.topology
        here = token.system_id in ("", topology.system_id)
        return here and leads_to(token, topology.timeline or 0, dict(topology.switches))

    def proved_late(self, endpoint: Endpoint) -> None:
        """A replica's timeline isn't told to this role: what it has is proved late."""
        if not self._late:
            why = (
                "this role is not told the timeline of a standby (pg_read_all_stats): reads with a"
                " token go to the primary"
            )
            at = endpoint.place
            logger.info("%s", Line(event="token.unproved", endpoint=at, reason=why, **self.labels))
        self._late[endpoint] = time.monotonic() + LATE_S

    def late(self, after: CausalToken | None) -> frozenset[object]:
        """Replicas that had no proof for a token a moment ago: one asks them again later."""
        if after is None or not self._late:
            return frozenset()
        now = time.monotonic()
        return frozenset(endpoint for endpoint, until in list(self._late.items()) if now < until)

    def _in_flight(self, endpoint: Endpoint) -> int:
        replica = self.replicas.get(endpoint)
        if replica is None:
            return 0
        pool = replica.pool
        idle = len(pool._pool) + len(replica.core.lent)
        return int(pool._nconns - idle + len(pool._waiting))

    def wanted_replicas(self) -> set[Endpoint]:
        """Endpoints that a replica pool should exist for."""
        return {
            view.endpoint
            for view in self.topology.endpoints
            if view.role is Role.REPLICA
            and view.health is not Health.DEAD
            and not (view.fenced or view.astray)
        }
