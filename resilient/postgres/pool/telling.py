"""What a pool tells of itself: its numbers, and what its callers met in a failover.

Mixed into `base.PoolCore`.  A checkout and its end cost two records, which without an SDK do
nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ... import telemetry
from ..._logs import Line
from ...core.model import Endpoint, EndpointView, Role, Topology
from ...telemetry import instruments, names
from ...telemetry.names import Metric
from ...telemetry.records import Record

if TYPE_CHECKING:
    from ...core.budget import RetryBudget
    from ..session.keeper import Keeper
    from ..target import Target
    from . import clusters

logger = logging.getLogger("resilient.failover")

#: who had a connection sooner hasn't waited, in seconds
WAITED_S = 0.001
#: a call that is done again now was cut off within this time, in seconds
RECENT_S = 10.0
_STATE = "db.client.connection.state"
_ROLE, _RELATION = "resilient.endpoint.role", "resilient.zone.relation"
#: parts of the reasons why something isn't replayed → one word of a fixed set
_WORDS = (
    ("RESILIENT_REPLAY=", "off"),
    ("checked out", "not-checked-out"),
    ("RESILIENT_REPLAY_", "too-large"),
    ("RETRY_ATTEMPTS", "attempts"),
    ("DEADLINE", "deadline"),
    ("two clusters", "another-cluster"),
    ("COPY", "copy"),
    ("server-side cursor", "server-side-cursor"),
    ("temporary table", "temporary-table"),
    ("advisory lock", "advisory-lock"),
    ("two-phase", "two-phase"),
    ("chained", "chained"),
    ("PREPARE", "prepare"),
    ("pipeline", "pipeline"),
    ("procedure", "procedure"),
    ("setting", "session-settings"),
    ("LISTEN", "listen"),
)

Said = dict[str, str]


class Telling:
    """What it needs of the core is declared here."""

    shared: clusters.Shared | None
    lender: Callable[[], Any]
    lent: set[Any]
    keeps_idle: bool
    owner: Telling | None
    _target: Target | None
    _budget: RetryBudget
    #: once all of it is known
    _said: Said | None = None
    _failover_log: telemetry.FailoverLog | None = None

    if TYPE_CHECKING:

        @property
        def beneath(self) -> list[Telling]: ...
        @property
        def zone(self) -> str | None: ...
        @property
        def topology(self) -> Topology: ...
        @property
        def reads(self) -> bool: ...

    @property
    def name(self) -> str:
        """The pool's; of a replica's none, it is its owner's."""
        return "" if self.owner is not None else getattr(self.lender(), "name", None) or ""

    @property
    def said(self) -> Said:
        """Attributes of its metrics."""
        if self.owner is not None:
            return self.owner.said
        if self._said is None:
            params = dict(self._target.params) if self._target is not None else {}
            database = params.get("dbname") or params.get("user") or ""
            found = {names.POOL: self.name, names.DATABASE: str(database)}
            said = {**telemetry.POSTGRESQL, **{key: value for key, value in found.items() if value}}
            if names.POOL not in said or self._target is None:
                return said
            self._said = said
        return self._said

    @property
    def labels(self) -> Said:
        """What each of its lines says of it."""
        said = self.said
        named = {"pool": names.POOL, "database": names.DATABASE}
        return {label: said[name] for label, name in named.items() if name in said}

    @property
    def failover_log(self) -> telemetry.FailoverLog | None:
        """The failovers of its cluster; of a closed pool, those that were."""
        if self.owner is not None:
            return self.owner.failover_log
        if self.shared is not None:
            self._failover_log = self.shared.cluster.failover_log
        return self._failover_log

    @property
    def failovers(self) -> tuple[Record, ...]:
        """The last ones of its cluster, oldest first."""
        failover_log = self.failover_log
        return failover_log.failovers if failover_log is not None else ()

    # -- checkouts

    def handed_out(self, conn: Any, began_s: float) -> None:
        """A checkout that was begun then has this connection."""
        keeper: Keeper | None = getattr(conn, "_resilient", None)
        if keeper is not None:
            self.handed_at_once(keeper, began_s)

    def handed_at_once(self, keeper: Keeper, began_s: float) -> None:
        """`handed_out`, where it was there."""
        keeper.out_since_s = now = time.monotonic()
        instruments.record(names.WAIT_TIME, now - began_s, self._said or self.said)
        if now - began_s > WAITED_S and (failover_log := self.failover_log) is not None:
            failover_log.tell()
            failover_log.waited(began_s, names.WAITED, seconds=now - began_s)

    def gave_up(self, began_s: float) -> None:
        """It got none."""
        instruments.count(names.TIMEOUTS, self.said)
        if (failover_log := self.failover_log) is not None:
            waited_s = time.monotonic() - began_s
            failover_log.waited(began_s, names.WAITED, seconds=waited_s, error="PoolTimeout")

    def came_back(self, conn: Any) -> None:
        """A checkout is over."""
        keeper: Keeper | None = getattr(conn, "_resilient", None)
        if keeper is not None and (since_s := keeper.out_since_s):  # a caller may give anything
            keeper.out_since_s = 0.0
            said = self._said or self.said
            instruments.record(names.USE_TIME, time.monotonic() - since_s, said)

    def made(self, seconds: float) -> None:
        """A connection was made, in so long."""
        instruments.record(names.CREATE_TIME, seconds, self.said)

    def read_at(self, view: EndpointView | None) -> None:
        """A checkout for reading goes there; None: to the primary, for want of others."""
        here = self.zone
        zone = view.zone if view is not None else None
        relation = "unknown" if zone is None or here is None else "same"
        if relation == "same" and zone != here:
            relation = "other"
        role = view.role if view is not None else Role.PRIMARY
        said = {**self.said, _ROLE: role.value, _RELATION: relation}
        instruments.count(names.READS, said)

    # -- transactions whose server was lost

    def replayed(self, endpoint: Endpoint | None, statements: int, seconds: float) -> None:
        """A transaction stands again, on this endpoint."""
        self._count(names.REPLAYS, {"resilient.replay.result": "replayed"})
        done = {"statements": statements, "seconds": seconds}
        logger.info("%s", Line(step="replayed", **_at(endpoint), **done, **self.labels))
        self._met(names.REPLAYED, statements=statements, seconds=seconds)

    def not_replayed(self, why: str) -> None:
        """It can't be done again.  Its caller hears why."""
        said = {"resilient.replay.result": "refused", "resilient.replay.reason": word_of(why)}
        self._count(names.REPLAYS, said)
        logger.info("%s", Line(step="not-replayed", reason=why, **self.labels))

    def mismatched(self, endpoint: Endpoint | None, statement: str, found: str) -> None:
        """It was, and gave its caller something else than before.  Its caller hears that."""
        self._count(names.REPLAYS, {"resilient.replay.result": "mismatch"})
        what = {"statement": statement, "reason": found}
        logger.warning("%s", Line(step="mismatch", **_at(endpoint), **what, **self.labels))

    def missed(self, began_s: float, error: BaseException) -> None:
        """A call whose session was lost then has waited for another one, and has none."""
        if (failover_log := self.failover_log) is not None:
            waited_s = time.monotonic() - began_s
            failover_log.tell()
            failover_log.waited(began_s, names.WAITED, seconds=waited_s, error=type(error).__name__)

    def resolved(self, outcome: str, reason: str) -> None:
        """What became of a COMMIT whose reply was lost."""
        self._count(names.COMMITS, {"resilient.commit.outcome": outcome})
        line = Line(step="resolved", outcome=outcome, reason=reason, **self.labels)
        logger.info("%s", line)
        self._met(names.RESOLVED, outcome=outcome)

    def retried(self, granted: bool) -> None:
        """The budget was asked for a retry."""
        said = {"resilient.retry.result": "granted" if granted else "refused"}
        self._count(names.RETRIES, said)

    def _count(self, metric: Metric, more: Mapping[str, str]) -> None:
        instruments.count(metric, {**self.said, **more})

    def _met(self, event: str, **said: str | float) -> None:
        """A call was cut off, a while ago."""
        if (failover_log := self.failover_log) is not None:
            failover_log.tell()
            failover_log.waited(time.monotonic() - RECENT_S, event, **said)

    # -- what is asked now and then

    def measures(self) -> Iterator[tuple[Metric, float, Said]]:
        """On a thread of who collects."""
        pool = self.lender()
        if self.owner is not None or self.shared is None or pool is None:
            return
        said = self.said
        for core in [self, *self.beneath]:
            if (each := core.lender()) is None:
                continue
            idle = len(each._pool) + len(core.lent)
            where = {**said, _ROLE: "writer" if core is self else "replica"}
            yield names.USED, idle, {**where, _STATE: "idle"}
            yield names.USED, max(0, each._nconns - idle), {**where, _STATE: "used"}
            yield names.PENDING, len(each._waiting), said
        yield names.IDLE_MIN, pool._min_size, said
        yield names.IDLE_MAX, pool._min_size if self.keeps_idle else 0, said
        yield names.MOST, pool._max_size, said
        yield names.BUDGET, self._budget.balance, said
        topology = self.topology
        if not self.reads and not topology.replicas_only:
            yield names.WRITER, float(topology.writer is not None), said
        for view in topology.endpoints:
            named = {**said, "server.address": view.endpoint.configured}
            if view.zone is not None:
                named["cloud.availability_zone"] = view.zone
            is_what = {_ROLE: view.role.value, "resilient.endpoint.health": view.health.value}
            yield names.ENDPOINTS, 1, {**named, **is_what}
            if view.lag_s is not None and view.role is Role.REPLICA:
                yield names.LAG, view.lag_s, named


def word_of(why: str) -> str:
    """A reason in words → one of a fixed set."""
    return next((word for part, word in _WORDS if part in why), "other")


def _at(endpoint: Endpoint | None) -> dict[str, str]:
    return {"endpoint": endpoint.place if endpoint is not None else "-"}
