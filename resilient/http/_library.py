"""What the one code base needs to know of a client library: httpx2, or httpx."""

from __future__ import annotations

from typing import Any

from .._dataclass import dataclass


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
