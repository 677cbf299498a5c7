"""What a URL's host can be: an address in any of its spellings, or a name that DNS can have.

Spellings of IPv4 are those of inet_aton(3), which is what the bare libraries' getaddrinfo
takes: one to four numbers, decimal, octal (0…) or hexadecimal (0x…), the last one filling the
bytes that are left: 127.1, 2130706433, 0x7f000001.
"""

from __future__ import annotations

import ipaddress
import re

#: RFC 1035, section 2.3.4, without the root's dot
MAX_NAME = 253
MAX_LABEL = 63
_NUMBER = re.compile(r"0x[0-9a-f]*|0[0-7]*|[1-9][0-9]*", re.ASCII)


def literal_address(host: str) -> str | None:
    """The address that `host` spells; None when it is a name."""
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return _spelled_ipv4(host)


def _spelled_ipv4(host: str) -> str | None:
    parts = host.lower().split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    if any(len(part) > 20 for part in parts):
        return None
    *firsts, last = (_number(part) for part in parts)
    if any(first > 255 for first in firsts) or last >= 256 ** (4 - len(firsts)):
        return None
    value = last
    for index, first in enumerate(firsts):
        value += first << (8 * (3 - index))
    return str(ipaddress.IPv4Address(value))


def _number(part: str) -> int:
    if part.startswith("0x"):
        return int(part[2:] or "0", 16)
    return int(part, 8 if part.startswith("0") else 10)


def can_be_name(host: str) -> bool:
    """Could DNS have this name (in the form that goes on the wire)?"""
    name = host.removesuffix(".")
    labels = name.split(".")
    fits = len(name) <= MAX_NAME and name.isascii()
    return fits and all(0 < len(label) <= MAX_LABEL for label in labels)
