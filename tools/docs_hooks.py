"""What mkdocs is told beside mkdocs.yml.

Pages link to files of the repository by relative paths (`../examples/shop_wsgi.py`), so that they
work wherever the repository is looked at.  The site has copies of these files under `repository/`,
and its pages link to those.  A link to a file that isn't there is a warning, so the build fails.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
DOCS = "docs"
#: a link that goes up: `](../` or `src="../`
UP = re.compile(r"""(?P<before>\]\(|(?:src|href)=")(?P<to>(?:\.\./)+[^)#"\s]+)""")
logger = logging.getLogger("mkdocs.hooks.repository")


def on_config(config: Any) -> Any:
    """Pages that `nav` doesn't list come last, and nothing is left empty."""
    listed = set(re.findall(r"[\w/-]+\.md", repr(config.nav)))
    docs = Path(config.docs_dir)
    pages = sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md"))
    last = config.nav.pop()
    if unlisted := [page for page in pages if page not in listed]:
        config.nav.append(dict.fromkeys(last, unlisted))
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the files that pages link to."""
    for page in files.documentation_pages():
        text = Path(page.abs_src_path).read_text()
        for path in filter(None, (_outside(page.src_uri, up["to"]) for up in UP.finditer(text))):
            if not (ROOT / path).exists():
                logger.warning("%s links to %s, which isn't there", page.src_uri, path)
            elif files.get_file_from_path(_copy(path)) is None:
                files.append(File.generated(config, _copy(path), abs_src_path=str(_file(path))))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave docs/ go to the copies."""
    here = page.file.src_uri

    def instead(found: re.Match[str]) -> str:
        path = _outside(here, found["to"])
        if path is None:
            return found[0]
        return found["before"] + posixpath.relpath(_copy(path), posixpath.dirname(here) or ".")

    return UP.sub(instead, markdown)


def _outside(page: str, to: str) -> str | None:
    """Where a page's link leads in the repository; None: to another page."""
    path = posixpath.normpath(posixpath.join(DOCS, posixpath.dirname(page), to))
    return None if path.startswith(f"{DOCS}/") else path


def _file(path: str) -> Path:
    """For a folder its README, or else its first file."""
    given = ROOT / path
    if not given.is_dir():
        return given
    return next(
        iter(sorted(given.glob("README.md")) or sorted(filter(Path.is_file, given.iterdir())))
    )


def _copy(path: str) -> str:
    name = str(_file(path).relative_to(ROOT))
    # as text: a page of its own would have links that leave the site
    return f"repository/{name}.txt" if name.endswith(".md") else f"repository/{name}"
