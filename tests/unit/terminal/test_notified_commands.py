"""Commands that tell others how they ended: when, and that it never changes what they return."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from invoke.collection import Collection
from invoke.context import Context

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.monitoring import notifications
from fabfile.terminal import command as command_module
from fabfile.terminal.command import command
from tests.unit.command_line import runner

HOSTS: dict[str, Any] = {
    "hosts": {"db1": {"address": "127.0.0.1", "swarm": "manager", "role": "db"}},
    "s3_bucket_name": "test-bucket",
}


@pytest.fixture
def told(monkeypatch):
    """What the notifier was told, and who did not take it."""
    said: list[tuple[str, str]] = []
    missed: list[str] = []

    class Notifier:
        def __init__(self, _inventory: Any, _secrets: Any) -> None:
            if missed == ["refused"]:
                raise ConfigError("no address")

        def ended(self, name: str, error: SwarmkeepError | None) -> list[str]:
            said.append((name, error.message if error else "ok"))
            return missed

    monkeypatch.setattr(notifications, "Notifier", Notifier)
    monkeypatch.setattr(command_module, "read_vault", lambda _inventory: None)
    return said, missed


@pytest.fixture
def inv(capsys, monkeypatch, tmp_path):
    ran: list[str] = []

    @command(notifies="deploy")
    def works(_ctx: Context, hosts: str = "") -> None:
        ran.append("works")

    @command(notifies="deploy-db")
    def fails(_ctx: Context, hosts: str = "") -> None:
        raise SwarmkeepError("broken", hint="mend it")

    @command(notifies="backup.verify")
    def asked(_ctx: Context, hosts: str = "", notify: bool = False) -> None:
        ran.append("asked")

    @command(notifies="rollback")
    def part(_ctx: Context, hosts: str = "", stack: str = "") -> None:
        ran.append(stack)

    run = runner(Collection(works, fails, asked, part), capsys)

    def inv(*words: str, **notify: Any):
        path = Path(tmp_path / "hosts.yaml")
        path.write_text(yaml.safe_dump(HOSTS | ({"notify": notify} if notify else {})))
        monkeypatch.setenv("SWARMKEEP_HOSTS", str(path))
        return run(*words)

    inv.ran = ran  # type: ignore[attr-defined]
    return inv


def test_without_notify_nobody_is_told(inv, told):
    assert inv("works")[0] == 0
    assert inv("fails")[0] == 1
    assert told[0] == []


def test_each_command_tells_how_it_ended_and_keeps_its_exit_code(inv, told):
    assert inv("works", on=["always"])[0] == 0
    code, _, err = inv("fails", on=["failure"])
    assert (code, err) == (1, "error: broken\n  next: mend it\n")
    assert told[0] == [("deploy", "ok"), ("deploy-db", "broken")]


def test_only_the_commands_that_hosts_yaml_names(inv, told):
    inv("works", commands=["deploy-db"])
    inv("fails", commands=["deploy-db"])
    assert told[0] == [("deploy-db", "broken")]


def test_what_it_was_about_is_told_too(inv, told):
    inv("part", "--stack", "app", on=["always"])
    inv("part", "--stack", "db", on=["always"])
    assert told[0] == [("rollback app", "ok"), ("rollback db", "ok")]


def test_verify_tells_only_when_asked_to(inv, told):
    inv("asked", on=["always"])
    assert told[0] == []
    inv("asked", "--notify", on=["always"])
    assert told[0] == [("backup.verify", "ok")]
    code, _, err = inv("asked", "--notify")
    assert code == 2
    assert "hosts.yaml has no notify" in err


def test_who_does_not_take_it_is_a_warning(inv, told):
    told[1].append("1 (mailto)")
    code, _, err = inv("works", on=["always"])
    assert code == 0
    assert err == (
        "warning: the notification to address 1 (mailto) was not taken; next: inv notify.test\n"
    )


def test_nobody_to_tell_is_refused_before_anything_begins(inv, told):
    told[1].append("refused")
    code, _, err = inv("works", on=["failure"])
    assert code == 2
    assert "no address" in err
    assert inv.ran == []


def test_a_dry_run_tells_nobody(inv, told):
    inv("--dry", "works", on=["always"])
    assert told[0] == []


@pytest.mark.parametrize(
    "notify",
    [{"on": ["sometimes"]}, {"on": []}, {"commands": ["status"]}, {"to": "x"}, {"on": "x"}],
)
def test_mistakes_in_hosts_yaml(inv, told, notify):
    assert inv("works", **notify)[0] == 2
