"""Notifications, sent by apprise to a real HTTP receiver on loopback."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.base.secret import Secret
from fabfile.config.inventory import Notify
from fabfile.monitoring import notifications
from fabfile.monitoring.notifications import FAILURE, RECOVERED, SUCCESS, Event, Notifier
from tests.unit.monitoring.receiver import receiving

WORST = "<script>alert(1)</script> & \"quotes\" 'x' ` $(id) \x00\x1b[31m ☃ \u202e %s {0}"


class Vault:
    def __init__(self, **entries: str) -> None:
        self.entries = entries

    def names(self):
        return tuple(self.entries)

    def get(self, name: str):
        return Secret(self.entries[name]) if name in self.entries else None


@pytest.fixture
def receiver():
    with receiving() as server:
        yield server


@pytest.fixture
def states(monkeypatch) -> dict[str, str]:
    """What the managers have noted, by command."""
    noted: dict[str, str] = {}

    def exchange(self: Notifier, command: str, state: str) -> set[str]:
        before = {noted[command]} if command in noted else set()
        noted[command] = state
        return before

    monkeypatch.setattr(Notifier, "_exchange", exchange)
    return noted


def notifier(*urls: str, on=("failure", "recovered"), **entries: str) -> Notifier:
    inventory: Any = SimpleNamespace(
        project="", notify=Notify(tuple(on)), postgres=SimpleNamespace(stack="dbstack")
    )
    vault: Any = Vault(vault_notify_urls=" ".join(urls), **entries)
    return Notifier(inventory, vault)


def test_a_failure_is_told_with_what_to_do(receiver, states):
    error = SwarmkeepError("the backup is gone", hint="run it again", details=("one", "two"))
    assert notifier(receiver.address).ended("backup.verify", error) == []
    said = json.loads(receiver.bodies[0])
    assert said["title"] == "dbstack: backup.verify: failure"
    assert said["message"] == "the backup is gone\none\ntwo\nnext: run it again"
    assert said["type"] == "failure"


def test_recovered_is_told_once(receiver, states):
    told = notifier(receiver.address)
    told.ended("deploy", None)
    assert receiver.bodies == []
    told.ended("deploy", SwarmkeepError("no"))
    told.ended("backup.verify", None)
    told.ended("deploy", None)
    told.ended("deploy", None)
    assert [json.loads(b)["title"].rpartition(" ")[2] for b in receiver.bodies] == [
        FAILURE, RECOVERED,
    ]  # fmt: skip


def test_that_another_stack_is_well_is_no_recovery(receiver, states):
    told = notifier(receiver.address)
    told.ended("rollback app", SwarmkeepError("no"))
    told.ended("rollback db", None)
    assert len(receiver.bodies) == 1


def test_always_tells_success_too_and_only_recovered_no_failure(receiver, states):
    notifier(receiver.address, on=("always",)).ended("deploy", None)
    assert json.loads(receiver.bodies[0])["type"] == "info"
    notifier(receiver.address, on=("recovered",)).ended("deploy", SwarmkeepError("no"))
    assert len(receiver.bodies) == 1


def test_secrets_are_no_part_of_a_message(receiver, states):
    told = notifier(receiver.address, vault_postgres_password="pa55word!")
    told.ended("deploy", SwarmkeepError(f"pa55word! is wrong, see {receiver.address}"))
    assert "pa55word!" not in receiver.bodies[0]
    assert "s3cret-word" not in receiver.bodies[0]


def test_the_worst_characters_arrive(receiver, states):
    notifier(receiver.address).ended("deploy", SwarmkeepError(WORST * 200))
    message = json.loads(receiver.bodies[0])["message"]
    assert "alert(1)" in message
    assert "☃" in message
    assert len(message) <= notifications.MOST


@pytest.mark.parametrize("answer", [500, 404, 302])
def test_a_receiver_that_refuses_is_named_and_not_shown(receiver, states, capfd, answer):
    receiver.answer = answer
    missed = notifier(receiver.address).ended("deploy", SwarmkeepError("no"))
    assert missed == ["1 (json)"]
    out, err = capfd.readouterr()
    assert "s3cret-word" not in out + err


def test_a_receiver_that_stalls_or_is_away_holds_nothing_up(receiver, states):
    receiver.answer = 0
    started = time.monotonic()
    told = notifier(f"{receiver.address}?rto=0.2&cto=0.2", "json://127.0.0.1:9/x", receiver.address)
    receiver.answer = 0
    missed = told.send(Event("deploy", FAILURE, "x"))
    assert missed == ["1 (json)", "2 (json)", "3 (json)"]
    assert time.monotonic() - started < 30


def test_one_that_fails_does_not_hold_others_up(receiver, states):
    told = notifier("json://127.0.0.1:9/x", receiver.address)
    assert told.send(Event("deploy", SUCCESS, "x")) == ["1 (json)"]
    assert len(receiver.bodies) == 1


def test_bad_addresses_are_refused_without_being_shown():
    with pytest.raises(ConfigError, match=r"address 2 \(nonsense\) is not known") as refused:
        notifier("json://127.0.0.1:9/x", "nonsense://s3cret-word")
    assert "s3cret-word" not in str(refused.value)
    inventory: Any = SimpleNamespace(notify=Notify(("failure",)))
    empty: Any = Vault()
    with pytest.raises(ConfigError, match="the vault has no vault_notify_urls"):
        Notifier(inventory, empty)


def test_without_apprise_it_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(notifications.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="apprise, which is not installed") as refused:
        notifier("json://127.0.0.1:9/x")
    assert "pip install" in refused.value.hint


def test_what_a_command_was_like_is_kept_on_every_manager(receiver, monkeypatch, tmp_path):
    scripts: list[str] = []

    class Fleet:
        inventory = SimpleNamespace(managers=lambda: ["m1", "m2"])

        def fan_out(self, entries: Any, action: Any):
            def check(command: Any, doing: str) -> Any:
                scripts.append(command.script)
                return SimpleNamespace(stdout="failed\n" if len(scripts) == 2 else "ok")

            return [SimpleNamespace(value=action(SimpleNamespace(check=check))) for _ in entries]

    @contextmanager
    def connect(_inventory: Any):
        yield Fleet()

    monkeypatch.setattr(notifications, "connect", connect)
    told = notifier(receiver.address)
    told.inventory.named = lambda base: f"{base}-staging"  # type: ignore[method-assign]
    told.ended("backup.verify", None)
    assert "/var/log/swarmkeep-notify-staging.backup.verify" in scripts[0]
    assert json.loads(receiver.bodies[0])["title"].endswith("recovered")


def test_without_a_manager_a_failure_is_told_all_the_same(receiver, monkeypatch):
    def connect(_inventory: Any):
        raise SwarmkeepError("nobody answers")

    monkeypatch.setattr(notifications, "connect", connect)
    told = notifier(receiver.address)
    told.inventory.named = lambda base: base  # type: ignore[method-assign]
    assert told.ended("deploy", SwarmkeepError("no")) == []
    assert len(receiver.bodies) == 1


def test_nothing_but_the_owner_loads_apprise():
    # `inv --list` and every command without notify: it costs 0.2 s.
    assert "import apprise" not in Path(notifications.__file__).read_text().partition("def ")[0]
