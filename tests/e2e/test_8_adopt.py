"""NocoDB that runs already: looked at, rehearsed, moved, undone, moved again; cut off and broken.

The source is what people have: one stack with both services, or a compose project with bind
mounts. What is moved is read through NocoDB's own API afterwards, with the same login and token.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabfile.s3.policies import policies
from lab import docker as engine
from lab import s3
from lab.model import NOCODB_PORT, REGION, Lab
from lab.nocodb_api import NocoDB
from tests.e2e import nocodb_data
from tests.e2e.background import read_until, start
from tests.e2e.conftest import empty
from tests.e2e.live import cluster_state, docker, eventually

NAME, STACK, PORT = "moved", "noco", NOCODB_PORT + 7
DB, APP = f"{NAME}-dbstack_root_db", f"{NAME}-appstack_nocodb"
FOLDER = "/srv/noco"
LOGIN = ("ann@noco.example.com", secrets.token_urlsafe(18))
HIDDEN = {name: secrets.token_urlsafe(24) for name in ("jwt", "database", "mail")}


def environment(host: str) -> dict[str, str]:
    """The source's NocoDB's."""
    return {
        "NC_DB": f"pg://{host}:5432?u=postgres&p={HIDDEN['database']}&d=root_db",
        "NC_AUTH_JWT_SECRET": HIDDEN["jwt"],
        "NC_SMTP_PASSWORD": HIDDEN["mail"],
        "NC_REDIS_URL": "",  # as compose files write what is not set
    }


def images(lab: Lab) -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load(lab.hosts_file.read_text())["images"]
    return found


def stack_file(lab: Lab) -> bytes:
    """Both services in one file, as `docker stack deploy` takes it."""
    on = lambda node: {  # noqa: E731
        "endpoint_mode": "dnsrr", "placement": {"constraints": [f"node.hostname == {node}"]},
    }  # fmt: skip
    return yaml.safe_dump(
        {
            "version": "3.8",
            "services": {
                "root_db": {
                    "image": images(lab)["postgres"],
                    "environment": {
                        "POSTGRES_DB": "root_db", "POSTGRES_USER": "postgres",
                        "POSTGRES_PASSWORD": HIDDEN["database"],
                    },
                    "volumes": ["db_data:/var/lib/postgresql/data"],
                    "deploy": on("db1"),
                },
                "nocodb": {
                    "image": images(lab)["nocodb"],
                    "environment": environment("root_db"),
                    "volumes": ["nc_data:/usr/app/data"],
                    "ports": [{"target": 8080, "published": PORT, "mode": "host"}],
                    "deploy": on("app1"),
                },
                "cache": {
                    "image": images(lab)["postgres"],
                    "entrypoint": ["sleep", "infinity"],
                    "deploy": on("db1"),
                },
            },
            "volumes": {"db_data": {}, "nc_data": {}},
        }
    ).encode()  # fmt: skip


@pytest.fixture(scope="module")
def hosts(lab, bucket, product) -> Iterator[Path]:
    """The hosts file of a project whose stacks are empty yet; its vault has a key of its own."""
    empty(bucket, lab, f"{NAME}/")
    vault = lab.directory / f"vault-{NAME}.yml"
    vault.write_bytes((lab.directory / "vault.yml").read_bytes())
    data = yaml.safe_load(lab.hosts_file.read_text())
    for key in ("stacks", "db_service_name"):
        data.pop(key)
    data |= {"project": NAME, "vault": data["vault"] | {"file": vault.name}}
    data["app"] |= {"port": PORT}
    data["app"].pop("public_url", None)
    path = lab.directory / f"hosts-{NAME}.yaml"
    path.write_text("# mine\n" + yaml.safe_dump(data))
    product.ok("secrets.set", "vault_name_key", hosts=path, stdin=secrets.token_hex(16))
    node = {"Principal": s3.principal(s3.NODE)}
    policy = json.loads(s3.policy(lab.bucket))
    printed = policies(lab.bucket, REGION, prefix=f"{NAME}/")["node"]["Statement"]
    policy["Statement"] += [{**one, **node} for one in printed]
    bucket.put_bucket_policy(Bucket=lab.bucket, Policy=json.dumps(policy))
    yield path
    product.ok("backup.uninstall", hosts=path)
    remove_stacks(lab, f"{NAME}-appstack", f"{NAME}-dbstack")
    remove_volumes(lab, f"{NAME}-")
    for node_name in ("db1", "app1"):
        found = json.loads(docker(lab, "manager1", "node", "inspect", node_name))[0]
        ours = [key for key in found["Spec"]["Labels"] if NAME in key]
        words = [word for key in ours for word in ("--label-rm", key)]
        docker(lab, "manager1", "node", "update", *words, node_name)
    bucket.put_bucket_policy(Bucket=lab.bucket, Policy=s3.policy(lab.bucket))
    empty(bucket, lab, f"{NAME}/")
    lab.exec("db1", "rm", "-f", f"/var/lib/swarmkeep-adopted-{NAME}.json")
    vault.unlink()
    path.unlink()


RUNTIME = ("--runtime", "runc")
"""As users have it. The crun of the lab's nodes cannot do `docker update` with cgroup v1."""


def load(lab: Lab, image: str, member: str) -> None:
    """Put an image on a node, as if it had been pulled."""
    engine.pipe(("save", image), ("exec", "--interactive", lab.container(member), "docker", "load"))


def remove_stacks(lab: Lab, *names: str) -> None:
    """Remove stacks with all their containers. A network goes once no task is left in it."""
    words = ["docker", "stack", "rm", *names]
    eventually(lambda: lab.exec("manager1", *words).returncode == 0)
    eventually(lambda: not any(tasks(lab, f"{name}_") for name in names))


def tasks(lab: Lab, prefix: str) -> str:
    """Ids of all containers of services with such a name, running or not."""
    found = ""
    for member in ("db1", "app1"):
        names = docker(lab, member, "ps", "-a", "--format",
                       '{{.ID}} {{.Label "com.docker.swarm.service.name"}}')  # fmt: skip
        found += "".join(
            one for one, _, name in (line.partition(" ") for line in names.splitlines())
            if name.startswith(prefix)
        )  # fmt: skip
    return found


def remove_volumes(lab: Lab, prefix: str) -> None:
    for member in ("db1", "app1"):
        for name in docker(lab, member, "volume", "ls", "-q").split():
            if name.startswith(prefix):
                docker(lab, member, "volume", "rm", name)


def server(lab: Lab) -> NocoDB:
    return NocoDB(f"http://{lab.addresses['app1']}:{PORT}")


def answers(lab: Lab) -> bool:
    try:
        server(lab).sign_in(*LOGIN)
    except Exception:  # noqa: BLE001 - whatever it is, it does not answer
        return False
    return True


@pytest.fixture(scope="module")
def noco(deployed, lab, hosts) -> Iterator[nocodb_data.Data]:
    """The one stack, with two bases, links, an attachment, a token, a shared view."""
    done = lab.exec("manager1", "docker", "stack", "deploy", "-c", "-", STACK,
                    input=stack_file(lab))  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    yield first_use(lab)
    remove_stacks(lab, STACK)
    remove_volumes(lab, f"{STACK}_")


def first_use(lab: Lab) -> nocodb_data.Data:
    def signed_up() -> bool:
        try:
            server(lab).sign_up(*LOGIN)
        except Exception:  # noqa: BLE001
            return answers(lab)
        return True

    eventually(signed_up)
    one = server(lab)
    one.sign_in(*LOGIN)
    return nocodb_data.fill(one)


def psql(lab: Lab, service: str, sql: str, database: str = "root_db") -> str:
    """SQL in the running task of a service on db1, by its superuser."""
    label = f"label=com.docker.swarm.service.name={service}"
    container = docker(lab, "db1", "ps", "-q", "--filter", label)
    return docker(lab, "db1", "exec", container, "psql", "-XAtq", "-U", "postgres", "-d", database,
                  "-c", sql)  # fmt: skip


def is_as_it_was(lab: Lab, data: nocodb_data.Data) -> bool:
    """The source's NocoDB answers, with all that is in it, and nothing of an attempt is left."""
    eventually(lambda: answers(lab))
    spec = json.loads(docker(lab, "manager1", "service", "inspect", f"{STACK}_nocodb"))[0]["Spec"]
    assert spec["Mode"]["Replicated"]["Replicas"] == 1
    assert spec["EndpointSpec"]["Ports"][0]["PublishedPort"] == PORT
    assert nocodb_data.read(server(lab), LOGIN, data) == data
    assert "_before_adopt" not in psql(lab, DB, "SELECT datname FROM pg_database")
    return True


def hides(text: str) -> None:
    assert not [name for name, value in HIDDEN.items() if value in text]


def test_what_is_no_postgresql_is_told(product, lab, hosts, deployed):
    """A single container on SQLite, which is what NocoDB does when nobody says anything."""
    docker(lab, "app1", "run", "--detach", "--name", "lite", images(lab)["nocodb"])
    try:
        ran = product.fails(2, "adopt", "--from", "container:app1:lite", "--plan", hosts=hosts)
        assert "has its data in SQLite" in ran.err
        assert "docs/adopt.md" in ran.err
    finally:
        docker(lab, "app1", "rm", "--force", "--volumes", "lite")
    ran = product.fails(2, "adopt", "--from", "container:app1:nobody", "--plan", hosts=hosts)
    assert "has no NocoDB" in ran.err
    product.fails(2, "adopt", hosts=hosts)
    product.fails(2, "adopt", "--from", "stack:x", "--undo", hosts=hosts)
    product.fails(2, "adopt", "--from", f"stack:{NAME}-appstack", "--plan", hosts=hosts)


def test_plan_tells_and_writes(product, lab, hosts, noco):
    before = cluster_state(lab)
    text = hosts.read_text()
    ran = product.ok("adopt", "--from", f"stack:{STACK}", "--plan", hosts=hosts)
    hides(ran.text)
    for word in ("noco_nocodb on app1", "noco_root_db on db1", "database root_db, NocoDB's",
                 "NC_AUTH_JWT_SECRET, NC_SMTP_PASSWORD", "1 files", "noco_cache",
                 "pg_user: postgres", "pg_db: root_db"):  # fmt: skip
        assert word in ran.out, word
    assert hosts.read_text() == text
    # Nothing is moved to where hosts.yaml does not say.
    product.ok("adopt", "--from", f"stack:{STACK}", "--plan", "--write", hosts=hosts)
    says = yaml.safe_load(hosts.read_text())
    assert (says["pg_db"], says["pg_user"]) == ("root_db", "postgres")
    assert hosts.read_text().startswith("# mine\n")
    entry = ("--name", "vault_nocodb_environment", "--reveal")
    seen = json.loads(product.ok("secrets.view", *entry, hosts=hosts).out)
    assert seen == {"NC_AUTH_JWT_SECRET": HIDDEN["jwt"], "NC_SMTP_PASSWORD": HIDDEN["mail"]}
    assert cluster_state(lab) == before
    ran = product.ok("adopt", "--from", f"stack:{STACK}", "--plan", hosts=hosts)
    assert "fits" in ran.out


def test_rehearsed_beside(product, lab, hosts, noco):
    product.fails(1, "adopt", "--from", f"stack:{STACK}", "--rehearse", hosts=hosts)
    product.ok("deploy-db", hosts=hosts)
    product.ok("backup.install", hosts=hosts)
    psql(lab, f"{STACK}_root_db", "CREATE ROLE reader LOGIN PASSWORD 'x'; "
         "GRANT SELECT ON nc_users_v2 TO reader; SELECT lo_from_bytea(0, 'large')")  # fmt: skip
    before = cluster_state(lab)
    if not docker(lab, "db1", "image", "ls", "-q", images(lab)["nocodb"]):
        ran = product.fails(1, "adopt", "--from", f"stack:{STACK}", "--rehearse", hosts=hosts)
        assert "pulling the image" in ran.err
        load(lab, images(lab)["nocodb"], "db1")
    ran = product.ok("adopt", "--from", f"stack:{STACK}", "--rehearse", hosts=hosts)
    assert "NocoDB answers from the copy" in ran.out
    assert "nothing was changed" in ran.out
    assert cluster_state(lab) == before
    assert "reader" not in psql(lab, DB, "SELECT rolname FROM pg_roles")
    assert docker(lab, "db1", "ps", "-aq", "--filter", f"label=swarmkeep.adopt.{NAME}") == ""
    is_as_it_was(lab, noco)


def test_refused_before_anything_is_changed(product, lab, hosts, noco, tmp_path):
    before = cluster_state(lab)
    source = ("adopt", "--from", f"stack:{STACK}")
    ran = product.fails(2, *source, hosts=hosts)
    assert "there is no terminal to ask on" in ran.err
    other = lab.directory / f"hosts-{NAME}-other.yaml"
    other.write_text(hosts.read_text().replace("pg_user: postgres", "pg_user: somebody"))
    try:
        assert "pg_user: postgres" in product.fails(2, *source, "--yes", hosts=other).err
    finally:
        other.unlink()
    psql(lab, DB, "CREATE TABLE mine (n int)")
    ran = product.fails(2, *source, "--yes", hosts=hosts)
    assert "database root_db is not empty; nothing was changed" in ran.err
    psql(lab, DB, "DROP TABLE mine")
    assert cluster_state(lab) == before


@pytest.mark.parametrize("word", ["stopping", "copying database", "compared: "])
def test_a_client_that_is_killed_leaves_the_source_as_it_was(product, lab, hosts, noco, word):
    run = start(lab, "adopt", "--from", f"stack:{STACK}", "--yes", hosts=hosts)
    hides(read_until(run, word))
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    # Killed while it was stopping, its guard goes on, and only then starts the source again.
    eventually(lambda: lab.exec("manager1", "pgrep", "-f", f"{STACK}_nocodb").returncode == 1, 180)
    eventually(lambda: answers(lab))
    product.ok("unlock", "--yes", hosts=hosts)
    nocodb_data.read(server(lab), LOGIN, noco)


def test_an_app_that_does_not_start_is_taken_back(product, lab, hosts, noco):
    """The source runs again by itself, with nothing lost."""
    broken = lab.directory / f"hosts-{NAME}-broken.yaml"
    image = images(lab)["nocodb"]
    tag = f"{image.rpartition(':')[0]}-broken:{image.rpartition(':')[2]}"
    recipe = f'FROM {image}\nCMD ["false"]\n'
    done = lab.exec("app1", "docker", "build", "--tag", tag, "-", input=recipe.encode())
    assert done.returncode == 0, done.stderr.decode()
    broken.write_text(hosts.read_text().replace(image, tag))
    try:
        ran = product.inv("adopt", "--from", f"stack:{STACK}", "--yes", hosts=broken)
    finally:
        broken.unlink()
        docker(lab, "app1", "image", "rm", "--force", tag)
    assert ran.code == 1
    assert "the source runs as it did" in ran.err
    is_as_it_was(lab, noco)


def test_moved(product, lab, hosts, noco):
    before = psql(lab, f"{STACK}_root_db", "SELECT count(*) FROM pg_class")
    ran = product.ok("adopt", "--from", f"stack:{STACK}", "--yes", hosts=hosts, timeout=600)
    hides(ran.text)
    assert "attachments copied and compared: 1 files" in ran.out
    assert "drilled: set" in ran.out
    assert nocodb_data.read(server(lab), LOGIN, noco) == noco
    assert psql(lab, DB, "SELECT count(*) FROM pg_class") == before
    assert psql(lab, DB, "SELECT count(*) FROM pg_largeobject_metadata") == "1"
    assert psql(lab, DB, "SELECT has_table_privilege('reader', 'nc_users_v2', 'SELECT')") == "t"
    # The settings reach NocoDB, and nobody who may ask Docker.
    inspected = docker(lab, "manager1", "service", "inspect", APP)
    hides(inspected)
    ids = docker(lab, "app1", "ps", "-q", "--filter", f"label=com.docker.swarm.service.name={APP}")
    hides(docker(lab, "app1", "inspect", *ids.split()))
    asked = "process.stdout.write(process.env.NC_AUTH_JWT_SECRET)"
    assert docker(lab, "app1", "exec", ids, "node", "-e", asked) == HIDDEN["jwt"]
    # Stopped, and still there.
    shown = docker(lab, "manager1", "service", "ls", "--format", "{{.Name}} {{.Replicas}}")
    assert {f"{STACK}_nocodb 0/0", f"{STACK}_root_db 0/0", f"{STACK}_cache 1/1"} <= set(
        shown.splitlines()
    )
    assert "nothing to change" in product.ok("deploy-app", hosts=hosts).out
    ran = product.fails(1, "adopt", "--from", f"stack:{STACK}", "--yes", hosts=hosts)
    assert "was adopted at" in ran.err


def test_undone(product, lab, hosts, noco):
    psql(lab, DB, "CREATE TABLE later (n int); INSERT INTO later VALUES (1), (2)")
    ran = product.fails(2, "adopt", "--undo", hosts=hosts)
    assert "this would leave" in ran.err
    ran = product.ok("adopt", "--undo", "--yes", hosts=hosts)
    assert "_adopted_" in ran.out
    assert "stack:noco runs again" in product.ok("audit", hosts=hosts).out
    is_as_it_was(lab, noco)
    kept = psql(lab, DB, "SELECT datname FROM pg_database WHERE datname ~ '_adopted_'", "postgres")
    assert psql(lab, DB, "SELECT count(*) FROM later", kept) == "2"
    assert "no move is on record" in product.fails(1, "adopt", "--undo", hosts=hosts).err
    # What is said to be in the way is, until somebody says that it may go.
    ran = product.fails(2, "adopt", "--from", f"stack:{STACK}", "--yes", hosts=hosts)
    assert f"docker volume rm {NAME}-appstack_data" in ran.err
    docker(lab, "app1", "volume", "rm", f"{NAME}-appstack_data")
    psql(lab, DB, f'DROP DATABASE "{kept}"', "postgres")


def test_going_back_from_a_move_that_was_cut_off(product, lab, hosts, noco):
    """The new NocoDB has come up by itself, somebody has worked in it, and the source cannot be
    started at first: nothing is dropped, however often it is typed.
    """
    run = start(lab, "adopt", "--from", f"stack:{STACK}", "--yes", hosts=hosts)
    read_until(run, "0/1 running")
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    product.ok("unlock", "--yes", hosts=hosts)
    eventually(lambda: answers(lab))
    psql(lab, DB, "CREATE TABLE later AS SELECT 1 AS n")
    docker(lab, "manager1", "service", "rm", f"{STACK}_nocodb")
    ran = product.fails(1, "adopt", "--undo", "--yes", hosts=hosts)
    assert f"No such service: {STACK}_nocodb" in ran.err
    ran = product.fails(1, "adopt", "--from", f"stack:{STACK}", "--yes", hosts=hosts)
    assert "going back was cut off" in ran.err
    product.fails(1, "adopt", "--undo", "--yes", hosts=hosts)
    lab.exec("manager1", "docker", "stack", "deploy", "-c", "-", STACK, input=stack_file(lab))
    ran = product.ok("adopt", "--undo", "--yes", hosts=hosts)
    kept = psql(lab, DB, "SELECT datname FROM pg_database WHERE datname ~ '_adopted_'", "postgres")
    assert len(kept.split()) == 1
    assert kept in ran.out
    assert psql(lab, DB, "SELECT count(*) FROM later", kept) == "1"
    is_as_it_was(lab, noco)
    ran = product.fails(2, "adopt", "--from", f"stack:{STACK}", "--yes", hosts=hosts)
    assert "files already" in ran.err
    docker(lab, "app1", "volume", "rm", f"{NAME}-appstack_data")
    psql(lab, DB, f'DROP DATABASE "{kept}"', "postgres")


def test_moved_again_by_another_command_and_finished(product, lab, hosts, noco):
    """The client is lost when the new app is being deployed: the same command ends the move."""
    run = start(lab, "adopt", "--from", f"stack:{STACK}", "--yes", hosts=hosts)
    read_until(run, "0/1 running")
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    product.ok("unlock", "--yes", hosts=hosts)
    product.fails(1, "adopt", "--finish", hosts=hosts)
    # Somebody has started the source meanwhile: the copy may not be all there is.
    scale = ("service", "update", "--detach", "--replicas")
    docker(lab, "manager1", *scale, "1", f"{STACK}_nocodb")
    ran = product.fails(1, "adopt", "--from", f"stack:{STACK}", "--yes", hosts=hosts)
    assert f"{STACK}_nocodb runs: what is in the copy is no longer all" in ran.err
    docker(lab, "manager1", *scale, "0", f"{STACK}_nocodb")
    ran = product.ok("adopt", "--from", f"stack:{STACK}", "--yes", hosts=hosts, timeout=600)
    assert "was cut off; it is ended now" in ran.out
    assert nocodb_data.read(server(lab), LOGIN, noco) == noco
    ran = product.ok("adopt", "--finish", hosts=hosts)
    assert f"docker service rm {STACK}_nocodb; docker service rm {STACK}_root_db" in ran.out
    assert "no move is on record" in product.fails(1, "adopt", "--finish", hosts=hosts).err


def test_a_compose_project_with_bind_mounts(product, lab, hosts, noco, request):
    """Containers as docker compose makes them: its labels, a network with names, folders."""
    remove_stacks(lab, f"{NAME}-appstack", STACK)
    docker(lab, "app1", "volume", "rm", f"{NAME}-appstack_data")
    for sql in ("DROP DATABASE root_db WITH (FORCE)", "CREATE DATABASE root_db"):
        psql(lab, DB, sql, "postgres")
    data = composed(lab, request)
    # A second database, in the same server, of a role of its own.
    for sql in ("CREATE ROLE keeper LOGIN", "CREATE DATABASE second OWNER keeper",
                "ALTER DATABASE second SET work_mem = '5MB'"):  # fmt: skip
        docker(lab, "app1", "exec", "noco-db", "psql", "-U", "postgres", "-c", sql)
    docker(lab, "app1", "exec", "noco-db", "psql", "-U", "keeper", "-d", "second",
           "-c", "CREATE TABLE kept AS SELECT generate_series(1, 7) n")  # fmt: skip
    # By an address: as a host that hosts.yaml does not have.
    source = f"compose:root@{lab.addresses['app1']}:{FOLDER}"
    ran = product.ok("adopt", "--from", source, "--plan", hosts=hosts)
    assert "is not taken, as hosts.yaml does not name it: database second" in ran.out
    hosts.write_text(hosts.read_text().replace("pg_db: root_db", "pg_db: [root_db, second]"))
    print(product.inv("backup.install", hosts=hosts).text)
    ran = product.ok("adopt", "--from", source, "--yes", hosts=hosts, timeout=600)
    assert "drilled: set" in ran.out
    assert nocodb_data.read(server(lab), LOGIN, data) == data
    assert psql(lab, DB, "SELECT count(*) FROM kept", "second") == "7"
    owner = "SELECT datdba::regrole FROM pg_database WHERE datname = 'second'"
    assert psql(lab, DB, owner, "second") == "keeper"
    assert psql(lab, DB, "SHOW work_mem", "second") == "5MB"
    state = "{{.State.Running}} {{.HostConfig.RestartPolicy.Name}}"
    assert docker(lab, "app1", "inspect", "-f", state, "noco-app", "noco-db").split() == [
        "false", "no", "false", "no",
    ]  # fmt: skip
    product.ok("adopt", "--undo", "--yes", hosts=hosts)
    assert docker(lab, "app1", "inspect", "-f", state, "noco-app", "noco-db").split() == [
        "true", "always", "true", "unless-stopped",
    ]  # fmt: skip
    eventually(lambda: answers(lab))
    assert nocodb_data.read(server(lab), LOGIN, data) == data


def composed(lab: Lab, request: Any) -> nocodb_data.Data:
    def remove() -> None:
        docker(lab, "app1", "rm", "--force", "--volumes", "noco-app", "noco-db")
        docker(lab, "app1", "network", "rm", "noco_default")
        lab.exec("app1", "rm", "-rf", FOLDER)

    def run(name: str, service: str, policy: str, *more: str, **variables: str) -> None:
        words = ["run", *RUNTIME, "--detach", "--name", name, "--restart", policy, "--network",
                 "noco_default", "--network-alias", service]  # fmt: skip
        for key, value in (("project", "noco"), ("service", service),
                           ("project.working_dir", FOLDER)):  # fmt: skip
            words += ["--label", f"com.docker.compose.{key}={value}"]
        for key, value in variables.items():
            words += ["--env", f"{key}={value}"]
        docker(lab, "app1", *words, *more)

    lab.exec("app1", "mkdir", "-p", f"{FOLDER}/postgres", f"{FOLDER}/nocodb")
    docker(lab, "app1", "network", "create", "noco_default")
    request.addfinalizer(remove)
    image = images(lab)["postgres"]
    if not docker(lab, "app1", "image", "ls", "-q", image):
        load(lab, image, "app1")
    run("noco-db", "root_db", "unless-stopped", "--volume",
        f"{FOLDER}/postgres:/var/lib/postgresql/data", image, POSTGRES_DB="root_db",
        POSTGRES_USER="postgres", POSTGRES_PASSWORD=HIDDEN["database"])  # fmt: skip
    run("noco-app", "nocodb", "always", "--volume", f"{FOLDER}/nocodb:/usr/app/data",
        "--publish", f"{PORT}:8080", images(lab)["nocodb"], **environment("root_db"))  # fmt: skip
    return first_use(lab)


def test_a_server_at_an_address(product, lab, hosts, request):
    """PostgreSQL elsewhere, in no container that is seen where NocoDB runs."""
    image = images(lab)["postgres"]
    docker(lab, "db1", "run", "--detach", "--name", "far", "--publish", "5439:5432",
           "--env", "POSTGRES_DB=root_db", "--env", "POSTGRES_USER=postgres",
           "--env", f"POSTGRES_PASSWORD={HIDDEN['database']}", image)  # fmt: skip
    request.addfinalizer(lambda: docker(lab, "db1", "rm", "--force", "--volumes", "far"))
    variables = environment("root_db") | {
        "NC_DB": f"pg://{lab.addresses['db1']}:5439?u=postgres&p={HIDDEN['database']}&d=root_db"
    }
    words = [word for key, value in variables.items() for word in ("--env", f"{key}={value}")]
    docker(lab, "app1", "run", *RUNTIME, "--detach", "--name", "near",
           "--publish", f"{PORT}:8080", *words, images(lab)["nocodb"])  # fmt: skip
    request.addfinalizer(lambda: docker(lab, "app1", "rm", "--force", "--volumes", "near"))
    data = first_use(lab)
    docker(lab, "app1", "volume", "rm", f"{NAME}-appstack_data")
    source = "container:app1:near"
    product.ok("adopt", "--from", source, "--plan", "--write", hosts=hosts)
    run = start(lab, "adopt", "--from", source, "--yes", hosts=hosts)
    read_until(run, "copying database")
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    # Whoever held the source's tables is gone, too.
    sessions = ("ps", "-q", "--filter", "label=swarmkeep.adopt")
    eventually(lambda: answers(lab) and not docker(lab, "app1", *sessions))
    product.ok("unlock", "--yes", hosts=hosts)
    ran = product.ok("adopt", "--from", source, "--yes", hosts=hosts, timeout=600)
    hides(ran.text)
    assert f"{lab.addresses['db1']}:5439 goes on" in ran.out
    assert nocodb_data.read(server(lab), LOGIN, data) == data
    assert lab.exec("app1", "test", "-e", "/run/swarmkeep-adopt").returncode == 1
    assert docker(lab, "app1", *sessions) == ""
    product.ok("adopt", "--undo", "--yes", hosts=hosts)
    eventually(lambda: answers(lab))
