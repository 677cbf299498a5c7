"""The connection classes that the pools use, made from those that they were given."""

from __future__ import annotations

from typing import Any, TypeVar, cast, get_origin

import psycopg

from .classes import made_once
from .connection import ResilientMixin
from .waiting import AsyncWait, SyncWait

C = TypeVar("C")


def derive(base: type[C]) -> type[C]:
    """`base` with the library's mixin in front; the same class for the same base."""
    plain: Any = get_origin(base) or base  # `MyConnection[Row]` is an alias, no class
    if issubclass(plain, ResilientMixin):
        return base
    return cast(type[C], made_once(plain, _derived))


def _derived(base: type[Any]) -> type[Any]:
    copied = ("__module__", "__doc__", "__qualname__")
    names = {name: getattr(base, name) for name in copied}
    names["_plain_cursor"] = base.cursor  # `super()` would look it up anew for every statement
    mixin = AsyncWait if issubclass(base, psycopg.AsyncConnection) else SyncWait
    return type(base.__name__, (mixin, base), names)
