"""Django over the resilient pools.

    DATABASES = {
        "default": {"ENGINE": "resilient.django", …},
        "replica": {
            "ENGINE": "resilient.django",
            "OPTIONS": {"resilient": {"reader_of": "default"}},
        },
    }
    DATABASE_ROUTERS = ["resilient.django.Router"]

`run` runs a transaction again as a whole; `live` and `ready` are views for health checks.
"""

from __future__ import annotations

from .routing import Router
from .running import run
from .views import live, ready

__all__ = ["Router", "live", "ready", "run"]
