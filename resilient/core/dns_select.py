"""Which address of several is tried first: destination address selection (RFC 6724).

Rules of this file: no packet and no socket; what this machine's addresses are is given.  Of
the RFC's rules, in their order:

    1  avoid destinations that can't be reached   a family without a route comes last
    2  prefer matching scope                      ditto: no source of that scope
    5  prefer matching label                      such as native IPv6 over a ULA's way out
    6  prefer higher precedence                   IPv6, then IPv4, 6to4, Teredo, ULA
    8  prefer smaller scope

Rules 3, 4 and 7 speak of addresses that Linux hardly hands out; rule 9 (longest common
prefix) would undo the rotation of answers, and is left out for that reason.  Among equals
the order given stays (rule 10).  Nothing is ever dropped: a wrong guess costs one try.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

from .._dataclass import dataclass

__all__ = ["Rank", "Reach", "own_ipv4", "own_ipv6", "rank"]

#: (out of reach, another label than ours, −precedence, scope): the lowest is tried first
Rank: TypeAlias = tuple[bool, bool, int, int]

#: RFC 6724 section 2.1: prefix, precedence, label; the longest prefix counts
_POLICY = tuple(
    (IPv6Network(prefix), precedence, label)
    for prefix, precedence, label in (
        ("::1/128", 50, 0),
        ("::ffff:0:0/96", 35, 4),
        ("::/96", 1, 3),
        ("2001::/32", 5, 5),
        ("2002::/16", 30, 2),
        ("3ffe::/16", 1, 12),
        ("fec0::/10", 1, 11),
        ("fc00::/7", 3, 13),
        ("::/0", 40, 1),
    )
)
_IPV4_PRECEDENCE = 35
_LINK, _SITE, _GLOBAL = 2, 5, 14


@dataclass(frozen=True, slots=True)
class Reach:
    """What this machine can send from.  `four`: there is an IPv4 route; `six`: its IPv6
    addresses.  None: not known, everything counts as within reach."""

    four: bool | None = None
    six: tuple[IPv6Address, ...] | None = None


def rank(address: str, reach: Reach) -> Rank:
    """The place of a literal address in the order of trying; lower comes first."""
    ip = ip_address(address)
    scope = _scope(ip)
    if isinstance(ip, IPv4Address):
        away = reach.four is False and not ip.is_loopback
        return (away, False, -_IPV4_PRECEDENCE, scope)
    precedence, label = _policy(ip)
    if reach.six is None:
        return (False, False, -precedence, scope)
    sources = [own for own in reach.six if _scope(own) == scope]
    if ip.is_loopback or scope == _LINK:
        sources = [own for own in sources if own.is_loopback == ip.is_loopback]
    away = not sources
    foreign = not away and all(_policy(own)[1] != label for own in sources)
    return (away, foreign, -precedence, scope)


def _policy(ip: IPv6Address) -> tuple[int, int]:
    return next((p, label) for network, p, label in _POLICY if ip in network)


def _scope(ip: IPv4Address | IPv6Address) -> int:
    if ip.is_loopback or ip.is_link_local:
        return _LINK
    return _SITE if isinstance(ip, IPv6Address) and ip.is_site_local else _GLOBAL


def own_ipv6(text: str) -> tuple[IPv6Address, ...]:
    """The text of Linux's `/proc/net/if_inet6`; lines that aren't understood are left out."""
    found = []
    for line in text.splitlines():
        digits = line.partition(" ")[0]
        if len(digits) == 32 and all(c in "0123456789abcdef" for c in digits):
            found.append(IPv6Address(int(digits, 16)))
    return tuple(found)


def own_ipv4(text: str) -> bool:
    """The text of `/proc/net/route`: is there any route that is up?"""
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[0] != "lo" and int(fields[3], 16) & 1:
            return True
    return False
