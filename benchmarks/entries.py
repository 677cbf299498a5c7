"""A client in the list of clients: where it is, how it is set, what it stands on."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["Entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """`place`: `module:class`; `options`: keywords of the class beside its target."""

    name: str
    place: str
    options: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    ways: tuple[str, ...] = ("plain", "retry")
    #: why it can't be run with only one CNAME known; empty: it can
    no_cname: str = ""
    #: ours are drawn apart from the peers
    ours: bool = False
    #: no part of a whole plan: it has to be named
    only_named: bool = False

    def make(self, target: Any) -> Any:
        """The client, not yet open."""
        return self.load()(target, **self.options)

    def load(self) -> Any:
        """Its class."""
        module, name = self.place.split(":")
        return getattr(import_module(module), name)

    def missing(self) -> str:
        """The first distribution that isn't installed; empty if all are."""
        for name in self.needs:
            try:
                version(name)
            except PackageNotFoundError:
                return name
        return ""

    def versions(self) -> str:
        """`name version` of each."""
        return ", ".join(f"{name} {version(name)}" for name in self.needs)
