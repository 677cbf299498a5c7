"""What mkdocs is told beside mkdocs.yml.

Pages link to files of the repository by relative paths (`../examples/shop_wsgi.py`), so that they
work wherever the repository is looked at.  The site has copies of these files under `repository/`,
and its pages link to those.  A link to a file that isn't there is a warning, so the build fails.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
#: a link that leaves docs/: `](../` or `src="../`
LEAVES = re.compile(r"""(?P<before>\]\(|(?:src|href)=")\.\./(?P<path>[^)#"\s]+)""")
logger = logging.getLogger("mkdocs.hooks.repository")


def on_config(config: Any) -> Any:
    """Pages that `nav` doesn't list come last, and nothing is left empty."""
    listed = set(re.findall(r"[\w-]+\.md", repr(config.nav)))
    more = [page.name for page in sorted(Path(config.docs_dir).glob("*.md"))]
    unlisted = [name for name in more if name not in listed]
    last = config.nav.pop()
    if unlisted:
        config.nav.append(dict.fromkeys(last, unlisted))
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the files that pages link to."""
    for page in Path(config.docs_dir).glob("*.md"):
        for match in LEAVES.finditer(page.read_text()):
            path = match["path"]
            copy = _copy(path)
            if not (ROOT / path).exists():
                logger.warning("%s links to %s, which isn't there", page.name, path)
            elif files.get_file_from_path(copy) is None:
                files.append(File.generated(config, copy, abs_src_path=str(_file(path))))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links that leave docs/ go to the copies."""
    return LEAVES.sub(lambda found: f"{found['before']}{_copy(found['path'])}", markdown)


def _file(path: str) -> Path:
    """A folder's stands for its README."""
    given = ROOT / path
    return given / "README.md" if given.is_dir() else given


def _copy(path: str) -> str:
    name = str(_file(path).relative_to(ROOT))
    # as text: a page of its own would have links that leave the site
    return f"repository/{name}.txt" if name.endswith(".md") else f"repository/{name}"
