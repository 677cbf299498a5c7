"""Names before anything is asked: spelling, search list, literals, hosts and resolv.conf.

Rules of this file: text in, values out.  Names are compared without case and final dot.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from .._dataclass import dataclass

__all__ = [
    "Hosts",
    "ResolvConf",
    "candidates",
    "is_localhost",
    "literal",
    "normalise",
    "parse_hosts",
    "parse_resolv_conf",
]

#: octets of a name in text, without the final dot (RFC 1035 section 2.3.4)
MAX_NAME = 253
MAX_LABEL = 63
#: resolv.conf(5) caps ndots
MAX_NDOTS = 15


def normalise(name: str) -> str:
    """`name` in lower case, ASCII, without its final dot; `ValueError` if it is no name."""
    plain = name.removesuffix(".")
    if not plain.isascii():
        try:
            plain = plain.encode("idna").decode("ascii")
        except UnicodeError as exc:
            raise ValueError(f"{name!r} is no host name: {exc}") from None
    plain = plain.lower()
    if not plain or len(plain) > MAX_NAME:
        raise ValueError(f"{name!r} is no host name: it must have 1 to {MAX_NAME} characters")
    for label in plain.split("."):
        if not 0 < len(label) <= MAX_LABEL:
            raise ValueError(f"{name!r} is no host name: a label has 1 to {MAX_LABEL} characters")
    if not plain.isprintable() or any(c in " \\@/:" for c in plain):
        raise ValueError(f"{name!r} is no host name: it holds a character that none may have")
    return plain


def candidates(plain: str, absolute: bool, search: Sequence[str], ndots: int) -> tuple[str, ...]:
    """The names to ask for `plain`, in order (resolv.conf(5), `search` and `ndots`).

    `absolute` says that the name was given with a final dot: it is asked as it is.
    """
    if absolute or not search:
        return (plain,)
    listed = [f"{plain}.{domain}" for domain in search if len(plain) + len(domain) < MAX_NAME]
    ordered = [plain, *listed] if plain.count(".") >= ndots else [*listed, plain]
    return tuple(dict.fromkeys(ordered))


def literal(name: str) -> str | None:
    """`name` if it is an address already, brackets removed; else None."""
    text = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    # Every address has a colon or begins with a digit: spares names the costly parse.
    if ":" not in text and not text[:1].isdigit():
        return None
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return None
    return text


def is_localhost(plain: str) -> bool:
    """True for `localhost` and all names below it, which never reach a server (RFC 6761)."""
    return plain == "localhost" or plain.endswith(".localhost")


@dataclass(frozen=True, slots=True)
class Hosts:
    """A hosts file: name → addresses, in the order of its lines."""

    addresses: dict[str, tuple[str, ...]]
    #: name → the first name of its line
    canonical: dict[str, str]


def parse_hosts(text: str) -> Hosts:
    """The text of hosts(5).  Lines that are no entry are passed over."""
    addresses: dict[str, tuple[str, ...]] = {}
    canonical: dict[str, str] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if literal(address) is None:
            continue
        for name in names:
            key = name.removesuffix(".").lower()
            addresses[key] = tuple(dict.fromkeys((*addresses.get(key, ()), address)))
            canonical.setdefault(key, names[0].removesuffix(".").lower())
    return Hosts(addresses, canonical)


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """What resolv.conf(5) says about servers and names."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = 1
    rotate: bool = False


def parse_resolv_conf(text: str) -> ResolvConf:
    """The text of resolv.conf(5); of `search` and `domain` the last one counts."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    ndots, rotate = 1, False
    for line in text.splitlines():
        if line.startswith(("#", ";")):
            continue
        word, *rest = line.split() or [""]
        if word == "nameserver" and rest and literal(rest[0]) is not None:
            servers.append(rest[0])
        elif word in ("search", "domain") and rest:
            search = _domains(rest if word == "search" else rest[:1])
        elif word == "options":
            rotate = rotate or "rotate" in rest
            for option in rest:
                key, _, value = option.partition(":")
                if key == "ndots" and value.isascii() and value.isdigit():
                    ndots = min(int(value), MAX_NDOTS)
    return ResolvConf(tuple(dict.fromkeys(servers)), search, ndots, rotate)


def _domains(given: Sequence[str]) -> tuple[str, ...]:
    result = []
    for domain in given:
        try:
            result.append(normalise(domain))
        except ValueError:
            continue  # "." (the root) adds nothing, and a broken entry must not break the rest
    return tuple(dict.fromkeys(result))
