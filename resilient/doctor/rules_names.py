"""What the facts say about names, zones, and the services behind URLs."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, UrlFacts, in_words

#: a record that moves is kept for no longer than so many seconds
TTL_S = 30.0


def unknown_names(facts: Facts) -> Iterator[Finding]:
    for name in (*facts.names, *(url.name for url in facts.urls)):
        if name.error:
            yield Finding(
                "unknown-name",
                name.host,
                "nothing connects",
                f"the name can't be resolved: {name.error}",
                "correct the name, or the resolver (RESILIENT_DNS_NAMESERVERS, resolv.conf)",
            )


def pinned_addresses(facts: Facts) -> Iterator[Finding]:
    hosts = _hosts(facts)
    pinned = "{} has an address where a name belongs"
    own = ", ".join(name.host for name in facts.names if name.kind == "literal")
    places = [(own, pinned.format("the connection string"))] if own else []
    places += [
        (url.url, pinned.format("the URL")) for url in facts.urls if url.name.kind == "literal"
    ]
    places += [
        (name.host, f"{name.host} is in this machine's hosts file, which no failover changes")
        for name in (*facts.names, *(url.name for url in facts.urls))
        if name.kind == "hosts" and name.host not in hosts
    ]
    static = ", ".join(name.host for name in facts.names if name.kind == "hosts" and hosts)
    if static:
        yield Finding(
            "pinned-address",
            static,
            "a failover doesn't mind; the successor of a server isn't found before the file has it",
            "they are the names of several hosts, in this machine's hosts file",
            "names of DNS, or a file that is changed when a server is replaced",
            grave=False,
        )
    for where, cause in places:
        yield Finding(
            "pinned-address",
            where,
            "after a failover, or when the server is replaced, this client dials an address that"
            " is nobody's, or a stranger's",
            cause,
            "give the name that moves (a CNAME), or the names of all hosts: host=a,b,c",
        )
    for name in facts.names:
        if name.kind == "socket":
            yield Finding(
                "pinned-address",
                name.host or "the default socket",
                "no failover helps: the database dies with this machine",
                "the connection string has a socket of this machine",
                "give the name of the database service",
            )


# long: one loop over the records
def long_ttls(facts: Facts) -> Iterator[Finding]:
    """The records that move: the aliases of a name that has any, else its addresses."""
    seen = set()
    hosts, static = _hosts(facts), list[str]()
    for name in (*facts.names, *(url.name for url in facts.urls)):
        kind = "CNAME" if name.aliased else ""
        for record in name.chain:
            if kind and record.rdtype != kind:
                continue
            known = (record.name, record.rdtype)
            if record.ttl_s > TTL_S and known not in seen:
                seen.add(known)
                if name.host in hosts:
                    static.append(f"{record.name} ({in_words(record.ttl_s)})")
                    continue
                least = "" if record.exact else " at least (a cache said so)"
                yield Finding(
                    "long-ttl",
                    record.name,
                    f"clients stay with the old server for up to {in_words(record.ttl_s)} after the"
                    " record has moved",
                    f"the TTL of its {record.rdtype} record is {record.ttl_s:g} s{least}",
                    f"lower it to {TTL_S:g} s or less, 5 s where failovers move it; until then"
                    " RESILIENT_DNS_TTL_CEILING_S bounds it here, not in the caches between",
                )
            elif not record.exact and known not in seen:
                seen.add(known)
                yield Finding(
                    "long-ttl",
                    record.name,
                    "its TTL may be longer than it looks",
                    f"a cache answered ({record.ttl_s:g} s left); the zone's own servers weren't"
                    " reached",
                    "look at the zone itself",
                    grave=False,
                )
    if static:
        yield Finding(
            "long-ttl",
            ", ".join(static),
            "a failover doesn't mind; when a server is replaced, clients find its successor late",
            "each is the name of one of several hosts, and its address record lives long",
            f"lower it to {TTL_S:g} s or less before you replace a server",
            grave=False,
        )


def _hosts(facts: Facts) -> frozenset[str]:
    """Names that are given for one server each: no failover moves their records."""
    plain = [name.host for name in facts.names if not name.aliased and not name.error]
    return frozenset(plain) if len(plain) > 1 and len(plain) == len(facts.names) else frozenset()


def service_files(facts: Facts) -> Iterator[Finding]:
    for name in facts.names:
        if name.kind == "service":
            yield Finding(
                "service-file",
                name.host,
                "what it names isn't followed: no failover to another host or address",
                "libpq reads it, and nobody else: the library dials what libpq chooses",
                "name the hosts in the connection string",
            )


def bypassed_aliases(facts: Facts) -> Iterator[Finding]:
    if len(facts.names) != 1 or facts.names[0].kind != "name" or facts.names[0].error:
        return
    (name,) = facts.names
    if name.aliased:
        return
    for variable, other in facts.aliases:
        if other.aliased and other.canonical == name.host.rstrip("."):
            yield Finding(
                "bypasses-cname",
                name.host,
                "when the CNAME moves, this client stays with the old server",
                f"{name.host} is where {other.host} ({variable}) points to at present",
                f"use {other.host}, or the names of all hosts: host=a,b,c",
            )
            return
    yield Finding(
        "bypasses-cname",
        name.host,
        "when the service's CNAME moves, this client stays where it is",
        f"{name.host} has addresses of its own and no CNAME: it names one server (unless its"
        " address records themselves move)",
        "use the name that moves, or the names of all hosts: host=a,b,c",
    )


def name_servers(facts: Facts) -> Iterator[Finding]:
    if len(facts.name_servers) == 1 and _asked_dns(facts):
        yield Finding(
            "one-endpoint",
            f"name server {facts.name_servers[0]}",
            "while it is down, names are served from memory only, and new ones not at all",
            "one name server is configured",
            "configure a second one in another zone",
            grave=False,
        )


def zones(facts: Facts) -> Iterator[Finding]:
    if not facts.names and not facts.urls:
        return
    if facts.zone is None or not facts.zones:
        missing = "RESILIENT_ZONE" if facts.zone is None else "RESILIENT_ZONES"
        yield Finding(
            "no-zone",
            missing,
            "reads go to any zone: slower, and paid for by the byte",
            f"{missing} isn't set: this process doesn't know what is near",
            "RESILIENT_ZONES='az1=10.0.1.0/24,az2=10.0.2.0/24' and RESILIENT_ZONE=auto",
        )
        return
    for server in facts.servers:
        if server.zone is None and server.endpoint.address:
            yield Finding(
                "no-zone",
                server.where,
                "it is never near: reads avoid it",
                "no entry of RESILIENT_ZONES covers it",
                "add its network, or a host pattern",
            )


def services(facts: Facts) -> Iterator[Finding]:
    for url in facts.urls:
        if len(url.name.addresses) == 1 and not facts.fallbacks and url.name.kind == "name":
            yield Finding(
                "one-endpoint",
                url.url,
                "its loss is an outage: there is nobody to go on with",
                f"{url.name.host} has one address",
                "one address for each instance, or RESILIENT_HTTP_FALLBACKS (a balancer with one"
                " address is an instance too)",
            )
        for address, why in url.refused:
            yield Finding(
                "unreachable",
                f"{url.url} at {address}",
                "requests that go there fail, and others wait until that was found out",
                f"it takes no connections: {why}",
                "start it, open the network to it, or take its address out of the name",
            )
        if not url.name.addresses or len(url.refused) < len(url.name.addresses):
            yield from _health(url)


def _health(url: UrlFacts) -> Iterator[Finding]:
    if not url.health_path:
        yield Finding(
            "shallow-health",
            url.url,
            "a dead or hung instance is found by requests that fail",
            "RESILIENT_HTTP_HEALTH_PATH isn't set: checks are passive",
            "serve GET /health/ready (resilient.health) there, and name it here",
        )
        return
    where = f"{url.url.rstrip('/')}{url.health_path}"
    if url.error:
        yield Finding(
            "unreachable",
            where,
            "the check says nothing",
            url.error,
            "correct the path or the network",
        )
    elif url.status is not None and url.status >= 400 and url.status != 503:
        yield Finding(
            "shallow-health",
            where,
            "every instance looks unhealthy",
            f"the path answers {url.status}",
            "correct RESILIENT_HTTP_HEALTH_PATH",
        )
    elif not url.named:
        yield Finding(
            "shallow-health",
            where,
            "health passes, requests fail",
            "the answer names no dependency: a process that only lives is called healthy",
            "check what a request needs (a query, the cache, the services behind):"
            " resilient.health",
        )


def _asked_dns(facts: Facts) -> bool:
    return any(n.kind == "name" for n in (*facts.names, *(url.name for url in facts.urls)))
