"""What the one code base needs to know of a client library: httpx2, or httpx."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._dataclass import dataclass
from . import _offline


class Untouched(dict[str, float | None]):
    """A client's default timeouts, as long as nobody chose others."""


@dataclass(frozen=True, slots=True)
class Library:
    """A client library, the core library below it, and our errors on its classes.

    Modules, so typed `Any`: the two libraries have the same names but unrelated classes.
    """

    client: Any
    core: Any
    errors: Any

    def core_error(self, name: str, exc: BaseException) -> Exception:
        """The core library's exception of that name, as its own network backend makes it."""
        error: Exception = getattr(self.core, name)(str(exc) or type(exc).__name__)
        return error


def untouched_timeout(base: Any, seconds: float) -> Any:
    """The default timeout of a client: equal to the library's, and recognised in a request."""

    class Timeout(base):  # type: ignore[misc]  # the base is the library's
        def as_dict(self) -> dict[str, float | None]:
            return Untouched(super().as_dict())

        def __eq__(self, other: object) -> bool:
            return isinstance(other, base) and base(self) == base(other)

        __hash__ = None  # type: ignore[assignment]  # as the base

    return Timeout(seconds)


def is_malformed(exc: BaseException) -> bool:
    """Is this error (the client library's) about the text of an HTTP/1.1 answer, or where it
    ends?"""
    core = exc.__cause__
    inner = None if core is None else core.__cause__ or core.__context__
    return type(inner).__module__.partition(".")[0] == "h11"


def network_is_real(*places: tuple[Any, str]) -> Callable[[], bool]:
    """Says whether these methods are still the library's own.

    Mocks of HTTP (respx, pytest-httpx, VCR) put others in their place: then there is no network
    to resolve names for.  What only watches (wrapt, as OpenTelemetry does) counts as the
    library's own.
    """
    known = tuple((owner, name, getattr(owner, name)) for owner, name in places)

    def real() -> bool:
        if _offline.is_on():
            return False
        for owner, name, own in known:
            method = getattr(owner, name)
            if method is not own and not _only_watched(method, own):
                return False
        return True

    return real


def _only_watched(method: Any, own: Any) -> bool:
    while hasattr(method, "_self_wrapper"):  # wrapt's mark
        method = method.__wrapped__
    return method is own
