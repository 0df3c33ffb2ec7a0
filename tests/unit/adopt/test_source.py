"""What names a source, and what NocoDB's environment says of its database and its settings."""

from __future__ import annotations

import json

import pytest

from fabfile.adopt import source
from fabfile.adopt.source import Connection, Source
from fabfile.base.errors import ConfigError

WANTED = Connection("root_db", 5432, "postgres", "root_db")
JSON = {
    "client": "pg",
    "connection": {
        "host": "root_db", "port": 5432, "user": "postgres", "password": "p", "database": "root_db",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("stack:noco", Source("stack", "", "noco")),
        ("compose:app1:/srv/noco/", Source("compose", "app1", "/srv/noco")),
        ("compose:root@192.0.2.7:/srv/a b", Source("compose", "root@192.0.2.7", "/srv/a b")),
        ("container:old.example.com:noco_1", Source("container", "old.example.com", "noco_1")),
    ],
)
def test_sources(text, wanted):
    assert source.parse(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "stack", "stack:", "stack:a b", "stack:-x", "compose:h", "compose:h:relative", "x:y:z",
     "compose:a;b:/x", "container:h:", "container:h:$(x)", "container::x", "compose:h:/a\nb"],
)  # fmt: skip
def test_what_is_no_source(text):
    with pytest.raises(ConfigError, match="is no source") as caught:
        source.parse(text)
    assert "stack:NAME" in caught.value.hint


def test_a_source_is_written_as_it_is_named():
    for text in ("stack:noco", "compose:app1:/srv/noco", "container:h:noco"):
        assert str(source.parse(text)) == text


@pytest.mark.parametrize(
    "environment",
    [
        {"NC_DB": "pg://root_db:5432?u=postgres&p=pass%26word&d=root_db"},
        {"NC_DB": "pg://root_db?u=postgres&p=x&d=root_db"},
        {"NC_DB": "postgresql://postgres:p%40ss@root_db:5432/root_db"},
        {"DATABASE_URL": "postgres://postgres:p@root_db/root_db?sslmode=disable"},
        {"NC_DB_JSON": json.dumps(JSON)},
        {"NC_DB_JSON": json.dumps({"client": "pg", "connection": "postgres://postgres:p@root_db/root_db"})},
        {"NC_DB_JSON": json.dumps({
            "client": "pg", "connection": {"connectionString": "postgres://postgres:p@root_db/root_db"},
        })},
        {"NC_DB_JSON_FILE": "/secret"},
        # The first that NocoDB looks at counts.
        {"NC_DB": "pg://root_db?u=postgres&p=x&d=root_db", "DATABASE_URL": "postgres://a:b@c/d"},
    ],
)  # fmt: skip
def test_the_database_in_all_its_forms(environment):
    assert source.connection_of(environment, {"/secret": json.dumps(JSON)}) == WANTED


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NC_DB": ""},
        {"NC_DB": "sqlite3:///usr/app/data/noco.db"},
        {"NC_DB_JSON": '{"client": "sqlite3", "connection": {"filename": "noco.db"}}'},
    ],
)
def test_sqlite(environment):
    assert source.connection_of(environment) is None


@pytest.mark.parametrize(
    ("environment", "what"),
    [
        ({"NC_DB": "mysql2://db:3306?u=a&p=geheim&d=c"}, "mysql2"),
        ({"NC_DB_JSON": '{"client": "geheim", "connection": {}}'}, "another database"),
        ({"NC_DB": "pg://db?u=a&p=geheim"}, "cannot be read"),
        ({"NC_DB_JSON": '{"client": "pg", geheim'}, "cannot be read"),
        ({"NC_DB_JSON": '["geheim"]'}, "cannot be read"),
        ({"NC_DB_JSON_FILE": "/gone"}, "cannot be read"),
        ({"NC_DB": "pg://db:geheim?u=a&d=c"}, "cannot be read"),
    ],
)
def test_what_is_no_postgresql_is_refused_without_its_password(environment, what):
    with pytest.raises(ConfigError, match=what) as caught:
        source.connection_of(environment)
    assert "geheim" not in caught.value.message


@pytest.mark.parametrize(
    ("image", "environment", "wanted"),
    [
        ("nocodb/nocodb:latest", {}, True),
        ("reg:5000/team/nocodb@sha256:0", {}, True),
        ("mine:1", {"NC_DB": "pg://x"}, True),
        ("postgres:16", {"DATABASE_URL": "x"}, False),
        ("nocodb.example.com/postgres:16", {}, False),
    ],
)
def test_which_container_is_a_nocodb(image, environment, wanted):
    assert source.is_nocodb(image, environment) is wanted


def test_settings_that_come_along_and_those_that_do_not():
    taken, left = source.settings_of(
        {
            "NC_AUTH_JWT_SECRET": "s",
            "NC_CONNECTION_ENCRYPT_KEY": "k",
            "NC_SMTP_HOST": "mail",
            "NC_S3_BUCKET_NAME": "b",
            "NC_EMPTY": "",
            "NC_DB": "pg://x",
            "NC_PUBLIC_URL": "https://x",
            "NC_REDIS_URL": "redis://x",
            "PATH": "/bin",
        }
    )
    assert taken == {
        "NC_AUTH_JWT_SECRET": "s", "NC_CONNECTION_ENCRYPT_KEY": "k", "NC_SMTP_HOST": "mail",
        "NC_S3_BUCKET_NAME": "b",
    }  # fmt: skip
    assert left == ("NC_REDIS_URL",)


def test_the_password_comes_along_unseen():
    found = source.connection_of({"NC_DB": "pg://h?u=a&p=p%26q%3A&d=c"})
    assert found.password.reveal() == "p&q:"
    assert "p&q" not in repr(found)
    found = source.connection_of({"NC_DB": "postgres://a:p%26q@h/c"})
    assert found.password.reveal() == "p&q"
