"""Files that a compose file names: read beside it, versioned, and refused early."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.deploy import finish_script, plan, releases, stacks
from fabfile.deploy.finish_script import Options
from fabfile.deploy.releases import Release
from fabfile.deploy.service_spec import specification
from fabfile.deploy.stacks import COMPOSE_FOLDER, Wanted
from fabfile.swarm.docker_commands import SecretVersion
from fabfile.swarm.operator import Origin
from fabfile.swarm.state import Cluster, Record
from fabfile.swarm.state_reading import _config, _service
from fabfile.terminal.plan_table import summary, to_text
from tests.unit.clusters import cluster
from tests.unit.deploy.test_stacks import Vault, inventory

FILES = {
    "nc.env": "FROM_FILE=1\nBOTH=file\nPASSWORD=hunter2-hunter2\n",
    "more.env": "FROM_FILE=2\n",
    "nc.conf": "listen 80\n",
    "token": "s3cr3t-token\n",
}


def make(tmp_path: Path, service: dict[str, Any] | None = None, **top: Any) -> Wanted:
    """The app's stack with a helper that uses files, its compose file in tmp_path/compose."""
    folder = tmp_path / "compose"
    folder.mkdir(exist_ok=True)
    for name, content in FILES.items():
        if not (folder / name).exists():
            (folder / name).write_text(content)
    data = yaml.safe_load((COMPOSE_FOLDER / "compose-app.yml").read_text())
    helper = {"image": "x:1", "env_file": "nc.env", "environment": ["BOTH=own"],
              "configs": ["conf"], "secrets": [{"source": "token", "target": "t"}]}  # fmt: skip
    data["services"]["helper"] = helper if service is None else service
    data["configs"] = {"conf": {"file": "./nc.conf"}}
    data["secrets"]["token"] = {"file": "token"}
    for key, value in top.items():
        data[key] = {**data.get(key, {}), **value}
    (folder / "compose-app.yml").write_text(yaml.safe_dump(data))
    return stacks.application(inventory(tmp_path), Vault(), folder)


def live(wanted: Wanted) -> Cluster:
    """A cluster in which exactly this is deployed."""
    services = []
    for key in wanted.compose["services"]:
        spec, unknown = specification(wanted.compose, key, wanted.name)
        assert unknown == ()
        services.append(_service({"ID": key, "Spec": spec}))
    versions = tuple(secret.version for secret in wanted.secrets)
    return cluster(tuple(services), secrets=versions)


def planned(wanted: Wanted, there: Cluster) -> plan.Plan:
    return plan.make(wanted, there, [], network="backend", resolve_image="never", prune=False)


def versions(wanted: Wanted) -> dict[str, str]:
    return {secret.version.base: secret.version.name for secret in wanted.secrets}


def test_nothing_that_docker_would_read_is_left(tmp_path):
    wanted = make(tmp_path)
    helper = wanted.compose["services"]["helper"]
    assert helper["environment"] == {
        "FROM_FILE": "1", "BOTH": "own", "PASSWORD": "hunter2-hunter2",
    }  # fmt: skip
    assert "env_file" not in helper
    names = versions(wanted)
    assert wanted.compose["configs"] == {"conf": {"external": True, "name": names["appstack_conf"]}}
    assert wanted.compose["secrets"]["token"]["name"] == names["appstack_token"]
    kinds = {s.version.base: (s.version.kind, s.version.stack) for s in wanted.secrets}
    assert kinds["appstack_conf"] == ("config", "appstack")
    assert kinds["appstack_token"] == ("secret", "appstack")
    assert kinds["appstack_nocodb_database"] == ("secret", "")


def test_our_own_files_and_names_are_as_they_were(tmp_path):
    # Else every existing installation would be deployed anew.
    wanted = stacks.application(inventory(tmp_path), Vault())
    filled = make(tmp_path, {"image": "x"}, configs={"conf": {"external": True}}).compose
    assert wanted.compose["services"]["nocodb"] == filled["services"]["nocodb"]
    assert [s.version.base for s in wanted.secrets] == ["appstack_nocodb_database"]
    assert wanted.secrets[0].version.name == versions(make(tmp_path))["appstack_nocodb_database"]


def test_environment_files_are_merged_in_their_order(tmp_path):
    helper = {"image": "x", "env_file": ["nc.env", "more.env"], "environment": {"BOTH": None}}
    found = make(tmp_path, helper).compose["services"]["helper"]["environment"]
    assert found == {"FROM_FILE": "2", "BOTH": None, "PASSWORD": "hunter2-hunter2"}


def test_what_is_deployed_is_nothing_to_do_and_a_changed_file_is_a_change(tmp_path):
    before = make(tmp_path)
    there = live(before)
    assert not planned(before, there).changes
    (tmp_path / "compose/nc.conf").write_text("listen 81\n")
    after = make(tmp_path)
    result = planned(after, there)
    assert result.configs == ("appstack_conf",)
    assert result.secrets == ()
    assert result.interrupts == ("appstack_helper",)
    (field,) = (field for service in result.services for field in service.fields)
    names = versions(before)["appstack_conf"], versions(after)["appstack_conf"]
    assert (field.name, field.old, field.new) == ("configs.conf", *names)
    (tmp_path / "compose/token").write_text("another-token\n")
    assert planned(make(tmp_path), there).secrets == ("appstack_token",)


def test_a_file_that_no_service_uses_is_not_made(tmp_path):
    wanted = make(tmp_path, {"image": "x"})
    assert [s.version.base for s in wanted.secrets] == ["appstack_nocodb_database"]
    assert "file" not in str(wanted.compose["configs"])


@pytest.mark.parametrize("change", [{"labels": {"a": "b"}}, {"template_driver": "golang"}])
def test_all_that_a_config_is_made_of_is_in_its_name(tmp_path, change):
    before = versions(make(tmp_path))["appstack_conf"]
    changed = {"conf": {"file": "nc.conf", **change}}
    after = make(tmp_path, configs=changed)
    assert versions(after)["appstack_conf"] != before
    content = next(s for s in after.secrets if s.version.kind == "config")
    assert (dict(content.labels) == {"a": "b"}) is ("labels" in change)
    assert content.template_driver == change.get("template_driver", "")


def test_names_stay_within_dockers_limit(tmp_path):
    wanted = make(tmp_path, configs={"conf": {"file": "nc.conf", "name": "n" * 60}})
    name = next(s.version.name for s in wanted.secrets if s.version.kind == "config")
    assert len(name) <= 64


def test_config_of_a_credential_spec_is_found_by_docker(tmp_path):
    wanted = make(tmp_path, {"image": "x", "credential_spec": {"config": "conf"}})
    name = versions(wanted)["appstack_conf"]
    assert wanted.compose["services"]["helper"]["credential_spec"] == {"config": name}
    assert wanted.compose["configs"][name] == {"external": True, "name": name}


@pytest.mark.parametrize(
    ("service", "top", "words"),
    [
        ({"env_file": ["nc.env", "gone.env"]}, {}, "services.helper.env_file[1]: {}/gone.env: no"),
        ({"env_file": "."}, {}, "services.helper.env_file[0]: {}: Is a directory"),
        ({}, {"configs": {"conf": {"file": "gone"}}}, "configs.conf.file: {}/gone: no such file"),
        ({}, {"secrets": {"s": {"file": "/gone"}}}, "secrets.s.file: /gone: no such file"),
        ({}, {"secrets": {"s": {"name": "x"}}}, "secrets.s: names no file"),
    ],
)  # fmt: skip
def test_what_is_missing_is_refused_before_anything_is_contacted(tmp_path, service, top, words):
    with pytest.raises(ConfigError) as caught:
        make(tmp_path, {"image": "x", **service}, **top)
    assert words.format(tmp_path / "compose") in caught.value.message
    assert caught.value.message.startswith("compose-app.yml.")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("size", "refused"), [(0, "is empty"), (1024_000, ""), (1024_001, "1024000 at most")]
)
def test_what_docker_would_not_take_is_refused(tmp_path, size, refused):
    (tmp_path / "compose").mkdir()
    (tmp_path / "compose/nc.conf").write_bytes(b"x" * size)
    if not refused:
        make(tmp_path)
        return
    with pytest.raises(ConfigError, match=refused):
        make(tmp_path)


class TestSecrecy:
    def test_values_of_environment_files_are_not_shown(self, tmp_path):
        there = live(make(tmp_path))
        (tmp_path / "compose/nc.env").write_text("PASSWORD=other-other\nNEW=x-x-x-x\nBOTH=z\n")
        wanted = make(tmp_path)
        text = to_text([planned(wanted, there)], wanted.redact, all_services=True)
        for hidden in ("hunter2", "other-other", "x-x-x-x"):
            assert hidden not in text
        assert "environment.PASSWORD" in text
        shown = {f.name: f for s in planned(wanted, there).services for f in s.fields}
        assert shown["environment.PASSWORD"].new == "another value"
        assert shown["environment.NEW"].new == "a value"
        assert "environment.BOTH" not in shown

    def test_a_secret_of_a_file_is_taken_out_of_foreign_text(self, tmp_path):
        wanted = make(tmp_path)
        assert wanted.redact("bad s3cr3t-token!") == "bad [redacted]!"
        assert "s3cr3t" not in repr(wanted.secrets)
        assert "s3cr3t" not in wanted.stack_input


class TestOldVersions:
    def ending(self, wanted: Wanted, there: Cluster) -> str:
        options = Options("deploy-app", Origin("me@here", "abc"))
        made = finish_script.make(wanted, there, options, changes=(), seconds=1.0, error="")
        return made.script

    def test_they_go_after_convergence_also_when_the_file_is_no_longer_named(self, tmp_path):
        there = live(make(tmp_path))
        old = (
            SecretVersion("appstack_conf_0000000000000000", "appstack_conf", "config", "appstack"),
            SecretVersion("appstack_dropped_1", "appstack_dropped", "secret", "appstack"),
            SecretVersion("other_conf_2", "other_conf", "config", "other"),
        )
        there = cluster(there.services, secrets=(*there.secrets, *old))
        script = self.ending(make(tmp_path), there)
        removals = [line for line in script.splitlines() if line.startswith("for s in")]
        assert [line.split(" >")[0] for line in removals] == [
            'for s in appstack_dropped_1; do docker secret rm "$s"',
            'for s in appstack_conf_0000000000000000; do docker config rm "$s"',
        ]

    def test_versions_of_configs_are_read_from_our_records(self):
        labels = {"swarmkeep": "file", "swarmkeep.config": "a_conf", "swarmkeep.file": "a"}
        assert _config(Record("id", "a_conf_1", labels)) == SecretVersion(
            "a_conf_1", "a_conf", "config", "a"
        )


def test_a_name_without_a_value_may_restart_and_says_what_to_do(tmp_path):
    wanted = make(tmp_path, {"image": "x", "environment": ["TZ"]})
    spec, _ = specification(wanted.compose, "helper", wanted.name)
    spec["TaskTemplate"]["ContainerSpec"]["Env"] = ["TZ=UTC"]
    there = live(make(tmp_path, {"image": "x"}))
    services = tuple(
        _service({"ID": "h", "Spec": spec}) if s.name == "appstack_helper" else s
        for s in there.services
    )
    result = planned(wanted, cluster(services, secrets=there.secrets))
    text = " ".join(to_text([result], str, all_services=False).split())
    assert "tasks may restart" in text
    assert "environment.TZ" in text
    assert "write its value" in text
    assert summary([result]).endswith("may restart or stop appstack_helper")


class TestWayBack:
    def kept(self, wanted: Wanted, there: Cluster) -> Release:
        """What a release of it holds, as it is read again."""
        _, script, stdin = releases.record_script(
            wanted, there, who="a@b", commit="", command="deploy", origin=0
        )
        content = json.loads(stdin)
        secrets = re.findall(r"swarmkeep.secrets=(\S*)", script)[0].split(":")
        labels = {"swarmkeep.stack": wanted.name, "swarmkeep.number": "1",
                  "swarmkeep.secrets": ":".join(secrets)}  # fmt: skip
        data = base64.b64encode(json.dumps(content).encode()).decode()
        return releases._release({"CreatedAt": "", "Spec": {"Labels": labels, "Data": data}})

    def test_versions_of_files_are_kept_for_it(self, tmp_path):
        wanted = make(tmp_path)
        release = self.kept(wanted, live(wanted))
        assert set(release.secrets) == set(versions(wanted).values())

    def test_a_config_that_is_gone_is_named(self, tmp_path):
        wanted = make(tmp_path)
        there = live(wanted)
        release = self.kept(wanted, there)
        gone = versions(wanted)["appstack_conf"]
        left = tuple(v for v in there.secrets if v.name != gone)
        back = releases.as_wanted(release, "nocodb", ())
        with pytest.raises(SwarmkeepError, match=f"needs the config {gone}, which is gone") as e:
            releases.check_secrets(back, release, cluster(secrets=left))
        assert "inv releases" in e.value.hint

    def test_only_secrets_are_those_of_today(self, tmp_path):
        before = make(tmp_path)
        release = self.kept(before, live(before))
        (tmp_path / "compose/nc.conf").write_text("listen 81\n")
        (tmp_path / "compose/token").write_text("another-token\n")
        today = make(tmp_path)
        back = releases.as_wanted(release, "nocodb", ())
        mended = releases.with_secrets(back, release, today.secrets)
        assert mended.compose["configs"] == before.compose["configs"]
        assert mended.compose["secrets"] == today.compose["secrets"]

    def test_values_of_environment_files_are_not_shown_there_either(self, tmp_path):
        before = make(tmp_path)
        release = self.kept(before, live(before))
        (tmp_path / "compose/nc.env").write_text("PASSWORD=other-other\n")
        today = make(tmp_path)
        there = live(today)
        back = releases.with_shown(releases.as_wanted(release, "nocodb", ()), today)
        text = to_text([planned(back, there)], str, all_services=True)
        assert "environment.PASSWORD" in text
        assert "hunter2" not in text
        assert "other-other" not in text


def test_variables_that_are_to_be_empty_are_kept_from_the_managers_own(tmp_path):
    given = ["LANG=", "TZ", "PATH=", "X=y"]
    helper = {"image": "x", "env_file": "more.env", "environment": given}
    wanted = make(tmp_path, helper)
    assert wanted.empty_variables == ("LANG",)
    assert make(tmp_path, {"image": "x", "environment": {"A": "", "B": None}}).empty_variables == (
        "A",
    )
