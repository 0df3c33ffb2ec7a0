"""The backup on its hosts: install, run, logs, uninstall. backup_kits.py says what goes there."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fabfile import backup_kits
from fabfile.backup_kits import ATTACHMENTS, Kit, fingerprint, kit_of
from fabfile.errors import SwarmkeepError
from fabfile.transport import Command, Fleet, Host, Outcome, RemoteFile, values, write_command

if TYPE_CHECKING:
    from fabfile.inventory import Inventory
    from fabfile.vault import Secrets

LOCKED = 10
"""The scripts' exit code while another run is in progress."""
NO_CONTAINER = 11
"""The scripts' exit code on a node that has nothing to back up now."""
INSTALL_TIMEOUT = 600.0
RUN_TIMEOUT = 7 * 3600.0
"""Seconds: a little more than a script allows any one of its steps."""


@dataclass
class Installed:
    """What an installation did on one host. `changes` is empty if all was right already."""

    changes: list[str] = field(default_factory=list)
    checked: str = ""
    """What the script's own check found."""
    knows_images: bool = True
    """Whether the host has been told which images the stacks run."""


def put_command(kit: Kit, wanted: list[RemoteFile], needed: dict[str, str]) -> Command:
    """The one command that puts the files in place and tells what else is to be done.

    Prints a line per file ("changed PATH"), per missing program ("missing NAME"), "cron down"
    where cron does not run, and "checked FINGERPRINT".
    """
    write = write_command(wanted)
    names = {file.path for file in wanted}
    gone = (
        f"if [ -e {kit.credentials} ]; then rm -f {kit.credentials}; "
        f"echo removed {kit.credentials}; fi\n"
        if kit.credentials not in names
        else ""
    )
    survey = (
        f"for p in {' '.join(map(shlex.quote, needed))}; do\n"
        '  command -v "$p" >/dev/null || [ -x "/usr/sbin/$p" ] || echo "missing $p"\n'
        "done\n"
        "pgrep -x 'cron|crond' >/dev/null || echo cron down\n"
        f'[ ! -r {kit.checked} ] || echo "checked $(cat {kit.checked})"\n'
        f"[ -e {backup_kits.IMAGES} ] || echo images unknown\n"
    )
    return Command(write.script + gone + survey, stdin=write.stdin)


def install(
    fleet: Fleet, inventory: Inventory, secrets: Secrets, *, check: bool = True
) -> list[Outcome[Installed]]:
    """Install on every host of the backup at once; one's failure hides no other's outcome.

    Without `check` it is left open whether the backup can work: before a recovery there may be
    no database yet.
    """
    # What cannot be installed anywhere is refused before the first host is touched.
    wanted = {
        entry: backup_kits.files(entry, inventory, secrets)
        for entry in backup_kits.hosts(inventory)
    }
    return fleet.fan_out(
        tuple(wanted),
        lambda host: _install_on(
            host, wanted[host.entry], backup_kits.programs(host.entry, inventory), check=check
        ),
    )


def _install_on(
    host: Host, wanted: list[RemoteFile], needed: dict[str, str], *, check: bool
) -> Installed:
    kit = kit_of(host.entry)
    said = host.check(
        put_command(kit, wanted, needed),
        "installing the backup",
        hint="is its disk full or read-only?",
    )
    done = Installed()
    done.knows_images = kit is ATTACHMENTS or "images unknown" not in said.stdout.splitlines()
    checked = ""
    missing = []
    for line in said.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("changed", "removed"):
            done.changes.append(f"{rest}{' removed' if word == 'removed' else ''}")
        elif word == "missing":
            missing.append(needed[rest])
        elif word == "checked":
            checked = rest
    if missing:
        _install_packages(host, missing)
        done.changes += [f"package {name}" for name in missing]
    if "cron down" in said.stdout.splitlines():
        _start_cron(host)
        done.changes.append("cron started")
    # Asking the bucket costs the AWS CLI seconds: only if something is not as it was then.
    mark = fingerprint(wanted)
    if check and (done.changes or checked != mark):
        done.checked = _check(host, kit, mark)
    return done


def _install_packages(host: Host, packages: list[str]) -> None:
    names = " ".join(map(shlex.quote, packages))
    get = (
        "apt-get -o DPkg::Lock::Timeout=120 -qq -y --no-install-recommends "
        f"install {names} >/dev/null"
    )
    script = (
        "export DEBIAN_FRONTEND=noninteractive\n"
        "command -v apt-get >/dev/null || { echo 'it has no apt-get' >&2; exit 1; }\n"
        f"{get} 2>/dev/null || {{ apt-get -qq update && {get}; }}"
    )
    host.check(
        Command(script),
        f"installing {', '.join(packages)}",
        hint=f"install by hand on {host.name}: {', '.join(packages)}; then run this again",
        timeout=INSTALL_TIMEOUT,
    )


def _start_cron(host: Host) -> None:
    script = (
        "if [ -d /run/systemd/system ]; then systemctl enable --now cron 2>/dev/null || "
        "systemctl enable --now crond; else service cron start; fi >/dev/null\n"
        "pgrep -x 'cron|crond' >/dev/null"
    )
    host.check(
        Command(script),
        "starting cron",
        hint=f"start cron on {host.name} by hand: without it no backup is made",
    )


def _check(host: Host, kit: Kit, mark: str) -> str:
    """Run the script's own check; return what it found, or raise what keeps it from working."""
    remember = f"echo {mark} >{kit.checked}"
    result = host.run(Command(f"{kit.script} --check && {remember}"), timeout=INSTALL_TIMEOUT)
    if result.exit_code == 0:
        return kit.ready
    if result.exit_code == LOCKED:
        # Not remembered as checked: the next installation checks.
        return "a backup is running now, so nothing could be checked: run this again after it"
    lines = [line.partition(" run=")[2] for line in result.stderr.splitlines() if " ERROR " in line]
    reasons = [line.partition(" ")[2] for line in lines] or ["it said nothing"]
    if result.exit_code == NO_CONTAINER:
        return kit.absent
    message, _, advice = reasons[-1].partition("; next: ")
    raise SwarmkeepError(
        f"{host.name}: the backup is installed but cannot work: {message}",
        hint=advice or f"run there: {kit.script} --check",
        details=tuple(reasons[:-1]),
    )


def find_host(fleet: Fleet, inventory: Inventory) -> Host:
    """The db host on which the database's container runs now. Raises SwarmkeepError."""
    label = shlex.quote(f"label=com.docker.swarm.service.name={inventory.postgres.service}")
    ask = Command(f"docker ps -q --filter {label} --filter status=running", changes=False)
    outcomes = fleet.fan_out(
        inventory.with_role("db"), lambda host: host.check(ask, "asking Docker").stdout.strip()
    )
    for outcome in outcomes:
        if outcome.value:
            return fleet.host(outcome.entry)
    values(outcomes)
    names = ", ".join(outcome.entry.name for outcome in outcomes)
    raise SwarmkeepError(
        f"{inventory.postgres.service}: no running container on {names}",
        hint="see inv status; deploy it with: inv deploy-db",
    )


def run(host: Host, on_line: Callable[[str], None], option: str = "") -> int:
    """Run the host's script now and return its exit code; each line of its log goes to `on_line`.

    `option` is "--restore" for the way back of the attachments.

    The script writes to its log file as under cron and we follow that file: so a lost
    connection ends our view, not the backup.
    """
    kit = kit_of(host.entry)
    script = (
        f"[ -x {kit.script} ] || {{ echo 'not installed' >&2; exit 127; }}\n"
        f"touch {kit.log}\n"
        f"seen=$(stat -c %s {kit.log})\n"
        f"setsid {kit.script}{option and ' '}{option} >>{kit.log} 2>&1 &\n"
        "pid=$!\n"
        f"tail -c +$((seen + 1)) -s 0.2 -f --pid=$pid {kit.log}\n"
        "wait $pid"
    )
    result = host.run(Command(script), timeout=RUN_TIMEOUT, on_line=on_line)
    if result.exit_code == 127 and "not installed" in result.stderr:
        raise SwarmkeepError(
            f"{host.name}: {kit.script} is not installed", hint="install it: inv backup.install"
        )
    return result.exit_code


def logs(fleet: Fleet, inventory: Inventory, lines: int) -> list[Outcome[str]]:
    """The last lines of each host's backup log, "" where there is none yet."""

    def read(host: Host) -> str:
        log = kit_of(host.entry).log
        command = Command(f"[ ! -e {log} ] || tail -n {lines} {log}", changes=False)
        return host.check(command, f"reading {log}").stdout

    return fleet.fan_out(backup_kits.hosts(inventory), read)


def uninstall(fleet: Fleet, inventory: Inventory) -> list[Outcome[list[str]]]:
    """Remove script, settings, credentials, cron and logrotate files from every host.

    Dumps and logs stay: they are the user's data. Returns the removed paths per host.
    """

    def remove(host: Host) -> list[str]:
        paths = " ".join(backup_kits.removable(kit_of(host.entry)))
        command = Command(
            f"for f in {paths}; do [ ! -e $f ] || {{ rm -f $f && echo $f; }} || exit 1; done"
        )
        return host.check(command, "removing the backup").stdout.split()

    return fleet.fan_out(backup_kits.hosts(inventory), remove)


def note_images(fleet: Fleet, images: Mapping[str, str]) -> None:
    """Have the db hosts know which images the stacks run, for the manifests of their backups.

    Only where the backup is installed. A host that cannot be reached is left out: it will be
    told by the next installation or deploy.
    """
    content = "".join(f"{service} {image}\n" for service, image in sorted(images.items()))
    write = write_command([RemoteFile(backup_kits.IMAGES, content.encode())])
    installed = f"[ -e {backup_kits.DATABASE.config} ] || exit 0\n"
    fleet.fan_out(
        fleet.inventory.with_role("db"),
        lambda host: host.run(Command(installed + write.script, stdin=write.stdin)),
    )
