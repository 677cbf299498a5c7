"""pytest's plugin for other people's suites: our modules in the place of theirs."""

from __future__ import annotations

from contextlib import suppress


def in_procrastinate() -> None:
    """Its connectors are ours, by every name."""
    import procrastinate
    from procrastinate import psycopg_connector, sync_psycopg_connector

    from resilient.procrastinate import PsycopgConnector, SyncPsycopgConnector

    psycopg_connector.PsycopgConnector = PsycopgConnector  # type: ignore[misc]
    sync_psycopg_connector.SyncPsycopgConnector = SyncPsycopgConnector  # type: ignore[misc]
    procrastinate.PsycopgConnector = PsycopgConnector  # type: ignore[misc]
    procrastinate.SyncPsycopgConnector = SyncPsycopgConnector  # type: ignore[misc]


def in_sqlalchemy() -> None:
    """`postgresql+psycopg` is our dialect, by that name: the suite asks for it."""
    from sqlalchemy.dialects import registry

    from resilient.sqlalchemy.dialect import AsyncDialect, Dialect

    Dialect.driver = AsyncDialect.driver = "psycopg"
    for name in ("postgresql.psycopg", "postgresql.psycopg_async"):
        registry.register(name, "resilient.sqlalchemy.dialect", "Dialect")


for replace in (in_procrastinate, in_sqlalchemy):
    with suppress(ImportError):
        replace()
