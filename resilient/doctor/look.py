"""Asks names, servers and services what they are.  A few seconds, and nothing is changed."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psycopg
from psycopg import waiting
from psycopg.conninfo import make_conninfo

from .._parse import split_user, visible, without_secrets
from ..core.model import Endpoint, Role
from ..dns import Resolver, inspect
from ..errors import ConfigError, ResolutionError
from ..monitor.names import ConfiguredName, source_domain, verified_name
from ..postgres.role import RoleError, observe
from ..postgres.target import default_conninfo, dial_params, parse
from ..settings import Settings
from .exact import exact_ttls
from .facts import Facts, NameFacts, Record, ServerFacts, UrlFacts

__all__ = ["gather"]

Progress = Callable[[str], None]

#: one server, one service
PATIENCE_S = 3
#: keys of a health answer that name no dependency
_OWN = frozenset(
    ("status", "live", "alive", "ok", "healthy", "ready", "up", "latency_ms", "version", "time",
     "timestamp", "uptime", "name", "service", "zone", "host", "pid")
)  # fmt: skip
SESSION = """\
SELECT pg_backend_pid(),
 (SELECT setting::float / 1000 FROM pg_settings WHERE name = 'statement_timeout'),
 (SELECT setting::float / 1000 FROM pg_settings
  WHERE name = 'idle_in_transaction_session_timeout'),
 current_setting('synchronous_standby_names') <> '',
 (SELECT count(*) FROM pg_stat_replication),
 CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END"""


def gather(
    conninfo: str | None,
    urls: Sequence[str] = (),
    settings: Settings | None = None,
    progress: Progress = lambda text: None,
) -> Facts:
    """What can be seen from here.

    `conninfo`: None looks at no database.  Raises `ConfigError` for a URL that is none, psycopg's
    `ProgrammingError` for a malformed conninfo.
    """
    settings = settings or Settings()
    known = Facts(
        zone=settings.zone,
        zones=tuple(settings.zones.names()),
        max_staleness_s=settings.max_staleness_s,
        fallbacks=settings.http_fallbacks,
        name_servers=_name_servers(settings),
    )
    with ThreadPoolExecutor(8, thread_name_prefix="doctor") as together:
        services = together.map(lambda url: _service(url, settings, progress), urls)
        if conninfo is not None:
            known = _database(conninfo, settings, progress, known, together)
        return replace(known, urls=tuple(services))


def _database(
    conninfo: str,
    settings: Settings,
    progress: Progress,
    known: Facts,
    together: ThreadPoolExecutor,
) -> Facts:
    target = parse(conninfo, {}, settings)
    params = dict(target.params)
    found = list(together.map(lambda one: _name(one, settings, progress), target.names))
    dials = list(dict.fromkeys(dial for _, dials in found for dial in dials))
    servers = together.map(lambda dial: _server(dial, params, settings, progress), dials)
    return replace(
        known,
        names=tuple(name for names, _ in found for name in names),
        servers=tuple(servers),
        aliases=tuple(_aliases(conninfo, settings, progress)),
        sslmode=params.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer",
    )


# -- names

Dial = tuple[Endpoint, str | None]


def _name(
    one: ConfiguredName, settings: Settings, progress: Progress
) -> tuple[list[NameFacts], list[Dial]]:
    """What a configured host is, and what there is to dial."""
    zone_of = settings.zones.zone_of
    if not one.port:  # a service file's: only libpq knows
        return [NameFacts("the service file", "service")], [(Endpoint("", "", 0), None)]
    places = [(one.host, one.port)]
    kind = "name"
    if source_domain(one.host) is not None:
        kind = "listed"
        try:
            with Resolver(settings) as resolver:
                listed = resolver.resolve_srv(one.host)
        except ResolutionError as error:
            return [NameFacts(one.host, error=_line(error))], []
        places = [(service.host, service.port) for service in listed]
    names: list[NameFacts] = []
    dials: list[Dial] = []
    for host, port in places:
        facts = _host(one.hostaddr or host, kind, settings, progress)
        names.append(facts)
        verified = verified_name(one.host, settings)
        if facts.kind == "socket":
            dials.append((Endpoint(host, "", port), None))
        elif facts.kind == "literal":
            (address,) = facts.addresses
            dials.append((Endpoint(verified or address, address, port), zone_of(address, (host,))))
        else:
            on_the_way = (host, *(record.name for record in facts.chain))
            dials += [
                (Endpoint(verified, address, port), zone_of(address, on_the_way))
                for address in facts.addresses
            ]
    return names, dials


def _host(host: str, kind: str, settings: Settings, progress: Progress) -> NameFacts:
    if not host or host.startswith(("/", "@")):
        return NameFacts(host, "socket")
    try:
        address = str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        progress(f"name {host}")
    else:
        return NameFacts(host, "literal", addresses=(address,))
    try:
        seen = inspect(host, settings, "any")
    except ResolutionError as error:
        return NameFacts(host, kind, error=_line(error))
    if seen.source != "server":
        return NameFacts(host, "hosts", addresses=seen.addresses)
    chain = tuple(
        Record(link.name.rstrip("."), link.rdtype, link.ttl_s, seen.authoritative)
        for link in seen.chain
    )
    if seen.cached:
        chain = exact_ttls(chain, settings)
    return NameFacts(host, kind, chain, seen.addresses)


def _aliases(
    conninfo: str, settings: Settings, progress: Progress
) -> Iterable[tuple[str, NameFacts]]:
    """The names that this environment would use by itself, and those of its readers."""
    own = [("RESILIENT_DATABASE_READERS", text) for text in settings.database_readers]
    try:
        usual = default_conninfo(settings)
        variable = "DATABASE_URL" if settings.database_url is None else "RESILIENT_DATABASE_URL"
        if usual and usual != conninfo:
            own += [(variable, name.host) for name in parse(usual, {}, settings).names]
    except (ConfigError, psycopg.Error):
        pass  # it isn't what is looked at
    for variable, host in dict.fromkeys(own):
        yield variable, _host(host.partition(":")[0], "name", settings, progress)


def _name_servers(settings: Settings) -> tuple[str, ...]:
    if settings.dns_nameservers:
        return tuple(str(server.address) for server in settings.dns_nameservers)
    try:
        with open("/etc/resolv.conf") as file:
            words = [line.split() for line in file]
    except OSError:
        return ()
    return tuple(line[1] for line in words if len(line) > 1 and line[0] == "nameserver")


# -- servers


def _server(
    dial: Dial, params: dict[str, str], settings: Settings, progress: Progress
) -> ServerFacts:
    endpoint, zone = dial
    seen = ServerFacts(endpoint, zone)
    progress(f"server {seen.where}")
    given: dict[str, Any] = {
        "connect_timeout": PATIENCE_S,
        "application_name": "resilient doctor",
        **params,
        **dial_params(endpoint),
    }
    try:
        with psycopg.connect(make_conninfo("", **given), autocommit=True) as conn:
            told = _answers(conn, seen)
        return replace(told, others=_others(make_conninfo("", **given), told))
    except (psycopg.Error, RoleError) as error:
        return replace(seen, error=_line(error))


def _others(conninfo: str, seen: ServerFacts) -> bool:
    """Does another connection meet another server?  A balancer takes turns."""
    for _ in range(2):
        with suppress(psycopg.Error, RoleError), psycopg.connect(conninfo) as conn:
            told = waiting.wait(observe(conn.pgconn), conn.pgconn.socket)
            if told.incarnation and told.incarnation != seen.incarnation:
                return True
    return False


def _answers(conn: psycopg.Connection[Any], seen: ServerFacts) -> ServerFacts:
    pgconn = conn.pgconn
    told = waiting.wait(observe(pgconn), pgconn.socket)
    row = conn.execute(SESSION).fetchone()
    assert row is not None
    pid, statement_s, idle_s, synchronous, standbys, paused = row
    return replace(
        seen,
        role=told.role,
        system_id=told.system_id,
        incarnation=told.incarnation,
        timeline=told.timeline,
        lag_s=told.lag_s,
        standbys=standbys if told.role is Role.PRIMARY else None,
        synchronous=synchronous if told.role is Role.PRIMARY else None,
        timeouts_s=(statement_s, idle_s),
        # A pooler makes up the number by which a session is cancelled.
        pooled=pid != pgconn.backend_pid,
        exact=told.exact or not told.streams,
        paused=paused,
        user=conn.info.user,
    )


# -- services


def _service(url: str, settings: Settings, progress: Progress) -> UrlFacts:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = without_secrets(repr(url))
        raise ConfigError(f"--url {shown} isn't a URL; accepted: http://host… or https://host…")
    url, auth = split_user(url)
    parts = urlsplit(url)
    assert parts.hostname is not None
    name = _host(parts.hostname, "name", settings, progress)
    path = settings.http_health_path or ""
    seen = UrlFacts(f"{parts.scheme}://{parts.netloc}", name, path)
    if name.error:
        return seen
    progress(f"service {seen.url}{path}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    seen = replace(seen, refused=tuple(_refusing(name.addresses, port)))
    if not path or len(seen.refused) == len(name.addresses):
        return seen
    shown = f"[{name.addresses[0]}]" if ":" in name.addresses[0] else name.addresses[0]
    try:
        plain = httpx2.HTTPTransport(trust_env=False)
        with httpx2.Client(timeout=PATIENCE_S, transport=plain, trust_env=False) as client:
            response = client.get(
                f"{parts.scheme}://{shown}:{port}{path}",
                headers={"Host": parts.netloc},
                auth=auth,
                extensions={"sni_hostname": parts.hostname},
            )
    except httpx2.HTTPError as error:
        return replace(seen, error=_line(error) or type(error).__name__)
    return replace(seen, status=response.status_code, named=_named(response.content))


def _refusing(addresses: Iterable[str], port: int) -> Iterator[tuple[str, str]]:
    """Those that take no connections, and why."""
    for address in addresses:
        try:
            socket.create_connection((address, port), PATIENCE_S).close()
        except OSError as error:
            shown = f"[{address}]" if ":" in address else address
            yield f"{shown}:{port}", _line(error) or type(error).__name__


def _named(body: bytes) -> tuple[str, ...]:
    """The dependencies that a health answer names: `{"db": "ok", …}`, or one level below."""
    try:
        given = json.loads(body)
    except ValueError:
        return ()
    if not isinstance(given, dict):
        return ()
    names = [str(key) for key in given if str(key).lower() not in _OWN]
    return tuple(names)


def _line(error: BaseException) -> str:
    return visible(" ".join(str(error).split()))
