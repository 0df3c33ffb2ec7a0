"""The lab itself: left alone when healthy, repaired when half-dead, gone without a trace.

Everything is done to a second lab, beside the one that the other tests use.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab import cluster, images, namespaces, s3, waiting
from lab import docker as outer
from lab.model import MEMBERS, NODES, S3, Lab, directory_of
from tests.e2e.conftest import NAME, product_for
from tests.e2e.live import cluster_state, docker

SECOND = f"{NAME[:30]}-b"
STRANGER = f"{NAME}-stranger"
KEPT_FILES = ("credentials.json", "vault.yml", "vault-password", "id_ed25519", "hosts.yaml")
OBJECT = "files/kept/object"


@pytest.fixture(scope="module")
def strangers(lab):
    """A container, a network and a volume of somebody else's, and what Docker knows of them."""
    outer.run("network", "create", STRANGER)
    outer.run("volume", "create", STRANGER)
    outer.run(
        *(
            "run",
            "--detach",
            "--init",
            "--no-healthcheck",
            "--name",
            STRANGER,
            "--network",
            STRANGER,
        ),
        *("--volume", f"{STRANGER}:/data", images.NODE.tag, "tail", "-f", "/dev/null"),
    )

    def look() -> list[Any]:
        container, *others = (
            outer.inspect(kind, STRANGER) for kind in ("container", "network", "volume")
        )
        # Docker lists them in another order each time.
        container["Mounts"].sort(key=lambda mount: mount["Destination"])
        return [container, *others]

    yield look
    outer.run("container", "rm", "--force", "--volumes", STRANGER)
    outer.run("network", "rm", STRANGER)
    outer.run("volume", "rm", STRANGER)


@pytest.fixture(scope="module")
def neighbours(lab, strangers):
    """Everything on this machine that the second lab must not touch, to compare."""

    def look() -> dict[str, Any]:
        return {
            "strangers": strangers(),
            "containers": containers(lab),
            "cluster": cluster_state(lab),
            "files": contents(lab.directory),
        }

    return look, look()


@pytest.fixture(scope="module")
def second(product, neighbours):
    cluster.down(SECOND, say=print)
    product.ok("lab.up", "--name", SECOND)
    yield Lab.load(SECOND)
    cluster.down(SECOND, say=print)


@pytest.fixture
def own(second):
    """The product's commands for the second lab, as its keys are now."""
    return product_for(second)


def containers(lab: Lab) -> dict[str, tuple[str, str]]:
    """Member -> (id, since when it runs)."""
    found = {member: outer.inspect("container", lab.container(member)) for member in MEMBERS}
    return {m: (c["Id"], c["State"]["StartedAt"]) if c else ("", "") for m, c in found.items()}


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Each file's time of change and content."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def swarm_id(lab: Lab) -> str:
    return docker(lab, "manager1", "info", "--format", "{{.Swarm.Cluster.ID}}")


def status(product, code: int) -> dict[str, Any]:
    ran = product.inv("lab.status", "--name", SECOND, "--json")
    assert ran.code == code
    found: dict[str, Any] = json.loads(ran.out)
    return found


def ready(lab: Lab) -> list[str]:
    lines = docker(lab, "manager1", "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
    return sorted(lines.splitlines())


def test_a_lab_that_was_never_made(product):
    ran = product.fails(2, "lab.status", "--name", "never-made")
    assert "inv lab.up --name never-made" in ran.err
    assert "nothing to do" in product.ok("lab.down", "--name", "never-made").out
    assert not directory_of("never-made").exists()
    product.fails(2, "lab.up", "--name", "Not/A/Name")


def test_a_command_in_a_node_is_as_docker_exec_runs_it(lab):
    """Though its namespaces are entered without asking the engine."""
    container = lab.container("db1")
    assert namespaces.of(container), "root on a machine with an engine of its own can enter them"
    commands = [
        ("sh", "-c", "pwd; id; hostname; env | sort; readlink /proc/self/ns/*; cat"),
        ("sh", "-c", "echo said; echo wrong >&2; exit 7"),
        ("sh", "-c", "kill -KILL $$"),
        ("sh", "-c", "sleep 60 & echo its-output-stays-open"),
    ]
    for command in commands:
        done = lab.exec("db1", *command, input=b"given", timeout=30)
        theirs = outer.attempt("exec", "-i", container, *command, input=b"given", timeout=30)
        assert (done.returncode, done.stdout) == (theirs.returncode, theirs.stdout)
        assert done.stderr == theirs.stderr
    lab.exec("db1", "pkill", "-x", "sleep")
    lab.restart("db1")
    assert lab.exec("db1", "hostname").stdout == b"db1\n"


@pytest.mark.parametrize("kind", ["container", "network"])
def test_somebody_elses_things_under_our_name_are_refused_and_stay(product, lab, kind):
    taken = f"{NAME[:20]}-taken"
    name = {"container": f"{taken}-app1", "network": f"{taken}-lab"}[kind]
    outer.run(
        kind, "create", *(["--name", name, images.NODE.tag] if kind == "container" else [name])
    )
    try:
        ran = product.fails(1, "lab.up", "--name", taken)
        assert f"{name} that is not this lab's" in ran.err
        product.ok("lab.down", "--name", taken)
        assert outer.inspect(kind, name)
        assert not outer.ids("container", f"swarmkeep.lab={taken}")
        assert not directory_of(taken).exists()
    finally:
        # The image has a volume, which would stay without its container.
        outer.run(kind, "rm", *(["--volumes"] if kind == "container" else []), name)


def test_two_labs_stand_beside_each_other(second, lab, own):
    assert status(own, 0)["ok"]
    assert cluster.status(lab.name)["ok"]
    assert second.subnet != lab.subnet
    assert swarm_id(second) != swarm_id(lab)
    assert not {i for i, _ in containers(second).values()} & {
        i for i, _ in containers(lab).values()
    }
    # Keys of the one open nothing of the other.
    assert "InvalidAccessKeyId" in s3.look(lab, second.secrets)
    done = subprocess.run(
        ["docker", "exec", second.container("manager1"), "cat", "/root/.ssh/authorized_keys"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (second.directory / "id_ed25519.pub").read_text() == done.stdout
    assert (lab.directory / "id_ed25519.pub").read_text() != done.stdout


def test_the_commands_reach_every_node_of_it(own):
    ran = own.inv("status")
    assert ran.code == 1
    assert "dbstack: not deployed" in ran.out


def test_up_on_a_healthy_lab_changes_nothing(own, second):
    def look() -> tuple[Any, ...]:
        return containers(second), contents(second.directory), swarm_id(second), ready(second)

    before = look()
    ran = own.ok("lab.up", "--name", SECOND, timeout=60)
    assert look() == before
    for outcome in ("runs", "Swarm: complete", "images: all there", "app1: runs", "s3: runs"):
        assert outcome in ran.out
    assert ": there" in ran.out
    assert "loaded" not in ran.out


def test_status_for_people_and_for_programs(own, second):
    ran = own.ok("lab.status", "--name", SECOND)
    assert ran.out.count("healthy") == len(MEMBERS) + 1
    assert str(second.directory / "env") in ran.out
    found = status(own, 0)
    assert [c["name"] for c in found["containers"]] == list(MEMBERS)
    assert {n["hostname"]: n["status"] for n in found["swarm"]} == dict.fromkeys(NODES, "Ready")
    assert found["s3"] == {"url": second.s3_url, "bucket": second.bucket}


def test_a_half_dead_lab_is_repaired_and_keeps_everything(own, second):
    keys = second.secrets
    store = s3.client(second, keys[s3.NODE])
    store.put_object(Bucket=second.bucket, Key=OBJECT, Body=b"still here")
    made = second.exec("manager1", "docker", "secret", "create", "kept", "-", input=b"hidden")
    assert made.returncode == 0, made.stderr
    before = swarm_id(second), docker(second, "manager1", "secret", "ls", "-q")
    files = {name: (second.directory / name).read_bytes() for name in KEPT_FILES}
    hosts = (second.directory / "known_hosts").read_text().splitlines()

    # As when the machine lost power; a node whose engine alone died; one that is no more.
    outer.run("kill", "--signal", "KILL", second.container("manager1"), second.container(S3))
    second.exec("db1", "pkill", "-KILL", "-x", "dockerd")
    outer.run("container", "rm", "--force", "--volumes", second.container("app1"))
    assert not waiting.until(
        lambda: "" if state(second, "db1") == "exited" else "runs", deadline=30
    )
    found = status(own, 1)
    assert not found["ok"]
    assert {c["name"]: c["problem"] for c in found["containers"]} == {
        "manager1": "exited", "db1": "exited", "app1": "missing", S3: "exited",
    }  # fmt: skip
    assert f"inv lab.up --name {SECOND} repairs it" in own.inv("lab.status", "--name", SECOND).out

    ran = own.ok("lab.up", "--name", SECOND)
    for outcome in ("manager1: started", "db1: started", "app1: made", "s3: started"):
        assert outcome in ran.out
    assert status(own, 0)["ok"]
    assert (swarm_id(second), docker(second, "manager1", "secret", "ls", "-q")) == before
    assert ready(second) == [f"{node} Ready" for node in sorted(NODES)]
    assert store.get_object(Bucket=second.bucket, Key=OBJECT)["Body"].read() == b"still here"
    assert {name: (second.directory / name).read_bytes() for name in KEPT_FILES} == files
    # The new app1 has host keys of its own, the others keep theirs.
    now = (second.directory / "known_hosts").read_text().splitlines()
    address = second.addresses["app1"]
    assert [h for h in now if address not in h] == [h for h in hosts if address not in h]
    assert not {h for h in now if address in h} & set(hosts)
    assert "dbstack: not deployed" in own.inv("status").out


def state(lab: Lab, member: str) -> str:
    found = outer.inspect("container", lab.container(member))
    return str(found["State"]["Status"]) if found else "missing"


def test_a_lost_manager_and_a_lost_store_are_made_anew(own, second):
    swarm, keys = swarm_id(second), second.secrets
    hosts_file = second.hosts_file.read_bytes()
    # With their volumes: Swarm and objects are gone for good.
    gone = [second.container(member) for member in ("manager1", S3)]
    outer.run("container", "rm", "--force", "--volumes", *gone)
    outer.run("pause", second.container("db1"))
    ran = own.ok("lab.up", "--name", SECOND)
    assert "db1: unpaused" in ran.out
    assert "Swarm: begun on manager1, db1 joined, app1 joined" in ran.out
    assert swarm_id(second) != swarm
    assert ready(second) == [f"{node} Ready" for node in sorted(NODES)]
    now = second.secrets
    assert now["postgres_password"] == keys["postgres_password"]
    assert now[s3.NODE] != keys[s3.NODE]
    assert second.hosts_file.read_bytes() == hosts_file
    # The vault carries the new keys, and opens as before.
    fresh = product_for(second)
    view = [Path(sys.executable).with_name("ansible-vault"), "view", "vault.yml"]
    shown = subprocess.run(
        [*view, "--vault-password-file", "vault-password"],
        cwd=second.directory, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert now[s3.NODE]["secret_key"] in shown.stdout
    assert status(fresh, 0)["ok"]


def test_down_leaves_nothing_behind(own, second, neighbours):
    label = f"swarmkeep.lab={SECOND}"
    volumes = outer.ids("volume", label)
    assert len(volumes) >= len(MEMBERS)
    ran = own.ok("lab.down", "--name", SECOND)
    assert f"lab {SECOND} is gone" in ran.out
    for kind in ("container", "network", "volume"):
        assert outer.ids(kind, label) == []
    assert not set(volumes) & set(outer.run("volume", "ls", "--quiet").split())
    assert not second.directory.exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/swarmkeep-lab/{SECOND}"))
    assert "nothing to do" in own.ok("lab.down", "--name", SECOND).out
    # And all of this has changed nothing of what stands beside it.
    look, before = neighbours
    assert look() == before
