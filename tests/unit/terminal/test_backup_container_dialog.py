"""Whose stack of a backup as a container is removed, and whose is not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from fabfile.backup import container
from fabfile.base.errors import ConfigError
from fabfile.deploy import observation
from fabfile.swarm.docker_commands import PROJECT_LABEL
from fabfile.terminal import backup_container_dialog as dialog
from tests.unit.clusters import cluster, service

MINE, ANOTHERS = "4fb7614a92124d86", "1111222233334444"


@pytest.fixture
def removed(monkeypatch):
    """Calls of the removal itself; set `removed.label` to what the stack's services say."""
    calls = SimpleNamespace(count=0, label=None)

    def seen(_fleet):
        if calls.label is None:
            return None, cluster()
        one = service("backupstack_database")
        spec = {**one.spec, "Labels": {PROJECT_LABEL: calls.label} if calls.label else {}}
        return None, cluster((replace(one, spec=spec),))

    def remove(*_):
        calls.count += 1

    monkeypatch.setattr(observation, "observe_any", seen)
    monkeypatch.setattr(container, "remove", remove)
    return calls


INVENTORY = SimpleNamespace(backup=SimpleNamespace(stack="backupstack"), project_id=MINE)
FLEET = SimpleNamespace(inventory=INVENTORY)


@pytest.mark.parametrize("label", [MINE, None])
def test_ours_is_removed_and_what_it_left_where_it_is_gone(removed, label):
    removed.label = label
    assert dialog.is_there(FLEET) is (label is not None)
    dialog.remove(FLEET, INVENTORY)
    assert removed.count == 1


@pytest.mark.parametrize(
    ("label", "said"),
    [("", "is no backup of Swarmkeep's"), (f"shop:{ANOTHERS}", "belongs to project shop")],
)
def test_somebody_elses_stack_of_that_name_is_not_removed(removed, label, said):
    removed.label = label
    with pytest.raises(ConfigError, match=said) as caught:
        dialog.remove(FLEET, INVENTORY)
    assert "stacks: backup:" in caught.value.hint
    assert removed.count == 0
