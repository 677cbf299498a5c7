"""Which zone this process runs in, when the settings say `auto`; zones that nobody can mean.

The kernel is asked which local address it would send from: a datagram socket is connected,
which sends nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from ..core.model import Health, Topology
from ..settings import Settings, warn_once


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


def judged(settings: Settings, topology: Topology) -> bool:
    """One warning if `ZONES` covers none of a database's endpoints; False: too early to say.

    A zone without endpoints is nothing odd: an application may run where no server does.
    """
    views = topology.endpoints
    if not settings.zones.names():
        return True
    if not views or any(view.health is Health.UNKNOWN for view in views):
        return False  # some names may still be being resolved
    addresses = sorted(view.endpoint.address for view in views if view.endpoint.address)
    if addresses and all(view.zone is None for view in views):
        covered, known = ", ".join(settings.zones.names()), ", ".join(addresses)
        text = f"RESILIENT_ZONES: no endpoint lies in {covered}; the endpoints are {known}"
        warn_once("setting.odd", text)
    return True
