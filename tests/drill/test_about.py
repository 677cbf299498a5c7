"""Under which circumstances something was measured, told without secrets."""

from __future__ import annotations

import json

import pytest

from resilient.drill.about import circumstances, command_line, plain_command, plain_conninfo
from resilient.settings import Settings


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["drill", "--runs", "1"], "resilient drill --runs 1"),
        (
            ["drill", "--dsn", "host=db user=u password=hunter2"],
            "resilient drill --dsn 'user=u host=db'",
        ),
        (["drill", "--dsn=postgresql://u:hunter2@db/shop"], None),
        (["drill", "--dsn", "hunter2=="], "resilient drill --dsn '(malformed)'"),
        (["drill", "--exec", "PGPASSWORD=hunter2 ./force"], None),
        (["drill", "--exec", "curl https://u:hunter2@db/fail"], None),
        (["drill", "--exec", "ssh admin@db1 stop"], "resilient drill --exec 'ssh admin@db1 stop'"),
    ],
)
def test_a_command_without_its_passwords(argv: list[str], shown: str | None) -> None:
    told = command_line(argv)
    assert "hunter2" not in told
    if shown is not None:
        assert told.split() == shown.split() or sorted(told) == sorted(shown)


def test_what_is_kept_of_a_connection_string_and_of_a_command() -> None:
    kept = plain_conninfo("postgresql://u:hunter2@db/shop?sslmode=require")
    assert "hunter2" not in kept
    for part in ("user=u", "host=db", "dbname=shop", "sslmode=require"):
        assert part in kept
    assert plain_command("touch /tmp/a; ssh a@b") == "touch /tmp/a; ssh a@b"


def test_settings_and_versions() -> None:
    settings = Settings(
        database_url="postgresql://u:hunter2@db/shop",
        deadline_s=7,
        zones="az1=10.0.1.0/24",
        dns_nameservers="10.0.0.2:53",
        http_fallbacks={"http://a": "http://u:hunter2@b"},
    )
    told = circumstances(settings, ["drill"], {"PostgreSQL": "15.18"})
    assert "hunter2" not in json.dumps(told)
    assert told["settings"]["RESILIENT_DEADLINE_S"] == "7.0"
    assert told["settings"]["RESILIENT_ZONES"] == "az1=10.0.1.0/24"
    assert told["settings"]["RESILIENT_DATABASE_URL"] == "(hidden)"
    assert told["settings"]["detection window"] == "2 s"
    assert {"resilient-connect", "psycopg", "Python", "PostgreSQL"} <= told["versions"].keys()
