"""The quick `dataclass` makes what the standard one makes, for every class of the package."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import pkgutil
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

import resilient
from resilient import _dataclass
from resilient._dataclass import dataclass
from resilient.core.model import CausalToken

PARTS = ("_parse", "core", "dns", "http", "monitor", "postgres")


def made_here() -> Iterator[type]:
    for found in pkgutil.walk_packages(resilient.__path__, "resilient."):
        if found.name.split(".")[1] in PARTS and not found.name.endswith("__main__"):
            for value in vars(import_module(found.name)).values():
                if (
                    isinstance(value, type)
                    and value.__module__ == found.name
                    and dataclasses.is_dataclass(value)
                ):
                    yield value


def twin(cls: type) -> type:
    """The same class by the standard decorator."""
    ours = dataclasses.fields(cls)
    frozen = cls.__hash__ is not None
    return dataclasses.make_dataclass(
        cls.__name__,
        [
            (
                field.name,
                field.type,
                dataclasses.field(default=field.default, default_factory=field.default_factory),
            )
            for field in ours
        ],
        frozen=frozen,
        slots=True,
    )


CLASSES = sorted(made_here(), key=lambda cls: (cls.__module__, cls.__qualname__))


def test_there_are_classes_to_compare() -> None:
    assert CausalToken in CLASSES
    assert len(CLASSES) > 90


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_as_the_standard_one(cls: Any) -> None:
    other: Any = twin(cls)
    ours, theirs = (
        [
            # a factory's default has no name in either
            (name, one.kind, one.default is not one.empty, one.annotation)
            for name, one in inspect.signature(each.__init__).parameters.items()
        ]
        for each in (cls, other)
    )
    assert ours == theirs
    assert cls.__match_args__ == other.__match_args__
    values = {field.name: f"v{at}" for at, field in enumerate(dataclasses.fields(cls))}
    one, same = (_raw(cls, values) for _ in range(2))
    expected = _raw(other, values)
    if cls.__repr__.__qualname__ == "_repr":  # classes with a text of their own keep it
        assert repr(one).removeprefix(cls.__qualname__) == repr(expected).removeprefix(
            type(expected).__qualname__
        )
    assert one == same
    assert one != expected  # another class
    for field in values:
        assert one != _raw(cls, values | {field: "changed"})
    if expected.__hash__ is None:
        with pytest.raises(TypeError, match="unhashable"):
            hash(one)
    else:
        assert hash(one) == hash(same)
        assert not hasattr(one, "__dict__")
        for field in values:
            with pytest.raises(dataclasses.FrozenInstanceError, match="assign"):
                setattr(one, field, 1)
            with pytest.raises(dataclasses.FrozenInstanceError, match="delete"):
                delattr(one, field)
    assert copy.copy(one) == one == pickle.loads(pickle.dumps(one))


#: ordered, which the quick one can't
STANDARD = {"Endpoint"}


def test_the_quick_one_is_used() -> None:
    """What the drop-ins import is paid for at every start of a process."""
    slow = [
        f"{cls.__module__}.{cls.__name__}"
        for cls in CLASSES
        if cls.__hash__ is not None and "__setattr__" in vars(cls)
        if cls.__setattr__ is not _dataclass._setattr and cls.__name__ not in STANDARD
    ]
    assert slow == []


def _raw(cls: Any, values: dict[str, Any]) -> Any:
    """An instance with these values, around `__post_init__` and its demands."""
    made = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


@dataclass(frozen=True, slots=True)
class Base:
    number: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Derived(Base):
    seen: list[int] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("negative")


@dataclass(slots=True)
class Changing:
    number: int
    seen: list[int] = dataclasses.field(default_factory=list)


def test_defaults_factories_and_what_a_class_checks_itself() -> None:
    assert Derived(1) == Derived(number=1, names=(), seen=[])
    assert Derived(1).seen is not Derived(1).seen
    assert Derived(1, ("a",), [2]).seen == [2]
    with pytest.raises(ValueError, match="negative"):
        Derived(-1)
    with pytest.raises(TypeError, match="number"):
        Derived()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unknown"):
        Derived(1, unknown=2)  # type: ignore[call-arg]


def test_replace_asdict_match_and_repr() -> None:
    value = dataclasses.replace(Derived(1), number=2)
    assert dataclasses.asdict(value) == {"number": 2, "names": (), "seen": []}
    assert repr(value) == "Derived(number=2, names=(), seen=[])"
    match value:
        case Derived(number, names, seen):
            assert (number, names, seen) == (2, (), [])


def test_one_that_changes() -> None:
    value = Changing(1)
    value.number = 2
    assert value == Changing(2)
    with pytest.raises(TypeError, match="unhashable"):
        hash(value)
    with pytest.raises(AttributeError):
        value.other = 1  # type: ignore[attr-defined]


def test_threads_that_make_the_first_one_at_once() -> None:
    """Whoever comes second finds what the first has compiled."""

    @dataclass(frozen=True, slots=True)
    class First:
        number: int

    for name in ("__init__", "__eq__", "__hash__"):
        waiting = vars(First)[name]
        compiled = waiting.__get__(None, First)
        assert vars(First)[name] is compiled
        assert waiting.__get__(None, First) is compiled
        assert waiting.__get__(First(1), First).__func__ is compiled


def test_a_derived_class_reaches_its_bases_methods() -> None:
    """Whichever of the two is looked up first."""

    @dataclass(frozen=True, slots=True)
    class One:
        number: int

    @dataclass(frozen=True, slots=True)
    class Two(One):
        name: str

    for method in ("__init__", "__eq__", "__hash__"):
        both = object.__new__(Two)
        assert getattr(super(Two, both), method).__func__ is getattr(One, method)
        assert getattr(One, method) is not getattr(Two, method)


def test_threads_that_ask_for_the_fields_at_once() -> None:
    """Each finds all of them, with their defaults."""
    for _ in range(30):

        @dataclass(slots=True)
        class Asked:
            number: int
            seen: list[int] = dataclasses.field(default_factory=list)

        ready = threading.Barrier(4)
        found: list[bool] = []

        def ask(cls: Any = Asked, ready: threading.Barrier = ready) -> None:
            ready.wait()
            found.append(dataclasses.fields(cls)[1].default_factory is list)  # noqa: B023

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [True] * 4
