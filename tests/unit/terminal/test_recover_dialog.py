"""Which sets recover takes, where one of the databases has none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fabfile.base.errors import CheckFailedError
from fabfile.terminal import recover_dialog
from tests.unit.backup.test_selection import days
from tests.unit.config.test_apps import read


@pytest.fixture
def inventory(tmp_path):
    return read(tmp_path, {"kinto": {"image": "k"}}, pg_db=["nocodb", "more"])


def bucket(**sets: Any) -> Any:
    return SimpleNamespace(
        project_id="",
        latest=lambda name, now, count: SimpleNamespace(backups=sets.get(name, ())),
        with_proofs=lambda name, listed: listed,
        place=lambda name: f"s3://example/postgres/{name}/",
    )


def chosen(inventory, monkeypatch, **sets: Any) -> set[str]:
    monkeypatch.setattr(recover_dialog, "open_bucket", lambda *_: bucket(**sets))
    return set(recover_dialog.choose_sets(inventory, key="", before="")[0])


def test_an_app_that_was_never_backed_up_keeps_nothing_from_coming_back(
    inventory, monkeypatch, capsys
):
    there = {"nocodb": days(4), "more": days(4)}
    assert chosen(inventory, monkeypatch, **there) == {"nocodb", "more"}
    said = capsys.readouterr().out
    assert "postgres/kinto/ has no backup: kinto does not come back" in said
    assert "inv backup.restore --database kinto" in said


def test_a_database_of_pg_db_without_a_set_stops_it(inventory, monkeypatch):
    with pytest.raises(CheckFailedError, match="postgres/more/ has no backup"):
        chosen(inventory, monkeypatch, nocodb=days(4), kinto=days(4))
