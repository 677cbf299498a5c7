"""Silent packet loss for whole zones, by nf_tables spoken over netlink (no nft program needed).

Packets are dropped at the *prerouting* hook, where they have left their sender for good: nobody
gets an error, a reset or an ICMP message.  (At the output hook the sender's system call would
fail with EPERM; a blackhole route gives EINVAL, a taken-down bridge port EHOSTUNREACH.)  Both
directions are dropped, connections that exist included.

Works with CAP_NET_ADMIN over the network namespace, and is used in our own one only.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import threading

from .options import LabError

__all__ = ["PacketDrops"]

_NETLINK_NETFILTER = 12
_BATCH_BEGIN, _BATCH_END, _ERROR = 16, 17, 2
_NEW_TABLE, _DEL_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 2, 3, 6
_SUBSYSTEM, _IPV4 = 10, 2
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_NESTED = 0x8000
_PREROUTING, _PRIORITY, _ACCEPT, _DROP = 0, -300, 1, 0
_SOURCE, _DESTINATION = 12, 16  # offsets in the IPv4 header


class PacketDrops:
    """The set of networks whose packets are being lost, kept in one table of our own."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._lock = threading.Lock()
        self._networks: set[ipaddress.IPv4Network] = set()

    @property
    def active(self) -> bool:
        """Whether any packets are being lost."""
        return bool(self._networks)

    def drop(self, network: str) -> None:
        """Lose every packet to or from `network` (a /8, /16, /24 or /32) from now on."""
        with self._lock:
            self._install(self._networks | {ipaddress.IPv4Network(network)})

    def clear(self) -> None:
        """Let everything pass again, and leave no table behind."""
        with self._lock:
            if self._networks:
                self._install(set())

    def probe(self) -> str:
        """Why packets can't be dropped here; empty if they can."""
        try:
            with self._lock:
                self._install({ipaddress.IPv4Network("127.255.255.254/32")})
                self._install(set())
        except (OSError, LabError) as error:
            return f"the kernel refuses nf_tables: {error}"
        return ""

    def _install(self, networks: set[ipaddress.IPv4Network]) -> None:
        """Replace the whole table in one transaction."""
        name = _text(1, self._table)
        messages = [(_NEW_TABLE, _CREATE, name), (_DEL_TABLE, 0, name)]
        if networks:
            hook = _u32(1, _PREROUTING) + _u32(2, _PRIORITY)
            chain = name + _text(3, "zones") + _nest(4, hook) + _u32(5, _ACCEPT)
            chain += _text(7, "filter")
            messages += [(_NEW_TABLE, _CREATE, name), (_NEW_CHAIN, _CREATE, chain)]
        for network in sorted(networks):
            for offset in (_SOURCE, _DESTINATION):
                rule = name + _text(2, "zones") + _nest(4, _drop_if(network, offset))
                messages.append((_NEW_RULE, _CREATE | _APPEND, rule))
        _transact(messages)
        self._networks = networks


def _drop_if(network: ipaddress.IPv4Network, offset: int) -> bytes:
    length, rest = divmod(network.prefixlen, 8)
    if rest or not length:
        raise LabError(f"{network}: only whole bytes can be matched")
    data = network.network_address.packed[:length]
    load = _u32(1, 1) + _u32(2, 1) + _u32(3, offset) + _u32(4, length)
    compare = _u32(1, 1) + _u32(2, 0) + _nest(3, _attribute(1, data))
    verdict = _u32(1, 0) + _nest(2, _nest(2, _u32(1, _DROP)))
    parts = (("payload", load), ("cmp", compare), ("immediate", verdict))
    return b"".join(_nest(1, _text(1, name) + _nest(2, body)) for name, body in parts)


def _transact(messages: list[tuple[int, int, bytes]]) -> None:
    packet = _message(_BATCH_BEGIN, _REQUEST, 0, b"", resource=_SUBSYSTEM)
    for number, (kind, flags, body) in enumerate(messages, 1):
        packet += _message(_SUBSYSTEM << 8 | kind, _REQUEST | _ACK | flags, number, body)
    packet += _message(_BATCH_END, _REQUEST, len(messages) + 1, b"", resource=_SUBSYSTEM)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
        link.settimeout(5)
        link.bind((0, 0))
        link.send(packet)
        acknowledged: set[int] = set()
        while len(acknowledged) < len(messages):
            acknowledged |= _acknowledgements(link.recv(65536))


def _acknowledgements(reply: bytes) -> set[int]:
    """Sequence numbers that were acknowledged; OSError for the first that failed."""
    seen = set()
    while len(reply) >= 20:
        length, kind, _, sequence = struct.unpack_from("=IHHI", reply)
        if kind == _ERROR:
            (error,) = struct.unpack_from("=i", reply, 16)
            if error:
                raise OSError(-error, os.strerror(-error))
            seen.add(sequence)
        reply = reply[(length + 3) & ~3 :]
    return seen


def _message(kind: int, flags: int, sequence: int, body: bytes, *, resource: int = 0) -> bytes:
    family = _IPV4 if not resource else socket.AF_UNSPEC
    body = struct.pack(">BBH", family, 0, resource) + body
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def _attribute(kind: int, data: bytes) -> bytes:
    padding = b"\0" * (-len(data) % 4)
    return struct.pack("=HH", 4 + len(data), kind) + data + padding


def _nest(kind: int, data: bytes) -> bytes:
    return _attribute(kind | _NESTED, data)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _u32(kind: int, number: int) -> bytes:
    return _attribute(kind, struct.pack(">I", number & 0xFFFFFFFF))
