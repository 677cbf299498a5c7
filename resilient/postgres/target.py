"""From a conninfo to what is dialled: names and ports apart from everything else.

`host`, `hostaddr` and `port` are replaced together at each dial; a service file, which only
libpq reads, leaves the dialling to libpq.  Manual 34.1 (connection strings, several hosts).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from psycopg import errors as e
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from .._dataclass import dataclass
from .._parse import split_host_port
from ..core.intent import Wanted
from ..core.model import Endpoint
from ..core.routing import Balance
from ..core.routing import Target as Attrs
from ..errors import ConfigError
from ..monitor.names import ConfiguredName
from ..settings import Settings

DEFAULT_PORT = 5432
#: what a dial to one known endpoint must not carry: libpq would choose by itself
_CHOOSING = ("host", "hostaddr", "port", "target_session_attrs", "load_balance_hosts")


def _keywords() -> frozenset[str]:
    return frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())


KEYWORDS = _keywords()


@dataclass(frozen=True, slots=True)
class Target:
    """Where a pool's conninfo points.  `params`: the connection parameters but those of
    the place, sorted (hashable: equal targets share a monitor).  `wanted`: what it says of roles
    and of the hosts' order."""

    names: tuple[ConfiguredName, ...]
    params: tuple[tuple[str, str], ...]
    wanted: Wanted = Wanted()


def default_conninfo(settings: Settings) -> str:
    """`RESILIENT_DATABASE_URL`, then `DATABASE_URL`, then empty (libpq's `PG*`).

    Raises `ConfigError` for one that can't be parsed; its text tells no secret.
    """
    if settings.database_url is not None:
        return _checked("RESILIENT_DATABASE_URL", settings.database_url.get_secret_value())
    return _checked("DATABASE_URL", os.environ.get("DATABASE_URL", ""))


def _checked(variable: str, conninfo: str) -> str:
    try:
        conninfo_to_dict(conninfo)
    except e.ProgrammingError:
        raise ConfigError(
            f"{variable}=(hidden) is malformed; accepted: a libpq connection string such as"
            " 'host=a,b dbname=shop', or postgresql://user@host:port/dbname"
        ) from None
    return conninfo


def parse(conninfo: str, kwargs: Mapping[str, Any], settings: Settings) -> Target:
    """The target of a conninfo and of connect()'s keyword arguments.

    Raises psycopg's ProgrammingError for a malformed conninfo, `ConfigError` for a reader's
    name that is none.
    """
    given = {key: value for key, value in kwargs.items() if key in KEYWORDS and value is not None}
    params = conninfo_to_dict(conninfo, **given)
    if "service" in params or ("PGSERVICE" in os.environ and "host" not in params):
        names: tuple[ConfiguredName, ...] = (ConfiguredName("", 0),)
    else:
        names = _names(params)
    places = {(name.host, name.port) for name in names}
    readers = [_reader(text, names) for text in settings.database_readers]
    readers = [reader for reader in readers if (reader.host, reader.port) not in places]
    rest = {key: str(value) for key, value in params.items() if key not in _CHOOSING}
    return Target((*names, *readers), tuple(sorted(rest.items())), _wanted(params))


def _wanted(params: Mapping[str, Any]) -> Wanted:
    """`target_session_attrs` and `load_balance_hosts`, from the conninfo or libpq's variables."""
    attrs = params.get("target_session_attrs") or os.environ.get("PGTARGETSESSIONATTRS") or "any"
    order = params.get("load_balance_hosts") or os.environ.get("PGLOADBALANCEHOSTS") or "disable"
    if attrs not in list(Attrs):
        accepted = ", ".join(Attrs)
        raise ConfigError(f"target_session_attrs={attrs!r} in the conninfo; accepted: {accepted}")
    if order not in ("disable", "random"):
        raise ConfigError(
            f"load_balance_hosts={order!r} in the conninfo; accepted: disable, random"
        )
    balance = Balance.RANDOM if order == "random" else Balance.ORDER
    return Wanted(Attrs(attrs), balance)


def _names(params: Mapping[str, Any]) -> tuple[ConfiguredName, ...]:
    host = str(params.get("host") or os.environ.get("PGHOST") or "")
    address = str(params.get("hostaddr") or os.environ.get("PGHOSTADDR") or "")
    port = str(params.get("port") or os.environ.get("PGPORT") or DEFAULT_PORT)
    hosts, addresses = host.split(","), address.split(",")
    count = max(len(hosts) if host else 1, len(addresses) if address else 1)
    hosts = hosts if host else [""] * count
    addresses = addresses if address else [""] * count
    ports = port.split(",")
    ports = ports * count if len(ports) == 1 else ports
    if not len(hosts) == len(addresses) == len(ports) == count:
        raise ConfigError(
            f"the conninfo has {len(hosts)} host(s), {len(addresses)} hostaddr(s) and"
            f" {len(ports)} port(s); accepted: as many of each, or one port for all"
        )
    return tuple(
        ConfiguredName(name.strip(), _port(number), where.strip())
        for name, number, where in zip(hosts, ports, addresses, strict=True)
    )


def _port(text: str) -> int:
    text = text.strip() or str(DEFAULT_PORT)
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise ConfigError(f"port={text!r} in the conninfo; accepted: 1 to 65535")
    return int(text)


def _reader(text: str, names: tuple[ConfiguredName, ...]) -> ConfiguredName:
    try:
        host, port = split_host_port(text, names[0].port or DEFAULT_PORT)
    except ValueError as exc:
        raise ConfigError(
            f"RESILIENT_DATABASE_READERS={text!r}: {exc}; accepted: host or host:port"
        ) from None
    return ConfiguredName(host, port, reader=True)


def dial_params(endpoint: Endpoint) -> dict[str, str]:
    """The keyword arguments that send a connect() to this endpoint and to no other.

    `host` is the name that TLS verifies (the configured one, or that of `TLS_NAMES`), and
    `hostaddr` where it was resolved to: what DNS says never gets into a verification.
    An option that the conninfo may carry for choosing among hosts is neutralised: the
    choice has been made.
    """
    if not endpoint.name and not endpoint.address and not endpoint.port:
        return {}
    params = {"port": str(endpoint.port), "target_session_attrs": "any"}
    if endpoint.name:
        params["host"] = endpoint.name
    # An empty value drops a hostaddr of the conninfo that belongs to another host.
    params["hostaddr"] = endpoint.address
    return params
