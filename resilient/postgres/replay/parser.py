"""PostgreSQL's own grammar, from whichever library is there; imported when first needed.

`pgparse` (the extra *replay*) and `pglast` both wrap libpg_query, and give the same trees.
"""

from __future__ import annotations

import importlib
import json
from functools import cache
from typing import Any

from ...core.keep.tree import Node, Parse

#: what a mismatch says where there is none
MISSING = (
    "no SQL parser is installed to give back what the server made up"
    " (pip install 'resilient-connect[replay]')"
)


@cache
def parser() -> Parse | None:
    """A text → its trees; None where no library is installed."""
    try:
        return _pgparse(importlib.import_module("pgparse"))
    except ImportError:
        pass
    try:
        return _pglast(importlib.import_module("pglast.parser"))
    except ImportError:
        return None


def _pgparse(module: Any) -> Parse:
    def parse(text: str) -> list[Node]:
        try:
            trees: list[Node] = module.parse(text)
        except module.PGQueryError as exc:
            raise ValueError(str(exc)) from None
        return trees

    return parse


def _pglast(module: Any) -> Parse:
    def parse(text: str) -> list[Node]:
        try:
            trees: list[Node] = json.loads(module.parse_sql_json(text)).get("stmts", [])
        except module.ParseError as exc:
            raise ValueError(str(exc)) from None
        return trees

    return parse
