"""Single values of a hosts file are changed, and nothing else in it."""

from __future__ import annotations

import pytest
import yaml

from fabfile.base.errors import ConfigError
from fabfile.config import hosts_file_edit

VALUES = {("images", "postgres"): "postgres:17-bookworm", ("db", "volume"): "pgdata_17"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "# mine\nimages:\n  postgres: postgres:15-bookworm   # pinned\n  nocodb: x:1\n"
            "db: {data_host: db1}\nb: 1\n",
            "# mine\nimages:\n  postgres: postgres:17-bookworm   # pinned\n  nocodb: x:1\n"
            "db: {volume: pgdata_17, data_host: db1}\nb: 1\n",
        ),
        (
            'images: {postgres: "postgres:15-bookworm", nocodb: x}\ndb:\n    data_host: db1\nb: 1',
            "images: {postgres: postgres:17-bookworm, nocodb: x}\n"
            "db:\n    volume: pgdata_17\n    data_host: db1\nb: 1",
        ),
        (
            "b: 1\n",
            "b: 1\nimages:\n  postgres: postgres:17-bookworm\ndb:\n  volume: pgdata_17\n",
        ),
        (
            "images: {}\ndb: {}\n",
            "images: {postgres: postgres:17-bookworm}\ndb: {volume: pgdata_17}\n",
        ),
    ],
)  # fmt: skip
def test_values_are_changed_in_place(text, wanted):
    found = hosts_file_edit.with_values(text, VALUES)
    assert found == wanted
    data = yaml.safe_load(found)
    assert data["images"]["postgres"] == "postgres:17-bookworm"
    assert data["db"]["volume"] == "pgdata_17"


@pytest.mark.parametrize(
    "text", ["{images: {postgres: x}}", "- a\n", "images:\n", "images: x\n", "images: [a]\n",
             "a: &a {postgres: x}\nimages: *a\n", "images: {postgres: [x]}\n"],
)  # fmt: skip
def test_what_cannot_be_changed_is_refused(text):
    with pytest.raises(ConfigError) as caught:
        hosts_file_edit.with_values(text, VALUES)
    assert caught.value.hint == "change it by hand"


def test_a_file_is_replaced_at_once_with_its_rights_also_behind_a_link(tmp_path):
    path, link = tmp_path / "hosts.yaml", tmp_path / "link.yaml"
    path.write_text("a: 1\n")
    path.chmod(0o640)
    link.symlink_to(path)
    hosts_file_edit.write(link, "a: 2\n")
    assert link.is_symlink()
    assert path.read_text() == "a: 2\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(one.name for one in tmp_path.iterdir()) == ["hosts.yaml", "link.yaml"]


def test_keys_of_no_section_and_lists():
    text = "pg_db: nocodb  # ours\nimages: {}\n"
    values = {("", "pg_db"): "[root_db, other]", ("", "pg_user"): "noco"}
    once = hosts_file_edit.with_values(text, values)
    assert once == "pg_db: [root_db, other]  # ours\nimages: {}\npg_user: noco\n"
    again = hosts_file_edit.with_values(once, {("", "pg_db"): "one"})
    assert again.startswith("pg_db: one  # ours\n")
