"""`resilient settings`: what is in effect, and where it comes from."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from .._fields import Secret
from .._parse import visible
from .wrong_use import refused

__all__ = ["settings"]

All = Annotated[bool, typer.Option("--all", help="Defaults as well.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def settings(show_all: All = False, json_object: Json = False) -> None:
    """Effective values, where each came from, unknown variables. Passwords are hidden.

    Exit code 1 when a variable of this prefix is known to nobody.
    """
    from ..settings import PREFIX, Settings, unknown_variables

    with refused("settings"):
        given = Settings()
    values = {
        PREFIX + name.upper(): {
            "value": _shown(getattr(given, name)),
            "from": "environment" if given.has_chosen(name) else "default",
        }
        for name in Settings.fields
    }
    unknown = unknown_variables()
    if json_object:
        print(json.dumps({"ok": not unknown, "settings": values, "unknown": unknown}))
    else:
        for name, each in values.items():
            if show_all or each["from"] != "default":
                print(f"{name}={visible(str(each['value']))}  ({each['from']})")
        if not show_all:
            print("All else has its default (--all shows it).")
        for name, other in unknown.items():
            print(f"{name}: unknown{f'; did you mean {PREFIX}{other}?' if other else ''}")
    raise typer.Exit(1 if unknown else 0)


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
