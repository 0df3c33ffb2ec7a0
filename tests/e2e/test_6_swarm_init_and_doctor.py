"""From bare hosts to a Swarm, a private registry, drain and activate, and what doctor sees.

swarm.init and the registry run on machines of this test's own, which have only sshd; the lab's
Swarm is left as it was found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabfile.vault import encryption
from lab import docker as lab_docker
from lab import images
from lab.model import Lab
from tests.e2e.bare import INIT_SCRIPT, NUMBERS, Bare, machines
from tests.e2e.conftest import NAME, Product
from tests.e2e.live import cluster_state, container_of, docker

TOKEN = "SWMTKN"
REGISTRY_PASSWORD = "registry-pass-0123456789"
POSTGRES_PASSWORD = "postgres-pass-0123456789"
VAULT = {"file": "vault.yml", "password_file": "vault-pass"}
DB = "dbstack_root_db"
WITHOUT_ENGINE = "dpkg --purge docker.io >/dev/null 2>&1; ! command -v dockerd"
ENGINE_ANSWERS = "until docker info >/dev/null 2>&1; do sleep 0.2; done"
# The pattern matches a token, not the one who looks for it.
WATCH = """rm -f /tmp/seen; touch /tmp/watch
while [ -e /tmp/watch ]; do
  grep -la 'SWM[T]KN' /proc/[0-9]*/cmdline >>/tmp/seen 2>/dev/null; sleep 0.02
done &"""


@pytest.fixture(scope="module")
def bare(lab: Lab) -> Iterator[Bare]:
    with machines(f"{NAME}-bare") as made:
        for name in NUMBERS:
            made.configure_engine(name, {"insecure-registries": [registry_of(made)]})
        made.sh("one", WITHOUT_ENGINE)
        # Purging took it with the rest, and the package keeps a file that is there already.
        made.sh("one", "cat >/etc/init.d/docker && chmod 755 /etc/init.d/docker", input=INIT_SCRIPT)
        yield made


def registry_of(bare: Bare) -> str:
    return f"{bare.address('one')}:5000"


def nodes(bare: Bare) -> dict[str, str]:
    """Node name -> id, status and everything else that swarm.init could change."""
    ids = bare.sh("one", "docker node ls -q").split()
    found = json.loads(bare.sh("one", f"docker node inspect {' '.join(ids)}"))
    assert len({n["Description"]["Hostname"] for n in found}) == len(found)
    return {
        n["Description"]["Hostname"]: f"{n['ID']} {n['Status']['State']} {json.dumps(n['Spec'])}"
        for n in found
    }


def has_engine(bare: Bare) -> bool:
    return bare.exec("one", "which", "dockerd").returncode == 0


def on_record(product: Product, hosts: Path | None = None) -> list[tuple[str, str]]:
    """Command and outcome of every line in the log."""
    ran = product.ok("audit", "--lines", "1000", "--json", hosts=hosts)
    return [(line["command"], line["outcome"]) for line in json.loads(ran.out)]


# In the order in which a person would meet them: each test leaves what the next begins with.


def test_a_host_in_another_swarm_is_refused_before_anything_changes(product: Product, bare: Bare):
    bare.sh("three", f"service docker start && timeout 60 sh -c '{ENGINE_ANSWERS}'")
    bare.sh("three", "docker swarm init --advertise-addr eth0 >/dev/null")
    ran = product.fails(1, "swarm.init", hosts=bare.hosts())
    assert "error: three: is in another Swarm" in ran.err
    assert "next: if it shall leave that one" in ran.err
    assert not has_engine(bare)
    assert bare.exec("two", "docker", "info").returncode == 1
    bare.sh("three", "docker swarm leave --force")


def test_wrong_names_are_refused_before_anything_changes(product: Product, bare: Bare):
    ran = product.fails(1, "swarm.init", hosts=bare.hosts({"two": {"node": "other"}}))
    assert "'two'" in ran.err
    assert "hosts.two.node: two" in ran.err
    assert not has_engine(bare)


def test_dry_shows_what_would_be_done_and_does_nothing(product: Product, bare: Bare):
    ran = product.ok("--dry", "swarm.init", hosts=bare.hosts())
    assert "apt-get" in ran.out
    assert "dry run, nothing was changed" in ran.out
    assert not has_engine(bare)


def test_bare_hosts_become_a_swarm_and_nobody_sees_the_token(product: Product, bare: Bare):
    for name in NUMBERS:
        bare.sh(name, WATCH)
    ran = product.ok("swarm.init", hosts=bare.hosts())
    logged = json.loads(product.ok("audit", "--json", hosts=bare.hosts()).out)
    # What was refused before, and shown only, left no line.
    assert [(line["command"], line["outcome"]) for line in logged] == [("swarm.init", "ok")]
    assert "three: joined as worker" in logged[0]["changes"]
    assert "network backend: created" in logged[0]["changes"]
    assert "one: Docker installed" in ran.out
    assert "two: Docker started" in ran.out
    assert "three: joined as worker" in ran.out
    assert "two: joined as manager" in ran.out
    found = nodes(bare)
    assert set(found) == set(NUMBERS)
    assert all(" ready " in one for one in found.values())
    assert '"role": "db"' in found["three"]
    assert '"role": "app"' in found["one"]
    assert '"Role": "manager"' in found["two"]
    driver = "{{.Driver}} {{.Scope}} {{.Attachable}}"
    shown = bare.sh("one", f"docker network inspect -f '{driver}' backend")
    assert shown == "overlay swarm true"
    assert TOKEN not in ran.text
    for name in NUMBERS:
        bare.sh(name, "rm /tmp/watch")
        assert bare.sh(name, "cat /tmp/seen") == ""
        kept = bare.exec(name, "grep", "-rla", "SWM[T]KN", "/var/log", "/tmp", "/root", "/etc")
        assert kept.stdout == b""


def test_again_changes_nothing(product: Product, bare: Bare):
    before = nodes(bare)
    ran = product.ok("swarm.init", hosts=bare.hosts())
    assert "3 nodes: nothing to change" in ran.out
    assert nodes(bare) == before
    assert len(on_record(product, bare.hosts())) == 1


def test_what_is_half_done_is_finished(product: Product, bare: Bare):
    """A node that left, another's join that hangs for want of a manager, labels, network."""
    before = nodes(bare)
    bare.sh("three", "docker swarm leave")
    body = {
        "ListenAddr": "0.0.0.0:2377",
        "AdvertiseAddr": bare.address("three"),
        "RemoteAddrs": [f"{bare.address('one')}:2399"],
        "JoinToken": bare.sh("one", "docker swarm join-token -q worker"),
    }
    # What a client leaves that is cut off while the engine tries: it goes on trying.
    post = "timeout 3 swarm-join; docker info --format '{{.Swarm.LocalNodeState}}'"
    assert bare.sh("three", post, input=json.dumps(body).encode()) == "pending"
    bare.sh("one", "docker node update --label-rm role one && docker network rm backend")
    ran = product.ok("swarm.init", hosts=bare.hosts())
    assert "three: joined as worker" in ran.out
    assert "node three: its former self" in ran.out
    assert "node one: role=app" in ran.out
    assert "network backend: created" in ran.out
    after = nodes(bare)
    assert set(after) == set(before)
    assert after["three"].split()[0] != before["three"].split()[0]
    assert after["one"] == before["one"]
    assert after["two"] == before["two"]


def test_a_private_registry_is_used_after_logging_in_only(product: Product, bare: Bare):
    address = registry_of(bare)
    start_registry(bare)
    hosts = bare.hosts(registry=address, vault=VAULT)
    write_vault(bare, "wrong-password-0123456789")
    ran = product.fails(1, "registry.login", hosts=hosts)
    assert "vault_registry_password" in ran.err
    assert "wrong-password" not in ran.text

    image = f"{address}/private/thing:1"
    bare.sh("one", f"tar -C /etc -c hostname | docker import - {image} >/dev/null")
    assert bare.exec("one", "docker", "push", "-q", image).returncode != 0
    write_vault(bare, REGISTRY_PASSWORD)
    ran = product.ok("registry.login", hosts=hosts)
    assert ran.out.count(f"logged in to {address}") == len(NUMBERS)
    assert REGISTRY_PASSWORD not in ran.text
    bare.sh("one", f"docker push -q {image}")
    bare.sh("three", f"docker pull -q {image} && docker image rm {image} >/dev/null")

    product.ok("registry.logout", hosts=hosts)
    assert bare.exec("three", "docker", "pull", "-q", image).returncode != 0
    assert "nothing to change" in product.ok("registry.logout", hosts=hosts).out
    assert on_record(product, hosts)[-3:] == [
        ("registry.login", "failed"),
        ("registry.login", "ok"),
        ("registry.logout", "ok"),
    ]


def start_registry(bare: Bare) -> None:
    """A registry with one user, as a program on the first machine."""
    bare.sh("one", "apt-get -qq install docker-registry >/dev/null 2>&1")
    make_user = (
        # Few rounds: the registry compares the password at each request.
        "import crypt, sys; print('lab:' + crypt.crypt(sys.stdin.read(), "
        "crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))"
    )
    bare.sh(
        "one",
        f'python3 -W ignore -c "{make_user}" >/etc/docker/registry/htpasswd',
        input=REGISTRY_PASSWORD.encode(),
    )
    config = """version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/docker-registry}}
http: {addr: ":5000"}
auth: {htpasswd: {realm: lab, path: /etc/docker/registry/htpasswd}}
"""
    bare.sh("one", "cat >/etc/docker/registry/config.yml", input=config.encode())
    bare.sh(
        "one",
        "setsid docker-registry serve /etc/docker/registry/config.yml >/var/log/registry 2>&1 & "
        "timeout 20 bash -c 'until : </dev/tcp/127.0.0.1/5000; do sleep 0.1; done' 2>/dev/null",
    )


def write_vault(bare: Bare, password: str) -> None:
    entries = (
        f"vault_registry_user: lab\nvault_registry_password: '{password}'\n"
        f"vault_postgres_password: '{POSTGRES_PASSWORD}'\n"
    )
    folder = bare.lab.directory
    (folder / "vault-pass").write_text("for-the-test")
    (folder / "vault.yml").write_text(encryption.encrypt(entries.encode(), "for-the-test"))


# An image is saved, loaded, pushed and pulled, and PostgreSQL starts three times.
@pytest.mark.timeout(900)
def test_an_image_from_the_registry_is_pinned_until_told_otherwise(product: Product, bare: Bare):
    address = registry_of(bare)
    image = f"{address}/private/postgres:15-bookworm"
    hosts = bare.hosts(registry=address, vault=VAULT, images={"postgres": image})
    write_vault(bare, REGISTRY_PASSWORD)
    product.ok("registry.login", hosts=hosts)
    into = ("exec", "--interactive", bare.lab.container("one"), "docker", "load")
    lab_docker.pipe(("save", images.POSTGRES.tag), into)
    bare.sh("one", f"docker tag {images.POSTGRES.tag} {image}")
    first = push(bare, image)

    ran = product.ok("deploy-db", hosts=hosts, timeout=600)
    assert f"{DB}: created" in ran.out
    assert "warning: " not in ran.text
    assert database_of(bare) == (first, "")

    # What somebody pushes under the same name does not come by itself.
    another = f"FROM {image}\nLABEL again=yes\n"
    bare.sh("one", f"docker build --quiet --tag {image} - >/dev/null", input=another.encode())
    second = push(bare, image)
    assert second != first
    ran = product.ok("plan", "--stack", "db", hosts=hosts)
    assert ran.out.endswith("plan: nothing to do\n")
    assert "nothing to change" in product.ok("deploy-db", hosts=hosts).out
    assert database_of(bare) == (first, "")

    # The node can no longer log in by itself: it pulls with the login that goes with the service.
    bare.sh("three", f"docker logout {address}")
    ran = product.ok("deploy-db", "--resolve", "always", "--yes", hosts=hosts, timeout=600)
    assert f"{DB}: updated" in ran.out
    assert database_of(bare) == (second, "yes")

    product.ok("rollback", "db", "--yes", hosts=hosts, timeout=600)
    assert database_of(bare) == (first, "")
    ran = product.ok("releases", "--stack", "db", "--json", hosts=hosts)
    kept = [
        (release["number"], release["goes_back_to"], release["images"]["root_db"])
        for release in json.loads(ran.out)["stacks"]["dbstack"]
    ]
    assert kept == [(1, None, first), (2, None, second), (3, 1, first)]


def push(bare: Bare, image: str) -> str:
    """Push an image; returns its name with the digest that the registry gave it."""
    said = bare.sh("one", f"docker push {image}", timeout=300)
    digest = re.search(r"digest: (sha256:[0-9a-f]{64})", said)
    assert digest, said
    return f"{image}@{digest[1]}"


def database_of(bare: Bare) -> tuple[str, str]:
    """The image of the database's service, and the label `again` of what runs of it."""
    form = "{{.Spec.TaskTemplate.ContainerSpec.Image}}"
    image = docker(bare.lab, "one", "service", "inspect", "--format", form, DB)
    form = '{{with .Config.Labels}}{{index . "again"}}{{end}}'
    container = container_of(bare.lab, "three", DB)
    return image, docker(bare.lab, "three", "inspect", "--format", form, container)


# On the lab's own Swarm


def findings(text: str) -> dict[tuple[str, str], dict[str, object]]:
    return {(c["group"], c["name"]): c for c in json.loads(text)["checks"]}


def everything(lab: Lab) -> dict[str, object]:
    """The Swarm, and the settings, programs and dumps on the nodes, with their times."""
    listing = (
        "find /etc /usr/local /root /opt /home /var/backups /var/spool /var/lib/backup-pg* "
        "-printf '%p %m %s %T@\\n' 2>/dev/null | sort | sha256sum"
    )
    files = {n: lab.exec(n, "sh", "-c", listing).stdout for n in ("manager1", "db1", "app1")}
    return {"swarm": cluster_state(lab), "files": files}


def test_doctor_finds_nothing_wrong_and_changes_nothing(deployed: Product, lab: Lab):
    deployed.ok("backup.install")
    before = everything(lab)
    bucket = deployed.ok("backup.list", "--limit", "0").out.count("backup_")
    ran = deployed.ok("doctor", "--json")
    found = findings(ran.out)
    assert {group for group, _ in found} == {"here", "manager1", "db1", "app1", "swarm"}
    for name in ("db1", "app1"):
        assert found[name, "bucket"]["detail"] == "the node's AWS key reaches it"
        assert found[name, "backup"]["ok"]
    # The manager's two, and the other worker's.
    assert found["db1", "ports tcp"]["detail"] == "3 reached"
    assert "db1, app1 hear each other" in str(found["swarm", "gossip"]["detail"])
    assert everything(lab) == before
    assert deployed.ok("backup.list", "--limit", "0").out.count("backup_") == bucket


def test_doctor_shows_the_others_when_a_host_is_away(deployed: Product, variant):
    ran = deployed.fails(3, "doctor", hosts=variant({"hosts": {"app1": {"port": 1}}}))
    assert "connection refused" in ran.out
    assert "db1 holds the data" in ran.out
    assert "checks failed: app1: ssh" in ran.err


def test_doctor_sees_a_port_that_is_shut_between_two_workers(deployed: Product, lab: Lab):
    rule = ("INPUT", "-s", lab.addresses["db1"], "-p", "tcp", "--dport", "7946", "-j", "DROP")
    assert lab.exec("app1", "iptables", "-I", *rule).returncode == 0
    try:
        ran = deployed.fails(1, "doctor")
    finally:
        lab.exec("app1", "iptables", "-D", *rule)
    assert f"cannot connect to {lab.addresses['app1']}:7946" in " ".join(ran.out.split())
    assert ran.err.startswith("error: 1 of ")
    assert "checks failed: db1: ports tcp" in ran.err


def test_doctor_names_what_differs(deployed: Product, variant, tmp_path: Path):
    (tmp_path / "password").write_text("not-the-password")
    changes = {"backup": {"schedule": "@hourly"}, "hosts": {"app1": {"role": "none"}}}
    ran = deployed.fails(1, "doctor", "--json", hosts=variant(changes))
    found = findings(ran.out[: ran.out.rindex("}") + 1])
    assert "/etc/cron.d/backup-pg" in str(found["db1", "backup"]["detail"])
    assert found["db1", "backup"]["hint"] == "inv backup.install puts them right"
    assert ("app1", "backup") not in found
    assert "app1 needs -role" in str(found["swarm", "labels"]["detail"])
    locked = variant({"vault": {"password_file": str(tmp_path / "password")}})
    ran = deployed.fails(1, "doctor", hosts=locked)
    assert "here: vault" in ran.err
    assert "manager manager1" in ran.out


def test_the_node_with_the_data_is_not_drained_by_accident(deployed: Product, lab: Lab):
    before, logged = cluster_state(lab), on_record(deployed)
    ran = deployed.fails(1, "swarm.drain", "db1")
    assert "error: db1: holds the data" in ran.err
    assert "inv swarm.drain db1 --force" in ran.err
    ran = deployed.fails(2, "swarm.drain", "nobody")
    assert "the nodes are: app1, db1, manager1" in ran.err
    assert cluster_state(lab) == before
    assert on_record(deployed) == logged


def test_a_node_is_drained_and_works_again(deployed: Product, lab: Lab):
    before = cluster_state(lab)
    try:
        ran = deployed.ok("swarm.drain", "app1")
        assert "app1: no task is left on it" in ran.out
        assert "appstack_nocodb: 0/1 running" in ran.out
        running = docker(lab, "app1", "ps", "-q", "--filter", "label=com.docker.swarm.task")
        assert running == ""
        assert "app1: is drained already" in deployed.ok("swarm.drain", "app1").out
        ran = deployed.fails(1, "doctor")
        assert "inv swarm.activate app1" in ran.text
        ran = deployed.fails(1, "deploy-app")
        assert "app1 is ready/drain" in ran.err
        assert "next: let it work again: inv swarm.activate app1" in ran.err
    finally:
        ran = deployed.ok("swarm.activate", "app1")
    assert "appstack_nocodb: 1/1 running" in ran.out
    after = cluster_state(lab)
    assert on_record(deployed)[-2:] == [("swarm.drain app1", "ok"), ("swarm.activate app1", "ok")]
    # The tasks are others, and each service is at the version it was.
    assert {**after, "tasks": None} == {**before, "tasks": None}
    deployed.ok("status")
