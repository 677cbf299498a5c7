"""Queries and replies as octets.  dnspython's parser reads names and bounds; whatever a
message holds beyond the records that were asked for is never looked at."""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Generator

import dns.exception
import dns.flags
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.wire

from resilient.core.dns import Record, Reply, Soa
from resilient.core.dns_query import Question

from .._dataclass import dataclass

__all__ = ["Query", "make_query", "parse_reply"]

#: the UDP payload that needs no fragmentation on today's paths (DNS flag day 2020)
PAYLOAD = 1232
#: an OPT record: root owner, type 41, payload size as class, no options (RFC 6891)
_OPT = struct.pack("!BHHIH", 0, dns.rdatatype.OPT, PAYLOAD, 0, 0)
#: more records in one section aren't an answer but an attack on our time
MAX_RECORDS = 1000
_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_POINTER_TO_QUESTION = b"\xc0\x0c"


@dataclass(frozen=True, slots=True)
class Query:
    """What was sent, to compare replies with: the question section is `section`."""

    id: int
    section: bytes
    wire: bytes


def make_query(asked: Question, edns: bool) -> Query:
    """A recursive query with a random id (RFC 5452 section 9.2).

    Packed by hand: it is 12 octets and a name, and dnspython's renderer takes longer over
    it than the kernel over the exchange.
    """
    number = secrets.randbits(16)
    name = dns.name.from_text(asked.name).to_wire()
    assert name is not None
    rdtype = dns.rdatatype.from_text(asked.rdtype)
    section = name + struct.pack("!HH", rdtype, dns.rdataclass.IN)
    header = _HEADER.pack(number, dns.flags.RD, 1, 0, 0, int(edns))
    return Query(number, section, header + section + (_OPT if edns else b""))


def parse_reply(data: bytes, query: Query, asked: Question) -> Reply | None:
    """`data` as a `Reply`, or None if it isn't a well-formed reply to `query`.

    Checked are id, the response bit, opcode and question (RFC 5452 section 9.1).  A message
    that is cut is judged by its header: only the flag counts, TCP brings the rest.
    """
    if len(data) < _HEADER.size:
        return None
    number, flags, questions, answers, authority, _ = _HEADER.unpack_from(data)
    if number != query.id or not flags & dns.flags.QR or dns.opcode.from_flags(flags):
        return None
    rcode = _RCODES[flags & 0xF]
    end = _HEADER.size + len(query.section)
    if questions != 1 or data[_HEADER.size : end].lower() != query.section.lower():
        # A server may refuse with an empty question section; it must not answer so.
        refused = rcode not in ("NOERROR", "NXDOMAIN") and not questions
        return Reply(rcode) if refused else None
    if flags & dns.flags.TC:
        return Reply(rcode, truncated=True)
    if max(answers, authority) > MAX_RECORDS:
        return None
    try:
        parser = dns.wire.Parser(data, end)
        records = tuple(_answers(parser, answers, asked))
        soas = tuple(_soas(parser, authority))
    except (dns.exception.DNSException, ValueError, struct.error):
        return None
    return Reply(
        rcode,
        records,
        soas,
        recursive=bool(flags & dns.flags.RA),
        authoritative=bool(flags & dns.flags.AA),
    )


_RCODES = tuple(dns.rcode.to_text(dns.rcode.from_flags(bits, 0)) for bits in range(16))


def _answers(parser: dns.wire.Parser, count: int, asked: Question) -> Generator[Record]:
    """The records of the type asked for, and the aliases on the way to them."""
    wanted = dns.rdatatype.from_text(asked.rdtype)
    for _ in range(count):
        if parser.wire[parser.current : parser.current + 2] == _POINTER_TO_QUESTION:
            parser.get_bytes(2)
            owner = asked.name
        else:
            owner = _name(parser)
        rdtype, rdclass, ttl, length = _RECORD.unpack(parser.get_bytes(_RECORD.size))
        after = parser.current + length
        if rdclass == dns.rdataclass.IN and rdtype in (wanted, dns.rdatatype.CNAME):
            alias = rdtype == dns.rdatatype.CNAME
            data = _name(parser) if alias else _data(parser, asked.rdtype, length)
            yield Record(owner, "CNAME" if alias else asked.rdtype, ttl, data)
        else:
            parser.get_bytes(length)
        if parser.current != after:
            raise dns.exception.FormError


def _soas(parser: dns.wire.Parser, count: int) -> Generator[Soa]:
    for _ in range(count):
        owner = _name(parser)
        rdtype, rdclass, ttl, length = _RECORD.unpack(parser.get_bytes(_RECORD.size))
        data = parser.get_bytes(length)
        if rdtype == dns.rdatatype.SOA and rdclass == dns.rdataclass.IN and length >= 22:
            # The minimum is the last of five numbers behind two names.
            yield Soa(owner, ttl, int.from_bytes(data[-4:], "big"))


def _name(parser: dns.wire.Parser) -> str:
    name = dns.name.from_wire_parser(parser)
    return name.to_text(omit_final_dot=True).lower() if len(name) > 1 else ""


def _data(parser: dns.wire.Parser, rdtype: str, length: int) -> str:
    if rdtype == "SRV":
        priority, weight, port = struct.unpack("!HHH", parser.get_bytes(6))
        return f"{priority} {weight} {port} {_name(parser)}"
    family = socket.AF_INET6 if rdtype == "AAAA" else socket.AF_INET
    return socket.inet_ntop(family, parser.get_bytes(length))  # ValueError: a wrong length
