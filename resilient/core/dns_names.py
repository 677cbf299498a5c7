"""Names before anything is asked: spelling, search list, literals, hosts and resolv.conf.

Rules of this file: text in, values out.  Names are compared without case and final dot.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from .._dataclass import dataclass

__all__ = [
    "Hosts",
    "ResolvConf",
    "address_of",
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
_NUMBER = re.compile("0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
#: what IDNA takes for a dot
_DOTS = re.compile("[.\u3002\uff0e\uff61]")
#: what resolv.conf(5) allows
_BOUNDS = {"ndots": (0, 15), "timeout": (1, 30), "attempts": (1, 5)}


def normalise(name: str) -> str:
    """`name` in lower case, ASCII, without its final dot; `ValueError` if it is no name."""
    plain = name.removesuffix(".")
    if not plain.isascii():
        try:
            plain = _on_the_wire(plain)
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


def _on_the_wire(name: str) -> str:
    """Its A-labels by IDNA 2008, as HTTP clients have them.  Python's own codec is of 2003: it
    takes straße.test for strasse.test, which may be somebody else's.  UnicodeError: it has none."""
    import idna  # its tables are large, and such names are rare

    labels = _DOTS.split(name)
    return ".".join(
        label if label.isascii() else idna.encode(label, uts46=True).decode("ascii")
        for label in labels
    )


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


def address_of(name: str) -> str | None:
    """The address that `name` is; None for what is to be asked for.

    Like getaddrinfo, it takes the short spellings of inet(3) for addresses too: `127.1`,
    `2130706433`, `0x7f.0.0.1`.
    """
    if ":" not in name and not name[:1].isdigit():
        return None
    return literal(name) or _inet_aton(name)


def _inet_aton(text: str) -> str | None:
    """inet_aton(3): one to four numbers, of which the last fills the octets that are left."""
    parts = text.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) and len(part) < 20 for part in parts):
        return None
    *heads, last = (int(part, _base(part)) for part in parts)
    if any(head > 255 for head in heads) or last >= 1 << 8 * (4 - len(heads)):
        return None
    for i, head in enumerate(heads):
        last += head << 8 * (3 - i)
    return str(ipaddress.IPv4Address(last))


def _base(number: str) -> int:
    return 16 if number[:2] in ("0x", "0X") else 8 if number[0] == "0" else 10


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
    """What resolv.conf(5) says about servers and names.  None: it says nothing of that."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = 1
    rotate: bool = False
    timeout_s: float | None = None
    attempts: int | None = None
    use_vc: bool = False
    single_request: bool = False
    no_aaaa: bool = False


def parse_resolv_conf(text: str, options: str = "", domains: str = "") -> ResolvConf:
    """The text of resolv.conf(5); of `search` and `domain` the last one counts.

    `options` and `domains` are what the environment adds: `RES_OPTIONS` and `LOCALDOMAIN`.
    """
    servers: list[str] = []
    search: tuple[str, ...] = ()
    given: list[str] = []
    for line in text.splitlines():
        if line.startswith(("#", ";")):
            continue
        word, *rest = line.split() or [""]
        if word == "nameserver" and rest and (server := address_of(rest[0])) is not None:
            servers.append(server)
        elif word in ("search", "domain") and rest:
            search = _domains(rest if word == "search" else rest[:1])
        elif word == "options":
            given += rest
    flags = {*given, *options.split()}
    numbers = _numbers((*given, *options.split()))
    timeout_s = numbers.get("timeout")
    return ResolvConf(
        tuple(dict.fromkeys(servers)),
        _domains(domains.split()) if domains else search,
        numbers.get("ndots", 1),
        "rotate" in flags,
        None if timeout_s is None else float(timeout_s),
        numbers.get("attempts"),
        "use-vc" in flags,
        # -reopen needs nothing: each question has a socket of its own
        "single-request" in flags,
        "no-aaaa" in flags,
    )


def _numbers(options: Sequence[str]) -> dict[str, int]:
    """The options that have one, within the bounds of resolv.conf(5); the last one counts."""
    result: dict[str, int] = {}
    for option in options:
        key, _, value = option.partition(":")
        if key in _BOUNDS and value.isascii() and value.isdigit():
            least, most = _BOUNDS[key]
            result[key] = max(least, min(int(value[:9]), most))
    return result


def _domains(given: Sequence[str]) -> tuple[str, ...]:
    result = []
    for domain in given:
        try:
            result.append(normalise(domain))
        except ValueError:
            continue  # "." (the root) adds nothing, and a broken entry must not break the rest
    return tuple(dict.fromkeys(result))
