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
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from . import _logs  # noqa: F401  its filters belong to every logger of ours
from ._parse import (
    NameServer,
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
from .core.misspelt import is_injected, meant
from .errors import ConfigError

PREFIX = "RESILIENT_"
TIERS = ("essential", "frequent", "infrequent")
#: variables of this project's own lab and tests
OWN = ("LAB_", "PEER_", "TEST_")
MOST_PROBE_INTERVAL_S = 60.0
logger = logging.getLogger("resilient.settings")


def _tier(name: str, accepted: str) -> Any:
    """Metadata of a field: how often one meets it, and what it accepts, for people."""
    return {"tier": name, "accepted": accepted}


def _conninfo(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        check_conninfo(value.get_secret_value())
    return value


def _zone(value: str | None) -> str | None:
    return None if value is None else plain(value)


def _search(value: Any) -> Any:
    domains = comma_list(value)
    for domain in domains or ():
        normalise(str(domain))
    return domains


def _health_path(value: str | None) -> str | None:
    if value is not None and not plain(value).startswith("/"):
        raise ValueError("a path begins with '/'")
    return value


def _header_name(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", value):
        raise ValueError("a header name has letters, digits and hyphens")
    return value


HostList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_hosts_and_ports)]
DomainList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_search)]
# Any: validated as a str, a `Url` would lose what hides its password.
UrlList = Annotated[tuple[Any, ...], NoDecode, BeforeValidator(parse_urls)]

ESS, FREQ, RARE = TIERS
_SECONDS = "seconds > 0, such as 0.5"
_SECONDS_0 = "seconds ≥ 0"


class Settings(BaseSettings):
    """All settings of the library.  Immutable; see the README's table for their meaning."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    # -- essential
    database_url: Annotated[SecretStr | None, AfterValidator(_conninfo)] = Field(
        None,
        description="conninfo or URL of the database: one name (a CNAME), or several hosts",
        json_schema_extra=_tier(ESS, "a libpq connection string or postgresql:// URL"),
    )
    database_readers: HostList = Field(
        (),
        description="further names to read from",
        json_schema_extra=_tier(ESS, "host or host:port, comma-separated"),
    )
    zone: Annotated[str | None, AfterValidator(_zone)] = Field(
        None,
        description="the zone that this process runs in; `auto` finds it by the local address",
        json_schema_extra=_tier(ESS, "a zone of ZONES, or auto"),
    )
    zones: Annotated[ZoneMap, NoDecode, BeforeValidator(parse_zones)] = Field(
        ZoneMap(()),
        description="which networks and host patterns make up each zone",
        json_schema_extra=_tier(ESS, "zone=network or zone=host pattern, comma-separated"),
    )
    # -- frequent
    deadline_s: float = Field(
        30.0,
        gt=0,
        description="bounds getting a usable connection, reconnects, retries and replay",
        json_schema_extra=_tier(FREQ, _SECONDS),
    )
    probe_interval_s: float = Field(
        1.0,
        gt=0,
        description="a quiet endpoint is probed this often",
        json_schema_extra=_tier(FREQ, _SECONDS),
    )
    probe_timeout_s: float = Field(
        0.5,
        gt=0,
        description="how long one probe may stay unanswered before it counts as a miss",
        json_schema_extra=_tier(FREQ, _SECONDS),
    )
    failure_threshold: int = Field(
        2,
        ge=1,
        description="misses until dead: window = interval + threshold × timeout",
        json_schema_extra=_tier(FREQ, "a whole number ≥ 1"),
    )
    success_threshold: int = Field(
        1,
        ge=1,
        description="answers in a row until a dead endpoint is used again",
        json_schema_extra=_tier(FREQ, "a whole number ≥ 1"),
    )
    max_staleness_s: float | None = Field(
        None,
        gt=0,
        description="reads avoid replicas that lag more than this (default: no bound)",
        json_schema_extra=_tier(FREQ, _SECONDS),
    )
    standby_min_size: int = Field(
        1,
        ge=0,
        description="connections kept warm on each replica",
        json_schema_extra=_tier(FREQ, "a whole number ≥ 0"),
    )
    retry_attempts: int = Field(
        3,
        ge=1,
        description="attempts at one operation, the first included",
        json_schema_extra=_tier(FREQ, "a whole number ≥ 1"),
    )
    retry_budget: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the traffic that retries may add",
        json_schema_extra=_tier(FREQ, "a share from 0 to 1"),
    )
    replay: Literal["on", "off"] = Field(
        "on",
        description="replay a transaction whose server died before COMMIT was sent",
        json_schema_extra=_tier(FREQ, "on, off"),
    )
    commit_resolver: Literal["auto", "lsn", "ledger", "off"] = Field(
        "auto",
        description="how the outcome of a COMMIT without a reply is found;"
        " auto: by the ledger where its table is",
        json_schema_extra=_tier(FREQ, "auto, lsn, ledger, off"),
    )
    autocommit: Literal["bare", "block"] = Field(
        "bare",
        description="block: a write in autocommit travels in a transaction of its own, whose COMMIT"
        " can be resolved; costs a round trip",
        json_schema_extra=_tier(FREQ, "bare, block"),
    )
    # -- infrequent
    probe_burst_interval_s: float = Field(
        0.05,
        gt=0,
        description="an endpoint under suspicion is probed this often while it answers quickly",
        json_schema_extra=_tier(RARE, _SECONDS),
    )
    connect_rate: float = Field(
        10.0,
        gt=0,
        description="connections per second, process and endpoint after a loss (burst: max_size)",
        json_schema_extra=_tier(RARE, "a number > 0"),
    )
    retry_budget_floor: float = Field(
        10.0,
        ge=0,
        description="retries per second that are always allowed",
        json_schema_extra=_tier(RARE, "a number ≥ 0"),
    )
    replay_max_statements: int = Field(
        1000,
        ge=0,
        description="a transaction with more statements is not replayed",
        json_schema_extra=_tier(RARE, "a whole number ≥ 0"),
    )
    replay_max_bytes: int = Field(
        8 * 1024 * 1024,
        ge=0,
        description="bytes of results kept by reference to compare after a replay",
        json_schema_extra=_tier(RARE, "a whole number ≥ 0"),
    )
    dns: Literal["own", "system"] = Field(
        "own",
        description="who resolves names: this library, or the system's getaddrinfo (no TTLs)",
        json_schema_extra=_tier(RARE, "own, system"),
    )
    dns_nameservers: Annotated[
        tuple[NameServer, ...], NoDecode, BeforeValidator(parse_name_servers)
    ] = Field(
        (),
        description="name servers to ask (default: resolv.conf)",
        json_schema_extra=_tier(RARE, "ip or ip:port, comma-separated"),
    )
    dns_ttl_floor_s: float = Field(
        1.0,
        ge=0,
        description="a record is kept at least this long",
        json_schema_extra=_tier(RARE, _SECONDS_0),
    )
    dns_ttl_ceiling_s: float = Field(
        60.0,
        ge=0,
        description="a record is kept at most this long",
        json_schema_extra=_tier(RARE, _SECONDS_0),
    )
    dns_refresh_ahead: float = Field(
        0.8,
        ge=0,
        lt=1,
        description="share of the TTL after which a used name is refreshed; 0 = off",
        json_schema_extra=_tier(RARE, "a share from 0 to below 1"),
    )
    dns_stale_s: float = Field(
        3600.0,
        ge=0,
        description="how long an expired answer may serve when no name server answers",
        json_schema_extra=_tier(RARE, _SECONDS_0),
    )
    dns_negative_ceiling_s: float = Field(
        60.0,
        ge=0,
        description="a name's absence is kept at most this long",
        json_schema_extra=_tier(RARE, _SECONDS_0),
    )
    dns_timeout_s: float = Field(
        1.0,
        gt=0,
        description=(
            "the pause before the next name server or try; late answers count"
            " (default: resolv.conf, else 1)"
        ),
        json_schema_extra=_tier(RARE, _SECONDS),
    )
    dns_tries: int = Field(
        2,
        ge=1,
        description=(
            "rounds over the name servers; where neither this nor resolv.conf says so,"
            " silent ones are asked until the deadline"
        ),
        json_schema_extra=_tier(RARE, "a whole number ≥ 1"),
    )
    dns_deadline_s: float = Field(
        5.0,
        gt=0,
        description="bounds one resolution as a whole",
        json_schema_extra=_tier(RARE, _SECONDS),
    )
    dns_search: DomainList | None = Field(
        None,
        description="search list (default: resolv.conf)",
        json_schema_extra=_tier(RARE, "domains, comma-separated"),
    )
    dns_ndots: int | None = Field(
        None,
        ge=0,
        le=15,
        description="names with fewer dots try the search list first (default: resolv.conf)",
        json_schema_extra=_tier(RARE, "a whole number from 0 to 15"),
    )
    dns_rotate: bool | None = Field(
        None,
        description="spread first tries over the name servers (default: resolv.conf)",
        json_schema_extra=_tier(RARE, "true, false"),
    )
    dns_cache_size: int = Field(
        1000,
        ge=0,
        description="names kept; 0 = no cache",
        json_schema_extra=_tier(RARE, "a whole number ≥ 0"),
    )
    dns_mode: Annotated[
        Mapping[str, str], NoDecode, BeforeValidator(parse_name_map("strict", "rotating"))
    ] = Field(
        default_factory=dict,
        description="how a name's changes are read, when not by its answers",
        json_schema_extra=_tier(RARE, "name=strict or name=rotating, comma-separated"),
    )
    dns_allowed_networks: Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_networks)] = (
        Field(
            (),
            description="answers outside these networks are refused (default: none are)",
            json_schema_extra=_tier(RARE, "networks, comma-separated"),
        )
    )
    tls_names: Annotated[Mapping[str, str], NoDecode, BeforeValidator(parse_name_map())] = Field(
        default_factory=dict,
        description="the name to verify in a certificate, where it isn't the configured one",
        json_schema_extra=_tier(RARE, "name=tls-name, comma-separated"),
    )
    http_health_path: Annotated[str | None, AfterValidator(_health_path)] = Field(
        None,
        description="path of active HTTP health checks (default: passive only)",
        json_schema_extra=_tier(RARE, "a path such as /health/ready"),
    )
    http_fallbacks: UrlList = Field(
        (),
        description="base URLs that serve the same, tried when a URL's own endpoints fail",
        json_schema_extra=_tier(RARE, "http(s) URLs, comma-separated"),
    )
    http_deadline_header: Annotated[str | None, AfterValidator(_header_name)] = Field(
        None,
        description="header that tells HTTP servers the seconds that a request has left",
        json_schema_extra=_tier(RARE, "a header name such as X-Request-Deadline"),
    )
    eject_after: int = Field(
        5,
        ge=1,
        description="failures in a row until an HTTP endpoint is ejected",
        json_schema_extra=_tier(RARE, "a whole number ≥ 1"),
    )
    eject_s: float = Field(
        30.0,
        gt=0,
        description="first ejection; it grows with each one, up to ten times",
        json_schema_extra=_tier(RARE, _SECONDS),
    )
    patroni_urls: UrlList = Field(
        (),
        description="base URLs of Patroni's REST API: a new leader is probed at once",
        json_schema_extra=_tier(RARE, "http(s) URLs, comma-separated"),
    )
    lease: Literal["none", "patroni"] = Field(
        "none",
        description="whose word rules who may write, above what servers say of themselves",
        json_schema_extra=_tier(RARE, "none, patroni"),
    )

    strict: Literal["on", "off"] = Field(
        "on",
        description="off: a misspelt variable is a warning and not an error",
        json_schema_extra=_tier(RARE, "on, off"),
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as exc:
            raise ConfigError(_explain(exc, values)) from None
        self._cross_checks()
        _check_environment(self.strict == "on")
        for odd in self._oddities():
            _warn_once(odd)

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

    def _oddities(self) -> list[str]:
        """Values that are possible and that hardly anybody means."""
        odd = []
        if self.probe_interval_s > MOST_PROBE_INTERVAL_S:
            text = f"{PREFIX}PROBE_INTERVAL_S={self.probe_interval_s:g}: a server that dies"
            odd.append(f"{text} is noticed after {self.window_s:g} s")
        elif self.window_s > self.deadline_s:
            text = f"{PREFIX}DEADLINE_S={self.deadline_s:g}: callers give up before a dead server"
            odd.append(f"{text} is noticed (interval + threshold × timeout = {self.window_s:g} s)")
        if self.dns_timeout_s > self.dns_deadline_s:
            text = f"{PREFIX}DNS_TIMEOUT_S={self.dns_timeout_s:g} is above {PREFIX}DNS_DEADLINE_S"
            odd.append(f"{text}={self.dns_deadline_s:g}: only one name server is ever asked")
        if self.zone not in (None, "auto") and not self.zones.names():
            odd.append(f"{PREFIX}ZONE={self.zone!r} without {PREFIX}ZONES: nothing lies in a zone")
        return odd

    @property
    def window_s(self) -> float:
        """Silence after which an endpoint is dead, in seconds."""
        return self.probe_interval_s + self.failure_threshold * self.probe_timeout_s

    def has_chosen(self, field: str) -> bool:
        """Whether the environment or the code gave this field, and not its default."""
        return field in self.model_fields_set

    def __hash__(self) -> int:
        return id(type(self)) ^ hash(self.model_dump_json())


def _explain(exc: ValidationError, values: Mapping[str, Any]) -> str:
    lines = []
    for error in exc.errors(include_url=False):
        field = str(error["loc"][0]) if error["loc"] else ""
        variable = PREFIX + field.upper()
        info = Settings.model_fields.get(field)
        if info is None:
            lines.append(f"{field}: no such setting")
            continue
        given = values.get(field, os.environ.get(variable, ""))
        shown = "(hidden)" if "Secret" in str(info.annotation) else without_secrets(repr(given))
        extra = info.json_schema_extra
        accepted = extra["accepted"] if isinstance(extra, dict) else ""
        why = without_secrets(error["msg"].removeprefix("Value error, "))
        lines.append(f"{variable}={shown}: {why}; accepted: {accepted}")
    return "\n".join(lines)


def unknown_variables() -> dict[str, str | None]:
    """Variables of our prefix that nobody reads → the one that may have been meant."""
    known = {field.upper() for field in Settings.model_fields}
    names = [name for name in os.environ if name.upper().startswith(PREFIX)]
    plain = {name: name.upper().removeprefix(PREFIX) for name in sorted(names)}
    return {
        name: meant(rest, known)
        for name, rest in plain.items()
        if rest not in known and not rest.startswith(OWN) and not is_injected(rest)
    }


def _check_environment(strict: bool) -> None:
    for name, other in unknown_variables().items():
        if other is None:
            _warn_once(f"{name} is set, and no such setting is known to this version")
            continue
        text = f"{name}: no such setting; did you mean {PREFIX}{other}?"
        if strict:
            raise ConfigError(f"{text} accepted: {PREFIX}{other}, or {PREFIX}STRICT=off")
        _warn_once(text)


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        logger.warning("%s", text)


#: what was warned of in this process
_warned: set[str] = set()


@lru_cache(maxsize=1)
def _from_environment(snapshot: tuple[tuple[str, str], ...]) -> Settings:
    return Settings()


def from_environment() -> Settings:
    """The settings of the environment as it is now (`ConfigError` when it can't be used)."""
    mine = tuple(sorted((k, v) for k, v in os.environ.items() if k.upper().startswith(PREFIX)))
    return _from_environment(mine)
