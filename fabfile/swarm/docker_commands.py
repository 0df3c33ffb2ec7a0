"""Docker commands that change a Swarm, as text, and the labels we use. Nothing here runs anything.

https://docs.docker.com/reference/cli/docker/ tells what they do; state.py reads what is there.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OLD_DATA_LABEL = "swarmkeep.pgdata"
"""What `data_label` was before 0.3: one key for all stacks, its value a stack's name."""
PROJECT_LABEL = "swarmkeep.project"
"""On every service of ours; its value names the project (see config/project.py)."""
SECRET_LABEL = "swarmkeep.secret"  # noqa: S105 - the name of a label
"""On every secret version we made; its value is the secret's name without version."""
CONFIG_LABEL = "swarmkeep.config"
"""On every config version we made of a file; its value is the config's name without version."""
FILE_LABEL = "swarmkeep.file"
"""On secrets and configs made of a file that a compose file names; its value is the stack."""
STACK_LABEL = "com.docker.stack.namespace"
IMAGE_LABEL = "com.docker.stack.image"
"""Set by `docker stack deploy`: the image as the compose file names it, without a digest."""
RECORD_LABEL = "swarmkeep"
"""On every Docker config that we keep our own records in (releases, the lock)."""


def data_label(stack: str) -> str:
    """The label of the one node that holds a database stack's volume; its value is "true".

    Each stack has a key of its own: with one for all, a second stack on a node would take it
    from the first, whose tasks Swarm then ends.
    """
    return f"{OLD_DATA_LABEL}.{stack}"


def project_label(stack: str) -> str:
    """The label of that node which names the project that the stack belongs to."""
    return f"{PROJECT_LABEL}.{stack}"


def cluster_label(stack: str) -> str:
    """The label of that node which has the system identifier of the stack's PostgreSQL cluster."""
    return f"swarmkeep.cluster.{stack}"


def proxy_label(stack: str) -> str:
    """The label of the nodes that a proxy's stack runs on; its value is "true"."""
    return f"swarmkeep.proxy.{stack}"


def holds_data(labels: Mapping[str, str], stack: str) -> bool:
    """Whether the node with these labels holds a database stack's volume."""
    return data_label(stack) in labels or labels.get(OLD_DATA_LABEL) == stack


@dataclass(frozen=True)
class SecretVersion:
    """A Docker secret or config that we made: `name` with version, `base` without.

    `kind` is secret or config. `stack` is the stack whose compose file names its file, "" for
    a secret from the vault.
    """

    name: str
    base: str
    kind: str = "secret"
    stack: str = ""


def label_node(node: str, labels: Mapping[str, str], remove: Iterable[str] = ()) -> str:
    """The command that sets and removes labels of a node."""
    words = [f"--label-add {shlex.quote(f'{key}={value}')}" for key, value in labels.items()]
    words += [f"--label-rm {shlex.quote(key)}" for key in remove]
    return f"docker node update {' '.join(words)} {shlex.quote(node)}"


def set_availability(node: str, availability: str) -> str:
    """The command that drains a node ("drain") or lets it work ("active")."""
    return f"docker node update --availability {availability} {shlex.quote(node)} >/dev/null"


def create_network(name: str) -> str:
    """The command that makes the shared overlay network."""
    return f"docker network create --driver overlay --attachable {shlex.quote(name)}"


def create_version(
    version: SecretVersion, labels: Iterable[tuple[str, str]] = (), template_driver: str = ""
) -> str:
    """The command that makes a version of a secret or config from stdin."""
    ours = [(SECRET_LABEL if version.kind == "secret" else CONFIG_LABEL, version.base)]
    if version.kind == "config":
        ours.append((RECORD_LABEL, "file"))
    if version.stack:
        ours.append((FILE_LABEL, version.stack))
    words = [f"--label {shlex.quote(f'{key}={value}')}" for key, value in (*labels, *ours)]
    if template_driver:
        words.append(f"--template-driver {shlex.quote(template_driver)}")
    return f"docker {version.kind} create {' '.join(words)} {shlex.quote(version.name)} -"


def remove_versions(versions: Iterable[SecretVersion]) -> str:
    """The command that removes versions that no service uses; one in use stays, silently."""
    lines = []
    for kind in ("secret", "config"):
        names = sorted(shlex.quote(v.name) for v in versions if v.kind == kind)
        if names:
            remove = f'docker {kind} rm "$s" >/dev/null 2>&1 || :'
            lines.append(f"for s in {' '.join(names)}; do {remove}; done")
    return "\n".join(lines)


def versions_in_use(template: Mapping[str, Any]) -> set[str]:
    """The names of the secrets and configs in a service's task template."""
    container = template["ContainerSpec"]
    return {
        str(item[name])
        for kind, name in (("Secrets", "SecretName"), ("Configs", "ConfigName"))
        for item in container.get(kind) or ()
    }


def deploy_stack(
    stack: str,
    *,
    cli_major: int,
    resolve_image: str,
    registry_auth: bool = False,
    unset: Sequence[str] = (),
) -> str:
    """The command that deploys a stack from compose YAML on stdin.

    `registry_auth` sends the manager's login to a private registry along: the engine needs
    it to ask for the image's digest, and the nodes to pull.
    https://docs.docker.com/reference/cli/docker/stack/deploy/

    It returns before anything runs. CLI 26 brought --detach, with true as its default
    "for now"; we say it where it is known, since its waiting has no deadline and reports a
    rollback as success (docker/cli#6752, #5299).

    `unset` are variables that are to be empty in a container: Docker would fill them from its own
    environment.
    """
    login = " --with-registry-auth" if registry_auth else ""
    detach = " --detach=true" if cli_major >= 26 else ""
    without = "".join(f" -u {shlex.quote(name)}" for name in unset)
    prefix = f"env{without} " if without else ""
    return (
        f"{prefix}docker stack deploy --compose-file - --resolve-image {resolve_image}"
        f"{login}{detach} {shlex.quote(stack)}"
    )


def remove_stack(stack: str) -> str:
    """The command that removes a stack's services; volumes, secrets and networks stay."""
    return f"docker stack rm {shlex.quote(stack)}"


def task_logs(task_id: str, lines: int) -> str:
    """The command that prints a task's last log lines; bounded, as its node may be away."""
    command = f"docker service logs --raw --no-trunc --tail {lines} {shlex.quote(task_id)}"
    return f"timeout 10 {command} 2>&1"
