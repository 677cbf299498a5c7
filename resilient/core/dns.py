"""The values of name resolution: what is asked, what came back, what is handed out.

Rules of this file: frozen values and arithmetic on them, nothing that waits or remembers.
Seconds are durations or points on the injected monotonic clock; names are lower case and
without a final dot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import groupby
from math import lcm
from typing import Literal, TypeAlias

from .._dataclass import dataclass
from .dns_select import Rank

__all__ = [
    "Absent",
    "Answer",
    "Change",
    "Failed",
    "Family",
    "Found",
    "Mode",
    "Record",
    "Reply",
    "Result",
    "Soa",
    "merge",
    "restrict",
    "rotations",
    "wire_ttl",
]

Family: TypeAlias = Literal[4, 6, "any"]
Mode: TypeAlias = Literal["strict", "rotating"]

#: an answer of AAAA alone is kept at most this long after A failed, in seconds
PARTIAL_S = 5.0
#: more orders than this are not stored for one answer
MAX_ROTATIONS = 64
#: the rank of every address where none is better than another
EQUAL: Rank = (False, False, 0, 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """The addresses of one name, as cached.

    `chain` holds the names from the one asked to `canonical_name`; `ttl_s` is the effective
    time to live, `expires_at` a point on the resolver's clock.  `stale` marks an expired
    answer that is served because no name server gives a newer one (RFC 8767).
    """

    addresses: tuple[str, ...]
    canonical_name: str
    chain: tuple[str, ...]
    ttl_s: float
    expires_at: float
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A watched name now means something else.

    `removed` are the addresses to drain: with mode `strict` everything that is no longer
    answered, with mode `rotating` only what is absent and dead, or absent for several
    answers in a row.  `added` are addresses not known before.
    """

    name: str
    old: Answer | None
    new: Answer
    mode: Mode
    removed: frozenset[str]
    added: frozenset[str]


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record: an address, an alias' target, or the text of an SRV record."""

    owner: str
    rdtype: str
    ttl: int
    data: str


@dataclass(frozen=True, slots=True)
class Soa:
    """What a negative answer says about its own lifetime (RFC 2308 section 3)."""

    owner: str
    ttl: int
    minimum: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that matched its question, reduced to what is decided on."""

    rcode: str
    records: tuple[Record, ...] = ()
    soa: tuple[Soa, ...] = ()
    truncated: bool = False
    recursive: bool = True
    authoritative: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """Data at the end of a chain; `ttl_s` is the minimum over chain and data."""

    chain: tuple[str, ...]
    data: tuple[str, ...]
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Absent:
    """An authoritative no: the name has no such data, or (not `exists`) isn't there at all."""

    exists: bool
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """No answer: every server was silent (`timeout`) or failed, with SERVFAIL one of them if
    `servfail`.  Says nothing of the name."""

    timeout: bool
    reason: str
    servfail: bool = False


Result: TypeAlias = Found | Absent | Failed


def wire_ttl(ttl: int) -> int:
    """A TTL as sent; with the most significant bit set it counts as 0 (RFC 2181 section 8)."""
    return ttl if 0 <= ttl <= 0x7FFFFFFF else 0


def merge(four: Result, six: Result) -> Result:
    """The result for both families out of those of A (`four`) and AAAA (`six`).

    One family's addresses are enough, whatever became of the other.  A name that is not
    there (NXDOMAIN) is not there for both, and a failure of one family leaves absence of
    the other unproved.
    """
    if isinstance(four, Found) and isinstance(six, Found):
        data = tuple(_interleave(six.data, four.data))
        return Found(four.chain, data, min(four.ttl_s, six.ttl_s))
    if isinstance(six, Found):
        # An A record that failed to come must not be missed for the whole life of AAAA,
        # while AAAA without a reply is a plain fact of many networks.
        brief_s = min(six.ttl_s, PARTIAL_S) if isinstance(four, Failed) else six.ttl_s
        return replace(six, ttl_s=brief_s)
    if isinstance(four, Found):
        return four
    for result in (four, six):
        if isinstance(result, Absent) and not result.exists:
            return result
    for result in (four, six):
        if isinstance(result, Failed):
            return result
    assert isinstance(four, Absent)
    assert isinstance(six, Absent)
    return Absent(exists=True, ttl_s=min(four.ttl_s, six.ttl_s))


def restrict(found: Found, networks: Sequence[IPv4Network | IPv6Network]) -> Found | Failed:
    """`found` without the addresses outside `networks`; `Failed` if none is left.

    No networks: everything is allowed.  A failure and not an absence, as the name exists.
    """
    if not networks:
        return found
    allowed = tuple(a for a in found.data if any(_inside(a, network) for network in networks))
    if not allowed:
        return Failed(timeout=False, reason=f"outside the allowed networks: {found.data}")
    return replace(found, data=allowed)


def _inside(address: str, network: IPv4Network | IPv6Network) -> bool:
    ip = ip_address(address)
    return ip.version == network.version and ip in network


def _interleave(first: Sequence[str], second: Sequence[str]) -> Iterable[str]:
    """Alternate between two families, so that the second try is of the other one
    (RFC 8305 section 4)."""
    for i in range(max(len(first), len(second))):
        yield from first[i : i + 1]
        yield from second[i : i + 1]


def rotations(
    answer: Answer,
    dead: frozenset[str] = frozenset(),
    rank: Callable[[str], Rank] = lambda address: EQUAL,
) -> tuple[Answer, ...]:
    """`answer` once for each turn of its addresses, so that successive users start apart.

    Addresses of equal rank turn, each family on its own; the families alternate, beginning
    with that of the best rank (IPv6 in a tie).  Behind them come addresses out of reach, and
    last those in `dead`.
    """
    ranks = {address: rank(address) for address in answer.addresses}
    ordered = sorted(answer.addresses, key=ranks.__getitem__)
    live = [a for a in ordered if a not in dead]
    near = [a for a in live if not ranks[a][0]]
    last = (*(a for a in live if ranks[a][0]), *(a for a in ordered if a in dead))
    six = _runs([a for a in near if ":" in a], ranks)
    four = _runs([a for a in near if ":" not in a], ranks)
    four_first = bool(four and six) and ranks[four[0][0]] < ranks[six[0][0]]
    first, second = (four, six) if four_first else (six, four)
    turns = min(MAX_ROTATIONS, lcm(1, *(len(run) for run in (*six, *four))))
    orders = ((*_interleave(_turned(first, i), _turned(second, i)), *last) for i in range(turns))
    return tuple(replace(answer, addresses=order) for order in orders)


def _runs(addresses: Sequence[str], ranks: Mapping[str, Rank]) -> list[list[str]]:
    """Neighbours of equal rank together."""
    return [list(run) for _, run in groupby(addresses, ranks.__getitem__)]


def _turned(runs: Sequence[Sequence[str]], by: int) -> list[str]:
    return [run[(i + by) % len(run)] for run in runs for i in range(len(run))]
