"""The verbs, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from .budget import budget
from .doctor import doctor
from .drill import drill
from .install_ledger import install_ledger
from .report import report
from .settings import settings
from .watch import watch

__all__ = ["app"]

app = typer.Typer(
    name="resilient",
    help="Fire drills and availability arithmetic for services that use `resilient`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# In a line each, so that all of it fits a screen.
app.command(short_help="Force failovers on an embedded lab, or on yours.")(drill)
app.command(short_help="Find what a failover would bring to light.")(doctor)
app.command(short_help="Nines, downtime, redundancy, RTO.")(budget)
app.command(short_help="Watch endpoints and failovers, live.")(watch)
app.command(short_help="Draw a recording as one HTML file.")(report)
app.command(short_help="Install the ledger of commits.")(install_ledger)
app.command(short_help="Effective settings and their sources.")(settings)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"resilient-connect {version('resilient-connect')}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which it is.")
    ] = False,
) -> None:
    """Exit codes: 0 fine, 1 a finding or a broken limit, 2 wrong use."""
