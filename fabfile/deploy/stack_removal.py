"""Removing a stack with all that was made for it: secrets, configs, releases. Volumes stay."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from fabfile.deploy import releases
from fabfile.deploy.finish_script import Options
from fabfile.deploy.locked_change import Record, locked
from fabfile.ssh.fleet import Fleet, Host
from fabfile.ssh.remote_command import Command, succeeded
from fabfile.swarm import docker_commands
from fabfile.swarm.docker_commands import SecretVersion
from fabfile.swarm.state import Cluster

Say = Callable[[str], None]


def has_remains(stack: str, cluster: Cluster, stacks: Sequence[str]) -> bool:
    """Whether secrets, configs or releases of a stack are there, as after a removal cut off.
    `stacks` are the names of all that hosts.yaml has.
    """
    return bool(_versions(stack, cluster, stacks) or releases.marks(cluster, stack))


def _versions(stack: str, cluster: Cluster, stacks: Sequence[str]) -> list[SecretVersion]:
    """What begins with the stack's name, and not with that of another stack: shop, shop_two."""
    names = {*stacks, *(service.stack for service in cluster.services)}
    longer = tuple(f"{name}_" for name in names if name.startswith(f"{stack}_"))
    ours = [one for one in cluster.secrets if one.base.startswith(f"{stack}_")]
    return [one for one in ours if not one.base.startswith(longer)]


def removal_script(stack: str, cluster: Cluster, stacks: Sequence[str]) -> str:
    """Services and networks, then what was made for them; a lock's changes end after 40 s.
    `stacks` are the names of all that hosts.yaml has.
    """
    name = shlex.quote(stack)
    label = f"label={docker_commands.STACK_LABEL}={stack}"
    ours = f"label={docker_commands.FILE_LABEL}={stack}"
    versions = _versions(stack, cluster, stacks)
    ids = [shlex.quote(mark.id) for mark in releases.marks(cluster, stack)]
    return (
        "set -e\n"
        f"docker stack rm {name} >/dev/null 2>&1 || true\n"
        f'i=0; while [ -n "$(docker service ls -q --filter {label}; '
        f'docker network ls -q --filter {label})" ]; do\n'
        f"  [ $i -lt 60 ] || {{ echo 'the network of {stack} is still in use; next: docker network "
        "inspect, disconnect what is on it, then the same again' >&2; exit 1; }\n"
        f"  docker stack rm {name} >/dev/null 2>&1 || true\n"
        "  sleep 0.5; i=$((i + 1)); done\n"
        "for kind in config secret; do\n"
        f"  for one in $(docker $kind ls -q --filter {ours}); do\n"
        '    docker $kind rm "$one" >/dev/null\n'
        "  done\ndone\n"
        + (docker_commands.remove_versions(versions) + "\n" if versions else "")
        + (f"docker config rm {' '.join(ids)} >/dev/null\n" if ids else "")
    )


def carry_out(
    fleet: Fleet, manager: Host, stack: str, script: str, options: Options, say: Say
) -> bool:
    """Run a removal's script under the lock and put it on record; return whether it was run: in a
    dry run it is only shown. Raises SwarmkeepError.
    """
    if fleet.dry:
        manager.run(Command(script))
        return False
    record = Record()
    with locked(manager, options, record, say=say) as lease:
        succeeded(lease.change(script), f"removing {stack}")
        record.changes.append(f"stack {stack}: removed")
    return True
