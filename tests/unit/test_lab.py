"""The parts of the lab that need no engine."""

from __future__ import annotations

import ipaddress
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.config import hosts_file
from fabfile.s3 import policies
from fabfile.vault import reading
from lab import (
    capabilities,
    docker,
    engine,
    files,
    images,
    locks,
    model,
    network,
    packages,
    s3,
    storage,
    swarm,
    waiting,
)
from lab.model import REGION, Lab
from lab.progress import Progress

KEYS = {
    "operator": {"access_key": "OPERATOR", "secret_key": "o/secret"},
    "node": {"access_key": "NODE", "secret_key": 'n"secret'},
}


@pytest.fixture
def lab(tmp_path):
    return Lab("try-1", tmp_path / "try-1", "10.213.7")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- names and addresses ---


@pytest.mark.parametrize("name", ["", "Lab", "-a", "a-", "a b", "../x", "a/b", "a" * 33, "a$(x)"])
def test_a_name_that_docker_would_refuse_is_refused(name):
    with pytest.raises(ConfigError, match="not a lab's name"):
        model.directory_of(name)


def test_a_lab_that_was_never_made_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(ConfigError) as caught:
        Lab.load("other", root=tmp_path)
    assert "inv lab.up --name other" in caught.value.hint


def test_a_lab_is_found_again_with_its_subnet(lab):
    files.remember(lab)
    found = Lab.load("try-1", root=lab.directory.parent)
    assert found == lab
    assert found.addresses == {
        "manager1": "10.213.7.11",
        "db1": "10.213.7.12",
        "app1": "10.213.7.13",
        "s3": "10.213.7.20",
    }


def test_a_fresh_shell_finds_inv_once_the_environment_is_read(lab, tmp_path):
    (tmp_path / "env").write_text(files.environment_file(lab))
    script = (
        f". {tmp_path}/env; . {tmp_path}/env; command -v inv; echo $SWARMKEEP_HOSTS; echo $PATH"
    )
    shell = ["bash", "-euc", script]
    done = subprocess.run(
        shell, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    found, hosts, path = done.stdout.splitlines()
    folder = Path(sys.executable).parent
    assert found == str(folder / "inv")
    assert hosts == str(lab.hosts_file)
    assert path == f"{folder}:/usr/bin:/bin"


def test_the_environment_has_nobody_elses_aws_settings(lab, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("SWARMKEEP_HOSTS", "/elsewhere")
    monkeypatch.setenv("LANG", "C.UTF-8")
    environment = lab.environment()
    assert "AWS_PROFILE" not in environment
    assert "AWS_ACCESS_KEY_ID" not in environment
    assert environment["SWARMKEEP_HOSTS"] == str(lab.hosts_file)
    assert environment["LANG"] == "C.UTF-8"


# --- files ---


def make_files(lab: Lab) -> dict:
    values = files.credentials(lab) | KEYS
    files.ssh_public_key(lab)
    files.write_known_hosts(lab, dict.fromkeys(model.NODES, "ssh-ed25519 AAAA root@x\n"))
    files.write_all(lab, values, vault_is_stale=True)
    files.keep_credentials(lab, values)
    return values


def test_every_file_is_for_its_owner_alone(lab):
    previous = os.umask(0)
    try:
        make_files(lab)
    finally:
        os.umask(previous)
    found = [path for path in lab.directory.rglob("*") if path.is_file()]
    assert {path.name for path in found} >= {
        "hosts.yaml", "id_ed25519", "known_hosts", "vault.yml", "vault-password", "credentials",
        "env", "credentials.json",
    }  # fmt: skip
    assert {oct(mode(path)) for path in found} == {"0o600"}
    assert mode(lab.directory) == 0o700
    assert mode(lab.directory / "aws") == 0o700


def test_the_hosts_file_is_one_that_the_commands_accept(lab):
    make_files(lab)
    found = hosts_file.load(lab.hosts_file)
    assert [(h.name, h.address, h.swarm, h.role) for h in found.hosts] == [
        ("manager1", "10.213.7.11", "manager", ""),
        ("db1", "10.213.7.12", "worker", "db"),
        ("app1", "10.213.7.13", "worker", "app"),
    ]
    assert found.postgres.image == images.POSTGRES.tag
    assert found.app.port_mode == "host"
    assert found.backup.bucket == "try-1-backups"
    assert found.backup.node_endpoint_url == "http://10.213.7.20:9000"
    assert found.resolve_image == "never"
    assert found.ssh.known_hosts == lab.directory / "known_hosts"


def test_the_vault_opens_with_its_password_file_and_holds_the_nodes_key(lab):
    values = make_files(lab)
    password = (lab.directory / "vault-password").read_text().strip()
    entries = yaml.safe_load(reading.decrypt((lab.directory / "vault.yml").read_text(), password))
    assert entries == {
        "vault_postgres_password": values["postgres_password"],
        "vault_aws_access_key_id": "NODE",
        "vault_aws_secret_access_key": 'n"secret',
        "vault_name_key": values["name_key"],
    }


def test_a_second_time_nothing_is_made_anew(lab):
    make_files(lab)
    before = {path: path.read_bytes() for path in lab.directory.rglob("*") if path.is_file()}
    values = files.credentials(lab)
    files.ssh_public_key(lab)
    files.write_all(lab, values, vault_is_stale=False)
    assert {p: p.read_bytes() for p in lab.directory.rglob("*") if p.is_file()} == before


def test_an_edited_hosts_file_stays_and_new_keys_renew_the_vault(lab):
    values = make_files(lab)
    lab.hosts_file.write_text("edited")
    old_vault = (lab.directory / "vault.yml").read_text()
    files.write_all(lab, values, vault_is_stale=True)
    assert lab.hosts_file.read_text() == "edited"
    assert (lab.directory / "vault.yml").read_text() != old_vault


def test_the_private_key_is_one_that_openssh_would_read(lab):
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    public = files.ssh_public_key(lab)
    key = load_ssh_private_key((lab.directory / "id_ed25519").read_bytes(), None)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    again = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert public.startswith(again)


def test_the_env_file_survives_a_folder_with_a_space_and_wins_over_the_environment(tmp_path):
    lab = Lab("try-1", tmp_path / "a b'c" / "try-1", "10.213.7")
    make_files(lab)
    shell = 'set -eu; . "$0"; echo "${AWS_PROFILE-none}"; cat "$AWS_SHARED_CREDENTIALS_FILE"'
    out = subprocess.run(
        ["sh", "-c", shell, str(lab.directory / "env")],
        env={"AWS_PROFILE": "work", "PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert out.splitlines()[:2] == ["none", "[default]"]
    assert "OPERATOR" in out


# --- network ---

ROUTE_TABLE = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
br0\t0000D50A\t00000000\t0001\t0\t0\t0\t00FEFFFF\t0\t0\t0
"""


def test_routes_are_read_without_the_default_route():
    assert network.routes(ROUTE_TABLE) == [
        ipaddress.IPv4Network("192.168.1.0/24"),
        ipaddress.IPv4Network("10.213.0.0/23"),
    ]


def test_the_first_subnet_that_nobody_uses_is_taken(tmp_path, monkeypatch):
    table = tmp_path / "route"
    table.write_text(ROUTE_TABLE)
    monkeypatch.setattr(network, "ROUTES", table)
    monkeypatch.setattr(
        network, "_docker_subnets", lambda: [ipaddress.IPv4Network("10.213.2.0/25")]
    )
    assert network.choose_subnet() == "10.213.3"


def test_network_that_another_lab_takes_with_it_meanwhile_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "ROUTES", tmp_path / "route")
    (tmp_path / "route").write_text("Iface\tDestination\n")
    stays = {"IPAM": {"Config": [{"Subnet": "10.213.0.0/24"}, {"Subnet": "fd00::/64"}]}}
    monkeypatch.setattr(docker, "run", lambda *_: "gone\nhost\nstays\n")
    monkeypatch.setattr(
        docker,
        "inspect",
        lambda kind, name: {"gone": None, "host": {"IPAM": {"Config": None}}, "stays": stays}[name],
    )
    assert network.choose_subnet() == "10.213.1"


def test_no_free_subnet_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "_docker_subnets", lambda: [network.POOL])
    with pytest.raises(SwarmkeepError, match="every subnet"):
        network.choose_subnet()


# --- what a node may ---


def status_with(mask: int) -> str:
    return f"Name:\tx\nCapEff:\t0\nCapBnd:\t{mask:016x}\n"


def test_the_capabilities_the_machine_lacks_are_named():
    assert capabilities.missing(status_with((1 << 41) - 1), 40) == []
    assert capabilities.missing(status_with(((1 << 41) - 1) & ~(1 << 24)), 40) == ["SYS_RESOURCE"]


def test_what_an_old_kernel_does_not_know_is_not_lacking():
    assert capabilities.missing(status_with((1 << 38) - 1), 37) == []


@pytest.mark.parametrize("version", ["20.10.24+dfsg1", "19.03.15"])
def test_an_old_engine_is_not_told_about_capabilities_it_does_not_know(version):
    # What a container has that such an engine made, without SYS_RESOURCE, on a new kernel.
    assert capabilities.lacking_for(version, status_with(0x3FFEFFFFFF), 40) == ["SYS_RESOURCE"]


@pytest.mark.parametrize("version", ["23.0.0-rc.1", "28.2.2"])
def test_a_newer_engine_knows_by_itself_what_the_machine_lacks(version):
    assert capabilities.lacking_for(version, status_with(0x3FFEFFFFFF), 40) == []


def test_a_whole_machine_gives_privileged_nodes():
    flags = capabilities.flags_for([], True, "/x")
    assert flags == ["--privileged", *capabilities.NO_FSYNC, "--cgroupns", "private"]


def test_a_machine_that_lacks_a_capability_gives_everything_else():
    flags = capabilities.flags_for(["SYS_RESOURCE"], False, "/swarmkeep-lab/a/db1")
    assert "--privileged" not in flags
    assert flags[:4] == ["--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"]
    assert flags[-6:] == [
        "--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw",
        "--env", "LAB_CGROUP_PARENT=/swarmkeep-lab/a/db1",
    ]  # fmt: skip


# --- engine and packages ---


def test_pid_files_of_a_killed_engine_go_and_those_of_a_living_process_stay(tmp_path, monkeypatch):
    (tmp_path / "docker/containerd").mkdir(parents=True)
    stale, living = tmp_path / "docker.pid", tmp_path / "docker/containerd/containerd.pid"
    stale.write_text("4711")
    living.write_text("4712\n")
    monkeypatch.setattr(
        engine, "_program", lambda number: {4711: "cron", 4712: "containerd"}[number]
    )
    engine.remove_stale_pid_files(tmp_path)
    assert not stale.exists()
    assert living.exists()


def test_a_remote_engine_is_refused(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    lines: list[str] = []
    with pytest.raises(SwarmkeepError, match="needs an engine on this machine"):
        engine.ensure(Progress(lines.append))


def test_without_root_the_engine_to_install_is_named(monkeypatch):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(engine.shutil, "which", lambda name: None)
    monkeypatch.setattr(packages, "can_install", lambda: False)
    with pytest.raises(SwarmkeepError) as caught:
        engine.ensure(Progress(lambda line: None))
    assert caught.value.message == "no Docker engine runs on this machine"
    assert "apt-get install docker.io" in caught.value.hint


def test_without_root_the_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(packages, "can_install", lambda: False)
    with pytest.raises(SwarmkeepError) as caught:
        packages.require(
            Progress(lambda line: None), {"no-such-command": "its-package", "sh": "dash"}, "why"
        )
    assert caught.value.message == "no-such-command not found: why"
    assert caught.value.hint == "as root: apt-get install its-package"


# --- images ---


def test_a_recipe_changes_with_content_mode_and_the_base_and_with_nothing_else(
    tmp_path, monkeypatch
):
    for name in ("base", "node"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Dockerfile").write_text("FROM x\n")
    monkeypatch.setattr(images, "FOLDER", tmp_path)
    first = images.recipe(images.NODE)
    os.utime(tmp_path / "node/Dockerfile", (0, 0))
    assert images.recipe(images.NODE) == first
    seen = {first}
    (tmp_path / "node/Dockerfile").chmod(0o755)
    seen.add(images.recipe(images.NODE))
    (tmp_path / "base/Dockerfile").write_text("FROM y\n")
    seen.add(images.recipe(images.NODE))
    assert len(seen) == 3


def test_nocodb_in_the_lock_file_is_the_one_the_tag_says():
    folder = images.FOLDER / "nocodb"
    lock = json.loads((folder / "package-lock.json").read_text())
    assert images.NOCODB.tag.endswith(":" + lock["packages"]["node_modules/nocodb"]["version"])
    fetched = {
        name: package
        for name, package in lock["packages"].items()
        if name.startswith("node_modules/") and not {"link", "inBundle"} & set(package)
    }
    without_hash = [name for name, package in fetched.items() if "integrity" not in package]
    assert len(fetched) > 1000
    assert without_hash == []


# --- the bucket's policy ---


def test_the_nodes_may_write_and_list_and_are_denied_deletion():
    node = {"AWS": ["arn:aws:iam:::user/node"]}
    every = json.loads(s3.policy("b"))["Statement"]
    of_node = [s for s in every if s["Principal"] == node]
    printed = [
        {**s, "Principal": node} for s in policies.policies("b", REGION)["node"]["Statement"]
    ]
    assert of_node[:-1] == printed
    denied = of_node[-1]
    assert denied["Effect"] == "Deny"
    assert "s3:DeleteObject" in denied["Action"]
    assert s3.PROBE.startswith(("postgres/", "files/")), "where the nodes may write"


def test_keys_that_work_are_kept_without_asking_the_server(lab, monkeypatch):
    monkeypatch.setattr(s3, "look", lambda lab, keys: "")
    monkeypatch.setattr(s3, "key_of", lambda lab, user: pytest.fail("asked for a new key"))
    assert s3.ensure(lab, {"postgres_password": "x", **KEYS}) == KEYS


# --- Swarm ---


def test_nodes_that_are_down_or_absent_are_named_and_a_lost_ones_former_self_does_not_count(
    lab, monkeypatch
):
    known = [
        {"ID": "m", "Hostname": "manager1", "Status": "Ready"},
        {"ID": "d", "Hostname": "db1", "Status": "Down"},
        {"ID": "former", "Hostname": "app1", "Status": "Ready"},
    ]
    mine = {"manager1": "m", "db1": "d", "app1": "new"}
    monkeypatch.setattr(swarm, "nodes", lambda lab: known)
    monkeypatch.setattr(swarm, "_state", lambda lab, node: {"NodeID": mine[node]})
    assert swarm.look(lab) == "not Ready in the Swarm: db1, app1"


# --- locks, waiting, progress ---


def test_a_folder_that_its_holder_removed_is_made_and_locked_again(tmp_path):
    folder = tmp_path / "lab"
    waiting_now, got_it = threading.Event(), threading.Event()

    def second() -> None:
        with locks.folder(folder, waiting_now.set):
            if folder.is_dir():
                got_it.set()

    thread = threading.Thread(target=second)
    with locks.folder(folder, lambda: pytest.fail("nobody else holds it")):
        thread.start()
        assert waiting_now.wait(10)
        assert not got_it.is_set()
        folder.rmdir()
    thread.join(10)
    assert got_it.is_set()


def test_what_all_labs_share_is_held_by_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    waiting_now, got_it = threading.Event(), threading.Event()

    def second() -> None:
        with locks.shared("subnets", waiting_now.set):
            got_it.set()

    thread = threading.Thread(target=second)
    with locks.shared("subnets", lambda: pytest.fail("nobody else holds it")):
        thread.start()
        assert waiting_now.wait(10)
        assert not got_it.is_set()
        with locks.shared("engine", lambda: pytest.fail("that is another one")):
            pass
    thread.join(10)
    assert got_it.is_set()


def test_an_engine_that_another_command_has_started_meanwhile_is_left_alone(monkeypatch):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    answers = iter(["no daemon", ""])
    monkeypatch.setattr(engine, "look", lambda: next(answers))
    monkeypatch.setattr(engine, "_start", lambda: pytest.fail("it runs"))
    monkeypatch.setattr(engine, "_install", lambda progress: pytest.fail("it runs"))
    engine.ensure(Progress(lambda line: None))


def test_waiting_ends_with_the_condition_or_with_the_last_problem():
    answers = iter(["not yet", "not yet", ""])
    assert waiting.until(lambda: next(answers), deadline=10) == ""
    assert waiting.until(lambda: "never", deadline=0.3) == "never"


def test_a_step_says_how_it_ended_and_a_failure_names_its_step():
    lines: list[str] = []
    with Progress(lines.append) as progress:
        with progress.step("db1") as step:
            step.found("started")
        with pytest.raises(SwarmkeepError) as caught, progress.step("s3"):
            raise SwarmkeepError("no answer", hint="look", details=("last line",))
    assert [line.split("s  ")[1] for line in lines] == ["db1: started", "s3: FAILED"]
    assert caught.value.message == "lab: s3: no answer"
    assert caught.value.details == ("last line",)
    assert caught.value.hint == "look"


def test_a_long_step_gives_signs_of_life(monkeypatch):
    monkeypatch.setattr("lab.progress.SIGN_OF_LIFE", 0.05)
    lines: list[str] = []
    with Progress(lines.append) as progress, progress.step("image node") as step:
        step.doing("Unpacking cron")
        end = time.monotonic() + 10
        while not lines and time.monotonic() < end:
            threading.Event().wait(0.01)
    assert "image node" in lines[0]
    assert "Unpacking cron" in lines[0]


def test_a_failed_command_is_an_error_with_its_last_lines():
    seen: list[str] = []
    with pytest.raises(SwarmkeepError) as caught:
        docker.stream("sh", "-c", "echo one; echo two >&2; exit 3", on_line=seen.append)
    assert seen == ["one", "two"]
    assert "exit code 3" in caught.value.message
    assert caught.value.details == ("one", "two")


# --- the scripts in the images ---

SCRIPTS = sorted(
    path
    for path in images.FOLDER.rglob("*")
    if path.is_file() and path.read_bytes().startswith(b"#!/bin/bash")
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_of_an_image_is_executable_and_clean(script):
    shellcheck = Path(sys.executable).parent / "shellcheck"
    result = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert result.stdout == ""
    assert result.returncode == 0
    assert mode(script) & 0o111


def test_every_script_of_the_images_was_found():
    assert {path.name for path in SCRIPTS} == {
        "docker-entrypoint.sh", "node-health", "s3-health", "s3-user", "start-node", "start-s3"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "has no password"),
        ({"POSTGRES_PASSWORD": "a", "POSTGRES_PASSWORD_FILE": "/x"}, "are set"),
        ({"POSTGRES_PASSWORD_FILE": "/no/such/file"}, "cannot read /no/such/file"),
    ],
)
def test_postgres_refuses_a_start_without_one_clear_password(settings, problem, tmp_path):
    result = subprocess.run(
        [images.FOLDER / "postgres/docker-entrypoint.sh"],
        env=as_postgres(tmp_path) | settings,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert problem in result.stderr


def as_postgres(folder: Path) -> dict[str, str]:
    """An environment in which the script takes itself for postgres and changes no users."""
    program = folder / "id"
    program.write_text("#!/bin/sh\necho 999\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "PGDATA": str(folder / "data")}


# --- where a lab keeps its data ---


def test_data_is_in_memory_only_if_that_is_enough_for_all_labs():
    mounts = "tmpfs /dev/shm tmpfs rw 0 0\nproc /proc proc rw 0 0\n"
    meminfo = "MemTotal: 32000000 kB\nMemAvailable:   16000000 kB\n"
    free = 24_000_000_000
    assert storage.fits_in_memory(4, mounts, meminfo, free)
    assert not storage.fits_in_memory(5, mounts, meminfo, free)
    assert not storage.fits_in_memory(1, mounts, meminfo, 64_000_000)
    assert not storage.fits_in_memory(1, mounts.replace("tmpfs rw", "ext4 rw"), meminfo, free)
    assert not storage.fits_in_memory(1, "", meminfo, free)
    assert not storage.fits_in_memory(1, mounts, "", free)


def test_a_new_container_finds_nothing_of_a_lost_one_and_the_last_lab_takes_the_folder_along(
    lab, tmp_path, monkeypatch
):
    monkeypatch.setattr(storage, "MEMORY", tmp_path / "memory")
    monkeypatch.setenv(storage.SWITCH, "yes")
    source = tmp_path / "memory/swarmkeep-lab/try-1/db1"
    assert storage.mount(lab, "db1") == f"type=bind,src={source},dst=/var/lib/docker"
    (source / "left").write_text("of a lost container")
    storage.mount(lab, "db1")
    assert not list(source.iterdir())
    storage.mount(Lab("try-2", tmp_path, "10.213.8"), "s3")
    storage.remove("try-1")
    assert not source.parent.exists()
    storage.remove("try-1")
    storage.remove("try-2")
    assert not source.parents[1].exists()


def test_without_the_switch_data_is_in_a_volume_that_says_whose_it_is(lab, monkeypatch):
    monkeypatch.delenv(storage.SWITCH, raising=False)
    assert storage.mount(lab, "s3") == (
        "type=volume,dst=/var/lib/ceph,"
        "volume-label=swarmkeep.lab=try-1,volume-label=swarmkeep.lab.role=s3"
    )


def test_a_node_that_has_an_image_is_made_anew_with_either():
    before = images.recipe(images.NODE_DB)
    assert before != images.recipe(images.NODE_APP)
    newer = images.Image("postgres", images.POSTGRES.tag, arguments=("MAJOR=16",))
    assert images.recipe(images.Image("node-with-image", "x", holds=newer)) != before
    assert images.recipe(images.Image("node-with-image", "x", holds=images.POSTGRES)) == before
