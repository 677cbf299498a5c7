"""Classes made from the user's: the library's methods lie beneath theirs, above psycopg's.

So whatever a user's class (or an instrumentation's) overrides is called first, as without us, and
its `super()` leads to what is recorded.  A class is made once for as long as somebody has it:
instrumentations make a cursor class for each connection, which goes when its connection goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref

#: made from: by whom it is kept alive, see above
_MADE: WeakKeyDictionary[type[Any], ref[type[Any]]] = WeakKeyDictionary()
#: psycopg's own, which stay
_LASTING: dict[type[Any], type[Any]] = {}
#: what the class is called, and where it comes from
COPIED = ("__module__", "__doc__", "__qualname__")


class Unannounced:
    """Stands first: a user's `__init_subclass__` has nothing to do with classes of ours."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        pass


class _Beneath(type):
    """Metaclass whose classes have `mixin` right above the first class of psycopg's."""

    def mro(cls) -> list[type[Any]]:
        order = super().mro()
        mixin = cls.__dict__["_mixin"]
        own = [kind for kind in mixin.__mro__ if kind is not object]
        rest = [kind for kind in order if kind not in own]
        at = next(n for n, kind in enumerate(rest) if of_psycopg(kind))
        return [*rest[:at], *own, *rest[at:]]


def of_psycopg(kind: type[Any]) -> bool:
    """Is it one that psycopg has made?"""
    return kind.__module__.partition(".")[0] == "psycopg"


def beneath(base: type[Any], mixin: type[Any], **names: Any) -> type[Any]:
    """A class like `base` with the mixin in it; `base` where its metaclass refuses."""
    kind: Any = type(base)
    meta: Any = _Beneath if kind is type else type("Beneath", (_Beneath, kind), {})
    copied = {name: getattr(base, name) for name in COPIED}
    space = {**copied, **names, "__slots__": (), "_mixin": mixin}
    try:
        made: type[Any] = meta(base.__name__, (Unannounced, base, mixin), space)
    except TypeError:
        return base
    return made


def made_once(base: type[Any], make: Callable[[type[Any]], type[Any]]) -> type[Any]:
    """What `make` gives for this class, the same while anybody has it."""
    found = _LASTING.get(base)
    if found is None:
        known = _MADE.get(base)
        found = known() if known is not None else None
    if found is None:
        found = make(base)
        if of_psycopg(base):
            _LASTING[base] = found
        elif found is not base:
            _MADE[base] = ref(found)
    return found
