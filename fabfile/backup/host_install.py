"""The backup on its hosts: install, run, logs, uninstall. What goes there: host_files.py."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fabfile.backup import host_files, host_kit, host_programs
from fabfile.backup.host_cron import wal_command
from fabfile.backup.host_files import OTHER_PROJECT, fingerprint, scripts_version
from fabfile.backup.host_kit import COMMON, Kit, kit_of
from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.ssh.fleet import Fleet, Host, Outcome
from fabfile.ssh.remote_command import Command, RemoteFile, Result, succeeded, write_command
from fabfile.vault.project_identity import project_of

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.vault.reading import Secrets

LOCKED = 10
"""The scripts' exit code while another run is in progress."""
NO_CONTAINER = 11
"""The scripts' exit code on a node that has nothing to back up now."""
INSTALL_TIMEOUT = 600.0


@dataclass
class Installed:
    """What an installation did on one host. `changes` is empty if all was right already."""

    changes: list[str] = field(default_factory=list)
    checked: str = ""
    """What the script's own check found."""
    knows_images: bool = True
    """Whether the host has been told which images the stacks run."""
    container: bool = False
    """Whether the host has the volume of a backup as a container: the mode has changed."""
    kept: str = ""
    """The version of the host's scripts, where they are newer than ours and stay."""


def put_command(
    kit: Kit,
    inventory: Inventory,
    project_id: str,
    wanted: Sequence[RemoteFile],
    needed: Mapping[str, str],
    *,
    take_over: bool = False,
) -> Command:
    """The one command that puts the files in place and tells what else is to be done.

    Prints a line per file ("changed PATH"), per missing program ("missing NAME"), "cron down"
    where cron does not run, "kept VERSION" where the host has newer scripts, and "checked
    FINGERPRINT". Ends with OTHER_PROJECT, before any change, where the settings are another
    project's.
    """
    scripts = [file for file in wanted if file.path in kit.scripts]
    own = [file for file in wanted if file.path not in kit.scripts]
    newer = (
        f"there=$(sed -n 's/^readonly VERSION=//p' {COMMON} 2>/dev/null || :)\n"
        f"here={scripts_version()}\n"
        'newest=$(printf "%s\\n" "$here" "$there" | sort -V | tail -n 1)\n'
        'if [ -n "$there" ] && [ "$newest" != "$here" ]; then echo "kept $there"; else\n'
    )
    there = {file.path for file in wanted}
    gone = "".join(
        f"if [ -e {path} ]; then rm -f {path}; echo removed {path}; fi\n"
        for path in kit.secrets
        if path not in there
    )
    survey = (
        f"for p in {' '.join(map(shlex.quote, needed))}; do\n"
        '  command -v "$p" >/dev/null || [ -x "/usr/sbin/$p" ] || echo "missing $p"\n'
        "done\n"
        "pgrep -x 'cron|crond' >/dev/null || echo cron down\n"
        f'[ ! -r {kit.checked} ] || echo "checked $(cat {kit.checked})"\n'
        f"[ -e {kit.images} ] || echo images unknown\n"
    )
    state = shlex.quote(f"{inventory.backup.stack}_state")
    survey += f"! docker volume inspect {state} >/dev/null 2>&1 || echo container there\n"
    if kit.of_database and not inventory.backup.pitr:
        survey += f"[ ! -e {kit.wal_started(inventory.backup.directory)} ] || echo wal archived\n"
    refuse = "" if take_over else _refuse_others(kit, inventory, project_id)
    write = write_command(own)
    more = write_command(scripts, functions=False)
    script = (
        refuse
        + write.script
        + gone
        + newer
        + more.script
        + "fi\n"
        + _former_names(kit, inventory, project_id)
        + survey
    )
    return Command(script, stdin=write.stdin + more.stdin)


def _refuse_others(kit: Kit, inventory: Inventory, project_id: str) -> str:
    """The script that ends where the settings name another project, or, made by a version that
    wrote no project into them, another service.
    """
    return (
        f"id=$(sed -n 's/^PROJECT_ID=//p' {kit.config} 2>/dev/null || :)\n"
        f'if [ -n "$id" ] && [ "$id" != {project_id} ]; then\n'
        f'  echo "PROJECT_ID=$id"; exit {OTHER_PROJECT}\nfi\n'
        f'if [ -z "$id" ]; then\n:\n{host_files.guard(kit, inventory)}fi\n'
    )


def _former_names(kit: Kit, inventory: Inventory, project_id: str) -> str:
    """The script that removes the schedule and settings which this installation had under another
    project name: else it would be backed up twice. Dumps and log stay.
    """
    setting = shlex.quote(host_files.owner_setting(kit, inventory))
    return (
        f"for c in /etc/{kit.name}.conf /etc/{kit.name}-*.conf; do\n"
        f'  [ -e "$c" ] && [ "$c" != {kit.config} ] && grep -qxF {setting} "$c" || continue\n'
        f'  ! grep -q \'^PROJECT_ID=\' "$c" || grep -qxF PROJECT_ID={project_id} "$c" || continue\n'
        "  n=${c#/etc/}; n=${n%.conf}\n"
        '  for f in "/etc/cron.d/$n" "$c" "/etc/$n.aws" "/etc/$n.ping" "/etc/$n.identity" \\\n'
        '    "/etc/logrotate.d/$n" "/var/lib/$n.checked" "/etc/$n.images"; do\n'
        '    [ ! -e "$f" ] || { rm -f "$f"; echo "removed $f"; }\n'
        "  done\ndone\n"
    )


def install(
    fleet: Fleet,
    inventory: Inventory,
    secrets: Secrets,
    apps: bytes,
    *,
    check: bool = True,
    take_over: bool = False,
) -> list[Outcome[Installed]]:
    """Install on every host of the backup at once; one's failure hides no other's outcome.
    `apps` as for host_files.files.

    Without `check` it is left open whether the backup can work: before a recovery there may be
    no database yet. `take_over`: also where the settings are another project's.
    """
    # What cannot be installed anywhere is refused before the first host is touched.
    project_id = project_of(inventory, secrets).id
    commands = {
        entry: (
            wanted := host_files.files(entry, inventory, secrets, apps),
            put_command(
                kit_of(entry, inventory),
                inventory,
                project_id,
                wanted,
                host_programs.programs(entry, inventory),
                take_over=take_over,
            ),
        )
        for entry in host_kit.hosts(inventory)
    }
    return fleet.fan_out(
        tuple(commands), lambda host: _install_on(host, *commands[host.entry], check=check)
    )


def _install_on(
    host: Host, wanted: Sequence[RemoteFile], put: Command, *, check: bool
) -> Installed:
    kit = kit_of(host.entry, host.inventory)
    needed = host_programs.programs(host.entry, host.inventory)
    said = host.run(put)
    check_owner(said, kit)
    succeeded(said, "installing the backup", hint="is its disk full or read-only?")
    done = Installed()
    lines = said.stdout.splitlines()
    done.container = "container there" in lines
    done.knows_images = not kit.of_database or "images unknown" not in lines
    checked = ""
    missing = []
    for line in lines:
        word, _, rest = line.partition(" ")
        if word in ("changed", "removed"):
            done.changes.append(f"{rest}{' removed' if word == 'removed' else ''}")
        elif word == "missing":
            missing.append(needed[rest])
        elif word == "checked":
            checked = rest
        elif word == "kept":
            done.kept = rest
    if missing:
        _install_packages(host, missing)
        done.changes += [f"package {name}" for name in missing]
    if "cron down" in lines:
        _start_cron(host)
        done.changes.append("cron started")
    if "wal archived" in lines:
        # Without anybody to archive it, PostgreSQL would keep its WAL until the cap.
        host.check(Command(wal_command(kit, "stop")), "ending the archiving of WAL")
        done.changes.append("point-in-time recovery ended: the replication slot is dropped")
    # Asking the bucket costs the AWS CLI seconds: only if something is not as it was then.
    mark = fingerprint(wanted)
    if check and (done.changes or checked != mark):
        done.checked = _check(host, kit, mark)
    return done


def check_owner(result: Result, kit: Kit) -> None:
    """Raise ConfigError if a script has ended because the settings are another project's."""
    if result.exit_code != OTHER_PROJECT:
        return
    said = result.stdout.strip().splitlines()
    raise ConfigError(
        f"{result.host}: {kit.config} is of another project "
        f"({said[-1] if said else 'unknown'}); nothing was changed",
        hint="give this project a name ('project:' in hosts.yaml); if the settings are this "
        "project's (a service or the vault's password has changed), or are to be taken over: "
        "inv backup.install --take-over",
    )


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
    result = host.run(Command(f"{kit.command} --check && {remember}"), timeout=INSTALL_TIMEOUT)
    lines = result.stderr.splitlines()
    return check_verdict(
        host.name, kit, result.exit_code, lines, f"run there: {kit.command} --check"
    )


def check_verdict(name: str, kit: Kit, code: int, lines: Sequence[str], hint: str) -> str:
    """Given the exit code and the log of a script's --check on a host, return what it found.

    Raises SwarmkeepError with what keeps the backup from working; `hint` if that has no advice.
    """
    if code == 0:
        return kit.ready
    if code == LOCKED:
        # Not remembered as checked: the next installation checks.
        return "a backup is running now, so nothing could be checked: run this again after it"
    if code == NO_CONTAINER:
        return kit.absent
    errors = [line.partition(" run=")[2] for line in lines if " ERROR " in line]
    reasons = [line.partition(" ")[2] for line in errors] or ["it said nothing"]
    message, _, advice = reasons[-1].partition("; next: ")
    raise SwarmkeepError(
        f"{name}: the backup is installed but cannot work: {message}",
        hint=advice or hint,
        details=tuple(reasons[:-1]),
    )
