"""Parsers of list-like settings: pure functions from text or lists to frozen values.

Each raises `ValueError` with a sentence that `settings` puts into its `ConfigError`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote, urlsplit

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


def visible(text: str) -> str:
    """`text` with all that a terminal or a log would obey instead of show written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def without_secrets(text: str) -> str:
    """`text` without what may be a password of a URL, however badly it is written."""
    if "@" in text:
        before, _, after = text.rpartition("@")
        scheme, slashes, _ = before.partition("//")
        text = f"{scheme if slashes else ''}{slashes}***@{after}"
    return _SECRETS.sub(r"\1=***", text)


_SECRETS = re.compile(r"(?i)\b(\w*(?:pass|pwd|secret|token|key)\w*)=[^&\s,'\"]*")


class Url(str):
    """A URL that can be printed: its `repr` shows no password."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(without_secrets(str(self)))


def split_user(url: str) -> tuple[str, tuple[str, str] | None]:
    """A URL without user and password, which libraries log; and these two, for its `auth=`."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    given = (unquote(name), unquote(password)) if at else None
    return parts._replace(netloc=host).geturl(), given


def plain(text: str) -> str:
    """`text`, if a name can be like that: no spaces and nothing that can't be printed."""
    if not text.isprintable() or any(c.isspace() for c in text):
        raise ValueError(f"{text!r} holds a space or a control character")
    return text


def parse_hosts_and_ports(value: Any) -> Any:
    """`"r1, r2:5433"` → the same items, each checked."""
    items = comma_list(value)
    for item in items or ():
        split_host_port(plain(str(item)), 0)
    return items


def parse_urls(value: Any) -> Any:
    """Base URLs.  An error shows none of them: what isn't understood may be a password."""
    items = comma_list(value)
    return None if items is None else tuple(Url(_checked_url(str(item))) for item in items)


def _checked_url(text: str) -> str:
    try:
        # urlsplit itself drops line breaks without a word
        parts = urlsplit(plain(text))
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError("not an http(s) URL with a host and, if any, a port from 1 to 65535")
    return text


def check_conninfo(text: str) -> None:
    """Hosts and ports of a conninfo or URL, as far as they can be seen without libpq.

    `ValueError` without any of the text, which holds a password.
    """
    if "\0" in text:
        raise ValueError("it holds a NUL")
    if text.startswith(("postgresql://", "postgres://")):
        if not text.isprintable():
            raise ValueError("it holds a control character")
        hosts = re.split("[/?]", text.partition("//")[2], maxsplit=1)[0].rpartition("@")[2]
        ports = [_port_of(item) for item in hosts.split(",")]
    else:
        for host in _HOST.findall(text):
            if not host.isprintable():
                raise ValueError("a host name holds a control character")
        ports = [port for given in _PORT.findall(text) for port in given.strip("'").split(",")]
    for port in ports:
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError("a port is not a number from 1 to 65535")


_HOST = re.compile(r"(?:^|\s)host(?:addr)?\s*=\s*('(?:[^'\\]|\\.)*'|[^\s']+)", re.DOTALL)
_PORT = re.compile(r"(?:^|\s)port\s*=\s*('[^']*'|[^\s']+)")


def _port_of(item: str) -> str:
    """The port of `host:port`, `[address]:port`; empty where there is none."""
    if item.startswith("["):
        return item.rpartition("]")[2].removeprefix(":")
    return item.partition(":")[2]


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
            result[plain(str(name)).rstrip(".").lower()] = plain(str(given))
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
        if "/" in plain(text) or not any(c.isalnum() for c in text):
            raise ValueError(f"{text!r} is neither a network nor a host pattern") from None
        return text.rstrip(".").lower()
