"""pytest's plugin for other people's suites: our modules in the place of theirs."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module


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
    # The suite looks for what it needs of a database beside the dialect's module.
    beside = classmethod(lambda _: import_module("sqlalchemy.dialects.postgresql.provision"))
    Dialect.load_provisioning = beside  # type: ignore[assignment]
    registry.register("postgresql.psycopg", "resilient.sqlalchemy.dialect", "Dialect")
    registry.register("postgresql.psycopg_async", "resilient.sqlalchemy.dialect", "AsyncDialect")


for replace in (in_procrastinate, in_sqlalchemy):
    with suppress(ImportError):
        replace()
