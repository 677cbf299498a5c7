"""What a result is worth without its circumstances: nothing.  When it was measured, by which
command, with which settings and versions."""

from __future__ import annotations

import platform
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from .._fields import Secret
from .._parse import without_secrets
from ..settings import PREFIX, Settings

__all__ = [
    "circumstances",
    "command_line",
    "moment",
    "plain_command",
    "plain_conninfo",
    "settings_in_effect",
]

#: packages whose versions decide what is measured
_PACKAGES = ("resilient-connect", "psycopg", "psycopg-pool", "dnspython", "httpx2")


def circumstances(
    settings: Settings, argv: Sequence[str], servers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """`command`, `settings` (those that aren't defaults, and the detection window), `versions`
    (`servers`: of what was met, by name).  Values for JSON, without secrets."""
    return {
        "command": command_line(argv),
        "settings": settings_in_effect(settings),
        "versions": _versions() | dict(servers or {}),
    }


def command_line(argv: Sequence[str]) -> str:
    """`resilient` and its arguments as one would type them, passwords left out."""
    words, hide = ["resilient"], False
    for word in argv:
        name, equals, value = word.partition("=")
        if hide or (name == "--dsn" and equals):
            shown = plain_conninfo(word if hide else value)
            words.append(shlex.quote(shown if hide else f"{name}={shown}"))
        else:
            words.append(shlex.quote(plain_command(word)))
        hide = word == "--dsn"
    return " ".join(words)


def plain_command(text: str) -> str:
    """A shell command without what may be a password: in URLs, and behind names such as
    `PGPASSWORD=`.  `ssh admin@db1` stays as it is."""
    return re.sub(
        r"\S+",
        lambda word: without_secrets(word[0]) if "://" in word[0] or "=" in word[0] else word[0],
        text,
    )


def plain_conninfo(conninfo: str) -> str:
    """A connection string without what libpq takes for a secret."""
    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        return "(malformed)"
    secret = {
        option.keyword.decode() for option in pq.Conninfo.get_defaults() if option.dispchar == b"*"
    }
    return make_conninfo("", **{k: v for k, v in given.items() if k not in secret})


def settings_in_effect(settings: Settings) -> dict[str, str]:
    """By variable, what isn't a default; `window_s` is what the probes' settings come to."""
    chosen = {
        PREFIX + name.upper(): _shown(getattr(settings, name))
        for name in Settings.fields
        if settings.has_chosen(name)
    }
    return chosen | {"detection window": f"{settings.window_s:g} s"}


def moment(at: float) -> datetime:
    """When a monotonic moment was, by the clock on the wall."""
    return datetime.fromtimestamp(time.time() - time.monotonic() + at, UTC)


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"libpq": _number(pq.version()), platform.system(): platform.release()}


def _number(libpq: int) -> str:
    """150018 → 15.18 (from version 10 on)."""
    return f"{libpq // 10_000}.{libpq % 10_000}"


def _shown(value: Any) -> str:
    if isinstance(value, Secret):
        return "(hidden)"
    if isinstance(value, tuple):
        return ",".join(without_secrets(str(each)) for each in value)
    if isinstance(value, Mapping):
        return ",".join(f"{name}={each}" for name, each in value.items())
    if hasattr(value, "rules"):
        return ",".join(f"{zone}={rule}" for zone, rule in value.rules)
    return without_secrets(str(value))
