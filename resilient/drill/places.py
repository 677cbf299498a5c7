"""Where the drill's own connections go: to the servers that the client under test would find.

libpq asks the system's resolver.  Where the settings name other name servers
(`RESILIENT_DNS_NAMESERVERS`), or a host is a service's name, only this library's resolver knows
the addresses; it is asked around its cache, since the observer must not see a move later than
its client does.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..dns import Resolver
from ..errors import ResilientError, ResolutionError
from ..monitor.names import ConfiguredName, source_domain, verified_name
from ..postgres.target import parse
from ..settings import Settings
from .process import ClientFailed

__all__ = ["Place", "Places", "why_not"]

PATIENCE_S = 5


@dataclass(frozen=True, slots=True)
class Place:
    """One server to dial.  `host`: what TLS verifies; `address`: where it is, empty: libpq finds
    it."""

    host: str
    address: str
    port: int

    def __str__(self) -> str:
        shown = self.address or self.host or "local socket"
        shown = f"[{shown}]" if ":" in shown else shown
        named = self.host not in ("", self.address) and self.address
        return f"{shown}:{self.port}{f' ({self.host})' if named else ''}"


class Places:
    """The servers of a connection string, resolved anew each time.  To be closed."""

    def __init__(self, conninfo: str, settings: Settings) -> None:
        self._conninfo, self._settings = conninfo, settings
        self._names = [name for name in parse(conninfo, {}, settings).names if not name.reader]
        self._resolver = Resolver(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._resolver.close()

    @property
    def ours(self) -> bool:
        """Whether the system's resolver can't be relied on."""
        listed = any(source_domain(name.host) for name in self._names)
        return listed or bool(self._settings.dns_nameservers)

    def now(self) -> list[Place]:
        """The servers as the names have it now.  Raises `ClientFailed` when none has any."""
        found, errors = [], []
        for name in self._names:
            try:
                found += list(self._places(name))
            except ResolutionError as error:
                errors.append(f"{name.host}: {' '.join(str(error).split())}")
        if not found:
            raise ClientFailed(self._unknown("; ".join(errors)))
        return found

    def conninfo(self) -> str:
        """For libpq, with the addresses of now."""
        if not self.ours:
            return self._conninfo
        found = self.now()
        given = {
            key: value
            for key, value in conninfo_to_dict(self._conninfo).items()
            if key not in ("host", "hostaddr", "port")
        }
        return make_conninfo(
            "",
            **given,
            host=",".join(place.host for place in found),
            hostaddr=",".join(place.address for place in found),
            port=",".join(str(place.port) for place in found),
        )

    def _places(self, name: ConfiguredName) -> Iterator[Place]:
        if source_domain(name.host) is None:
            yield from self._hosts(name.host, name.port, name.hostaddr, name)
            return
        for service in self._resolver.resolve_srv(name.host):
            yield from self._hosts(service.host, service.port, "", name)

    def _hosts(self, host: str, port: int, address: str, of: ConfiguredName) -> Iterator[Place]:
        if not host or host.startswith(("/", "@")) or address or _is_address(host):
            yield Place(host, address, port)
        elif not self.ours:
            yield Place(host, "", port)
        else:
            verified = verified_name(of.host, self._settings)
            for found in self._resolver.resolve(host, "any", fresh=True).addresses:
                yield Place(verified, found, port)

    def _unknown(self, why: str) -> str:
        if self._settings.dns_nameservers:
            asked = ",".join(map(str, self._settings.dns_nameservers))
            fix = f"set RESILIENT_DNS_NAMESERVERS (now {asked}) to name servers that know it"
        else:
            fix = "correct the host of --dsn (or of RESILIENT_DATABASE_URL)"
        return f"no server is found: {why}; {fix}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


#: SQLSTATE → what to change
_FIXES = {
    "28P01": "give the right password in --dsn, PGPASSWORD or the password file",
    "28000": "let this user in from here (pg_hba.conf), or name another one in --dsn",
    "3D000": "name a database that is there in --dsn (dbname=…)",
    "42501": "GRANT CREATE ON SCHEMA public to the user of --dsn, or name another one",
    "53300": "leave some connections free, or raise max_connections",
    "25006": "--dsn leads to servers that take no writes: name the primary as well",
}


def why_not(error: psycopg.Error, settings: Settings) -> str:
    """Why a connection or its statement failed, and what to change."""
    told = " ".join(str(error).split())
    fix = _FIXES.get(error.sqlstate or "", "") or _by_words(told, settings)
    return f"{told}; {fix}" if fix else told


def _by_words(told: str, settings: Settings) -> str:
    """libpq gives no SQLSTATE for what a connection failed of."""
    for words, sqlstate in (
        ("password authentication failed", "28P01"),
        ("no password supplied", "28P01"),
        ("no pg_hba.conf entry", "28000"),
        ("too many clients", "53300"),
        ("session is read-only", "25006"),
    ):
        if words in told:
            return _FIXES[sqlstate]
    if 'database "' in told and "does not exist" in told:
        return _FIXES["3D000"]
    if 'role "' in told and "does not exist" in told:
        return "name a user that is there in --dsn (user=…)"
    if "could not translate host name" in told or "resolve host" in told:
        return "correct the host of --dsn, or set RESILIENT_DNS_NAMESERVERS to who knows it"
    if "refused" in told or "timeout" in told or "No route" in told:
        return "correct host and port of --dsn, and let connections from here through"
    return ""


def cause(error: ResilientError | psycopg.Error, settings: Settings) -> str:
    """The same of either kind of error."""
    return why_not(error, settings) if isinstance(error, psycopg.Error) else str(error)
