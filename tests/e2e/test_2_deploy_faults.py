"""Deploys that cannot work: refused before any change, or taken back, with the reason shown."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.e2e.conftest import ROOT
from tests.e2e.live import APP, DB, cluster_state, container_of, docker


@pytest.fixture(scope="module", autouse=True)
def stacks(deployed):
    return deployed


@pytest.fixture
def unchanged(lab):
    """The test's commands leave the whole cluster as it was."""
    before = cluster_state(lab), container_of(lab, "db1", DB), container_of(lab, "app1", APP)
    yield
    after = cluster_state(lab), container_of(lab, "db1", DB), container_of(lab, "app1", APP)
    assert after == before


@pytest.fixture
def image(lab):
    """Makes an image on the app node that runs a script instead of NocoDB."""
    made = []

    def make(name: str, script: str) -> str:
        tag = f"swarmkeep-lab/{name}:test"
        entry = f'FROM swarmkeep-lab/nocodb:0.301.3\nENTRYPOINT ["sh", "-c", "{script}"]\nCMD []\n'
        done = lab.exec("app1", "docker", "build", "-q", "-t", tag, "-", input=entry.encode())
        assert done.returncode == 0, done.stderr
        made.append(tag)
        return tag

    yield make
    for tag in made:
        docker(lab, "app1", "rmi", "-f", tag)


@pytest.mark.usefixtures("unchanged")
class TestRefusedBeforeAnyChange:
    def test_hosts_file_with_mistakes_names_them_all(self, product, variant):
        hosts = variant({"hosts": {"db1": {"adress": "x"}}, "app": {"port": "high"}})
        ran = product.fails(2, "deploy-app", hosts=hosts)
        assert "2 mistakes" in ran.err
        assert "hosts.db1.adress: unknown key, did you mean 'address'?" in ran.err
        assert "app.port" in ran.err

    def test_wrong_vault_password(self, product, variant, tmp_path):
        (tmp_path / "password").write_text("wrong")
        hosts = variant({"vault": {"password_file": str(tmp_path / "password")}})
        assert "the password is wrong" in product.fails(2, "deploy-app", hosts=hosts).err

    def test_missing_vault_entry(self, product, variant, lab, tmp_path):
        from fabfile.vault.reading import encrypt

        (tmp_path / "vault.yml").write_text(encrypt(b"other: x\n", lab.secrets["vault_password"]))
        hosts = variant({"vault": {"file": str(tmp_path / "vault.yml")}})
        ran = product.fails(2, "deploy-app", hosts=hosts)
        assert "vault_postgres_password" in ran.err

    def test_host_that_is_no_manager(self, product, variant):
        roles = {"manager1": {"swarm": "worker"}, "db1": {"swarm": "manager"}}
        ran = product.fails(1, "deploy-app", hosts=variant({"hosts": roles}))
        assert "db1: is not a Swarm manager" in ran.err

    def test_unknown_node_name(self, product, variant):
        hosts = variant({"hosts": {"app1": {"node": "app-one"}}})
        ran = product.fails(1, "deploy-app", hosts=hosts)
        assert "hosts.app1: the Swarm has no node 'app-one'" in ran.err
        assert "app1, db1, manager1" in ran.err

    def test_image_that_does_not_exist(self, product, variant):
        hosts = variant({"images": {"nocodb": "swarmkeep-lab/no-such:1"}})
        ran = product.fails(1, "deploy-app", hosts=hosts)
        assert "app1: pulling the image swarmkeep-lab/no-such:1 failed" in ran.err

    def test_network_with_the_wrong_driver(self, product, variant, lab):
        docker(lab, "manager1", "network", "create", "wrongnet")
        try:
            ran = product.fails(1, "deploy-app", hosts=variant({"network": "wrongnet"}))
        finally:
            docker(lab, "manager1", "network", "rm", "wrongnet")
        assert "network 'wrongnet' exists but is wrong: driver bridge instead of overlay" in ran.err

    def test_database_moved_away_from_its_data(self, product, variant, lab):
        hosts = variant(
            {"hosts": {"app1": {"role": "db"}}, "db": {"data_host": "app1"}},
        )
        ran = product.fails(1, "deploy-db", hosts=hosts)
        assert "its data is on node 'db1'" in ran.err

    def test_unknown_host_key(self, product, variant, tmp_path):
        (tmp_path / "known_hosts").touch()
        hosts = variant({"ssh": {"known_hosts": str(tmp_path / "known_hosts")}})
        ran = product.fails(3, "deploy-app", hosts=hosts)
        assert "unknown host key" in ran.err
        assert "ssh-keyscan" in ran.err

    def test_changed_host_key(self, product, variant, lab, tmp_path):
        lines = (lab.directory / "known_hosts").read_text().splitlines()
        keys = [line.split(" ", 1)[1] for line in lines]
        swapped = [f"{line.split(' ', 1)[0]} {keys[i - 1]}" for i, line in enumerate(lines)]
        (tmp_path / "known_hosts").write_text("\n".join(swapped) + "\n")
        hosts = variant({"ssh": {"known_hosts": str(tmp_path / "known_hosts")}})
        assert "host key has CHANGED" in product.fails(3, "deploy-app", hosts=hosts).err

    def test_wrong_ssh_key(self, product, variant, tmp_path):
        key = str(tmp_path / "key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        ran = product.fails(3, "deploy-app", hosts=variant({"ssh": {"key": key}}))
        assert "refused the login of user 'root'" in ran.err

    def test_sudo_that_refuses(self, product, variant, lab):
        lab.exec("manager1", "useradd", "-m", "nobody-special")
        lab.exec("manager1", "cp", "-r", "/root/.ssh", "/home/nobody-special/")
        lab.exec("manager1", "chown", "-R", "nobody-special", "/home/nobody-special/.ssh")
        hosts = variant({"ssh": {"user": "nobody-special", "become": True}})
        try:
            ran = product.fails(3, "swarm.label", hosts=hosts)
        finally:
            lab.exec("manager1", "userdel", "-r", "nobody-special")
        assert "sudo" in ran.err

    def test_port_closed(self, product, variant):
        ran = product.fails(3, "deploy-app", hosts=variant({"hosts": {"manager1": {"port": 2222}}}))
        assert "connection refused" in ran.err


def test_app_that_crashes_at_start_is_removed_again_and_its_log_shown(product, lab, variant, image):
    before = cluster_state(lab)
    # Also prints the connection it was given: our output must not.
    crash = image("crash", "echo sorry, no luck; cat /run/secrets/nocodb_database; exit 3")
    hosts = variant(
        {
            "project": "two",
            "images": {"nocodb": crash},
            "stacks": {"app": "newstack"},
            "app": {"port": 8091},
        }
    )
    ran = product.fails(1, "deploy-app", hosts=hosts)
    assert "newstack_nocodb: its task failed 3 times: task: non-zero exit (3)" in ran.err
    assert "sorry, no luck" in ran.err
    assert "[redacted]" in ran.err
    assert cluster_state(lab) == before


def test_update_that_rolls_back_is_a_failure(product, lab, variant, image):
    before = cluster_state(lab)
    hosts = variant({"images": {"nocodb": image("crash", "echo no luck at all; exit 4")}})
    ran = product.fails(1, "deploy-app", hosts=hosts)
    assert "appstack_nocodb: the update was rolled back" in ran.err
    assert "non-zero exit (4)" in ran.err
    assert "no luck at all" in ran.err
    after = cluster_state(lab)
    assert after["services"] == before["services"]
    assert after["secrets"] == before["secrets"]
    assert "nothing to change" in product.ok("deploy-app").out


def test_health_check_that_never_passes_ends_at_the_deadline(product, lab, variant, image):
    before = cluster_state(lab)
    hosts = variant(
        {
            "images": {
                "nocodb": image("sleeper", "trap exit TERM; echo asleep; sleep infinity & wait")
            },
            "deploy": {"timeout": "15s"},
        }
    )
    ran = product.fails(1, "deploy-app", hosts=hosts)
    assert "not converged after 15 s, 0/1 running, its newest task is starting" in ran.err
    assert "asleep" in ran.err
    assert cluster_state(lab)["services"] == before["services"]
    assert "nothing to change" in product.ok("deploy-app").out


def test_connection_cut_while_waiting_can_be_run_again(product, lab, with_database):
    hosts = with_database({"pg_db": "cut"})
    run = subprocess.Popen(
        [sys.executable, "-m", "invoke", "deploy-db", "--yes"],
        cwd=ROOT,
        env=lab.environment() | {"SWARMKEEP_HOSTS": str(hosts)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout
    end = time.monotonic() + 60
    for line in run.stdout:
        if "running (" in line or time.monotonic() > end:
            break
    lab.exec("manager1", "pkill", "-f", "sshd: root@notty")
    _, err = run.communicate(timeout=120)
    assert run.returncode == 3, err
    assert "manager1" in err
    assert "Traceback" not in err
    product.ok("deploy-db", "--yes", hosts=hosts)
    product.ok("deploy-db", "--yes")
