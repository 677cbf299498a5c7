"""Database and HTTP clients that live through a failover.

`resilient.postgres` is a drop-in for psycopg_pool, `resilient.http` for httpx2 (and
`resilient.http.httpx` for httpx).  Importing this package costs nothing; the drop-ins are
loaded when they are named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors as errors
    from . import recorder as recorder
    from .settings import Settings as Settings

__version__ = "0.1.0"
__all__ = ["Settings", "__version__", "errors", "recorder"]


def __getattr__(name: str) -> Any:
    if name == "Settings":
        return import_module(".settings", __name__).Settings
    if name in ("errors", "recorder"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
