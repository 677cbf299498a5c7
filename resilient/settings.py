"""Settings: the environment, checked once, as one immutable value.

Every field can be given in code (`Settings(dns_tries=2)`) or as `RESILIENT_` + its name in
upper case; code wins over the environment and an empty variable counts as unset.  A bad
value is a `ConfigError` that names the variable, its value (never a secret) and what is
accepted.  Seconds are monotonic durations and their names end in `_s`.
"""

# long: one entry for each setting

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Unpack

from ._fields import (
    Field,
    Reader,
    Secret,
    checked,
    choice,
    flag,
    number,
    optional,
    secret,
    texts,
    whole,
)
from ._logs import Line
from ._odd import oddities
from ._parse import (
    NameServer,
    Url,
    ZoneMap,
    check_conninfo,
    comma_list,
    parse_hosts_and_ports,
    parse_name_map,
    parse_name_servers,
    parse_networks,
    parse_urls,
    parse_zones,
    plain,
    without_secrets,
)
from .core.dns_names import normalise
from .core.misspelt import is_injected, meant, nearly, perhaps
from .errors import ConfigError

if TYPE_CHECKING:
    from ._given import AutocommitWrites, CommitResolver, Dns, Given, Lease, OnOff

PREFIX = "RESILIENT_"
TIERS = ("essential", "frequent", "infrequent")
#: variables of this project's own lab and tests
OWN = ("LAB_", "PEER_", "TEST_")
logger = logging.getLogger("resilient.settings")

# -- what can be accepted: how it is read, and what people are told


def _conninfo(value: Any) -> Secret:
    hidden = secret(value)
    check_conninfo(hidden.get_secret_value())
    return hidden


def _domains(value: Any) -> Any:
    domains = comma_list(value)
    for domain in domains or ():
        normalise(str(domain))
    return domains


def _urls(value: Any) -> tuple[Url, ...]:
    urls = parse_urls(value)
    if urls is None:
        raise ValueError("Input should be a valid tuple")
    return tuple(urls)


def _path(text: str) -> None:
    if not plain(text).startswith("/"):
        raise ValueError("a path begins with '/'")


def _header(text: str) -> None:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", text):
        raise ValueError("a header name has letters, digits and hyphens")


Kind = tuple[Reader, str]
CONNINFO: Kind = (_conninfo, "a libpq connection string or postgresql:// URL")
HOSTS: Kind = (texts(parse_hosts_and_ports), "host or host:port, comma-separated")
DOMAINS: Kind = (texts(_domains), "domains, comma-separated")
ZONE: Kind = (checked(plain), "a zone of ZONES, or auto")
ZONES: Kind = (parse_zones, "zone=network or zone=host pattern, comma-separated")
NAME_SERVERS: Kind = (parse_name_servers, "ip or ip:port, comma-separated")
NETWORKS: Kind = (parse_networks, "networks, comma-separated")
MODES: Kind = (
    parse_name_map("strict", "rotating"),
    "name=strict or name=rotating, comma-separated",
)
TLS_NAMES: Kind = (parse_name_map(), "name=tls-name, comma-separated")
URLS: Kind = (_urls, "http(s) URLs, comma-separated")
PATH: Kind = (checked(_path), "a path such as /health/ready")
HEADER: Kind = (checked(_header), "a header name such as X-Request-Deadline")
SECONDS: Kind = (number(above=0), "seconds > 0, such as 0.5")
SECONDS_0: Kind = (number(least=0), "seconds ≥ 0")
POSITIVE: Kind = (number(above=0), "a number > 0")
NOT_NEGATIVE: Kind = (number(least=0), "a number ≥ 0")
SHARE: Kind = (number(least=0, most=1), "a share from 0 to 1")
SHARE_BELOW: Kind = (number(least=0, below=1), "a share from 0 to below 1")
WHOLE_0: Kind = (whole(least=0), "a whole number ≥ 0")
WHOLE_1: Kind = (whole(least=1), "a whole number ≥ 1")
DOTS: Kind = (whole(least=0, most=15), "a whole number from 0 to 15")
FLAG: Kind = (flag, "true, false")


def _one_of(*accepted: str) -> Kind:
    return choice(*accepted), ", ".join(accepted)


SWITCH = _one_of("on", "off")
RESOLVER = _one_of("auto", "lsn", "ledger", "off")
AUTOCOMMIT = _one_of("bare", "block")
RESOLVES = _one_of("own", "system")
LEASE = _one_of("none", "patroni")

ESS, FREQ, RARE = TIERS


def _field(default: Any, kind: Kind, tier: str, description: str) -> Any:
    """Any: the class shows a `Field`, an instance its value."""
    read, accepted = kind
    if default is None:
        read = optional(read)
    return Field(read, default, tier, accepted, description, hidden=kind is CONNINFO)


class Settings:
    """All settings of the library.  Immutable; `docs/settings.md` says what each means.

    Equal when all values are; `replace` makes a changed copy, `fields` tells of each setting.
    """

    #: name → what it is, in the order of the documentation
    fields: ClassVar[Mapping[str, Field]]

    # -- essential
    database_url: Secret | None = _field(
        None, CONNINFO, ESS, "conninfo or URL of the database: one name (a CNAME), or several hosts"
    )
    database_readers: tuple[str, ...] = _field((), HOSTS, ESS, "further names to read from")
    zone: str | None = _field(
        None, ZONE, ESS, "the zone that this process runs in; `auto` finds it by the local address"
    )
    zones: ZoneMap = _field(
        ZoneMap(()), ZONES, ESS, "which networks and host patterns make up each zone"
    )
    # -- frequent
    deadline_s: float = _field(
        30.0, SECONDS, FREQ, "bounds getting a usable connection, reconnects, retries and replay"
    )
    probe_interval_s: float = _field(1.0, SECONDS, FREQ, "a quiet endpoint is probed this often")
    probe_timeout_s: float = _field(
        0.5, SECONDS, FREQ, "how long one probe may stay unanswered before it counts as a miss"
    )
    failure_threshold: int = _field(
        2, WHOLE_1, FREQ, "misses until dead: window = interval + threshold × timeout"
    )
    success_threshold: int = _field(
        1, WHOLE_1, FREQ, "answers in a row until a dead endpoint is used again"
    )
    max_staleness_s: float | None = _field(
        None, SECONDS, FREQ, "reads avoid replicas that lag more than this (default: no bound)"
    )
    standby_min_size: int = _field(1, WHOLE_0, FREQ, "connections kept warm on each replica")
    retry_attempts: int = _field(3, WHOLE_1, FREQ, "attempts at one operation, the first included")
    retry_budget: float = _field(0.2, SHARE, FREQ, "share of the traffic that retries may add")
    replay: OnOff = _field(
        "on", SWITCH, FREQ, "replay a transaction whose server died before COMMIT was sent"
    )
    commit_resolver: CommitResolver = _field(
        "auto",
        RESOLVER,
        FREQ,
        "how the outcome of a COMMIT without a reply is found; auto: by the ledger where "
        "its table is",
    )
    autocommit: AutocommitWrites = _field(
        "bare",
        AUTOCOMMIT,
        FREQ,
        "block: a write in autocommit travels in a transaction of its own, whose COMMIT can be "
        "resolved; costs a round trip",
    )
    # -- infrequent
    probe_burst_interval_s: float = _field(
        0.05,
        SECONDS,
        RARE,
        "an endpoint under suspicion is probed this often while it answers quickly",
    )
    connect_rate: float = _field(
        10.0,
        POSITIVE,
        RARE,
        "connections per second, process and endpoint after a loss (burst: max_size)",
    )
    replica_max_size: int | None = _field(
        None,
        WHOLE_1,
        RARE,
        "connections of a pool to each replica at most, STANDBY_MIN_SIZE and one for readers at "
        "least (default: the pool's max_size and STANDBY_MIN_SIZE)",
    )
    retry_budget_floor: float = _field(
        10.0, NOT_NEGATIVE, RARE, "retries per second that are always allowed"
    )
    replay_max_statements: int = _field(
        1000, WHOLE_0, RARE, "a transaction with more statements is not replayed"
    )
    replay_max_bytes: int = _field(
        8 * 1024 * 1024,
        WHOLE_0,
        RARE,
        "bytes of results kept by reference to compare after a replay",
    )
    dns: Dns = _field(
        "own",
        RESOLVES,
        RARE,
        "who resolves names: this library, or the system's getaddrinfo (no TTLs)",
    )
    dns_nameservers: tuple[NameServer, ...] = _field(
        (), NAME_SERVERS, RARE, "name servers to ask (default: resolv.conf)"
    )
    dns_ttl_floor_s: float = _field(1.0, SECONDS_0, RARE, "a record is kept at least this long")
    dns_ttl_ceiling_s: float = _field(60.0, SECONDS_0, RARE, "a record is kept at most this long")
    dns_refresh_ahead: float = _field(
        0.8, SHARE_BELOW, RARE, "share of the TTL after which a used name is refreshed; 0 = off"
    )
    dns_stale_s: float = _field(
        3600.0, SECONDS_0, RARE, "how long an expired answer may serve when no name server answers"
    )
    dns_negative_ceiling_s: float = _field(
        60.0, SECONDS_0, RARE, "a name's absence is kept at most this long"
    )
    dns_timeout_s: float = _field(
        1.0,
        SECONDS,
        RARE,
        "the pause before the next name server or try; late answers count (default: "
        "resolv.conf, else 1)",
    )
    dns_tries: int = _field(
        2,
        WHOLE_1,
        RARE,
        "rounds over the name servers; where neither this nor resolv.conf says so, silent "
        "ones are asked until the deadline",
    )
    dns_deadline_s: float = _field(5.0, SECONDS, RARE, "bounds one resolution as a whole")
    dns_search: tuple[str, ...] | None = _field(
        None, DOMAINS, RARE, "search list (default: resolv.conf)"
    )
    dns_ndots: int | None = _field(
        None, DOTS, RARE, "names with fewer dots try the search list first (default: resolv.conf)"
    )
    dns_rotate: bool | None = _field(
        None, FLAG, RARE, "spread first tries over the name servers (default: resolv.conf)"
    )
    dns_cache_size: int = _field(1000, WHOLE_0, RARE, "names kept; 0 = no cache")
    dns_mode: Mapping[str, str] = _field(
        {}, MODES, RARE, "how a name's changes are read, when not by its answers"
    )
    dns_allowed_networks: tuple[str, ...] = _field(
        (), NETWORKS, RARE, "answers outside these networks are refused (default: none are)"
    )
    tls_names: Mapping[str, str] = _field(
        {},
        TLS_NAMES,
        RARE,
        "the name to verify in a certificate, where it isn't the configured one",
    )
    http_health_path: str | None = _field(
        None, PATH, RARE, "path of active HTTP health checks (default: passive only)"
    )
    http_fallbacks: tuple[Url, ...] = _field(
        (), URLS, RARE, "base URLs that serve the same, tried when a URL's own endpoints fail"
    )
    http_deadline_header: str | None = _field(
        None, HEADER, RARE, "header that tells HTTP servers the seconds that a request has left"
    )
    eject_after: int = _field(
        5, WHOLE_1, RARE, "failures in a row until an HTTP endpoint is ejected"
    )
    eject_s: float = _field(
        30.0, SECONDS, RARE, "first ejection; it grows with each one, up to ten times"
    )
    patroni_urls: tuple[Url, ...] = _field(
        (), URLS, RARE, "base URLs of Patroni's REST API: a new leader is probed at once"
    )
    lease: Lease = _field(
        "none", LEASE, RARE, "whose word rules who may write, above what servers say of themselves"
    )
    strict: OnOff = _field(
        "on", SWITCH, RARE, "off: a misspelt variable is a warning and not an error"
    )

    #: names of the fields that the environment or the code gave
    _chosen: frozenset[str]

    def __init__(self, **values: Unpack[Given]) -> None:
        self._fill({**_environment(), **values})

    def replace(self, **changes: Unpack[Given]) -> Settings:
        """A copy with these `changes`, fields by name; all else, and what was chosen, stays as it
        is.  Raises `ConfigError` for what can't be used."""
        copy = object.__new__(type(self))
        copy._fill({**{name: getattr(self, name) for name in self._chosen}, **changes})
        return copy

    def _fill(self, given: Mapping[str, Any]) -> None:
        """What is given, and defaults; all that is wrong with it in one `ConfigError`."""
        values, wrong = {}, []
        for name, field in self.fields.items():
            if name not in given:
                default = field.default
                values[name] = default.copy() if isinstance(default, dict) else default
                continue
            try:
                values[name] = field.read(given[name])
            except ValueError as exc:
                wrong.append(_complaint(name, field, given[name], str(exc)))
        wrong += [f"{name}: no such setting" for name in given if name not in self.fields]
        if wrong:
            raise ConfigError("\n".join(wrong))
        # around `__setattr__`; what an instance has hides the class's `Field`
        vars(self).update(values, _chosen=frozenset(given))
        self._cross_checks()
        _check_environment(self.strict == "on")
        for name, why in oddities(self):
            variable = PREFIX + name.upper()
            given_value = getattr(self, name)
            shown = f"{given_value:g}" if isinstance(given_value, float) else str(given_value)
            warn_once("setting.odd", f"{variable}={shown}: {why}")

    def _cross_checks(self) -> None:
        known = self.zones.names()
        if self.zone not in (None, "auto") and known and self.zone not in known:
            raise ConfigError(
                f"{PREFIX}ZONE={self.zone!r}: no such zone in {PREFIX}ZONES;"
                f" accepted: {', '.join(known)}, auto"
            )
        if self.lease == "patroni" and not self.patroni_urls:
            raise ConfigError(
                f"{PREFIX}LEASE='patroni' needs {PREFIX}PATRONI_URLS; accepted: the base URLs of"
                " Patroni's REST API, such as http://10.0.1.5:8008, comma-separated"
            )
        if self.dns_ttl_floor_s > self.dns_ttl_ceiling_s:
            raise ConfigError(
                f"{PREFIX}DNS_TTL_FLOOR_S={self.dns_ttl_floor_s:g} is above"
                f" {PREFIX}DNS_TTL_CEILING_S={self.dns_ttl_ceiling_s:g}; accepted: floor ≤ ceiling"
            )

    @property
    def window_s(self) -> float:
        """Silence after which an endpoint is dead, in seconds."""
        return self.probe_interval_s + self.failure_threshold * self.probe_timeout_s

    def has_chosen(self, field: str) -> bool:
        """Whether the environment or the code gave this field, and not its default."""
        return field in self._chosen

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.fields}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in self._values().items())
        return f"{type(self).__name__}({', '.join(shown)})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"settings are frozen: {name!r} can't be set; use replace()")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"settings are frozen: {name!r} can't be deleted")


Settings.fields = {name: each for name, each in vars(Settings).items() if isinstance(each, Field)}


def _environment() -> dict[str, str]:
    """Field → its variable's text; an empty one counts as unset, case doesn't matter."""
    given = {
        name.upper().removeprefix(PREFIX).lower(): text
        for name, text in os.environ.items()
        if text and name.upper().startswith(PREFIX)
    }
    return {name: text for name, text in given.items() if name in Settings.fields}


def _complaint(name: str, field: Field, given: object, why: str) -> str:
    shown = "(hidden)" if field.hidden else without_secrets(repr(given))
    return f"{PREFIX}{name.upper()}={shown}: {without_secrets(why)}; accepted: {field.accepted}"


def unknown_variables() -> dict[str, str | None]:
    """Variables of our prefix, or nearly of it, that nobody reads → the one that may have been
    meant.  An empty one counts as unset."""
    known = _known()
    return {name: _slip(name) or perhaps(rest, known) for name, rest in _unread()}


def _known() -> list[str]:
    return [field.upper() for field in Settings.fields]


def _unread() -> list[tuple[str, str]]:
    """(variable, the same without its prefix), in their order."""
    known, found = _known(), []
    for name in sorted(name for name, text in os.environ.items() if text):
        if name.upper().startswith(PREFIX):
            rest = name.upper().removeprefix(PREFIX)
            if rest not in known and not rest.startswith(OWN) and not is_injected(rest):
                found.append((name, rest))
        else:
            # Of a prefix that is misspelt only what is one of our names behind it is ours.
            prefix, _, rest = name.upper().partition("_")
            if rest in known and nearly(f"{prefix}_", PREFIX):
                found.append((name, rest))
    return found


def _slip(name: str) -> str | None:
    """The known name that a variable of `_unread` surely was to be, without prefix."""
    upper = name.upper()
    rest = upper.removeprefix(PREFIX)
    return meant(rest, _known()) if upper.startswith(PREFIX) else rest.partition("_")[2]


def _check_environment(strict: bool) -> None:
    wrong = []
    for name, other in unknown_variables().items():
        ask = f"did you mean {PREFIX}{other}?"
        if _slip(name) is None:
            text = f"{name} is set, and no such setting is known to this version"
            warn_once("setting.unknown", f"{text}; {ask}" if other else text)
        elif strict:
            wrong.append(
                f"{name}: no such setting; {ask} accepted: {PREFIX}{other}, or {PREFIX}STRICT=off"
            )
        else:
            warn_once("setting.misspelt", f"{name}: no such setting; {ask}")
    if wrong:
        raise ConfigError("\n".join(wrong))


def warn_once(event: str, text: str) -> None:
    """A warning about the configuration; the same one only once in a process."""
    if text not in _warned:
        _warned.add(text)
        logger.warning("%s", Line(event=event, reason=text))


#: what was warned of in this process
_warned: set[str] = set()


@lru_cache(maxsize=1)
def _from_environment(snapshot: tuple[tuple[str, str], ...]) -> Settings:
    return Settings()


def from_environment() -> Settings:
    """The settings of the environment as it is now (`ConfigError` when it can't be used)."""
    mine = tuple(sorted((k, v) for k, v in os.environ.items() if k.upper().startswith(PREFIX)))
    return _from_environment(mine)
