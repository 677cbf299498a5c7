"""The connection classes that the pools use, made from those that they were given."""

from __future__ import annotations

from typing import Any, TypeVar, cast, get_origin

import psycopg

from ...errors import ConfigError
from .classes import COPIED, Unannounced, made_once
from .connection import HookedAsyncConnection, HookedConnection, Hooks
from .keeper import ATTRIBUTE

C = TypeVar("C")


def derive(base: type[C]) -> type[C]:
    """`base` with the library's hooks behind it; the same class for the same base.

    Raises `ConfigError` for a class that has an attribute of its own by the hooks' only name.
    """
    plain: Any = get_origin(base) or base  # `MyConnection[Row]` is an alias, no class
    return base if issubclass(plain, Hooks) else cast(type[C], made_once(plain, _derived))


def _derived(base: type[Any]) -> type[Any]:
    if hasattr(base, ATTRIBUTE):
        raise ConfigError(
            f"connection_class={base.__qualname__}: its attribute {ATTRIBUTE!r} has the name of"
            " the library's own; accepted: a class without one"
        )
    names = {name: getattr(base, name) for name in COPIED}
    hooks: type[Any] = (
        HookedAsyncConnection if issubclass(base, psycopg.AsyncConnection) else HookedConnection
    )
    bases = (hooks,) if issubclass(hooks, base) else (Unannounced, base, hooks)
    kind: Any = type(base)
    made: type[Any] = kind(base.__name__, bases, names)
    return made
