"""What `ENGINE = "resilient.django"` names: Django's own backend over a resilient pool."""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from threading import Lock
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.postgresql import base
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from ..postgres import ConnectionPool
from ..postgres.pool.mistakes import fail_waiting, stays
from ..postgres.session.keeper import keeper_of
from ..postgres.target import default_conninfo
from ..settings import Settings, from_environment

#: unless OPTIONS["pool"] says otherwise: one is kept, and a hundred threads are served
SIZES: dict[str, Any] = {"min_size": 1, "max_size": 100}
#: Django's names for what a connection string says
_NAMES = (
    ("NAME", "dbname"),
    ("USER", "user"),
    ("PASSWORD", "password"),
    ("HOST", "host"),
    ("PORT", "port"),
)


class _Use:
    """How many connections of one pool are out.  `left`: the pool, once nobody gets any more of
    them; it is closed when the last one is back."""

    def __init__(self) -> None:
        self.out = 0
        self.left: Any = None


#: by a pool's name, what its connections are made with, and who uses it
_MADE_WITH: dict[str, dict[str, Any]] = {}
_USES: defaultdict[str, _Use] = defaultdict(_Use)
_LOCK = Lock()


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's PostgreSQL backend; its connections are a resilient pool's.

    `OPTIONS["pool"]`: arguments of the pool, as with Django's own backend.  `OPTIONS["resilient"]`:
    `settings`, and `reader_of`, the alias whose replicas this one reads from.  `CONN_MAX_AGE` is
    allowed; `CONN_HEALTH_CHECKS` is needless.
    """

    #: the name of the pool that has lent its connection and its use, and the name of its pool
    _lent_by: tuple[str, _Use] = "", _Use()
    _pool_key: str = ""

    def __init__(self, settings_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(settings_dict, *args, **kwargs)
        options = settings_dict.setdefault("OPTIONS", {})
        named = settings_dict.get("NAME") or options.get("service")
        if not named and not self._reader_of:
            self._take_from_environment()

    @property
    def _ours(self) -> dict[str, Any]:
        ours: dict[str, Any] = self.settings_dict["OPTIONS"].get("resilient") or {}
        unknown = ours.keys() - {"settings", "reader_of"}
        if unknown:
            raise ImproperlyConfigured(
                f"OPTIONS['resilient'] has {', '.join(sorted(unknown))}; settings and reader_of"
                " are known"
            )
        return ours

    @property
    def _reader_of(self) -> str | None:
        return self._ours.get("reader_of")

    @property
    def _settings(self) -> Settings:
        return self._ours.get("settings") or from_environment()

    def _take_from_environment(self) -> None:
        """Nothing is named: RESILIENT_DATABASE_URL is meant."""
        found = conninfo_to_dict(default_conninfo(self._settings))
        for name, param in _NAMES:
            if not self.settings_dict.get(name) and found.get(param) is not None:
                self.settings_dict[name] = str(found.pop(param))
        options = self.settings_dict["OPTIONS"]
        for param, value in found.items():
            if param not in {param for _, param in _NAMES}:
                options.setdefault(param, value)

    def get_connection_params(self) -> dict[str, Any]:
        if self._reader_of:
            owner: Any = connections[self._reader_of]
            params: dict[str, Any] = owner.get_connection_params()
            return params
        params = super().get_connection_params()
        params.pop("resilient", None)
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        key = "" if self.alias == base.NO_DB_ALIAS else self._key()
        with _LOCK:  # before its pool is looked for: whoever ends one looks here
            use = _USES[key]
            use.out += 1
        try:
            connection = super().get_new_connection(conn_params)
        except BaseException:
            self._returned(key, use)
            raise
        self._lent_by = key, use
        return connection

    def _close(self) -> None:
        """A session with something left in it ends: Django's own backend gives it to nobody."""
        key, use = self._lent_by
        lent = self.connection is not None
        if lent and (keeper := keeper_of(self.connection)) is not None and keeper.marked:
            self.connection._expire_at = 0.0
        super()._close()
        if lent:
            self._returned(key, use)

    def _returned(self, key: str, use: _Use) -> None:
        """One connection less is out.  A copy's are nobody else's: its pool ends with the last."""
        with _LOCK:
            use.out -= 1
            gone, use.left = (None, use.left) if use.out else (use.left, None)
            if key not in ("", self.alias) and not use.out and _USES.get(key) is use:
                gone = self._forgotten(key)
        if gone is not None:
            gone.close()

    @property
    def pool(self) -> Any:
        """Its alias's; a copy whose settings were changed has another one."""
        if self.alias == base.NO_DB_ALIAS:
            return None
        key = self._pool_key = self._key()
        found = self._connection_pools.get(key)
        if found is None or (found.closed and found._opened):
            found = self._connection_pools[key] = self._new_pool()
        return found

    def _key(self) -> str:
        """By which its pool is known: the alias, unless its sessions would differ from those of
        that alias."""
        known = connections.settings.get(self.alias)
        if self.settings_dict is known:
            return str(self.alias)
        made_with = self._made_with()
        if known is not None and connections[self.alias]._made_with() == made_with:
            return str(self.alias)
        with _LOCK:
            names = (f"{self.alias} #{n}" for n in count(1))
            key = next(name for name in names if _MADE_WITH.get(name, made_with) == made_with)
            _MADE_WITH[key] = made_with
        return key

    def _made_with(self) -> dict[str, Any]:
        """What tells its sessions from others': how they connect, and what they are told then."""
        role = self.settings_dict["OPTIONS"].get("assume_role")
        params = self.get_connection_params()
        return {**params, "assume_role": role, "time zone": self.timezone_name}

    def _new_pool(self) -> Any:
        if self._reader_of:
            owner: Any = connections[self._reader_of]
            if not isinstance(owner, DatabaseWrapper):
                raise ImproperlyConfigured(
                    f"reader_of={self._reader_of!r}: its ENGINE isn't resilient.django"
                )
            owner.pool.open()
            return owner.pool.reader
        given = self.settings_dict["OPTIONS"].get("pool")
        options = dict(given) if isinstance(given, dict) else dict(SIZES)
        return ConnectionPool(
            " ",  # what follows, and nothing of the environment's beside it
            kwargs={**self.get_connection_params(), "autocommit": True},
            open=False,
            configure=self._greet,
            settings=self._settings,
            **options,
        )

    def _greet(self, connection: Any) -> Any:
        """What every session of the pool is told; what is refused, whoever waits hears of."""
        try:
            return self._configure_connection(connection)
        except Exception as exc:
            if stays(exc):
                fail_waiting(connection._pool, exc)
            raise

    def _configure_role(self, connection: Any) -> bool:
        """As Django's, whose quoting wants a connection of this very pool first."""
        role = self.settings_dict["OPTIONS"].get("assume_role")
        if role:
            with connection.cursor() as cursor:
                cursor.execute(sql.SQL("SET ROLE {}").format(sql.Literal(role)))
        return bool(role)

    def close_pool(self) -> None:
        """For tests.  Connections that are out go on, but nobody dials for them any more."""
        with _LOCK:
            gone = self._forgotten(self._pool_key or self.alias)
        if gone is not None:
            gone.close()

    def ensure_timezone(self) -> bool:
        """As Django's, which closes the pool.  Here it ends with the last connection that is out:
        until then these go on through failovers."""
        key = self._pool_key or self.alias
        with _LOCK:
            use = _USES[key]
            gone = self._forgotten(key)
            if use.out:
                use.left, gone = gone, None
        if gone is not None:
            gone.close()
        if self.connection is None:
            return False
        return bool(self._configure_timezone(self.connection))

    def _forgotten(self, key: str) -> Any:
        _MADE_WITH.pop(key, None)
        _USES.pop(key, None)
        return self._connection_pools.pop(key, None)
