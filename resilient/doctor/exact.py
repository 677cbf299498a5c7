"""The TTL that a zone's own servers give a record: a cache's counts down from it."""

from __future__ import annotations

from dataclasses import replace

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rdatatype
import dns.resolver

from ..settings import Settings
from .facts import Record

__all__ = ["exact_ttls"]

PATIENCE_S = 1.0


def exact_ttls(chain: tuple[Record, ...], settings: Settings) -> tuple[Record, ...]:
    """The same records; those whose zone could be asked are `exact`."""
    resolver = dns.resolver.Resolver()
    resolver.lifetime = PATIENCE_S * 2
    if settings.dns_nameservers:
        resolver.nameservers = [str(server.address) for server in settings.dns_nameservers]
        resolver.nameserver_ports = {
            str(server.address): server.port for server in settings.dns_nameservers
        }
    return tuple(_exact(record, resolver) for record in chain)


def _exact(record: Record, resolver: dns.resolver.Resolver) -> Record:
    name = dns.name.from_text(record.name)
    asked = dns.message.make_query(name, record.rdtype)
    asked.flags &= ~dns.flags.RD
    try:
        zone = dns.resolver.zone_for_name(name, resolver=resolver, lifetime=PATIENCE_S * 2)
        for server in resolver.resolve(zone, "NS"):
            for address in resolver.resolve(server.target, "A"):
                ttl_s = _told(asked, address.address)
                if ttl_s is not None:
                    return replace(record, ttl_s=ttl_s, exact=True)
    except (dns.exception.DNSException, OSError):
        pass  # no way to it from here
    return record


def _told(asked: dns.message.Message, address: str) -> float | None:
    try:
        reply, _ = dns.query.udp_with_fallback(asked, address, timeout=PATIENCE_S)
    except (dns.exception.DNSException, OSError):
        return None
    if not reply.flags & dns.flags.AA:
        return None
    (question,) = asked.question
    found = reply.get_rrset(reply.answer, question.name, question.rdclass, question.rdtype)
    return None if found is None else float(found.ttl)
