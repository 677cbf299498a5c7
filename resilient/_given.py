"""What `Settings(...)` takes, for type checkers and for completion: a test compares the names.

Each value may be the text that an environment variable would hold, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol, TypedDict

from ._parse import NameServer, ZoneMap

__all__ = ["AutocommitWrites", "CommitResolver", "Dns", "Given", "Lease", "OnOff"]

OnOff = Literal["on", "off"]
CommitResolver = Literal["auto", "lsn", "ledger", "off"]
AutocommitWrites = Literal["bare", "block"]
Dns = Literal["own", "system"]
Lease = Literal["none", "patroni"]

Number = float | str
Whole = int | str
Flag = bool | str
Texts = str | Iterable[str]
NameMap = str | Mapping[str, str] | Iterable[str]
Zones = ZoneMap | str | Mapping[str, str | Iterable[str]]


class Reveals(Protocol):
    """What keeps a secret text: pydantic's `SecretStr` does."""

    def get_secret_value(self) -> str:
        """The text itself."""
        ...


class Given(TypedDict, total=False):
    """The arguments of `Settings`.  None is the default where it is accepted."""

    database_url: str | Reveals | None
    database_readers: Texts
    zone: str | None
    zones: Zones
    deadline_s: Number
    probe_interval_s: Number
    probe_timeout_s: Number
    failure_threshold: Whole
    success_threshold: Whole
    max_staleness_s: Number | None
    standby_min_size: Whole
    retry_attempts: Whole
    retry_budget: Number
    replay: OnOff
    commit_resolver: CommitResolver
    autocommit: AutocommitWrites
    probe_burst_interval_s: Number
    connect_rate: Number
    replica_max_size: Whole | None
    retry_budget_floor: Number
    replay_max_statements: Whole
    replay_max_bytes: Whole
    dns: Dns
    dns_nameservers: str | Iterable[str | NameServer]
    dns_ttl_floor_s: Number
    dns_ttl_ceiling_s: Number
    dns_refresh_ahead: Number
    dns_stale_s: Number
    dns_negative_ceiling_s: Number
    dns_timeout_s: Number
    dns_tries: Whole
    dns_deadline_s: Number
    dns_search: Texts | None
    dns_ndots: Whole | None
    dns_rotate: Flag | None
    dns_cache_size: Whole
    dns_mode: NameMap
    dns_allowed_networks: Texts
    tls_names: NameMap
    http_health_path: str | None
    http_fallbacks: Texts
    http_deadline_header: str | None
    eject_after: Whole
    eject_s: Number
    patroni_urls: Texts
    lease: Lease
    strict: OnOff
