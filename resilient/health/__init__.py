"""Health endpoints: is the process alive, and can it serve?

*Live* says that the process answers, and touches nothing else: who restarts a process because
its database is gone has two outages.  *Ready* uses what a request would use: a checkout and a
query, a name, another service, each with a deadline of its own, all at once.

    checks = Readiness(db=pool, cache=redis.ping, downstream="https://pay.example/health/live")
    app = asgi_app(checks)      # GET /health/live, GET /health/ready
"""

from __future__ import annotations

from ._checks import Check, database, dns, http
from ._readiness import Readiness, live, ready, ready_async
from ._report import Report
from ._web import asgi_app, wsgi_app

__all__ = [
    "Check",
    "Readiness",
    "Report",
    "asgi_app",
    "database",
    "dns",
    "http",
    "live",
    "ready",
    "ready_async",
    "wsgi_app",
]
