"""Health checks as views: `path("health/live", live)`, `path("health/ready", ready)`."""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.http import HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..health import Readiness, Report
from ..health import live as alive
from .base import DatabaseWrapper


def _answer(report: Report) -> Any:
    return HttpResponse(report.body(), status=report.status, content_type="application/json")


@never_cache
@require_safe
def live(request: Any) -> Any:
    """A view: 200 to any `request` while the process answers."""
    return _answer(alive())


@never_cache
@require_safe
def ready(request: Any) -> Any:
    """A view: 200 to any `request` while every alias of this engine answers a query, else 503
    and which doesn't."""
    pools = {}
    for alias in connections:
        wrapper = connections[alias]
        if isinstance(wrapper, DatabaseWrapper):
            wrapper.pool.open()
            pools["db" if alias == "default" else alias] = wrapper.pool
    return _answer(Readiness(pools).check())
