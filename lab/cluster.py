"""The whole lab: up, down, status."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fabfile.base.errors import ConfigError, SwarmkeepError
from lab import (
    docker,
    engine,
    files,
    images,
    locks,
    members,
    network,
    s3,
    storage,
    swarm,
    waiting,
)
from lab.model import DEFAULT_NAME, LABEL, MEMBERS, NODES, S3, Lab, directory_of
from lab.progress import Progress, Step

# Which node runs which image. Nodes have it from the beginning, except those made by an earlier
# version.
LOADED = {member: node.holds for member, node in images.OF_MEMBER.items() if node.holds}
REMOVE_DEADLINE = 600.0  # seconds: a machine that is very busy deletes slowly


def up(name: str = DEFAULT_NAME, *, say: Callable[[str], None], root: Path | None = None) -> Lab:
    """Bring a lab up from whatever state it is in, and return it. `say` prints a line.

    A healthy lab is left as it is; a broken one is repaired and keeps credentials, Swarm and data.
    """
    directory = directory_of(name, root=root)
    with Progress(say) as progress:
        engine.ensure(progress)
        images.ensure(progress)
        with locks.folder(directory, lambda: say(f"        another command holds lab {name}")):
            with network.choosing():
                lab = _lab(name, directory, root)
            values = files.credentials(lab)
            with ThreadPoolExecutor(len(MEMBERS)) as pool:
                _bring_up(lab, values, progress, pool)
    return lab


def _lab(name: str, directory: Path, root: Path | None) -> Lab:
    """The lab as it was, or a new one on a free subnet, with its network."""
    try:
        lab = Lab.load(name, root=root)
    except ConfigError:
        if _anything(f"{LABEL}={name}"):
            # It may be somebody's, made from another folder: not ours to throw away unasked.
            raise SwarmkeepError(
                f"Docker has a lab {name} whose keys are not in {directory}",
                hint=f"choose another name: inv lab.up --name NAME; "
                f"or remove it with its data: inv lab.down --name {name}",
            ) from None
        lab = Lab(name, directory, network.choose_subnet())
    members.refuse_strangers(lab)
    # Before anything is made in Docker, so that whatever ends us there, the next run knows it.
    files.remember(lab)
    network.ensure(lab)
    return lab


def _bring_up(
    lab: Lab, values: dict[str, Any], progress: Progress, pool: ThreadPoolExecutor
) -> None:
    public_key = files.ssh_public_key(lab)

    def node(member: str) -> str:
        with progress.step(member) as step:
            step.found(members.ensure(lab, member))
            return _let_in(lab, member, public_key, values["deploy_password"])

    def store() -> dict[str, s3.Key]:
        with progress.step("s3") as step:
            step.found(members.ensure(lab, S3))
        with progress.step("bucket and its keys"):
            return s3.ensure(lab, values)

    def load(member: str) -> None:
        nodes[member].result()
        with progress.step(f"{member}: {LOADED[member].tag}") as step:
            _load_image(lab, member, LOADED[member], step)

    nodes = {member: pool.submit(node, member) for member in NODES}
    bucket = pool.submit(store)
    host_keys = {member: future.result() for member, future in nodes.items()}
    loads = [pool.submit(load, member) for member in LOADED]
    with progress.step("Swarm") as step:
        step.found(", ".join(swarm.ensure(lab)) or "complete")
    for future in loads:
        future.result()
    found = values | bucket.result()
    with progress.step("keys, vault and hosts file"):
        files.write_known_hosts(lab, host_keys)
        files.write_all(lab, found, vault_is_stale=found != values)
        # Last: from now on the keys count as known, and the vault holds them.
        files.keep_credentials(lab, found)


def _let_in(lab: Lab, member: str, public_key: str, deploy_password: str) -> str:
    """Let the lab's key in as root and as the sudo user `deploy`; return the node's host keys.

    The host keys come from inside the node, not from what answers at its address.
    """
    script = """\
set -eu
read -r key
for user in root deploy; do
  home=$(getent passwd "$user" | cut -d: -f6)
  mkdir -p -m 0700 "$home/.ssh"
  printf '%s\\n' "$key" | cmp -s - "$home/.ssh/authorized_keys" ||
    printf '%s\\n' "$key" > "$home/.ssh/authorized_keys"
  chown -R "$user:" "$home/.ssh"
done
chpasswd
cat /etc/ssh/ssh_host_*_key.pub
"""
    secret_input = f"{public_key}\ndeploy:{deploy_password}\n".encode()
    return docker.inside(lab.container(member), "sh", "-c", script, input=secret_input)


def _load_image(lab: Lab, member: str, image: images.Image, step: Step) -> None:
    """Copy an image into a node's own engine, unless it has it."""
    recipe = images.recipe(image)
    container = lab.container(member)
    template = f'{{{{index .Config.Labels "{images.RECIPE_LABEL}"}}}}'
    found = docker.exec(container, "docker", "image", "inspect", "--format", template, image.tag)
    if found.stdout.decode().strip() == recipe:
        step.found("there")
        return
    step.doing("copying it into the node")
    docker.pipe(("save", image.tag), ("exec", "--interactive", container, "docker", "load"))
    step.found("loaded")


def status(name: str = DEFAULT_NAME, *, root: Path | None = None) -> dict[str, Any]:
    """What there is of a lab: containers and their health, the Swarm's nodes, the bucket.

    ConfigError if there is no lab of this name.
    """
    lab = Lab.load(name, root=root)
    problem = engine.look()
    if problem:
        return {"name": name, "ok": False, "problem": f"no Docker engine: {problem}"}
    with ThreadPoolExecutor(len(MEMBERS)) as pool:
        found = list(pool.map(lambda member: _member_status(lab, member), MEMBERS))
    by_name = {member["name"]: member for member in found}
    swarm_nodes = []
    if by_name["manager1"]["ok"]:
        keys = ("Hostname", "Status", "Availability", "ManagerStatus")
        swarm_nodes = [{k.lower(): n[k] for k in keys} for n in swarm.nodes(lab)]
    problems = [f"{m['name']}: {m['problem']}" for m in found if not m["ok"]]
    if not problems:
        problems = [text for text in (swarm.look(lab), _bucket_problem(lab)) if text]
    return {
        "name": name,
        "ok": not problems,
        "problem": "; ".join(problems),
        "directory": str(lab.directory),
        "containers": found,
        "swarm": swarm_nodes,
        "s3": {"url": lab.s3_url, "bucket": lab.bucket},
    }


def _member_status(lab: Lab, member: str) -> dict[str, Any]:
    container = docker.inspect("container", lab.container(member))
    state = container["State"]["Status"] if container else "missing"
    problem = members.look(lab, member) if state == "running" else state
    return {
        "name": member,
        "container": lab.container(member),
        "address": lab.addresses[member],
        "state": state,
        "ok": not problem,
        "problem": problem,
    }


def _bucket_problem(lab: Lab) -> str:
    secrets = lab.secrets
    if s3.OPERATOR not in secrets or s3.NODE not in secrets:
        return "the bucket's keys were never made"
    return s3.look(lab, secrets)


def down(
    name: str = DEFAULT_NAME,
    *,
    say: Callable[[str], None],
    with_images: bool = False,
    root: Path | None = None,
) -> bool:
    """Remove every trace of a lab, and nothing else; return whether there was anything.

    Only what carries the lab's own label is touched. The engine keeps running.
    """
    directory = directory_of(name, root=root)
    label = f"{LABEL}={name}"
    with Progress(say) as progress:
        answers = not engine.look()
        anything = directory.exists() or (answers and _anything(label))
        if anything:
            with locks.folder(directory, lambda: say(f"        another command holds lab {name}")):
                if answers:
                    _remove_from_docker(label, name, progress)
                    storage.remove(name)
                shutil.rmtree(directory)
        if with_images and answers:
            with locks.shared("images", lambda: say("        another command is building images")):
                for tag in images.remove(progress):
                    say(f"        {tag}: kept, another lab uses it")
    return anything


def _anything(label: str) -> bool:
    return any(docker.ids(kind, label) for kind in ("container", "network", "volume"))


def _remove_from_docker(label: str, name: str, progress: Progress) -> None:
    if containers := docker.ids("container", label):
        with progress.step(f"{len(containers)} containers"):
            # Their volumes go with them. Nobody waits for databases that are thrown away.
            def remove(container: str) -> None:
                docker.run(
                    "container", "rm", "--force", "--volumes", container, timeout=REMOVE_DEADLINE
                )

            with ThreadPoolExecutor(len(containers)) as pool:
                list(pool.map(remove, containers))
    with progress.step("network, volumes, cgroups"):
        for network_id in docker.ids("network", label):
            docker.run("network", "rm", network_id)
        if volumes := docker.ids("volume", label):
            docker.run("volume", "rm", *volumes)
        _remove_cgroups(name)


def _remove_cgroups(name: str) -> None:
    """Remove the empty cgroups that the nodes' containers left in the machine's tree (v1 only)."""
    for folder in Path("/sys/fs/cgroup").glob(f"*/swarmkeep-lab/{name}"):

        def empty(folder: Path = folder) -> str:
            for inner in sorted(folder.rglob("*"), reverse=True):
                if inner.is_dir():
                    _rmdir(inner)
            _rmdir(folder)
            return "in use" if folder.exists() else ""

        # Killed processes leave their cgroup a moment after their container is gone.
        waiting.until(empty, deadline=5)
        _rmdir(folder.parent)


def _rmdir(folder: Path) -> None:
    # Not ours to remove (no root), not empty (another lab), or gone already: all harmless.
    try:
        folder.rmdir()
    except OSError:
        return
