"""doctor's verdicts: each check can fail, says why, and what to do next."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fabfile.backup import host_files, host_kit
from fabfile.backup.host_kit import ATTACHMENTS, DATABASE
from fabfile.base.check import Check
from fabfile.base.errors import ConfigError, SwarmkeepError, UnreachableError
from fabfile.base.secret import Secret
from fabfile.commands import doctor as command
from fabfile.config import hosts_file
from fabfile.deploy.secret_versions import SecretContent
from fabfile.deploy.stacks import Wanted
from fabfile.doctor import facts as doctor_facts
from fabfile.doctor import host_checks, local_checks, swarm_checks
from fabfile.doctor.facts import Facts, FileFacts
from fabfile.doctor.finding import Finding
from fabfile.doctor.host_checks import Expected
from fabfile.ssh.remote_command import Result
from fabfile.swarm.docker_commands import SecretVersion
from fabfile.vault.reading import Secrets
from tests.unit.clusters import cluster, node, service

HOSTS = {
    "manager1": {"address": "10.0.0.1", "swarm": "manager"},
    "db1": {"address": "10.0.0.2", "role": "db"},
    "app1": {"address": "10.0.0.3", "role": "app"},
}
PASSWORD = "a-password-nobody-may-see"


def inventory(tmp_path: Path, **changes):
    data = {"hosts": HOSTS, "s3_bucket_name": "test-bucket"} | changes
    path = tmp_path / "hosts.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return hosts_file.load(path)


def vault(**entries: str) -> Secrets:
    values = {"vault_postgres_password": PASSWORD} | entries
    return Secrets(Path("vault.yml"), Secret("pw"), {k: Secret(v) for k, v in values.items()})


def facts(name: str = "db1", **changes) -> Facts:
    swarm = {
        "LocalNodeState": "active",
        "ControlAvailable": name == "manager1",
        "NodeAddr": HOSTS[name]["address"],
    }
    fields = {
        "clock_ahead": 0.3,
        "clock_error": 0.1,
        "ntp": "yes",
        "info": {"Name": name, "ServerVersion": "24.0.7", "Swarm": swarm},
        "listening": frozenset({("tcp", 7946), ("udp", 7946), ("udp", 4789)}),
        "ports": {("10.0.0.1", 2377): True, ("10.0.0.1", 7946): True},
        "peers": (),
        "ipvs": True,
        "cron": True,
        "docker_free": 20 * 2**30,
        "quorum": {"manager1": "Leader"},
        "cluster": None,
        "cluster_problem": "is not a Swarm manager",
        "bucket": (0, ""),
        "dump_free": 10 * 2**30,
    }
    return Facts(**(fields | changes))


def installed(inv, name: str = "db1") -> tuple[Expected, dict[str, FileFacts]]:
    every = {e.name: host_files.files(e, inv, vault()) for e in host_kit.hosts(inv)}
    files = every.get(name, [])
    there = {
        f.path: FileFacts(hashlib.sha256(f.content).hexdigest(), f"{f.mode:o}", f.owner)
        for f in files
    }
    return Expected(inv, every, None), there


def verdicts(tmp_path: Path, name: str = "db1", *, hosts=None, expected=None, **changes):
    """Judge one host; return its checks by name."""
    inv = inventory(tmp_path, **(hosts or {}))
    usual, there = installed(inv, name)
    seen = facts(name, **({"files": there} | changes))
    entry = next(host for host in inv.hosts if host.name == name)
    found = host_checks.judge_host(expected or usual, entry, seen)
    assert {finding.group for finding in found} == {name}
    return {finding.check.name: finding.check for finding in found}


def failed(checks: dict[str, Check]) -> list[str]:
    assert all(check.hint for check in checks.values() if not check.ok)
    return [name for name, check in checks.items() if not check.ok]


# One host


def test_a_healthy_db_host_passes_everything(tmp_path):
    checks = verdicts(tmp_path)
    assert failed(checks) == []
    assert set(checks) == {
        "ssh", "docker", "clock", "swarm", "ports tcp", "ports udp", "disk", "ipvs",
        "backup", "cron", "bucket", "dump space",
    }  # fmt: skip


def test_an_app_host_has_its_part_of_the_backup(tmp_path):
    checks = verdicts(tmp_path, "app1")
    assert failed(checks) == []
    assert {"backup", "cron", "bucket"} <= set(checks)
    # Attachments are uploaded as they are: nothing has to fit.
    assert "dump space" not in checks


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({"cron": False}, "cron", "no backup will be made"),
        ({"bucket": (254, "Unable to locate credentials")}, "bucket", "Unable to locate"),
        ({"missing_programs": ("aws",)}, "programs", "aws"),
        ({"files": {}}, "backup", "is not installed"),
        (
            {"files": {ATTACHMENTS.script: FileFacts("0" * 64, "755", "root")}},
            "backup",
            ATTACHMENTS.cron,
        ),
    ],
)
def test_what_is_wrong_with_an_app_hosts_backup_is_named(tmp_path, changes, name, said):
    checks = verdicts(tmp_path, "app1", **changes)
    assert failed(checks) == [name]
    assert said in checks[name].detail


IMAGE = "swarmkeep/backup:other"
IN_CONTAINER = {"backup": {"mode": "container"}, "images": {"backup": IMAGE}}
UP = f"{IMAGE} Up 2 hours (healthy)"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"container": ""}, "no container of the backup runs here"),
        ({"container": "swarmkeep/backup:old Up 2 hours"}, f"this repository's is {IMAGE}"),
        ({"container": f"{IMAGE} Up 3 minutes (unhealthy)"}, "unhealthy"),
        ({"container_says": (1, "job backup ended with exit code 18")}, "exit code 18"),
        ({"container_says": None}, "does not answer"),
    ],
)
def test_a_backup_in_a_container_that_makes_none_is_named(tmp_path, changes, said):
    good = {"container": UP, "container_says": (0, "ok")}
    assert verdicts(tmp_path, hosts=IN_CONTAINER, **good)["backup"].ok
    check = verdicts(tmp_path, hosts=IN_CONTAINER, **(good | changes))["backup"]
    assert not check.ok
    assert said in check.detail
    assert "inv backup.install" in check.hint


def test_of_two_db_hosts_the_one_with_the_data_must_run_the_backup(tmp_path):
    two = {"hosts": {**HOSTS, "db2": {"address": "10.0.0.9", "role": "db"}}}
    elsewhere = verdicts(tmp_path, hosts=IN_CONTAINER | two)["backup"]
    assert elsewhere.ok, elsewhere.detail
    here = verdicts(tmp_path, hosts=IN_CONTAINER | two, database_here=True)["backup"]
    assert not here.ok


def test_hosts_without_a_part_of_the_backup_are_not_asked_about_it(tmp_path):
    without = {"backup": {"files": False}}
    for checks in (verdicts(tmp_path, "manager1"), verdicts(tmp_path, "app1", hosts=without)):
        assert failed(checks) == []
        assert not {"backup", "cron", "bucket"} & set(checks)


def test_a_host_without_an_engine_says_so_once(tmp_path):
    checks = verdicts(tmp_path, "app1", info={})
    assert failed(checks) == ["docker"]
    assert "inv swarm.init" in checks["docker"].hint


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({"info": {"ServerVersion": "19.03.15", "Name": "db1"}}, "docker", "engine 19.03.15"),
        ({"clock_ahead": 2.5, "clock_error": 0.4}, "clock", "2.1s ahead of"),
        ({"clock_ahead": -3600.0, "ntp": "no"}, "clock", "behind this machine's, NOT kept by NTP"),
        ({"ports": {("10.0.0.1", 2377): False}}, "ports tcp", "10.0.0.1:2377"),
        ({"listening": frozenset({("tcp", 7946)})}, "ports udp", "7946/udp"),
        ({"docker_free": 2**30}, "disk", "1.0 GiB free"),
        ({"docker_free": None}, "disk", "cannot be read"),
        ({"ipvs": False}, "ipvs", "app.port_mode: ingress"),
        ({"cron": False}, "cron", "no backup will be made"),
        ({"bucket": (254, "Unable to locate credentials")}, "bucket", "Unable to locate"),
        ({"bucket": None}, "bucket", "not installed"),
        ({"missing_programs": ("aws", "pigz")}, "programs", "aws, pigz"),
        ({"files": {}}, "backup", "is not installed"),
        ({"dump_free": None}, "dump space", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, name, said):
    checks = verdicts(tmp_path, **changes)
    assert name in failed(checks)
    assert said in checks[name].detail


def test_an_unsure_clock_is_no_failure(tmp_path):
    # The answer took six seconds: the clock may well be right.
    assert failed(verdicts(tmp_path, clock_ahead=3.0, clock_error=3.0)) == []


@pytest.mark.parametrize(
    ("swarm", "said"),
    [
        ({"LocalNodeState": "inactive"}, "state inactive"),
        ({"LocalNodeState": "active", "ControlAvailable": False}, "is no manager"),
        (
            {"LocalNodeState": "active", "ControlAvailable": True, "Error": "rpc gone"},
            "rpc gone",
        ),
    ],
)
def test_a_manager_that_is_none_is_named(tmp_path, swarm, said):
    info = {"Name": "manager1", "ServerVersion": "24.0.7", "Swarm": swarm}
    checks = verdicts(tmp_path, "manager1", info=info)
    assert failed(checks) == ["swarm"]
    assert said in checks["swarm"].detail


def test_a_node_of_another_name_gets_the_line_for_hosts_yaml(tmp_path):
    info = dict(facts().info) | {"Name": "ip-10-0-0-2"}
    assert verdicts(tmp_path, info=info)["swarm"].hint == "set hosts.db1.node: ip-10-0-0-2"


def test_a_worker_that_cannot_reach_another_worker_is_seen(tmp_path):
    nodes = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
    expected = replace(installed(inventory(tmp_path))[0], nodes=nodes)
    # The second is how the operator reaches a node, and no node's address.
    named = {("10.0.0.3", 7946): True, ("192.0.2.7", 7946): False}
    assert verdicts(tmp_path, expected=expected, named=named)["ports tcp"].detail == "3 reached"
    shut = verdicts(tmp_path, expected=expected, named={**named, ("10.0.0.3", 7946): False})
    assert failed(shut) == ["ports tcp"]
    assert shut["ports tcp"].detail == "cannot connect to 10.0.0.3:7946"


def test_every_host_tries_the_addresses_that_may_be_the_others(tmp_path):
    far = {"swarm": "manager"}
    hosts = {
        "manager1": {"address": "198.51.100.1", "advertise_addr": "10.0.0.1", **far},
        "m2": {"address": "10.0.0.5", "advertise_addr": "eth1", **far},
        "m3": {"address": "127.0.0.1", "port": 2201, **far},
        "m4": {"address": "db.example.com", **far},
        "db1": {"address": "10.0.0.2", "role": "db"},
        "app1": {"address": "fd00::3", "role": "app"},
    }
    inv = inventory(tmp_path, hosts=hosts)
    entry = next(host for host in inv.hosts if host.name == "db1")
    script = doctor_facts.gather(inv, entry).script
    assert 'for n in 10.0.0.1 10.0.0.5 fd00::3; do echo "$n 7946 named"; done' in script


def test_udp_is_never_claimed_to_work(tmp_path):
    assert "cannot be tried from here" in verdicts(tmp_path)["ports udp"].detail


def test_ipvs_is_no_matter_where_no_setting_needs_it(tmp_path):
    plain = {"app": {"port_mode": "host", "endpoint_mode": "dnsrr"}}
    assert "ipvs" not in verdicts(tmp_path, hosts=plain, ipvs=False)


# The backup


def test_a_changed_file_a_wrong_mode_and_a_leftover_are_named(tmp_path):
    _, there = installed(inventory(tmp_path))
    there[DATABASE.script] = replace(there[DATABASE.script], sha256="0" * 64)
    there[DATABASE.config] = replace(there[DATABASE.config], mode="644")
    there[DATABASE.credentials] = FileFacts("0" * 64, "600", "root")
    detail = verdicts(tmp_path, files=there)["backup"].detail
    assert DATABASE.script in detail
    assert DATABASE.config in detail
    assert f"{DATABASE.credentials} (should not be there)" in detail
    assert DATABASE.cron not in detail


def test_a_schedule_changed_in_hosts_yaml_but_not_installed_is_seen(tmp_path):
    _, there = installed(inventory(tmp_path))
    checks = verdicts(tmp_path, hosts={"backup": {"schedule": "@hourly"}}, files=there)
    assert failed(checks) == ["backup"]
    assert DATABASE.cron in checks["backup"].detail


def test_without_the_vault_files_are_not_called_wrong(tmp_path):
    expected = Expected(inventory(tmp_path), None, None)
    assert "the vault did not open" in verdicts(tmp_path, expected=expected)["backup"].detail


@pytest.mark.parametrize(
    ("local", "remote", "ok"),
    [(900, None, False), (800, 900, True), (None, 900, False), (None, 800, True),
     (None, None, True)],
)  # fmt: skip
def test_the_next_dump_must_fit(tmp_path, local, remote, ok):
    # Free are 1000 bytes; a dump may grow by a fifth. The local dump counts before the object.
    inv = inventory(tmp_path)
    expected = replace(installed(inv)[0], newest_object=remote)
    checks = verdicts(tmp_path, expected=expected, dump_free=1000, newest_dump=local)
    assert checks["dump space"].ok is ok


# The Swarm


def swarm_verdicts(tmp_path, seen, wanted=(), **more):
    inv = inventory(tmp_path)
    all_facts = {"manager1": facts("manager1", cluster=seen, **more)}
    found = swarm_checks.judge_swarm(inv, all_facts, wanted)
    return {finding.check.name: finding.check for finding in found}


def stack(*versions: str) -> Wanted:
    secrets = tuple(SecretContent(SecretVersion(v, v.partition("-")[0]), b"") for v in versions)
    return Wanted("dbstack", "db", "postgres:17", {"services": {}}, secrets, ())


def test_a_healthy_swarm_passes(tmp_path):
    seen = cluster((service(),), secrets=(SecretVersion("pg-new", "pg"),))
    checks = swarm_verdicts(tmp_path, seen, (stack("pg-new"),))
    assert failed(checks) == []
    assert set(checks) == {
        "managers", "members", "nodes", "project", "labels", "data node", "secrets", "network",
        "engines",
    }  # fmt: skip


def test_the_label_of_a_deployed_proxy_is_missed(tmp_path):
    more = {"proxy": {"hosts": ["manager1"]}, "app": {"domain": "tables.example.com"}}
    checks = {}
    for services in ((service(),), (service(), service("proxystack_caddy"))):
        seen = {"manager1": facts("manager1", cluster=cluster(services))}
        found = swarm_checks.judge_swarm(inventory(tmp_path, **more), seen, None)
        checks[len(services)] = next(f.check for f in found if f.check.name == "labels")
    assert checks[1].ok
    assert not checks[2].ok
    assert checks[2].detail == "manager1 needs swarmkeep.proxy.proxystack=true"


def test_a_file_of_compose_that_has_changed_is_told_apart_from_the_vault(tmp_path):
    version = SecretVersion("dbstack_conf_2", "dbstack_conf", "config", "dbstack")
    wanted = Wanted("dbstack", "db", "x", {"services": {}}, (SecretContent(version, b""),), ())
    found = swarm_verdicts(tmp_path, cluster((service(),)), (wanted,))["secrets"]
    assert not found.ok
    assert found.detail == "as the vault says; not what the files of compose/ say: dbstack_conf"


def test_a_swarm_before_its_first_deploy_lacks_the_network_only(tmp_path):
    nodes = (node("manager1"), node("db1", "db"), node("app1", "app"))
    checks = swarm_verdicts(tmp_path, cluster(nodes=nodes, network=None), (stack("pg-new"),))
    assert failed(checks) == ["network"]
    assert "not deployed yet: dbstack" in checks["secrets"].detail


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({"nodes": (node("manager1"), node("db1", "db", "dbstack"))}, "members", "'app1'"),
        (
            {"nodes": (node("manager1"), node("db1", "", "dbstack"), node("app1", "app"))},
            "labels",
            "db1 needs role=db",
        ),
        (
            {"nodes": (node("manager1"), node("db1", "db"), node("app1", "app"))},
            "data node",
            "no node has the label",
        ),
        (
            {"nodes": (node("manager1"), node("db1", "db", "dbstack", availability="drain"),
                       node("app1", "app"))},
            "nodes",
            "db1 is ready/drain",
        ),
        ({"network": {"Driver": "bridge", "Scope": "local"}}, "network", "driver bridge"),
        ({"secrets": (SecretVersion("pg-old", "pg"),)}, "secrets", "not what the vault says: pg"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_swarm_is_named(tmp_path, changes, name, said):
    fields = {"secrets": (SecretVersion("pg-new", "pg"),)} | changes
    checks = swarm_verdicts(tmp_path, cluster((service(),), **fields), (stack("pg-new"),))
    assert name in failed(checks)
    assert said in checks[name].detail


@pytest.mark.parametrize(
    ("managers", "ok", "said"),
    [
        ({"a": "Leader"}, True, "1 of 1 reachable, none may fail"),
        ({"a": "Leader", "b": "Reachable"}, True, "an odd number is better"),
        ({"a": "Leader", "b": "Reachable", "c": "Reachable"}, True, "one may fail"),
        (
            {"a": "Leader", "b": "Reachable", "c": "Unreachable"},
            False,
            "c is not; one more failure stops",
        ),
    ],
)
def test_managers_and_how_many_may_fail(tmp_path, managers, ok, said):
    check = swarm_verdicts(tmp_path, cluster(), None, quorum=managers)["managers"]
    assert check.ok is ok
    assert said in check.detail


def test_engines_of_different_majors_are_named(tmp_path):
    other = facts("db1", info=dict(facts().info) | {"ServerVersion": "20.10.24"})
    seen = {"manager1": facts("manager1", cluster=cluster()), "db1": other}
    found = swarm_checks.judge_swarm(inventory(tmp_path), seen, None)
    check = next(f.check for f in found if f.check.name == "engines")
    assert not check.ok
    assert check.detail == "db1 has 20.10.24, manager1 has 24.0.7"


def test_nodes_that_do_not_hear_each_other_are_named(tmp_path):
    both = ("10.0.0.2", "10.0.0.3")
    seen = {
        "manager1": facts("manager1", cluster=cluster()),
        "db1": facts("db1", peers=both),
        "app1": facts("app1", peers=("10.0.0.3",)),
    }
    found = swarm_checks.judge_swarm(inventory(tmp_path), seen, None)
    check = next(f.check for f in found if f.check.name == "gossip")
    assert not check.ok
    assert check.detail == "app1 does not hear db1"


def test_no_manager_asked_is_unreachable_one_that_is_none_is_a_failure(tmp_path):
    inv = inventory(tmp_path)
    away = swarm_checks.judge_swarm(inv, {}, None)
    assert [(f.check.ok, f.unreachable) for f in away] == [(False, True)]
    none = swarm_checks.judge_swarm(inv, {"manager1": facts("manager1")}, None)[0]
    assert not none.unreachable
    assert none.check.detail == "is not a Swarm manager"


# Reading a host


INFO = json.dumps({"Name": "db1", "ServerVersion": "1"})


def output(*sections: str) -> Result:
    return Result("db1", 0, "clock 1000.500000000\n" + "\n".join(sections), "")


def test_the_clock_is_compared_with_the_middle_of_the_answer():
    found = doctor_facts.parse(output(), asked=990.0, heard=991.0)
    assert (found.clock_ahead, found.clock_error) == (10.0, 0.5)


def test_sections_become_facts():
    found = doctor_facts.parse(
        output(
            "--swarmkeep listening--\ntcp 1F0A\nudp6 1F0A\nudp 12B5\n",
            "--swarmkeep ports--\nopen 10.0.0.1 2377 \nshut 10.0.0.2 7946 \n"
            "open 10.0.0.2 7946 named\n",
            "--swarmkeep ipvs--\n\n--swarmkeep cron--\nyes\n",
            "--swarmkeep quorum--\nmanager1 Leader\n",
            f"--swarmkeep files--\n{'a' * 64} 755 root /usr/local/bin/backup-pg.sh\n",
            "--swarmkeep dumps--\n5000\n300\n",
            "--swarmkeep wal--\n\nsuperuser t\ncap 1\nexit 0\n",
            "--swarmkeep bucket--\n\nAn error occurred (403)\nexit 254\n",
            f"--swarmkeep api--\ninfo nodes\nHTTP/1.1 200 OK\r\nContent-Length: {len(INFO)}\r\n\r\n"
            f"{INFO}HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n{{}}\n",
        ),
        1.0,
        1.0,
    )
    assert found.listening == {("tcp", 7946), ("udp", 7946), ("udp", 4789)}
    assert found.ports == {("10.0.0.1", 2377): True, ("10.0.0.2", 7946): False}
    assert found.named == {("10.0.0.2", 7946): True}
    assert (found.ipvs, found.cron) == (False, True)
    assert found.quorum == {"manager1": "Leader"}
    assert found.files == {"/usr/local/bin/backup-pg.sh": FileFacts("a" * 64, "755", "root")}
    assert (found.dump_free, found.newest_dump) == (5000, 300)
    assert found.bucket == (254, "An error occurred (403)")
    assert found.wal == (0, "superuser t\ncap 1")
    assert found.info["Name"] == "db1"
    assert found.cluster is None
    assert "not a Swarm manager" in found.cluster_problem


@pytest.mark.parametrize("name", ["manager1", "db1", "app1"])
def test_the_command_is_good_shell_and_changes_nothing(tmp_path, name):
    inv = inventory(tmp_path, backup={"pitr": True})
    entry = next(host for host in inv.hosts if host.name == name)
    asked = doctor_facts.gather(inv, entry)
    assert ("wal-pg.sh check" in asked.script) == (name == "db1")
    assert not asked.changes
    assert asked.stdin == b""
    done = subprocess.run(
        ["sh", "-n", "-c", asked.script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# This machine


def test_what_is_installed_here_is_new_enough():
    assert local_checks.versions().ok


def test_an_old_and_a_missing_package_are_named(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\ndependencies = ["pyyaml>=99", "no-such-package>=1", "invoke>=1,<99"]\n'
    )
    check = local_checks.versions(project)
    assert not check.ok
    assert "is older than 99" in check.detail
    assert "no-such-package is missing" in check.detail
    assert "invoke" not in check.detail


def test_the_vault_is_named_by_its_entries_never_by_their_values(tmp_path):
    check = local_checks.vault_entries(inventory(tmp_path), vault(vault_name_key="k" * 20))
    assert check.ok
    assert "vault_name_key" in check.detail
    assert PASSWORD not in repr(check)


def test_a_registry_needs_its_entries(tmp_path):
    inv = inventory(tmp_path, registry="reg.example.com")
    check = local_checks.vault_entries(inv, vault(vault_registry_user="u"))
    assert not check.ok
    assert "vault_registry_password is missing" in check.detail
    whole = vault(vault_registry_user="u", vault_registry_password="p")
    assert local_checks.vault_entries(inv, whole).ok


def test_a_vault_that_does_not_open_leaves_the_rest_uncompared(tmp_path):
    def refuse() -> Secrets:
        raise ConfigError("vault.yml: wrong password", hint="try another")

    here = local_checks.look(inventory(tmp_path), refuse)
    assert here.wanted is None
    assert here.files is None
    last = here.findings[-1]
    assert (last.check.name, last.check.ok, last.unreachable) == ("vault", False, False)


def test_everything_renders_with_a_good_vault(tmp_path):
    here = local_checks.look(inventory(tmp_path), vault)
    assert [f.check.name for f in here.findings if not f.check.ok] == []
    assert here.wanted
    assert here.files
    assert PASSWORD not in repr(here.findings)


# The exit code


@pytest.mark.parametrize(
    ("findings", "error"),
    [
        ([Finding("a", Check("x", True, ""))], None),
        ([Finding("a", Check("x", False, "", "h"))], SwarmkeepError),
        ([Finding("a", Check("ssh", False, "", "h"), unreachable=True)], UnreachableError),
        (
            [
                Finding("a", Check("ssh", False, "", "h"), unreachable=True),
                Finding("b", Check("x", False, "", "h")),
            ],
            SwarmkeepError,
        ),
    ],
)
def test_exit_codes(findings, error):
    if error is None:
        command.judge(findings)
        return
    with pytest.raises(SwarmkeepError) as caught:
        command.judge(findings)
    assert type(caught.value) is error


def test_json_has_a_hint_for_failures_only():
    text = command._as_json(
        [Finding("a", Check("x", True, "d", "h")), Finding("b", Check("y", False, "d", "h"))]
    )
    found = json.loads(text)
    assert found["ok"] is False
    assert [(c["group"], c["ok"], c["hint"]) for c in found["checks"]] == [
        ("a", True, ""),
        ("b", False, "h"),
    ]
