"""What is checked so that one project never takes what belongs to another. Pure judgement."""

from __future__ import annotations

from fabfile.base.errors import ConfigError
from fabfile.config.inventory import Inventory
from fabfile.config.project import Project, from_label
from fabfile.deploy.secret_versions import versioned
from fabfile.deploy.stacks import Wanted
from fabfile.swarm.docker_commands import OLD_DATA_LABEL, PROJECT_LABEL
from fabfile.swarm.state import Cluster

TAKE_OVER = "--take-over"


def owners(cluster: Cluster) -> dict[str, Project]:
    """Which project each stack belongs to, as far as labels of services and nodes tell."""
    found = {}
    for node in cluster.nodes:
        for key, value in node.labels.items():
            if key.startswith(f"{PROJECT_LABEL}."):
                found[key.removeprefix(f"{PROJECT_LABEL}.")] = from_label(value)
    for service in cluster.services:
        label = (service.spec.get("Labels") or {}).get(PROJECT_LABEL)
        if label:
            found[service.stack] = from_label(label)
    return found


def check_project(
    inventory: Inventory, wanted: Wanted, cluster: Cluster, *, take_over: bool
) -> None:
    """Raise ConfigError where a stack is another project's, or another project has our names.

    `take_over` says that stacks of these names are to be taken over from whatever project.
    """
    mine = inventory.every_stack
    there = owners(cluster)
    for stack in mine:
        owner = there.get(stack)
        # The same vault with another name: the project was renamed.
        if owner and owner.id != wanted.project.id and not take_over:
            raise ConfigError(
                f"{stack}: belongs to {owner}, this is {wanted.project}",
                hint="give this one stacks of its own ('project:' and 'stacks:' in hosts.yaml); "
                "if the vault's password has changed and it has no vault_name_key, or the project "
                f"is to be taken over: {TAKE_OVER}",
            )
    running = {service.stack for service in cluster.services}
    for stack, owner in there.items():
        if stack in mine or owner.name != wanted.project.name:
            continue
        if owner.id != wanted.project.id:
            raise ConfigError(
                f"this Swarm has {owner} already, with stack {stack}; this is {wanted.project}: "
                "they would share labels and files",
                hint="give this one a name of its own: 'project: NAME' in hosts.yaml",
            )
        if stack in running:
            raise _renamed(stack, mine)
    _check_unlabelled(wanted, cluster, mine)


def check_removal(cluster: Cluster, stack: str, project: str, kind: str) -> None:
    """Raise ConfigError where a stack that is to be removed is not this project's.

    `project` is this one's identity, "" where it is not known; `kind` is what hosts.yaml calls the
    stack: backup or proxy.
    """
    owner = owners(cluster).get(stack)
    if cluster.stack(stack) and (owner is None or owner.is_another(project)):
        whose = f"belongs to {owner}" if owner else f"is no {kind} of Swarmkeep's"
        raise ConfigError(
            f"{stack}: {whose}: it is not removed",
            hint=f"'stacks: {kind}:' in hosts.yaml names this project's own",
        )


def _check_unlabelled(wanted: Wanted, cluster: Cluster, mine: tuple[str, ...]) -> None:
    """Database stacks of versions before 0.3, which have no label that says whose they are."""
    secrets = {version.name for version in cluster.secrets}
    for node in cluster.nodes:
        stack = node.labels.get(OLD_DATA_LABEL)
        if stack is None or stack in mine:
            continue
        if _password_secrets(wanted, stack) & secrets:
            raise _renamed(stack, mine)
        if not wanted.project.name:
            raise ConfigError(
                f"this Swarm has a database stack {stack!r} (on node {node.name}), and hosts.yaml "
                f"says {mine[0]!r}",
                hint=f"if it was renamed: set stacks.db back to {stack}; if it is another's: "
                "'project: NAME' in hosts.yaml; if it is gone: docker node update --label-rm "
                f"{OLD_DATA_LABEL} {node.name}",
            )


def _password_secrets(wanted: Wanted, stack: str) -> set[str]:
    """What the password's secret would be called if that stack were made with our vault."""
    if not wanted.name_key:
        return set()
    content = wanted.password.encode()
    return {versioned(wanted.name_key, stack, "postgres_password", content).version.name}


def _renamed(stack: str, mine: tuple[str, ...]) -> ConfigError:
    return ConfigError(
        f"the stack {stack} of this project runs on the Swarm, and hosts.yaml names only "
        f"{' and '.join(mine)}: its data would be left behind",
        hint=f"set 'stacks:' (and 'project:') in hosts.yaml back to {stack}; if it may go: docker "
        f"stack rm {stack} on a manager first (volumes stay)",
    )
