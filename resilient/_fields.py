"""What a setting is: its default, how a given value is read, and what people are told of it.

A reader is a pure function from what was given (text of the environment, or a value in code) to
what the setting holds.  It raises `ValueError` with a sentence, which never names a secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from typing import Any, SupportsFloat, SupportsIndex

from ._dataclass import dataclass

__all__ = ["Field", "Reader", "Secret", "checked", "choice", "flag", "number", "optional", "whole"]

Reader = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One setting.  `accepted` and `description` are for people, `tier` says who needs it."""

    read: Reader
    default: Any
    tier: str
    accepted: str
    description: str
    #: what was given may never be shown
    hidden: bool = False


class Secret:
    """A text that is not shown by accident: `get_secret_value()` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def get_secret_value(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('**********')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __len__(self) -> int:
        return len(self._text)


def secret(value: Any) -> Secret:
    """A text, or whatever keeps one and has `get_secret_value()`."""
    if isinstance(value, Secret):
        return value
    reveal = getattr(value, "get_secret_value", None)
    return Secret(_text(value if reveal is None else reveal()))


def optional(read: Reader) -> Reader:
    """None stays None, which only code can say; all else is read."""

    return lambda value: None if value is None else read(value)


def checked(check: Callable[[str], object]) -> Reader:
    """A text that `check` doesn't object to."""

    def read(value: Any) -> str:
        text = _text(value)
        check(text)
        return text

    return read


def texts(split: Callable[[Any], Any]) -> Reader:
    """A tuple of texts that `split` makes of a comma-separated text or of a list."""

    def read(value: Any) -> tuple[str, ...]:
        items = split(value)
        if items is None:
            raise ValueError("Input should be a valid tuple")
        return tuple(_text(item) for item in items)

    return read


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("Input should be a valid string")
    return value


def choice(*accepted: str) -> Reader:
    """One of these texts."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in accepted:
            raise ValueError(f"Input should be {_either(accepted)}")
        return value

    return read


def _either(accepted: Collection[str]) -> str:
    *first, last = (repr(one) for one in accepted)
    return f"{', '.join(first)} or {last}" if first else last


_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})


def flag(value: Any) -> bool:
    """True or false, as code or people write it."""
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).lower()
    if text not in _TRUE | _FALSE:
        raise ValueError("Input should be a valid boolean, unable to interpret input")
    return text in _TRUE


def number(
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> Reader:
    """A finite number within these bounds."""

    def read(value: Any) -> float:
        found = _float(value)
        if not math.isfinite(found):
            raise ValueError("Input should be a finite number")
        _bounded(found, above, least, most, below)
        return found

    return read


def whole(*, least: int, most: int | None = None) -> Reader:
    """A whole number within these bounds."""

    def read(value: Any) -> int:
        found = _int(value)
        _bounded(found, None, least, most, None)
        return found

    return read


def _bounded(
    found: float,
    above: float | None,
    least: float | None,
    most: float | None,
    below: float | None,
) -> None:
    if above is not None and not found > above:
        raise ValueError(f"Input should be greater than {above:g}")
    if least is not None and not found >= least:
        raise ValueError(f"Input should be greater than or equal to {least:g}")
    if most is not None and not found <= most:
        raise ValueError(f"Input should be less than or equal to {most:g}")
    if below is not None and not found < below:
        raise ValueError(f"Input should be less than {below:g}")


def _float(value: Any) -> float:
    if isinstance(value, str):
        try:
            return float(value if value.isascii() else "no number")
        except ValueError:
            raise ValueError(
                "Input should be a valid number, unable to parse string as a number"
            ) from None
    if not isinstance(value, SupportsFloat | SupportsIndex):
        raise ValueError("Input should be a valid number")
    return float(value)


#: as Python writes whole numbers; a fraction of nothing is let pass
_WHOLE = re.compile(r"\s*([+-]?[0-9]+(?:_[0-9]+)*)(?:\.0*)?\s*")


def _int(value: Any) -> int:
    if isinstance(value, str):
        found = _WHOLE.fullmatch(value)
        if found is None or len(value) > 100:
            raise ValueError(
                "Input should be a valid integer, unable to parse string as an integer"
            )
        return int(found[1])
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("Input should be a finite number")
        if not value.is_integer():
            raise ValueError("Input should be a valid integer, got a number with a fractional part")
        return int(value)
    if not isinstance(value, SupportsIndex):
        raise ValueError("Input should be a valid integer")
    return int(value)
