"""Django itself, over our pools, while a primary dies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest

pytest.importorskip("django", reason="no Django")

import django
from django.conf import settings
from django.core.signals import request_started
from django.db import (
    DatabaseError,
    IntegrityError,
    OperationalError,
    connection,
    connections,
    models,
    transaction,
)
from django.test import RequestFactory, override_settings

from resilient.django import Router, live, ready, run
from resilient.lab import Lab
from resilient.postgres import ConnectionPool

from ..postgres.conftest import settings_of

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def orders(session_lab: Lab) -> Iterator[Any]:
    """A model and its table, of a program that is set up once."""
    common = {"ENGINE": "resilient.django", "TIME_ZONE": None}
    databases = {
        "default": {
            **common,
            "NAME": "app",
            "USER": "app",
            "HOST": ",".join(member.address for member in session_lab.members),
            "PORT": str(session_lab.port),
            "OPTIONS": {"resilient": {"settings": settings_of(session_lab)}},
            "CONN_MAX_AGE": 60,
            "CONN_HEALTH_CHECKS": True,
        },
        "replica": {**common, "OPTIONS": {"resilient": {"reader_of": "default"}}},
    }
    settings.configure(
        DATABASES=databases,
        DATABASE_ROUTERS=["resilient.django.Router"],
        INSTALLED_APPS=[],
        USE_TZ=True,
        ROOT_URLCONF=(),
    )
    django.setup()

    class Order(models.Model):
        item = models.TextField(unique=True)
        at = models.DateTimeField(null=True)

        class Meta:
            app_label = "shop"

    session_lab.rejoin()
    with connection.schema_editor() as editor:
        editor.create_model(Order)
    yield Order
    session_lab.rejoin()
    with connection.schema_editor() as editor:
        editor.delete_model(Order)
    for alias in connections:
        connections[alias].close()
        connections[alias].close_pool()


@pytest.fixture
def order(lab: Lab, orders: Any) -> Iterator[Any]:
    request_started.send(None)
    yield orders
    lab.rejoin()
    orders.objects.using("default").all().delete()


def crash(lab: Lab) -> None:
    lab.inject("crash", promote_after_s=0.1).wait_struck()


def items(order: Any) -> list[str]:
    return sorted(order.objects.using("default").values_list("item", flat=True))


def test_atomic_goes_on_through_a_crash(lab: Lab, order: Any) -> None:
    done = []
    with transaction.atomic():
        order(item="book").save()
        with transaction.atomic():
            order.objects.select_for_update().get(item="book")
        crash(lab)
        order(item="pen").save()
        transaction.on_commit(lambda: done.append(1))
    assert items(order) == ["book", "pen"]
    assert done == [1]
    assert isinstance(connection.pool, ConnectionPool)


def test_a_migration_goes_on_through_a_crash(lab: Lab, order: Any) -> None:
    field = models.TextField(default="")
    field.set_attributes_from_name("note")
    with connection.schema_editor() as editor:
        editor.add_field(order, field)
        crash(lab)
        editor.execute("create index noted on shop_order (note)")
    with connection.cursor() as cursor:
        cursor.execute("select indexname from pg_indexes where indexname = 'noted'")
        assert cursor.fetchall() == [("noted",)]
        names = [
            column.name
            for column in connection.introspection.get_table_description(cursor, "shop_order")
        ]
    assert names == ["id", "item", "at", "note"]
    with connection.schema_editor() as editor:
        editor.remove_field(order, field)


def test_run_takes_the_function_again(lab: Lab, order: Any) -> None:
    count, done = [], []

    def work(item: str) -> int:
        count.append(item)
        order(item=item).save()
        transaction.on_commit(lambda: done.append(item))
        if len(count) == 1:
            with connection.cursor() as cursor:
                cursor.execute("do $$ begin raise sqlstate '40001'; end $$")
        return len(count)

    assert run(work, "ink") == 2
    assert done == ["ink"]
    assert items(order) == ["ink"]
    with pytest.raises(IntegrityError):
        run(lambda: order.objects.bulk_create([order(item="a"), order(item="a")]))
    assert items(order) == ["ink"]


def test_reads_go_to_a_replica_until_there_is_a_write(lab: Lab, order: Any) -> None:
    assert order.objects.all().db == "replica"
    assert order.objects.count() == 0
    with connections["replica"].cursor() as cursor:
        cursor.execute("show transaction_read_only")
        assert cursor.fetchone() == ("on",)
    with pytest.raises(OperationalError.__mro__[1], match="read-only"):
        order.objects.using("replica").create(item="never")
    order.objects.create(item="book")
    assert order.objects.get(item="book")._state.db == "default"
    request_started.send(None)
    assert order.objects.all().db == "replica"
    with transaction.atomic():
        assert order.objects.all().db == "default"
    router = Router()
    assert router.allow_migrate("replica", "shop") is False
    assert router.allow_migrate("default", "shop") is None


def test_a_session_that_was_killed_is_replaced(lab: Lab, order: Any) -> None:
    with pytest.raises(OperationalError), connection.cursor() as cursor:
        cursor.execute("select pg_terminate_backend(pg_backend_pid())")
    request_started.send(None)
    order(item="after").save()
    assert items(order) == ["after"]


def test_health_views(lab: Lab, order: Any) -> None:
    request = RequestFactory().get("/health/ready")
    assert live(request).status_code == 200
    answer = ready(request)
    assert answer.status_code == 200
    assert json.loads(answer.content)["db"] == "ok"
    assert json.loads(answer.content)["replica"] == "ok"


def test_a_copy_with_other_settings_has_connections_of_its_own(lab: Lab, order: Any) -> None:
    """As with Django's own backend, whose copies connect by themselves."""

    def path(wrapper: Any) -> str:
        with wrapper.cursor() as cursor:
            cursor.execute("show search_path")
            return str(cursor.fetchone()[0])

    usual = path(connection)
    same, other = connection.copy(), connection.copy()
    other.settings_dict["OPTIONS"] = {
        **other.settings_dict["OPTIONS"],
        "options": "-c search_path=elsewhere",
    }
    try:
        assert (path(same), path(other), path(connection)) == (usual, "elsewhere", usual)
        assert same.pool is connection.pool
        assert other.pool is not connection.pool
    finally:
        same.close()
        gone = other.pool
        other.close()
        assert gone.closed
    assert path(connection) == usual
    assert not connection.pool.closed


def test_a_role_is_assumed_by_the_sessions_of_whoever_asked_for_it(lab: Lab, order: Any) -> None:
    """Also where the first session of its pool is opened for it, and after a failover."""
    lab.admin(None, "do $$ begin create role clerk; exception when others then null; end $$")
    lab.admin(None, "grant clerk to app")

    def role(wrapper: Any) -> str:
        with wrapper.cursor() as cursor:
            cursor.execute("select current_user")
            return str(cursor.fetchone()[0])

    other, wrong = connection.copy(), connection.copy()
    for wrapper, name in ((other, "clerk"), (wrong, "nobody's")):
        wrapper.settings_dict["OPTIONS"] = {
            **wrapper.settings_dict["OPTIONS"],
            "assume_role": name,
        }
    try:
        assert (role(connection), role(other)) == ("app", "clerk")
        started = time.monotonic()
        with pytest.raises(DatabaseError, match="nobody's"):
            role(wrong)
        assert time.monotonic() - started < 10  # a checkout waits for 30 s
        other.set_autocommit(False)
        assert role(other) == "clerk"
        lab.inject("crash", promote_after_s=0.1).wait_struck()
        assert role(other) == "clerk"
        other.rollback()
        other.set_autocommit(True)
    finally:
        other.close()
        wrong.close()
    assert not [key for key in connection._connection_pools if "#" in key]


@pytest.mark.parametrize(
    ("leave", "look"),
    [
        ("set app.tenant = '42'", "select coalesce(current_setting('app.tenant', true), '')"),
        (
            "select set_config('app.tenant', '42', false)",
            "select coalesce(current_setting('app.tenant', true), '')",
        ),
        ("create temp table left_behind (n int)", "select to_regclass('left_behind')"),
        (
            "select pg_advisory_lock(4711)",
            "select max(objid) from pg_locks where objid = 4711 and pid = pg_backend_pid()",
        ),
        ("prepare left_behind as select 1", "select count(*) from pg_prepared_statements"
         " where name = 'left_behind'"),
        ("set session characteristics as transaction read only",
         "select nullif(current_setting('default_transaction_read_only'), 'off')"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("atomic", [False, True])
def test_what_a_request_leaves_in_its_session_goes_with_it(
    lab: Lab, order: Any, leave: str, look: str, atomic: bool
) -> None:
    """With `CONN_MAX_AGE=0` Django's own backend gives each request a session of its own."""
    with transaction.atomic() if atomic else nullcontext(), connection.cursor() as cursor:
        cursor.execute(leave)
    with connection.cursor() as cursor:
        cursor.execute(look)
        assert cursor.fetchone()[0]
    connection.close()
    for _ in range(3):
        with connection.cursor() as cursor:
            cursor.execute(look)
            assert not cursor.fetchone()[0]
        connection.close()


def test_a_changed_time_zone_makes_one_pool_more(lab: Lab, order: Any) -> None:
    def zone() -> str:
        with connection.cursor() as cursor:
            cursor.execute("show timezone")
            return str(cursor.fetchone()[0])

    usual, before = zone(), connection.pool
    with override_settings(USE_TZ=False, TIME_ZONE="Africa/Nairobi"):
        connection.close()
        assert zone() == "Africa/Nairobi"
        made = connection.pool
        assert before.closed
        for _ in range(3):
            connection.close()
            assert zone() == "Africa/Nairobi"
        assert connection.pool is made
    connection.close()
    assert zone() == usual
    assert made.closed
    assert [key for key in connection._connection_pools if key.startswith("default")] == ["default"]


def test_a_block_goes_on_although_the_time_zone_was_changed_in_it(lab: Lab, order: Any) -> None:
    connection.ensure_connection()
    before = connection.pool
    with transaction.atomic():
        order(item="book").save()
        with override_settings(USE_TZ=False, TIME_ZONE="Africa/Nairobi"):
            pass
        assert connection.pool is not before  # whoever comes now has another one
        crash(lab)
        order(item="pen").save()
    assert items(order) == ["book", "pen"]
    assert not before.closed
    connection.close()
    assert before.closed


def test_copies_in_many_threads_end_no_pool_of_each_other(lab: Lab, order: Any) -> None:
    def use(_: int) -> str:
        other = connections["default"].copy()
        other.settings_dict["OPTIONS"] = {
            **other.settings_dict["OPTIONS"],
            "options": "-c search_path=elsewhere",
        }
        try:
            with other.cursor() as cursor:
                cursor.execute("show search_path")
                return str(cursor.fetchone()[0])
        finally:
            other.close()
            connections.close_all()

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(use, range(120))) == {"elsewhere"}
    assert not [key for key in connection._connection_pools if "#" in key]
