"""Which version runs, which is next, and where each has its data."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.upgrade.copy_script import Version
from fabfile.upgrade.database import live_version, next_version, place_of

LIVE = Version("reg:5000/postgres:15-bookworm", 15, "pgdata")
INVENTORY = SimpleNamespace(postgres=SimpleNamespace(stack="dbstack", service="dbstack_root_db"))


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("17-bookworm", Version("reg:5000/postgres:17-bookworm", 17, "pgdata_17")),
        ("17.2-trixie", Version("reg:5000/postgres:17.2-trixie", 17, "pgdata_17")),
        ("postgis/postgis:18-x", Version("postgis/postgis:18-x", 18, "pgdata_18")),
        # No other major version: the data stays where it is.
        ("15-trixie", Version("reg:5000/postgres:15-trixie", 15, "pgdata")),
    ],
)
def test_the_next_version(target, wanted):
    assert next_version(LIVE, target) == wanted


@pytest.mark.parametrize("target", ["17", "latest", "bookworm", "17-", "postgres:17", "-17-x"])
def test_what_is_pinned_to_no_version_and_suite_is_refused(target):
    with pytest.raises(ConfigError, match="names no major version"):
        next_version(LIVE, target)


def test_an_older_version_is_refused_with_the_way_back():
    with pytest.raises(ConfigError, match="PostgreSQL 15 runs already") as caught:
        next_version(LIVE, "14-bookworm")
    assert "--undo" in caught.value.hint


def service(source: str, image: str = "postgres:15-bookworm@sha256:" + "0" * 64):
    spec = {
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": image,
                "Env": ["PGDATA=/var/lib/postgresql/data/pgdata"],
                "Mounts": [
                    {"Type": "volume", "Source": source, "Target": "/var/lib/postgresql/data"}
                ],
            }
        }
    }
    return SimpleNamespace(spec=spec, image=image)


def cluster(found):
    return SimpleNamespace(service=lambda name: found if name == "dbstack_root_db" else None)


def test_what_runs():
    live = live_version(INVENTORY, cluster(service("dbstack_pgdata_15")))  # type: ignore[arg-type]
    assert live == Version("postgres:15-bookworm", 15, "pgdata_15")


def test_what_cannot_be_exchanged_is_refused():
    with pytest.raises(SwarmkeepError, match="is not deployed"):
        live_version(INVENTORY, cluster(None))  # type: ignore[arg-type]
    for source in ("other", "/srv/postgres"):
        with pytest.raises(ConfigError, match="no volume of its stack"):
            live_version(INVENTORY, cluster(service(source)))  # type: ignore[arg-type]


def test_each_version_has_its_data_where_its_image_has_it():
    assert place_of(LIVE)["pgdata"] == "/var/lib/postgresql/data/pgdata"
    assert place_of(Version("x", 18, "y")) == {
        "mount": "/var/lib/postgresql",
        "pgdata": "/var/lib/postgresql/18/docker",
    }
