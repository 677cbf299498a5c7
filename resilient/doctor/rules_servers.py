"""What the facts say about the database's servers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from ..core.model import Role
from .facts import Facts, Finding, ServerFacts, in_words

#: a replica that lags more is no place to fail over to, nor to read from
LAG_S = 10.0
#: `sslmode`s that may end up in plain text, and those that trust whoever answers (manual 34.19)
PLAIN, TRUSTING = ("disable", "allow", "prefer"), ("require", "verify-ca")
#: what a session that is stuck is ended after, where nobody has said
LIMITS = {"statement_timeout": "30s", "idle_in_transaction_session_timeout": "60s"}


def unreachable_servers(facts: Facts) -> Iterator[Finding]:
    for server in facts.servers:
        if server.error:
            yield Finding(
                "unreachable",
                server.where,
                "it can't take over, nor serve reads",
                f"it can't be used from here: {server.error}",
                "start it, or correct the connection string, its privileges, or the network",
            )


def lone_servers(facts: Facts) -> Iterator[Finding]:
    alive = _alive(facts)
    servers = {server.incarnation or server.where for server in alive}
    primaries = [server for server in alive if server.role is Role.PRIMARY]
    if alive and not primaries:
        yield Finding(
            "no-primary",
            ", ".join(server.where for server in alive),
            "nobody can write",
            "none of the servers that answered takes writes",
            "promote one, or name the primary",
        )
    if len(servers) == 1 and len(facts.servers) == 1 and primaries and not primaries[0].standbys:
        yield Finding(
            "one-endpoint",
            primaries[0].where,
            "its loss is an outage until it is back",
            "no standby follows the only server"
            if primaries[0].standbys == 0
            else "one server is known, and whether a standby follows it can't be seen",
            "add a standby in another zone, and its name to the connection string",
        )
    zones = {server.zone for server in facts.servers}
    if len(facts.servers) > 1 and len(zones) == 1 and None not in zones:
        yield Finding(
            "one-zone",
            f"zone {zones.pop()}",
            "the loss of one zone is an outage",
            f"all {len(facts.servers)} servers are in it",
            "place a standby in another zone",
        )


def two_primaries(facts: Facts) -> Iterator[Finding]:
    primaries = {s.incarnation or s.where: s for s in _alive(facts) if s.role is Role.PRIMARY}
    if len(primaries) > 1:
        lines = sorted(f"{s.where} on timeline {s.timeline}" for s in primaries.values())
        yield Finding(
            "two-primaries",
            "; ".join(lines),
            "writes go to either, and those on one of them will be lost",
            "more than one server takes writes: the old primary wasn't fenced",
            "stop the one with the lower timeline and rebuild it (pg_rewind)",
        )
    clusters = {s.system_id for s in _alive(facts) if s.system_id}
    if len(clusters) > 1:
        yield Finding(
            "two-clusters",
            ", ".join(sorted(clusters)),
            "only one of them is used; the others' data is never seen",
            "the hosts belong to different databases (system identifiers)",
            "name hosts of one cluster",
        )


def lagging_replicas(facts: Facts) -> Iterator[Finding]:
    most_s = LAG_S if facts.max_staleness_s is None else facts.max_staleness_s
    for server in _alive(facts):
        if server.role is not Role.REPLICA:
            continue
        if server.lag_s is None:
            yield Finding(
                "lag",
                server.where,
                "reads there are stale, and a failover to it loses data",
                "its replay is paused, and it has replayed no transaction since it started"
                if server.paused
                else "it isn't connected to the primary (no WAL receiver), or is behind and has"
                " replayed no transaction since it started",
                "SELECT pg_wal_replay_resume() there"
                if server.paused
                else "let it follow: primary_conninfo, replication slots, pg_hba.conf",
            )
        elif server.lag_s > most_s:
            paused = bool(server.paused)
            yield Finding(
                "lag",
                server.where,
                "reads there are stale, and a failover to it takes longer",
                f"it is {in_words(round(server.lag_s, 1))} behind"
                + (": its replay is paused" if paused else ""),
                "SELECT pg_wal_replay_resume() there"
                if paused
                else "look for long queries there, or slow disks",
            )
        elif server.paused:
            yield Finding(
                "paused",
                server.where,
                "it falls behind with the next write, and a failover to it waits for its replay",
                "its replay is paused",
                "SELECT pg_wal_replay_resume() there",
            )


def commits(facts: Facts) -> Iterator[Finding]:
    for server in _alive(facts):
        if server.role is Role.PRIMARY and server.standbys and server.synchronous is False:
            yield Finding(
                "asynchronous",
                server.where,
                "a failover may lose commits that were acknowledged",
                "no commit waits for a standby (synchronous_standby_names is empty)",
                "synchronous_standby_names = 'ANY 1 (…)' where that must not be",
                grave=False,
            )


def deadlines(facts: Facts) -> Iterator[Finding]:
    for server in _alive(facts):
        if server.role is Role.PRIMARY and server.timeouts_s is not None:
            names = ("statement_timeout", "idle_in_transaction_session_timeout")
            pairs = zip(names, server.timeouts_s, strict=True)
            missing = [name for name, value in pairs if not value]
            if missing:
                role = server.user or "…"
                sets = [f"ALTER ROLE {quoted(role)} SET {name} = '{LIMITS[name]}'"
                        for name in missing]  # fmt: skip
                yield Finding(
                    "missing-deadline",
                    server.where,
                    "a session that is stuck holds its locks and its connection for ever",
                    f"no {' and no '.join(missing)} for this user",
                    f"{'; '.join(sets)}; or in the connection string: options='"
                    + " ".join(f"-c {name}={LIMITS[name]}" for name in missing)
                    + "'",
                )


def poolers(facts: Facts) -> Iterator[Finding]:
    for server in _alive(facts):
        if server.pooled:
            yield Finding(
                "pooler",
                server.where,
                "“prepared statement does not exist”, or settings that another session made",
                "a pooler stands in between: the session isn't the server's process",
                "name the servers themselves; or, behind the pooler, prepare_threshold=None in"
                " the pool's kwargs (or PgBouncer ≥ 1.21 with max_prepared_statements), a Null"
                " pool, and no session settings",
                grave=False,
            )


def balancers(facts: Facts) -> Iterator[Finding]:
    for server in _alive(facts):
        if server.others:
            yield Finding(
                "balancer",
                server.where,
                "a server that hangs behind it is found late; reads of one client differ in age",
                "several servers stand behind the address: each connection meets another one",
                "list the servers themselves, or names that lead to one server each",
                grave=False,
            )


def late_timelines(facts: Facts) -> Iterator[Finding]:
    late = [server for server in _alive(facts) if not server.exact]
    if late:
        yield Finding(
            "late-timeline",
            ", ".join(server.where for server in late),
            "reads with a token go to the primary, and so do those with a staleness bound for"
            " seconds after a promotion",
            "this role isn't told the timeline that a standby receives, so nothing proves that it"
            " has what was written a moment ago",
            "GRANT pg_read_all_stats TO the application's role",
            grave=False,
        )


def encryption(facts: Facts) -> Iterator[Finding]:
    if not facts.sslmode or not any(name.kind != "socket" for name in facts.names):
        return
    where = f"sslmode={facts.sslmode}"
    local = all(_loopback(server.endpoint.address) for server in facts.servers) and bool(
        facts.servers
    )
    if facts.sslmode in PLAIN:
        yield Finding(
            "sslmode",
            where,
            _PLAIN_SYMPTOMS.get(
                facts.sslmode, "passwords and data may cross the network in plain text"
            ),
            _PLAIN_CAUSES[facts.sslmode],
            "sslmode=verify-full and sslrootcert in the connection string (sslrootcert=system where"
            " a public authority has signed)",
            grave=not local,
        )
    elif facts.sslmode in TRUSTING:
        yield Finding(
            "sslmode",
            where,
            "whoever answers at the address is taken for the database"
            if facts.sslmode == "require"
            else "any server that this authority has signed is taken for the database",
            "the server's certificate isn't verified (only that there is one)"
            if facts.sslmode == "require"
            else "the certificate is verified, the server's name in it isn't",
            "sslmode=verify-full and sslrootcert in the connection string (sslrootcert=system where"
            " a public authority has signed)",
            grave=not local,
        )


_PLAIN_SYMPTOMS = {"disable": "passwords and data cross the network in plain text"}
_PLAIN_CAUSES = {
    "disable": "TLS is switched off by the connection string, whatever the server offers",
    "allow": "TLS is used only if the server insists on it",
    "prefer": "a server, or whoever stands in between, may decide that nothing is encrypted",
}


def quoted(name: str) -> str:
    """A role's name as SQL writes it."""
    return name if name.isidentifier() and name.islower() else '"' + name.replace('"', '""') + '"'


def _alive(facts: Facts) -> list[ServerFacts]:
    return [server for server in facts.servers if not server.error]


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
