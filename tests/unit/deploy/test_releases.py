"""Keeping releases and choosing one to go back to."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from invoke.collection import Collection
from invoke.program import Program

from fabfile.base.errors import SwarmkeepError
from fabfile.commands import rollback as command
from fabfile.deploy import observation, releases, secret_versions, stacks
from fabfile.deploy.releases import Release
from fabfile.ssh import fleet as transport
from fabfile.ssh.remote_command import Result
from fabfile.swarm.docker_commands import SecretVersion
from fabfile.swarm.state import Cluster, Record
from fabfile.terminal import deploy_dialog
from tests.unit.clusters import cluster, service, spec
from tests.unit.deploy.test_stacks import Vault, inventory

SECRET = "appstack_nocodb_database"


def release(number: int, origin: int = 0, **changes: Any) -> Release:
    fields: dict[str, Any] = {
        "stack": "appstack",
        "role": "app",
        "at": "2026-11-22T09:00:00.5Z",
        "who": "alice@laptop",
        "commit": "abc",
        "command": "deploy-app",
        "compose": {
            "services": {"nocodb": {"image": "noco:1"}},
            "secrets": {"x": {"external": True, "name": f"{SECRET}_0001"}},
        },
        "images": {"nocodb": "noco:1@sha256:aa"},
        "secrets": (f"{SECRET}_0001",),
    }
    return Release(number=number, origin=origin, **(fields | changes))


@pytest.mark.parametrize(
    ("kept", "chosen"),
    [
        ([1, 2], 1),
        ([3, 4, 7], 4),
        # 3 went back to 1: before that there is nothing; 4 went back to 2: then comes 1.
        ([1, 2, 3, (4, 2)], 1),
        ([1, 2, (3, 1), 4], 3),
    ],
)
def test_way_back_is_one_step_before_what_is_there_now(kept, chosen):
    items = [release(*k) if isinstance(k, tuple) else release(k) for k in kept]
    assert releases.choose(items, "appstack", None).number == chosen


def test_named_release_is_taken_and_an_unknown_one_refused():
    items = [release(4), release(5)]
    assert releases.choose(items, "appstack", 4).number == 4
    with pytest.raises(SwarmkeepError, match="there is no release 9") as caught:
        releases.choose(items, "appstack", 9)
    assert "4, 5" in caught.value.hint


@pytest.mark.parametrize("kept", [[], [1], [1, 2, (3, 1)]])
def test_nothing_to_go_back_to(kept):
    items = [release(*k) if isinstance(k, tuple) else release(k) for k in kept]
    with pytest.raises(SwarmkeepError, match=r"appstack: no release"):
        releases.choose(items, "appstack", None)


def test_going_back_pins_the_image_that_really_ran():
    wanted = releases.as_wanted(release(1), "nocodb", ("hidden",))
    assert wanted.image == "noco:1@sha256:aa"
    assert wanted.compose["services"]["nocodb"]["image"] == "noco:1@sha256:aa"
    assert wanted.redact("a hidden b") == "a [redacted] b"


@pytest.mark.parametrize(("main", "image"), [("nocodb", "noco:1@sha256:aa"), ("before", "aide:1")])
def test_going_back_looks_for_the_image_of_the_main_service(main, image):
    services = {"nocodb": {"image": "noco:1"}, "aide": {"image": "aide:1"}}
    kept = release(1, compose={"services": dict(sorted(services.items()))})
    assert releases.as_wanted(kept, main, ()).image == image


def test_the_main_service_is_the_one_that_hosts_yaml_names(tmp_path):
    hosts = inventory(tmp_path, db_service_name="dbstack_pg")
    assert stacks.main_service(hosts, "db") == "pg"
    assert (
        stacks.main_service(hosts, "app") in stacks.application(hosts, Vault()).compose["services"]
    )


@pytest.mark.parametrize(("more", "prune"), [([], False), (["--prune"], True)])
def test_a_rollback_removes_newer_services_only_when_told_to(tmp_path, monkeypatch, more, prune):
    hosts = inventory(tmp_path)
    seen = cluster(secrets=(SecretVersion(f"{SECRET}_0001", SECRET),))
    carried_out = Mock(return_value=Mock(changed=False))
    monkeypatch.setattr(command, "read_vault", lambda inventory: Vault())
    monkeypatch.setattr(transport, "connect", MagicMock())
    monkeypatch.setattr(releases, "read", lambda manager, stack: [release(1), release(2)])
    monkeypatch.setattr(observation, "look", lambda fleet, stacks: Mock(cluster=seen))
    monkeypatch.setattr(deploy_dialog, "carry_out", carried_out)
    words = ["inv", "rollback", "app", "--hosts", str(hosts.path), *more]
    Program(namespace=Collection(command.rollback)).run(words, exit=False)
    assert carried_out.call_args.args[2].prune is prune


def test_secret_version_that_is_gone_is_named_and_can_be_replaced():
    old = release(1)
    wanted = releases.as_wanted(old, "nocodb", ())
    present = cluster(secrets=(SecretVersion(f"{SECRET}_0002", SECRET),))
    with pytest.raises(SwarmkeepError, match=f"needs the secret {SECRET}_0001, which is gone") as e:
        releases.check_secrets(wanted, old, present)
    assert "--with-current-secrets" in e.value.hint
    today = secret_versions.SecretContent(SecretVersion(f"{SECRET}_0002", SECRET), b"x")
    mended = releases.with_secrets(wanted, old, [today])
    assert mended.compose["secrets"]["x"]["name"] == f"{SECRET}_0002"
    assert mended.secrets == (today,)
    releases.check_secrets(mended, old, present)


def records(*numbers: int, stack: str = "appstack") -> tuple[Record, ...]:
    return tuple(
        Record(
            f"id{n}",
            f"name{n}",
            {
                "swarmkeep": "release",
                "swarmkeep.stack": stack,
                "swarmkeep.number": str(n),
                "swarmkeep.digest": f"d{n}",
                "swarmkeep.secrets": f"s{n}:t{n}",
            },
        )
        for n in numbers
    )


def test_marks_are_of_one_stack_in_the_order_of_their_numbers():
    seen = cluster(records=records(10, 9) + records(3, stack="other"))
    found = releases.marks(seen, "appstack")
    assert [mark.number for mark in found] == [9, 10]
    assert releases.secrets_to_keep(found) == {"s9", "t9", "s10", "t10"}


def recorded(tmp_path, seen: Cluster) -> tuple[stacks.Wanted, int, str, dict[str, Any]]:
    wanted = stacks.application(inventory(tmp_path), Vault())
    number, script, stdin = releases.record_script(
        wanted, seen, who="a@b", commit="c", command="deploy", origin=0
    )
    return wanted, number, script, json.loads(stdin)


def test_record_is_numbered_holds_what_ran_and_no_secret(tmp_path):
    app = service("appstack_nocodb", template=spec("noco:1@sha256:aa"))
    wanted, number, script, content = recorded(tmp_path, cluster((app,), records=records(1, 2)))
    assert number == 3
    assert "swarmkeep-release-appstack-3 -" in script
    assert f"swarmkeep.digest={releases.digest(wanted, content['images'])}" in script
    assert "docker config rm" not in script
    assert content["images"] == {"nocodb": "noco:1@sha256:aa"}
    assert "p@ss" not in json.dumps(content)


def test_only_the_last_ten_are_kept(tmp_path):
    *_, script, _ = recorded(tmp_path, cluster(records=records(*range(1, 12))))
    assert "docker config rm id1 id2 " in script
    assert "id3" not in script


def test_what_was_written_is_read_again(tmp_path):
    wanted, number, script, content = recorded(tmp_path, cluster())
    labels = dict(
        word.removeprefix("--label ").split("=", 1)
        for word in script.replace("--label ", "\n--label ").splitlines()
        if word.startswith("--label ")
    )
    item = {
        "ID": "x",
        "CreatedAt": "2026-11-22T09:00:00.5Z",
        "Spec": {
            "Labels": {key: value.split(" ")[0] for key, value in labels.items()},
            "Data": base64.b64encode(json.dumps(content).encode()).decode(),
        },
    }

    class Manager:
        def check(self, *_args: Any, **_options: Any) -> Result:
            return Result("manager1", 0, json.dumps([item]), "")

    (read,) = releases.read(Manager(), "appstack")
    assert (read.number, read.stack, read.role) == (number, "appstack", "app")
    assert read.compose == wanted.compose
    assert releases.digest(releases.as_wanted(read, "nocodb", ()), {}) == releases.digest(
        wanted, {}
    )


def test_newest_release_tells_whether_this_content_is_on_record(tmp_path):
    wanted = stacks.application(inventory(tmp_path), Vault())
    (mark,) = records(1)
    images = {"nocodb": "noco:1@sha256:aa"}
    digest = releases.digest(wanted, images)
    same = replace(mark, labels={**mark.labels, "swarmkeep.digest": digest})
    app = service("appstack_nocodb", template=spec(images["nocodb"]))
    assert releases.is_recorded(wanted, cluster((app,), records=(same,)))
    assert not releases.is_recorded(wanted, cluster((app,), records=(mark,)))
    assert not releases.is_recorded(wanted, cluster((app,)))
    # The same tag, but --resolve always has found another image behind it.
    newer = service("appstack_nocodb", template=spec("noco:1@sha256:bb"))
    assert not releases.is_recorded(wanted, cluster((newer,), records=(same,)))


def test_config_names_fit_dockers_64_characters():
    long = "s" * 63
    assert len(releases._name(long, 123456)) <= 64
    assert releases._name(long, 1) != releases._name("s" * 62, 1)
    assert releases._name("appstack", 12) == "swarmkeep-release-appstack-12"
