"""Parsers of list-like settings: pure functions from text or lists to frozen values.

Each raises `ValueError` with a sentence that `settings` puts into its `ConfigError`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from ._dataclass import dataclass

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def comma_list(value: Any) -> Any:
    """`"a, b"` → `("a", "b")`; a list or tuple stays; empty items are dropped."""
    if value is None:
        return None
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, Iterable):
        raise ValueError("expected a comma-separated string or a list")
    items = [item.strip() if isinstance(item, str) else item for item in value]
    return tuple(item for item in items if item != "")


@dataclass(frozen=True, slots=True)
class NameServer:
    """Where a DNS server listens."""

    address: str
    port: int = 53

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


def split_host_port(text: str, default_port: int) -> tuple[str, int]:
    """`host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address → (host, port)."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not [address] or [address]:port")
        port = rest[1:]
        if rest == ":":
            raise ValueError(f"{text!r} has an empty port")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not port:
            raise ValueError(f"{text!r} has an empty port")
    if not host:
        raise ValueError(f"{text!r} has no host")
    if not port:
        return host, default_port
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r}: {port!r} is no port number")
    return host, int(port)


def parse_name_servers(value: Any) -> tuple[NameServer, ...]:
    """`"127.0.0.1:5353, ::1"` → name servers.  Only literal addresses."""
    servers = []
    for item in comma_list(value) or ():
        if isinstance(item, NameServer):
            servers.append(item)
            continue
        host, port = split_host_port(str(item), 53)
        servers.append(NameServer(str(ipaddress.ip_address(host)), port))
    return tuple(servers)


def parse_networks(value: Any) -> tuple[str, ...]:
    """Networks in canonical text."""
    return tuple(str(ipaddress.ip_network(item, strict=False)) for item in comma_list(value) or ())


def parse_name_map(*accepted: str) -> Callable[[Any], dict[str, str]]:
    """A parser of `name=value,…`; names compare without case and final dot."""

    def parse(value: Any) -> dict[str, str]:
        items = value.items() if isinstance(value, Mapping) else _pairs(comma_list(value) or ())
        result: dict[str, str] = {}
        for name, given in items:
            if accepted and given not in accepted:
                raise ValueError(f"{name}={given}: not one of {', '.join(accepted)}")
            result[str(name).rstrip(".").lower()] = given
        return result

    return parse


def _pairs(items: Iterable[Any]) -> list[tuple[str, str]]:
    pairs = []
    for item in items:
        name, equals, given = str(item).partition("=")
        if not equals or not name.strip() or not given.strip():
            raise ValueError(f"{item!r} is not name=value")
        pairs.append((name.strip(), given.strip()))
    return pairs


@dataclass(frozen=True, slots=True)
class ZoneMap:
    """Which zone an endpoint lies in: the first rule that fits, networks before patterns.

    A rule is (zone, network) or (zone, host pattern as in `fnmatch`).
    """

    rules: tuple[tuple[str, IPNetwork | str], ...]

    def names(self) -> tuple[str, ...]:
        """The zones, each once, in the order given."""
        return tuple(dict.fromkeys(zone for zone, _ in self.rules))

    def zone_of(self, address: str = "", names: Iterable[str] = ()) -> str | None:
        """The zone of a literal address, or of one of the host's names."""
        try:
            ip = ipaddress.ip_address(address) if address else None
        except ValueError:
            ip = None
        if ip is not None:
            for zone, rule in self.rules:
                if not isinstance(rule, str) and ip.version == rule.version and ip in rule:
                    return zone
        for name in names:
            plain = name.rstrip(".").lower()
            for zone, rule in self.rules:
                if isinstance(rule, str) and fnmatchcase(plain, rule):
                    return zone
        return None


def parse_zones(value: Any) -> ZoneMap:
    """`"az1=10.0.1.0/24,az2=*.az2.example"` → a `ZoneMap`."""
    if isinstance(value, ZoneMap):
        return value
    if isinstance(value, Mapping):
        flat: list[tuple[str, str]] = []
        for zone, rules in value.items():
            flat += [(str(zone), str(rule)) for rule in comma_list(rules) or ()]
    else:
        flat = _pairs(comma_list(value) or ())
    parsed: list[tuple[str, IPNetwork | str]] = []
    for zone, text in flat:
        parsed.append((zone, _zone_rule(text)))
    return ZoneMap(tuple(parsed))


def _zone_rule(text: str) -> IPNetwork | str:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        if "/" in text or not any(c.isalnum() for c in text):
            raise ValueError(f"{text!r} is neither a network nor a host pattern") from None
        return text.rstrip(".").lower()
