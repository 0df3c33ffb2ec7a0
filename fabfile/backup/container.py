"""The backup as a container, as seen from its hosts: entering it, its log, moving over to it.

Its stack is deployed as any other (deploy/backup_stack.py).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fabfile.backup import container_image
from fabfile.backup.host_kit import kit_of
from fabfile.ssh.remote_command import Command

if TYPE_CHECKING:
    from fabfile.config.inventory import HostEntry, Inventory
    from fabfile.ssh.fleet import Fleet, Host

SETTINGS = "/run/secrets/backup_settings"
FOLDER, FILES_FOLDER = "/var/backups/postgres", "/var/lib/backup-files"
IMAGES = f"{FOLDER}/.images"
STATUS = "python3 /usr/local/lib/backup-scheduler.py --status"
NOT_INSTALLED, LOCKED = 127, 10

Say = Callable[[str], None]


def is_used(inventory: Inventory) -> bool:
    """Whether the backup is a container."""
    return inventory.backup.mode == "container"


def service_of(entry: HostEntry, inventory: Inventory) -> str:
    """The service of the backup that runs on a host."""
    kind = "database" if kit_of(entry, inventory).of_database else "files"
    return f"{inventory.backup.stack}_{kind}"


def find(entry: HostEntry, inventory: Inventory) -> str:
    """The script that sets c to the backup's container on a host, and ends where there is none."""
    label = shlex.quote(f"label=com.docker.swarm.service.name={service_of(entry, inventory)}")
    return (
        f"c=$(docker ps -q --filter {label} --filter status=running | head -n 1)\n"
        f"[ -n \"$c\" ] || {{ echo 'not installed' >&2; exit {NOT_INSTALLED}; }}\n"
    )


def script(host: Host, path: str, line: str) -> str:
    """The script that runs one of ours in the container, with its settings; stdin is passed on."""
    words = f"{path} {line} --config {SETTINGS}"
    return f'{find(host.entry, host.inventory)}exec docker exec -i "$c" {words} 2>&1'


def run_script(host: Host, path: str, options: str) -> str:
    """The same for a backup that is run by hand: its lines are in the container's log, too."""
    words = shlex.quote(
        f"set -o pipefail; {path} {options} --config {SETTINGS} 2>&1 | tee /proc/1/fd/2"
    )
    return f'{find(host.entry, host.inventory)}exec docker exec -i "$c" bash -c {words}'


def logs_script(host: Host, lines: int) -> str:
    """The script that shows the end of the container's log; nothing where there is none."""
    label = f"label=com.docker.swarm.service.name={service_of(host.entry, host.inventory)}"
    return (
        f"c=$(docker ps -q --filter {shlex.quote(label)} | head -n 1)\n"
        f'[ -z "$c" ] || docker logs --tail {lines} "$c" 2>&1'
    )


def note_images_script(host: Host) -> str:
    """The script that keeps stdin as what the stacks run, where the backup is a container."""
    return (
        f'{find(host.entry, host.inventory)}exec docker exec -i "$c" sh -c '
        f"{shlex.quote(f'cat >{IMAGES}.new && mv {IMAGES}.new {IMAGES}')}"
    )


def end_wal(host: Host) -> Command:
    """The command that ends the archiving of WAL in the container, where it has begun."""
    words = (
        f"[ -e {FOLDER}/.wal/cap ] || exit 0\n"
        # The container's clock would begin the archiving anew in the next minute.
        "kill -USR1 1\n"
        f"i=0; while :; do /usr/local/bin/wal-pg.sh stop --config {SETTINGS}; code=$?\n"
        f"  [ $code -eq {LOCKED} ] && [ $i -lt 60 ] || exit $code; sleep 1; i=$((i + 1)); done"
    )
    return Command(
        f'{find(host.entry, host.inventory)}exec docker exec "$c" sh -c {shlex.quote(words)}'
    )


def pending_dumps(folder: str) -> str:
    """The script that prints how many dumps below a folder are not in the bucket."""
    return (
        f'find "{folder}" -name "backup_*.manifest.json" 2>/dev/null | while read -r f; do '
        '[ -e "${f%.manifest.json}.uploaded" ] || echo "$f"; done | wc -l'
    )


def remove_volumes(names: Sequence[str]) -> Command:
    """The command that removes the volumes of a stack that is gone, but for one with dumps in it
    that were not uploaded; prints what it leaves.
    """
    script = ""
    for name in map(shlex.quote, names):
        script += (
            f"m=$(docker volume inspect -f '{{{{.Mountpoint}}}}' {name} 2>/dev/null) || m=\n"
            'if [ -n "$m" ]; then\n'
            f"  left=$({pending_dumps('$m')})\n"
            f'  if [ "$left" -gt 0 ]; then echo "{name}: $left dumps that are not in the bucket"\n'
            f"  else i=0; until docker volume rm {name} >/dev/null 2>&1; do\n"
            f'    [ $i -lt 60 ] || {{ echo "{name}: a container uses it"; break; }}\n'
            "    sleep 0.5; i=$((i + 1)); done\n"
            "  fi\nfi\n"
        )
    return Command(script)


def remove_stack(inventory: Inventory) -> Command:
    """The command for a manager that removes the backup's stack with its secrets."""
    stack = shlex.quote(inventory.backup.stack)
    service = f"label=com.docker.stack.namespace={inventory.backup.stack}"
    return Command(
        f"docker stack rm {stack} >/dev/null 2>&1 || true\n"
        f'i=0; while [ -n "$(docker service ls -q --filter {service})" ]; do\n'
        f"  [ $i -lt 60 ] || {{ echo 'services of {stack} are still there' >&2; exit 1; }}\n"
        "  sleep 0.5; i=$((i + 1)); done\n"
        f"s=$(docker secret ls --format '{{{{.Name}}}}' | grep '^{inventory.backup.stack}_')\n"
        '[ -z "$s" ] || docker secret rm $s >/dev/null\n'
    )


def remove(fleet: Fleet, inventory: Inventory, say: Say) -> None:
    """Take the containers off: their stack, secrets, volumes and images. Dumps that are not in the
    bucket stay in the volume, and are named.

    Raises SwarmkeepError with the host's name.
    """
    end_archiving(fleet, inventory)
    fleet.first_manager().check(remove_stack(inventory), f"removing {inventory.backup.stack}")
    if fleet.dry:
        return
    say(f"removed stack {inventory.backup.stack} and its secrets")
    names = (f"{inventory.backup.stack}_state", f"{inventory.backup.stack}_files_state")
    for entry in inventory.with_role("backup"):
        said = fleet.host(entry).check(remove_volumes(names), "removing the backup's volumes")
        for line in said.stdout.splitlines():
            say(f"{entry.name}: left in place: volume {line}")
    container_image.remove(fleet)


def end_archiving(fleet: Fleet, inventory: Inventory) -> None:
    """Have the container upload the WAL that has arrived and drop the slot, where it archives:
    else PostgreSQL would keep its WAL. Raises SwarmkeepError if that fails.
    """
    for entry in inventory.with_role("db"):
        host = fleet.host(entry)
        if _archives(host):
            host.check(
                end_wal(host),
                "ending the archiving of WAL",
                hint="inv backup.logs; then run the same again",
            )


def _archives(host: Host) -> bool:
    words = f"[ -e {FOLDER}/.wal/cap ]"
    ask = Command(
        f'{find(host.entry, host.inventory)}exec docker exec "$c" sh -c {shlex.quote(words)}',
        changes=False,
    )
    return host.run(ask).exit_code == 0
