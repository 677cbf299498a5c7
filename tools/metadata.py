"""What a build puts into the package's metadata: the README and the addresses of `readme.py`."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Metadata(MetadataHookInterface):
    """Called by hatchling."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in what `pyproject.toml` calls dynamic."""
        made = runpy.run_path(str(Path(self.root) / "tools" / "readme.py"))
        home = os.environ.get("PROJECT_URL", "").strip().rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": made["abroad"](text, home)}
        metadata["urls"] = made["urls"](home)
