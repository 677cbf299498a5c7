"""Which zone this process runs in, when the settings say `auto`.

The kernel is asked which local address it would send from: a datagram socket is connected,
which sends nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from ..settings import Settings


def own_zone(settings: Settings, towards: Iterable[str]) -> str | None:
    """The zone of the settings; for `auto` that of the local address towards one of these
    literal addresses, None when no rule of `ZONES` fits it."""
    if settings.zone != "auto":
        return settings.zone
    for address in towards:
        zone = settings.zones.zone_of(local_address(address))
        if zone is not None:
            return zone
    return settings.zones.zone_of("", (socket.gethostname(),))


def local_address(towards: str) -> str:
    """The address that packets to `towards` would come from; empty when there is no route."""
    family = socket.AF_INET6 if ":" in towards else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((towards, 9))
            return str(sock.getsockname()[0])
    except OSError:
        return ""
