"""The verbs, put together."""

from __future__ import annotations

import inspect
from collections.abc import Callable
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


def _verb(run: Callable[..., None], short: str) -> None:
    """`short`: one line, so that all verbs fit a screen.  A paragraph of the rest is a line too:
    a terminal breaks it where it ends."""
    paragraphs = inspect.cleandoc(run.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(each.split()) for each in paragraphs)
    app.command(short_help=short, help=text)(run)


_verb(drill, "Force failovers on an embedded lab, or on yours.")
_verb(doctor, "Find what a failover would bring to light.")
_verb(budget, "Nines, downtime, redundancy, RTO.")
_verb(watch, "Watch endpoints and failovers, live.")
_verb(report, "Draw a recording as one HTML file.")
_verb(install_ledger, "Install the ledger of commits.")
_verb(settings, "Effective settings and their sources.")


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
