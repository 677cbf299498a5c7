"""`resilient settings`: what is in effect, and where it comes from."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from .._fields import Secret
from .._parse import visible
from ..errors import ConfigError
from .wrong_use import refused, wrong_use

__all__ = ["settings"]

All = Annotated[bool, typer.Option("--all", help="Defaults as well.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def settings(show_all: All = False, json_object: Json = False) -> None:
    """Effective values, where each came from, unknown variables. Passwords are hidden.

    Exit code 1 when a variable of this prefix is known to nobody, 2 when an application would not
    start with what is set.
    """
    from .._odd import oddities
    from ..settings import PREFIX, Settings, unknown_variables

    with refused("settings"), _unlogged():
        given = Settings(strict="off")
        try:
            given, misspelt = Settings(), ""
        except ConfigError as error:  # this verb is where one looks for the right name
            misspelt = str(error)
    strict = "off" if not misspelt and given.strict == "off" else "on"
    set_here = {name.upper() for name, text in os.environ.items() if text}
    values = {
        variable: {
            "value": strict if name == "strict" else _shown(getattr(given, name)),
            "from": "environment" if variable in set_here else "default",
        }
        for name in Settings.fields
        for variable in (PREFIX + name.upper(),)
    }
    unknown = {name: other and PREFIX + other for name, other in unknown_variables().items()}
    odd = {PREFIX + name.upper(): why for name, why in oddities(given)}
    if json_object:
        ok = not unknown
        print(json.dumps({"ok": ok, "settings": values, "unknown": unknown, "odd": odd}))
    else:
        for name, each in values.items():
            if show_all or each["from"] != "default":
                print(f"{name}={visible(str(each['value']))}  ({each['from']})")
        if not show_all:
            print("All else has its default (--all shows it).")
        for name, why in odd.items():
            print(f"{name}={visible(str(values[name]['value']))}: {why}")
        for name, other in unknown.items():
            print(f"{visible(name)}: unknown{f'; did you mean {other}?' if other else ''}")
    if misspelt:
        wrong_use("settings", misspelt)
    raise typer.Exit(1 if unknown else 0)


@contextmanager
def _unlogged() -> Iterator[None]:
    """What the settings warn of is shown here, and not beside it."""
    logger = logging.getLogger("resilient.settings")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _shown(value: Any) -> Any:
    if isinstance(value, Secret):
        return "(hidden)"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        # `repr` of a URL shows no password
        return ",".join(repr(v)[1:-1] if isinstance(v, str) else str(v) for v in value)
    if isinstance(value, dict):
        return ",".join(f"{name}={each}" for name, each in value.items())
    return ",".join(f"{zone}={rule}" for zone, rule in value.rules)
