"""The README as the package index shows it: no link in it leads nowhere.

Links to pages of the repository are relative there, and the index has no such pages.  With
`PROJECT_URL` in the environment of a build (where the repository is to be seen) they become whole
ones, and the package gets `[project.urls]`.  Without it only their words stay.
"""

from __future__ import annotations

import re

__all__ = ["abroad", "urls"]

_LINK = re.compile(r"(?P<picture>!?)\[(?P<words>[^\]]*)\]\((?P<where>(?!https?:|mailto:|#)[^)]+)\)")


def abroad(text: str, home: str) -> str:
    """The text with whole links; `home`: the repository's address, or empty."""

    def whole(link: re.Match[str]) -> str:
        words, where = link["words"], link["where"]
        if not home:
            return f"*{words}*" if link["picture"] else words
        kind = "raw" if link["picture"] else "blob"
        return f"{link['picture']}[{words}]({home}/{kind}/main/{where})"

    return _LINK.sub(whole, text)


def urls(home: str) -> dict[str, str]:
    """What `[project.urls]` has."""
    pages = {"Documentation": "docs/index.md", "Changelog": "CHANGELOG.md"}
    if not home:
        return {}
    return {"Source": home, **{name: f"{home}/blob/main/{page}" for name, page in pages.items()}}
