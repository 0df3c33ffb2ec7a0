"""The backup as a container, as a person at the terminal sees it: deployed, moved to and from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fabfile.base.errors import ConfigError
from fabfile.terminal.command import known_project
from fabfile.terminal.deploy_dialog import carry_out, say

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.ssh.fleet import Fleet, Host
    from fabfile.vault.reading import Secrets


def install(fleet: Fleet, inventory: Inventory, secrets: Secrets, *, check: bool = True) -> None:
    """Deploy the backup's stack, check it, and take the backup of the hosts off, if there is one.

    Raises SwarmkeepError; until the stack has converged and been checked the hosts' backup stays.
    Without `check` it stays in any case.
    """
    from fabfile.backup import container, container_image, host_run, host_uninstall
    from fabfile.deploy import backup_stack
    from fabfile.deploy.finish_script import Options
    from fabfile.swarm import operator

    wanted = backup_stack.backup(inventory, secrets)
    database = host_run.find_host(fleet, inventory)
    if not fleet.dry:
        container_image.ensure(fleet, database, say)
    if not inventory.backup.pitr:
        container.end_archiving(fleet, inventory)
    carry_out(fleet, wanted, Options("backup.install", operator.find()), yes=True)
    if fleet.dry or not check:
        return
    _check(fleet, inventory)
    errors = []
    for outcome in host_uninstall.uninstall(fleet, inventory):
        for path in outcome.value or ():
            print(f"{outcome.entry.name}: removed {path}", flush=True)
        if outcome.error:
            errors.append(outcome.error)
        elif outcome.value and outcome.entry.role == "db":
            _name_dumps(fleet.host(outcome.entry), inventory.backup.directory)
    if errors:
        raise errors[0]


def _name_dumps(host: Host, folder: str) -> None:
    """Say which dumps the hosts' backup leaves that are in no bucket."""
    from fabfile.backup.container import pending_dumps
    from fabfile.ssh.remote_command import Command

    ask = Command(pending_dumps(folder), changes=False)
    left = int(host.check(ask, "looking for dumps").stdout.strip() or 0)
    if left:
        print(f"{host.name}: left in place: {folder}: {left} dumps that are not in the bucket")


def _check(fleet: Fleet, inventory: Inventory) -> None:
    from fabfile.backup import host_run
    from fabfile.backup.host_install import check_verdict
    from fabfile.backup.host_kit import kit_of

    for entry in inventory.with_role("backup"):
        host = fleet.host(entry)
        if entry.role == "db" and host.name != host_run.find_host(fleet, inventory).name:
            continue
        lines: list[str] = []
        code = host_run.run(host, lines.append, "--check")
        kit = kit_of(entry, inventory)
        print(f"{host.name}: {check_verdict(host.name, kit, code, lines, 'inv backup.logs')}")


def is_there(fleet: Fleet) -> bool:
    """Whether the stack runs, whatever hosts.yaml says."""
    from fabfile.deploy import observation

    return bool(observation.observe_any(fleet)[1].stack(fleet.inventory.backup.stack))


def remove(fleet: Fleet, inventory: Inventory) -> None:
    """Take it off. Raises ConfigError where the stack of that name is somebody else's."""
    from fabfile.backup import container
    from fabfile.deploy import observation
    from fabfile.deploy.preflight_project import check_removal

    cluster = observation.observe_any(fleet)[1]
    check_removal(cluster, inventory.backup.stack, known_project(inventory), "backup")
    container.remove(fleet, inventory, say)


def refuse_in_container(inventory: Inventory, command: str) -> None:
    """Raise ConfigError if the backup is a container: the command needs scripts on the hosts."""
    if inventory.backup.mode == "container":
        raise ConfigError(
            f"{command}: needs Swarmkeep's scripts on the db host, and backup.mode is container",
            hint="set backup.mode: host for as long as it takes, then: inv backup.install",
        )
