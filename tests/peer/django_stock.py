"""Django's own suite with Django's own backend and pool."""

from __future__ import annotations

import os

_COMMON = {
    "HOST": os.environ["PGHOST"],
    "PORT": os.environ["PGPORT"],
    "USER": os.environ["PGUSER"],
    "OPTIONS": {"pool": {"min_size": 1, "max_size": 20}},
}
DATABASES = {
    name: {"ENGINE": "django.db.backends.postgresql", "NAME": name, **_COMMON}
    for name in ("default", "other")
}
SECRET_KEY = "tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
