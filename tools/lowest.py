"""The lowest versions that pyproject.toml allows, as constraints for pip.

    python tools/lowest.py > constraints.txt

One line for each package that is needed to run, the extras of users included.  Tools of the
developers stay out: they are as new as can be.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: extras that belong to users
EXTRAS = ("binary", "httpx", "cli", "lab", "otel")
BOUND = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<extras>[^]]*)\])?>=(?P<version>[\d.]+)")


def lowest(project: dict[str, Any]) -> dict[str, str]:
    """Package → version.  ValueError where a requirement has no lower bound."""
    return dict(_lowest(project))


def _lowest(project: dict[str, Any]) -> Iterator[tuple[str, str]]:
    extras = project["optional-dependencies"]
    for text in (*project["dependencies"], *(each for name in EXTRAS for each in extras[name])):
        found = BOUND.match(text)
        if found is None:
            raise ValueError(f"{text!r} has no lower bound")
        yield found["name"], found["version"]
        if found["name"] == "psycopg" and found["extras"]:
            yield "psycopg-binary", found["version"]


if __name__ == "__main__":
    pyproject = Path(__file__).parent.parent / "pyproject.toml"
    for package, version in lowest(tomllib.loads(pyproject.read_text())["project"]).items():
        sys.stdout.write(f"{package}=={version}\n")
