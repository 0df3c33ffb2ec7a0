"""What keeps a source from being moved, and what hosts.yaml has to say for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabfile.adopt import checks
from fabfile.adopt.containers import Container
from fabfile.adopt.inspection import Found, host_entry
from fabfile.adopt.source import Connection, parse
from fabfile.base.errors import ConfigError
from fabfile.config import hosts_file
from fabfile.config.inventory import Inventory

FACTS: dict[str, Any] = {
    "major": 15, "version": "15.4", "superuser": True, "recovery": False, "tablespaces": 0,
    "prepared": 0, "locales": ["c.utf8", "en_us.utf8"], "extensions": ["plpgsql", "pg_trgm"],
    "databases": [
        {"name": "postgres", "bytes": 9, "collate": "C", "ctype": "C"},
        {"name": "root_db", "bytes": 1000, "collate": "en_US.utf8", "ctype": "en_US.utf8"},
        {"name": "other", "bytes": 500, "collate": "C.UTF-8", "ctype": "C.UTF-8"},
    ],
}  # fmt: skip
CONTENT = {"extensions": ["plpgsql"], "relations": 7, "tables": 3}
CONTENTS = {"root_db": CONTENT, "other": CONTENT}
EMPTY = {"root_db": {"extensions": ["plpgsql"], "relations": 0, "tables": 0}}


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    path = tmp_path / "hosts.yaml"
    data = {
        "hosts": {"m": {"address": "192.0.2.1", "swarm": "manager", "role": "db"}},
        "s3_bucket_name": "test-bucket",
        "pg_db": "root_db",
        "pg_user": "noco",
        "images": {"postgres": "postgres:15-bookworm", "nocodb": "nocodb/nocodb:0.265.1"},
    }
    path.write_text(yaml.safe_dump(data))
    return hosts_file.load(path)


def container(inventory: Inventory, **changes: Any) -> Container:
    one = Container(
        host=inventory.hosts[0], name="noco", service="", image="nocodb/nocodb:0.265.1",
        image_id="", environment={}, mounts={}, names=frozenset(), ports=(), restart="no",
        running=True,
    )  # fmt: skip
    return replace(one, **changes)


def found(inventory: Inventory, **app: Any) -> Found:
    database = container(inventory, name="db", image="postgres:15")
    return Found(
        parse("stack:noco"), container(inventory, **app), (), database, (),
        Connection("db", 5432, "noco", "root_db"), {}, (), "0.265.1", "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        ("nocodb/nocodb:0.265.1", "nocodb/nocodb:0.265.1"),
        ("nocodb/nocodb:latest", "nocodb/nocodb:0.265.1"),
        ("nocodb/nocodb", "nocodb/nocodb:0.265.1"),
        ("reg:5000/noco@sha256:00", "reg:5000/noco:0.265.1"),
        ("reg:5000/noco:0.260.0@sha256:00", "reg:5000/noco:0.260.0"),
    ],
)
def test_the_same_version_is_wanted_by_its_number(inventory, image, wanted):
    assert checks.app_image(found(inventory, image=image)) == wanted


def test_what_hosts_yaml_lacks(inventory):
    assert checks.differences(found(inventory), FACTS, inventory) == {}
    other = replace(
        inventory,
        postgres=replace(
            inventory.postgres, databases=("nocodb",), user="nocodb", major=14, image="p:14-x"
        ),
        app=replace(inventory.app, image="nocodb/nocodb:0.301.3"),
    )
    seen = found(inventory, environment={"NC_PUBLIC_URL": "https://noco.example.com"})
    assert checks.differences(seen, FACTS, other) == {
        ("images", "nocodb"): "nocodb/nocodb:0.265.1",
        ("", "pg_db"): "root_db",
        ("", "pg_user"): "noco",
        ("images", "postgres"): "p:15-bookworm",
        ("app", "public_url"): "https://noco.example.com",
    }


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"major": 11}, "older than 12"),
        ({"superuser": False}, "no superuser"),
        ({"recovery": True}, "in recovery"),
        ({"tablespaces": 2}, "2 tablespaces"),
        ({"prepared": 1}, "1 prepared"),
    ],
)
def test_sources_that_cannot_be_moved(inventory, changes, what):
    checks.check_source(found(inventory), FACTS, CONTENTS)
    with pytest.raises(ConfigError, match=what) as caught:
        checks.check_source(found(inventory), FACTS | changes, CONTENTS)
    assert "nothing was changed" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("app", "what"),
    [
        ({"auto_remove": True}, "with --rm"),
        ({"service": "noco_app"}, "has /usr/app/data in no volume with a name"),
        (
            {"service": "noco_app", "mounts": {"/usr/app/data": "/x"},
             "lost": frozenset({"/usr/app/data"})},
            "in no volume with a name",
        ),
    ],
)  # fmt: skip
def test_what_would_be_lost_by_stopping_is_not_stopped(inventory, app, what):
    with pytest.raises(ConfigError, match=what):
        checks.check_source(found(inventory, **app), FACTS, CONTENTS)


def test_services_with_volumes_may_be_stopped(inventory):
    for mounts in ({"/usr/app/data": "/x"}, {"/usr/app": "/x"}):
        checks.check_source(found(inventory, service="noco_app", mounts=mounts), FACTS, CONTENTS)


def test_nocodb_in_the_database_postgres_is_told_so(inventory):
    one = replace(found(inventory), connection=Connection("db", 5432, "noco", "postgres"))
    with pytest.raises(ConfigError, match="are in the database postgres"):
        checks.check_source(one, FACTS, CONTENTS)


def test_a_source_without_what_it_names(inventory):
    with pytest.raises(ConfigError, match="has no database root_db"):
        checks.check_source(found(inventory), FACTS, {"other": CONTENT})
    with pytest.raises(ConfigError, match="does not run"):
        checks.check_source(found(inventory, running=False), FACTS, CONTENTS)


@pytest.mark.parametrize(
    ("target", "there", "contents", "what"),
    [
        ({"major": 14}, EMPTY, CONTENTS, "is PostgreSQL 14, the source 15"),
        ({}, {"root_db": CONTENT}, CONTENTS, "database root_db is not empty"),
        ({}, EMPTY, {"other": CONTENT}, "names a database root_db, which the source does not"),
        ({"extensions": []}, EMPTY, CONTENTS, "no extension plpgsql"),
        ({"locales": ["c.utf8"]}, EMPTY, CONTENTS, "no locale en_US.utf8"),
    ],
)
def test_servers_that_cannot_take_it(inventory, target, there, contents, what):
    checks.check_target(inventory, FACTS, CONTENTS, FACTS, EMPTY, [])
    with pytest.raises(ConfigError, match=what) as caught:
        checks.check_target(inventory, FACTS, contents, FACTS | target, there, [])
    assert "nothing was changed" in caught.value.message


def test_a_copy_that_was_cut_off_is_in_nobodys_way(inventory):
    checks.check_target(inventory, FACTS, CONTENTS, FACTS, {"root_db": CONTENT}, ["root_db"])


def test_too_little_space_is_refused(inventory):
    need = 1000 * 12 // 10 + 1000 + 128 * 2**20
    checks.check_space(inventory, FACTS, need)
    with pytest.raises(ConfigError, match="the copy needs about"):
        checks.check_space(inventory, FACTS, need - 1)


def test_room_for_attachments_is_needed_too():
    checks.check_space_for_files("app1", 10**9, 1_300_000_000)
    with pytest.raises(ConfigError, match="the attachments take"):
        checks.check_space_for_files("app1", 10**9, 1_200_000_000)


def test_hosts_are_those_of_hosts_yaml_or_addresses(inventory):
    assert host_entry(inventory, "m") is inventory.hosts[0]
    other = host_entry(inventory, "ops@192.0.2.99")
    assert (other.address, other.user, other.role) == ("192.0.2.99", "ops", "")
    assert host_entry(inventory, "192.0.2.99").user == inventory.ssh.user
