"""`dataclasses.dataclass`, quicker to define: what a class costs is paid at every import.

The standard decorator compiles each method by itself, about 0.3 ms for a frozen class in
CPython 3.11 and 3.12, and a hundred classes are a fifth of the import.  This one compiles a method
when it is looked up first, asks the standard one for the fields when somebody wants them, and
shares the rest.  What is made is the same: `fields`, `replace`, `asdict`, `match`, pickle and copy
work, a frozen value refuses assignment, and calls take as long.  Type checkers see the standard
decorator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

__all__ = ["dataclass"]

C = TypeVar("C", bound=type)

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, slots: bool, frozen: bool = False) -> Callable[[C], C]:
        """As the standard one with these arguments; fields may have defaults and factories.

        Not for fields that are left out of `__init__`, comparison or hash, nor keyword-only, nor
        beside class variables.  Classes derived from a frozen one are made with this one too.
        """

        def define(cls: C) -> C:
            if not slots:
                raise TypeError("without slots: take the standard one")
            return _made(cls, frozen)

        return define


#: the default of a field that has none, and of one with a factory
_NONE, _UNSET = dataclasses.MISSING, object()
_FIELDS, _PARAMS = "__dataclass_fields__", "__dataclass_params__"


def _made(cls: Any, frozen: bool) -> Any:
    """The class once more, with slots: one that is there can't be given any."""
    body = dict(cls.__dict__)
    types: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for base in reversed(cls.__mro__[1:]):
        told = base.__dict__.get(_FIELDS)
        if isinstance(told, _Told):
            types |= told.types
            defaults |= told.defaults
        elif told is not None:
            raise TypeError(f"{base.__qualname__} is made by the standard one")
    own = cls.__annotations__
    body["__slots__"] = tuple(name for name in own if name not in types)
    types = {**types, **own}
    defaults = {**defaults, **{name: body.pop(name, _NONE) for name in own}}
    for name in ("__dict__", "__weakref__"):
        body.pop(name, None)
    told = _Told(types, defaults)
    for name, text in _TEXTS[frozen].items():
        body.setdefault(name, _Compiled(told, text))
    for name, method in _SHARED[frozen].items():
        body.setdefault(name, method)
    body |= {"__match_args__": tuple(types), _FIELDS: told, _PARAMS: _Params(told)}
    made = type(cls)(cls.__name__, cls.__bases__, body)
    made.__qualname__ = cls.__qualname__
    return made


class _Told:
    """What a class is made of: `types` and `defaults` of its fields, by name, and of those it
    inherits.  Where the standard library looks for fields; it is given its own."""

    def __init__(self, types: dict[str, Any], defaults: dict[str, Any]) -> None:
        self.types, self.defaults = types, defaults
        self._standard: Any = None

    def __get__(self, instance: object, owner: type) -> Any:
        return getattr(self.standard(), _FIELDS)

    def standard(self) -> Any:
        """A class with these fields by the standard decorator.  Threads that ask at once make
        one each: they are the same."""
        if self._standard is None:
            fields = [
                (name, kind) if self.defaults[name] is _NONE else (name, kind, self.defaults[name])
                for name, kind in self.types.items()
            ]
            self._standard = dataclasses.make_dataclass(
                "Fields", fields, init=False, repr=False, eq=False
            )
        return self._standard


class _Params:
    def __init__(self, told: _Told) -> None:
        self._told = told

    def __get__(self, instance: object, owner: type) -> Any:
        return getattr(self._told.standard(), _PARAMS)


class _Compiled:
    """A method that names the fields, in its class's place for it until it is looked up."""

    def __init__(self, told: _Told, text: Callable[[Any, _Told, dict[str, Any]], str]) -> None:
        self._told, self._text = told, text

    def __set_name__(self, owner: Any, name: str) -> None:
        self._cls, self._name = owner, name

    def __get__(self, instance: object, owner: type) -> Any:
        cls, name, told = self._cls, self._name, self._told
        method = cls.__dict__[name]
        if method is self:  # no other thread was first
            scope: dict[str, Any] = {"_set": object.__setattr__, "_unset": _UNSET, "_hash": hash}
            exec(self._text(cls, told, scope), scope)  # noqa: S102 (names of fields)
            method = scope[name]
            method.__qualname__, method.__module__ = f"{cls.__qualname__}.{name}", cls.__module__
            if name == "__init__":
                method.__annotations__ = dict(told.types)
            setattr(cls, name, method)
        return method.__get__(instance, owner)


def _init(cls: Any, told: _Told, scope: dict[str, Any], frozen: bool = False) -> str:
    parameters, body = ["self"], []
    for name, given in told.defaults.items():
        value: str = name
        default: Any = given
        factory: Any = _NONE
        if isinstance(given, dataclasses.Field):
            default, factory = given.default, given.default_factory
        if factory is not _NONE:
            scope[f"_make_{name}"], default = factory, _UNSET
            value = f"_make_{name}() if {name} is _unset else {name}"
        scope[f"_default_{name}"] = default
        parameters.append(name if default is _NONE else f"{name}=_default_{name}")
        body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    return f"def __init__({', '.join(parameters)}):\n {'; '.join(body) or 'pass'}\n"


def _init_frozen(cls: Any, told: _Told, scope: dict[str, Any]) -> str:
    return _init(cls, told, scope, frozen=True)


def _eq(cls: Any, told: _Told, scope: dict[str, Any]) -> str:
    mine, theirs = _values("self", told), _values("other", told)
    return (
        "def __eq__(self, other):\n"
        f" return {mine} == {theirs} if other.__class__ is self.__class__ else NotImplemented\n"
    )


def _hash(cls: Any, told: _Told, scope: dict[str, Any]) -> str:
    return f"def __hash__(self):\n return _hash({_values('self', told)})\n"


def _values(whose: str, told: _Told) -> str:
    return "(" + "".join(f"{whose}.{name}, " for name in told.types) + ")"


# -- the same for all classes


def _repr(self: Any) -> str:
    shown = (f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _setattr(self: Any, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__match_args__]


def _setstate(self: Any, state: list[Any]) -> None:
    # around the frozen class's own refusal
    for name, value in zip(self.__match_args__, state, strict=True):
        object.__setattr__(self, name, value)


#: by whether the class is frozen
_TEXTS: Final[dict[bool, dict[str, Any]]] = {
    False: {"__init__": _init, "__eq__": _eq},
    True: {"__init__": _init_frozen, "__eq__": _eq, "__hash__": _hash},
}
_SHARED: Final[dict[bool, dict[str, Any]]] = {
    False: {"__repr__": _repr, "__hash__": None},
    True: {
        "__repr__": _repr,
        "__setattr__": _setattr,
        "__delattr__": _delattr,
        "__getstate__": _getstate,
        "__setstate__": _setstate,
    },
}
