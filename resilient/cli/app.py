"""The verbs, put together."""

from __future__ import annotations

import typer

from .budget import budget
from .doctor import doctor
from .drill import drill
from .install_ledger import install_ledger
from .report import report
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
app.command()(drill)
app.command()(doctor)
app.command()(budget)
app.command()(watch)
app.command()(report)
app.command()(install_ledger)


@app.callback()
def _root() -> None:
    """Exit codes: 0 fine, 1 a finding or a broken limit, 2 wrong use."""
