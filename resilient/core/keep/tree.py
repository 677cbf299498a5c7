"""Parse trees as nested dicts: what all forms need of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

#: a node, by its only key, or what stands in one
Node = dict[str, Any]
#: a statement's text → its trees; raises ValueError for what isn't understood
Parse = Callable[[str], list[Node]]


def kind(node: Node) -> str:
    """What a node is: `FuncCall`, `ColumnRef`."""
    return next(iter(node), "")


def body(node: Node) -> Node:
    """What stands in it."""
    found: Node = next(iter(node.values()), {})
    return found


def strings(names: list[Node]) -> list[str]:
    """The parts of a qualified name; a star is an empty one."""
    return [part["String"]["sval"] if "String" in part else "" for part in names]


def walk(tree: Any) -> Iterator[Node]:
    """All dicts of a tree, outermost first."""
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from walk(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from walk(value)


def bare(tree: Any) -> Any:
    """The tree without the places where things stood in the text."""
    if isinstance(tree, dict):
        places = ("location", "stmt_location", "stmt_len")
        return {key: bare(value) for key, value in tree.items() if key not in places}
    if isinstance(tree, list):
        return [bare(value) for value in tree]
    return tree


def uncast(node: Node) -> Node:
    """What stands below casts."""
    while kind(node) == "TypeCast":
        node = body(node)["arg"]
    return node
