"""Files and functions stay small enough to hold in one's head.

A function over the limit says why in a comment on its `def` line or the one above:
`# long: …`.  A file over the limit says so within its first lines.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import resilient

PACKAGE = Path(resilient.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FILE_LINES = 400
FUNCTION_LINES = 40
MARK = "# long: "


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's statements; its signature and docstring are documentation."""
    body = node.body
    documented = ast.get_docstring(node, clean=False) is not None
    if documented and len(body) == 1:
        return 0
    first = body[1] if documented else body[0]
    return (node.end_lineno or first.lineno) - first.lineno + 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_limits(file: Path) -> None:
    lines = file.read_text().splitlines()
    offenders = []
    if len(lines) > FILE_LINES and not any(MARK in line for line in lines[:40]):
        offenders.append(f"{len(lines)} lines, {FILE_LINES} are the limit")
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        marked = any(MARK in line for line in lines[max(0, node.lineno - 2) : node.body[0].lineno])
        if length(node) > FUNCTION_LINES and not marked:
            offenders.append(f"line {node.lineno}: {node.name} has {length(node)} lines")
    assert not offenders
