"""The files that say who is asked, and what needs no asking: resolv.conf and hosts.

Each is read again when it changed on disk (looked at on the way to a server, not on a hit).
Which families this machine can send from is read from Linux's `/proc/net`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from resilient._parse import NameServer
from resilient.core.dns_names import Hosts, ResolvConf, normalise, parse_hosts, parse_resolv_conf
from resilient.core.dns_query import Policy
from resilient.core.dns_select import Reach, own_ipv4, own_ipv6
from resilient.settings import Settings

from .._dataclass import dataclass

__all__ = ["Configuration", "Sources"]

T = TypeVar("T")

#: this machine's addresses are looked at this often at most, in seconds
REACH_S = 5.0


class _Watched(Generic[T]):
    """The parsed text of a file; a file that can't be read counts as empty."""

    def __init__(self, path: str, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._seen: tuple[int, int, int] | None = None
        self._value = parse("")

    def value(self) -> T:
        try:
            stat = os.stat(self._path)
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen != self._seen:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    self._value = self._parse(file.read())
                self._seen = seen
        except OSError:
            self._seen, self._value = None, self._parse("")
        return self._value


@dataclass(frozen=True, slots=True)
class Configuration:
    """Whom to ask and under which names: settings first, then resolv.conf."""

    servers: tuple[NameServer, ...]
    labels: tuple[str, ...]
    search: tuple[str, ...]
    ndots: int
    rotate: bool
    timeout_s: float
    tries: int
    patient: bool
    deadline_s: float
    tcp: bool
    single_request: bool
    no_aaaa: bool

    def policy(self, deadline: float) -> Policy:
        """How to ask, until a point on the real monotonic clock."""
        return Policy(self.timeout_s, self.tries, deadline, self.patient, self.tcp)


class Sources:
    """The two files, as the settings let them speak."""

    def __init__(self, settings: Settings, hosts_path: str, resolv_conf_path: str) -> None:
        self._settings = settings
        self._hosts = _Watched(hosts_path, parse_hosts)
        # As glibc does, the environment is looked at once.
        options, domains = os.environ.get("RES_OPTIONS", ""), os.environ.get("LOCALDOMAIN", "")
        self._resolv = _Watched(
            resolv_conf_path, lambda text: parse_resolv_conf(text, options, domains)
        )
        self._search = settings.dns_search
        if self._search is not None:
            self._search = tuple(normalise(domain) for domain in self._search)
        self._built: tuple[ResolvConf, Configuration] | None = None
        self._reach = Reach()
        self._reach_until = 0.0

    def reach(self) -> Reach:
        """What this machine can send from now; nothing is known where there is no /proc."""
        now = time.monotonic()
        if now >= self._reach_until:
            four, six = _text("/proc/net/route"), _text("/proc/net/if_inet6")
            self._reach = Reach(
                None if four is None else own_ipv4(four), None if six is None else own_ipv6(six)
            )
            self._reach_until = now + REACH_S
        return self._reach

    def hosts(self) -> Hosts:
        """The hosts file as it is now."""
        return self._hosts.value()

    def configuration(self) -> Configuration:
        """The name servers and search list as they are now."""
        conf = self._resolv.value()
        if self._built is None or self._built[0] is not conf:
            self._built = (conf, self._merge(conf))
        return self._built[1]

    def _merge(self, conf: ResolvConf) -> Configuration:
        given = self._settings
        # Without any server resolv.conf(5) means the local machine.
        listed = tuple(NameServer(address) for address in conf.nameservers or ("127.0.0.1",))
        servers = given.dns_nameservers or listed
        timeout_s = None if given.has_chosen("dns_timeout_s") else conf.timeout_s
        tries = None if given.has_chosen("dns_tries") else conf.attempts
        deadline_s = given.dns_deadline_s
        if timeout_s is not None and not given.has_chosen("dns_deadline_s"):
            # Who allows more than our default there means it.
            deadline_s = max(deadline_s, timeout_s * (tries or given.dns_tries))
        return Configuration(
            servers=servers,
            labels=tuple(str(server) for server in servers),
            search=conf.search if self._search is None else self._search,
            ndots=conf.ndots if given.dns_ndots is None else given.dns_ndots,
            rotate=conf.rotate if given.dns_rotate is None else given.dns_rotate,
            timeout_s=given.dns_timeout_s if timeout_s is None else timeout_s,
            tries=given.dns_tries if tries is None else tries,
            patient=tries is None and not given.has_chosen("dns_tries"),
            deadline_s=deadline_s,
            tcp=conf.use_vc,
            single_request=conf.single_request,
            no_aaaa=conf.no_aaaa,
        )


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return None
