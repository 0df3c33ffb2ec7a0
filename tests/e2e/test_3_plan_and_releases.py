"""A plan before, one at a time, on record, and a way back: on the real Swarm."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.e2e.background import read_until, start
from tests.e2e.live import APP, DB, cluster_state, container_of, docker, eventually

CHANGED = {"app": {"public_url": "http://plan.example.com"}}
# Restarts the database, which takes seconds; NocoDB's start takes much longer.
DB_CHANGED = {"pg_db": "other"}
DEPLOY_DB = ("deploy-db", "--yes")

# Some tests deploy four times, on a machine that may be busy.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", autouse=True)
def stacks(deployed):
    return deployed


@pytest.fixture
def variant(with_database):
    """The other databases are there: a deploy refuses those that are not."""
    return with_database


@pytest.fixture
def restored(product):
    """The lab's own hosts.yaml is deployed again after the test."""
    yield
    restore(product)


def restore(product) -> None:
    product.ok("deploy", "--yes", "--prune", "--wait")
    assert product.ok("plan").out.endswith("plan: nothing to do\n")


def containers(lab) -> tuple[str, str]:
    return container_of(lab, "db1", DB), container_of(lab, "app1", APP)


def records(lab) -> list[str]:
    return sorted(docker(lab, "manager1", "config", "ls", "--format", "{{.Name}}").split())


def planned(product, *args: str, hosts=None, code: int = 5) -> dict:
    ran = product.inv("plan", "--json", *args, hosts=hosts)
    assert ran.code == code, ran.text
    return json.loads(ran.out)


def fields_of(plan: dict, service: str) -> dict:
    services = [s for stack in plan["stacks"] for s in stack["services"]]
    found = next(s for s in services if s["name"] == service)
    return {f["name"]: (f["old"], f["new"]) for f in found["fields"]}


class TestPlan:
    def test_nothing_to_do_after_a_deploy(self, product, lab):
        before = cluster_state(lab), records(lab)
        plan = planned(product, code=0)
        assert not plan["changes"]
        # One on the manager, one on each host of the stacks.
        assert plan["round_trips"] == 3
        assert (cluster_state(lab), records(lab)) == before

    def test_differences_are_shown_side_by_side_and_nothing_is_changed(self, product, lab, variant):
        before = cluster_state(lab), records(lab), containers(lab)
        hosts = variant(
            {**CHANGED, "pg_db": "other", "images": {"nocodb": "swarmkeep-lab/other:2"}}
        )
        ran = product.inv("plan", hosts=hosts)
        assert ran.code == 5
        assert "swarmkeep-lab/other:2" in ran.out
        fields = fields_of(planned(product, hosts=hosts), APP)
        assert fields["image"] == ("swarmkeep-lab/nocodb:0.301.3", "swarmkeep-lab/other:2")
        assert fields["environment.NC_PUBLIC_URL"] == (lab.nocodb_url, "http://plan.example.com")
        assert fields["secrets.nocodb_database"] == ("a version", "another version")
        assert fields_of(planned(product, hosts=hosts), DB) == {
            "environment.POSTGRES_DB": ("nocodb", "other")
        }
        assert (cluster_state(lab), records(lab), containers(lab)) == before

    def test_unchanged_deploy_costs_four_round_trips(self, product, lab):
        ran = product.ok("deploy", env={"SWARMKEEP_DEBUG": "1"})
        assert ran.out.count("converged, nothing to change") == 2
        # The manager, the db host, the app host; and NocoDB is asked whether it works.
        assert "round trips: 4\n" in ran.err

    def test_what_was_changed_by_hand_is_seen_and_put_right(self, product, lab, restored):
        database = container_of(lab, "db1", DB)
        # An image that works: Swarm itself would roll back another one.
        docker(lab, "app1", "tag", "swarmkeep-lab/nocodb:0.301.3", "swarmkeep-lab/hand:1")
        docker(
            lab, "manager1", "service", "update", "--detach", "--quiet",
            "--env-add", "HAND=made", "--image", "swarmkeep-lab/hand:1",
            "--stop-grace-period", "20s", APP,
        )  # fmt: skip
        fields = fields_of(planned(product), APP)
        assert fields["environment.HAND"] == ("made", None)
        assert fields["stop_grace_period"] == ("20s", "10s")
        # Docker alone would keep this image: the label that it compares says nothing is new.
        assert fields["image"] == ("swarmkeep-lab/hand:1", "swarmkeep-lab/nocodb:0.301.3")
        assert f"{APP}: updated" in product.ok("deploy-app").out
        planned(product, code=0)
        assert container_of(lab, "db1", DB) == database
        docker(lab, "app1", "rmi", "swarmkeep-lab/hand:1")

    def test_secret_exchanged_by_hand(self, product, lab, restored):
        made = lab.exec("manager1", "docker", "secret", "create", "by-hand", "-", input=b"x")
        assert made.returncode == 0
        spec = json.loads(docker(lab, "manager1", "service", "inspect", APP))[0]["Spec"]
        (secret,) = spec["TaskTemplate"]["ContainerSpec"]["Secrets"]
        docker(
            lab, "manager1", "service", "update", "--detach", "--quiet",
            "--secret-rm", secret["SecretName"],
            "--secret-add", "source=by-hand,target=nocodb_database", APP,
        )  # fmt: skip
        fields = fields_of(planned(product), APP)
        assert fields == {"secrets.nocodb_database": ("a version", "another version")}
        product.ok("deploy-app")
        docker(lab, "manager1", "secret", "rm", "by-hand")

    def test_service_deleted_by_hand(self, product, lab, restored):
        docker(lab, "manager1", "service", "rm", APP)
        plan = planned(product)
        assert [s["action"] for s in plan["stacks"][1]["services"]] == ["create"]
        assert f"{APP}: created" in product.ok("deploy-app").out

    def test_service_that_left_the_compose_file_goes_only_with_prune(self, product, lab, restored):
        label = "com.docker.stack.namespace=appstack"
        docker(
            lab, "manager1", "service", "create", "--detach", "--quiet", "--name", "appstack_old",
            "--label", label, "--replicas", "0", "swarmkeep-lab/nocodb:0.301.3",
        )  # fmt: skip
        app = container_of(lab, "app1", APP)
        assert "not in the compose file; stays" in product.ok("plan").out
        assert "nothing to change" in product.ok("deploy-app").out
        assert "appstack_old" in docker(lab, "manager1", "service", "ls")
        assert product.inv("plan", "--prune").code == 5
        assert "appstack_old: removed" in product.ok("deploy-app", "--prune").out
        assert "appstack_old" not in docker(lab, "manager1", "service", "ls")
        assert container_of(lab, "app1", APP) == app

    def test_stack_deployed_by_plain_docker_is_taken_over_without_a_restart(self, product, lab):
        from fabfile.config import hosts_file
        from fabfile.deploy import stacks
        from fabfile.vault import reading

        # Twice: versions that only former releases needed go with the first deploy.
        for _ in range(2):
            product.ok("deploy")
            for name in records(lab):
                docker(lab, "manager1", "config", "rm", name)
        before = cluster_state(lab), containers(lab)
        hosts = hosts_file.load(lab.hosts_file)
        wanted = stacks.application(hosts, reading.load(hosts.vault, ask=None))
        plain = ("docker", "stack", "deploy", "--resolve-image", "never", "-c", "-", "appstack")
        done = lab.exec("manager1", *plain, input=wanted.stack_input.encode())
        assert done.returncode == 0, done.stderr
        planned(product, code=0)
        ran = product.ok("deploy")
        assert ran.out.count("converged, nothing to change") == 2
        assert ran.out.count("kept as release 1") == 2
        assert (cluster_state(lab), containers(lab)) == before


class TestAsking:
    def test_restart_of_the_database_needs_a_yes(self, product, lab, variant, restored):
        before = cluster_state(lab), containers(lab)
        hosts = variant({"pg_db": "other"})
        ran = product.fails(2, "deploy-db", hosts=hosts)
        assert f"this would interrupt the database ({DB})" in ran.err
        assert "--yes" in ran.err
        assert (cluster_state(lab), containers(lab)) == before
        said = product.ok("deploy-db", "--yes", hosts=hosts).out
        assert re.search(rf"{DB}: updated, no task ran for \d+\.\d s", said)
        assert container_of(lab, "db1", DB) != before[1][0]

    def test_restart_that_is_hidden_needs_a_yes_too(self, product, lab, restored):
        # Only a label, but it has also sorted the mounts, and Swarm compares lists as they are.
        docker(
            lab, "manager1", "service", "update", "--detach", "--quiet", "--label-add", "a=b", DB
        )
        assert fields_of(planned(product), DB) == {"deploy.labels.a": ("b", None)}
        product.fails(2, "deploy-db")

    def test_change_without_a_restart_asks_nothing(self, product, lab, variant, restored):
        hosts = variant({"hosts": {"manager1": {"role": "app"}}})
        database = container_of(lab, "db1", DB)
        ran = product.ok("deploy-db", hosts=hosts)
        assert "role=app" in ran.out
        assert container_of(lab, "db1", DB) == database


class TestReleases:
    def test_way_back_and_forth(self, product, lab, variant, restored):
        app = container_of(lab, "app1", APP)
        first = json.loads(product.ok("releases", "--json").out)["stacks"]["dbstack"][-1]
        product.ok(*DEPLOY_DB, hosts=variant(DB_CHANGED))
        releases = json.loads(product.ok("releases", "--json").out)["stacks"]["dbstack"]
        assert [r["number"] for r in releases][-2:] == [first["number"], first["number"] + 1]
        assert releases[-1]["command"] == "deploy-db"
        assert releases[-1]["images"] == {"root_db": "swarmkeep-lab/postgres:15-bookworm"}
        product.fails(2, "rollback", "db")
        ran = product.ok("rollback", "db", "--yes")
        assert f"going back to release {first['number']}" in ran.out
        assert f"{DB}: updated" in ran.out
        planned(product, code=0)
        back = json.loads(product.ok("releases", "--json", "--stack", "db").out)["stacks"]
        assert back["dbstack"][-1]["goes_back_to"] == (first["goes_back_to"] or first["number"])
        assert "(current)" in product.ok("releases").out
        product.ok("rollback", "db", "--yes", "--to", str(first["number"] + 1))
        assert fields_of(planned(product), DB) == {"environment.POSTGRES_DB": ("other", "nocodb")}
        assert container_of(lab, "app1", APP) == app

    def test_failed_deploy_leaves_the_last_good_release_current(self, product, lab, variant):
        before = product.ok("releases").out
        hosts = variant({**DB_CHANGED, "deploy": {"timeout": "1s"}})
        ran = product.fails(1, *DEPLOY_DB, hosts=hosts)
        assert "not converged after 1 s" in ran.err
        assert product.ok("releases").out == before
        entry = json.loads(product.ok("audit", "--lines", "1", "--json").out)[0]
        assert (entry["outcome"], entry["stack"]) == ("failed", "dbstack")
        assert "not converged" in entry["error"]
        product.ok("deploy")

    def test_way_back_that_lacks_its_secret_says_so_and_what_to_do(
        self, product, lab, variant, restored
    ):
        product.ok("deploy", "--yes", hosts=variant(DB_CHANGED))
        product.ok("deploy", "--yes")
        newest = json.loads(product.ok("releases", "--json").out)["stacks"]["appstack"]
        theirs, ours = newest[-2]["secrets"], newest[-1]["secrets"]
        present = docker(lab, "manager1", "secret", "ls", "--format", "{{.Name}}").split()
        # Kept for the way back, though no service uses it.
        assert theirs != ours
        assert set(theirs) <= set(present)
        docker(lab, "manager1", "secret", "rm", *theirs)
        ran = product.fails(1, "rollback", "app")
        assert f"needs the secret {theirs[0]}, which is gone" in ran.err
        assert "--with-current-secrets" in ran.err
        product.ok("rollback", "app", "--with-current-secrets")

    def test_unknown_release_and_stack(self, product):
        assert "there is no release 999" in product.fails(1, "rollback", "app", "--to", "999").err
        product.fails(2, "rollback", "web")
        product.fails(2, "rollback", "app", "--to", "last")


def wait_until_ready(lab) -> None:
    """Until the restarted manager sees all its nodes again."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        done = lab.exec("manager1", "docker", "node", "ls", "--format", "{{.Status}}")
        if done.stdout.split() == [b"Ready"] * 3:
            return
        time.sleep(0.5)
    raise AssertionError(done)


class TestOneAtATime:
    """Each deploys something that nobody has deployed before: a restart of the database less."""

    numbers = itertools.count(1)

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def restored_at_the_end(cls, stacks) -> Iterator[None]:
        yield
        restore(stacks)

    @pytest.fixture
    def change(self) -> dict[str, Any]:
        """What restarts the database, and nothing else."""
        return {"pg_db": f"other{next(self.numbers)}"}

    def test_two_at_once(self, product, lab, variant, change):
        first = start(lab, *DEPLOY_DB, hosts=variant(change))
        read_until(first, "running (")
        ran = product.fails(
            1, "swarm.label", hosts=variant({"hosts": {"manager1": {"role": "app"}}})
        )
        assert "another deploy is running: " in ran.err
        assert "for 'deploy-db'" in ran.err
        waiting = product.ok(*DEPLOY_DB, "--wait")
        assert "waiting for " in waiting.out
        out, err = first.communicate(timeout=120)
        assert first.returncode == 0, out + err
        planned(product, code=0)

    @pytest.mark.parametrize(
        ("moment", "more", "command"),
        [
            ("checking", {}, DEPLOY_DB),
            ("plan: ", {}, DEPLOY_DB),
            ("running (", {}, DEPLOY_DB),
            ("rolling back", {"deploy": {"timeout": "1s"}}, DEPLOY_DB),
            ("dbstack: converged", CHANGED, ("deploy", "--yes")),
        ],
        ids=["checking", "planned", "waiting", "taking back", "between the stacks"],
    )
    def test_killed_client_locks_nobody_out(
        self, product, lab, variant, change, moment, more, command
    ):
        run = start(lab, *command, hosts=variant(change | more))
        read_until(run, moment)
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate(timeout=60)
        # Something else, so that it must take the lock whatever has become of the first.
        begun = time.monotonic()
        product.ok(*DEPLOY_DB, hosts=variant({"pg_db": f"other{next(self.numbers)}"}))
        assert time.monotonic() - begun < 90
        # The first one's script may be at it still.
        eventually(lambda: all("release" in name for name in records(lab)), 30)

    def test_interrupted_client_gives_the_lock_back(self, product, lab, variant, change):
        run = start(lab, *DEPLOY_DB, hosts=variant(change))
        read_until(run, "running (")
        os.killpg(run.pid, signal.SIGINT)
        run.communicate(timeout=60)
        assert run.returncode == 130
        assert [name for name in records(lab) if "release" not in name] == []
        entry = json.loads(product.ok("audit", "--lines", "1", "--json").out)[0]
        assert (entry["outcome"], entry["error"]) == ("failed", "interrupted")

    def test_unlock_frees_the_lock_of_a_client_that_sleeps(self, product, lab, variant, change):
        releases = [name for name in records(lab) if "release" in name]
        assert "nobody holds the lock" in product.ok("unlock").out
        more = variant({"hosts": {"manager1": {"role": "app"}}})
        run = start(lab, *DEPLOY_DB, hosts=variant(change))
        read_until(run, "running (")
        os.killpg(run.pid, signal.SIGSTOP)
        try:
            product.fails(1, "swarm.label", hosts=more)
            assert "--yes" in product.fails(2, "unlock").err
            assert "the lock is free" in product.ok("unlock", "--yes").out
            assert "node manager1: role=app" in product.ok("swarm.label", hosts=more).out
        finally:
            os.killpg(run.pid, signal.SIGCONT)
        out, err = run.communicate(timeout=120)
        # Somebody else may have deployed meanwhile: it says nothing of what runs now.
        assert run.returncode == 1, out + err
        assert "the deploy lock is no longer ours" in err
        assert [name for name in records(lab) if "release" in name] == releases
        entries = json.loads(product.ok("audit", "--lines", "3", "--json").out)
        assert [(e["command"], e["outcome"]) for e in entries] == [
            ("unlock", "ok"),
            ("swarm.label", "ok"),
            ("deploy-db", "failed"),
        ]

    def test_manager_restarted_while_deploying(self, product, lab, variant, change):
        run = start(lab, *DEPLOY_DB, hosts=variant(change))
        read_until(run, "running (")
        lab.restart("manager1")
        _, err = run.communicate(timeout=120)
        assert run.returncode == 3, err
        assert "manager1" in err
        wait_until_ready(lab)
        product.ok(*DEPLOY_DB, "--wait")


def test_audit_log_tells_who_did_what(product, lab, variant):
    ran = product.ok("audit", "--lines", "200")
    assert "deploy-app" in ran.out
    entries = json.loads(product.ok("audit", "--lines", "200", "--json").out)
    good = [e for e in entries if e["outcome"] == "ok" and e.get("release")]
    assert good
    assert {"time", "who", "command", "stack", "manager"} <= set(good[-1])
    assert [e["time"] for e in entries] == sorted(e["time"] for e in entries)
    text = lab.exec("manager1", "stat", "-c", "%a %U", "/var/log/swarmkeep-audit.jsonl").stdout
    assert text.decode().strip() == "600 root"
    password = yaml.safe_dump(lab.secrets["postgres_password"]).splitlines()[0]
    log = lab.exec("manager1", "cat", "/var/log/swarmkeep-audit.jsonl").stdout.decode()
    assert password not in log
    product.fails(2, "audit", "--lines", "0")
