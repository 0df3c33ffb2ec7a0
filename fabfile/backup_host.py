"""The backup on the db hosts: script, settings, cron, logrotate. Install, run, logs, uninstall."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fabfile.errors import SwarmkeepError
from fabfile.transport import Command, Fleet, Host, Outcome, RemoteFile, values, write_command

if TYPE_CHECKING:
    from fabfile.inventory import Backup, Inventory
    from fabfile.vault import Secrets

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
SCRIPT = "/usr/local/bin/backup-pg.sh"
COMMON = "/usr/local/lib/backup-common.sh"
"""What the scripts share."""
CONFIG = "/etc/backup-pg.conf"
CREDENTIALS = "/etc/backup-pg.aws"
CRON = "/etc/cron.d/backup-pg"
LOGROTATE = "/etc/logrotate.d/backup-pg"
LOG = "/var/log/backup-pg.log"
CHECKED = "/var/lib/backup-pg.checked"
"""Holds the fingerprint of what the last successful check was made with."""

LOCKED = 10
"""backup-pg.sh's exit code while another run is in progress."""
NO_CONTAINER = 11
"""backup-pg.sh's exit code on a node that does not run the database now."""
INSTALL_TIMEOUT = 600.0
RUN_TIMEOUT = 7 * 3600.0
"""Seconds: a little more than the script allows any one of its steps."""

# Debian packages by the program that is looked for.
_PACKAGES = {"aws": "awscli", "pigz": "pigz", "cron": "cron", "logrotate": "logrotate"}
_COMPRESSORS = {
    "auto": {"libdeflate-gzip": "libdeflate-tools"},
    "libdeflate": {"libdeflate-gzip": "libdeflate-tools"},
    "igzip": {"igzip": "isal"},
}


@dataclass
class Installed:
    """What an installation did on one host. `changes` is empty if all was right already."""

    changes: list[str] = field(default_factory=list)
    checked: str = ""
    """What the script's own check found."""


def files(inventory: Inventory, secrets: Secrets) -> list[RemoteFile]:
    """Given inventory and vault, return the files of a db host, the credentials only if the
    vault has them: otherwise what is configured on the node is used.
    """
    from fabfile.vault import AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY

    key, secret = secrets.get(AWS_ACCESS_KEY_ID), secrets.get(AWS_SECRET_ACCESS_KEY)
    if (key is None) != (secret is None):
        missing = AWS_SECRET_ACCESS_KEY if secret is None else AWS_ACCESS_KEY_ID
        raise SwarmkeepError(
            f"the vault holds one half of the nodes' AWS key, {missing} is missing",
            hint=f"inv secrets.set {missing}, or remove the other half",
        )
    found = [
        RemoteFile(SCRIPT, (SCRIPTS / "backup-pg.sh").read_bytes(), 0o755),
        RemoteFile(COMMON, (SCRIPTS / "backup-common.sh").read_bytes(), 0o644),
        RemoteFile(CONFIG, config(inventory, own_credentials=key is not None), 0o600),
        RemoteFile(CRON, cron_entry(inventory.backup), 0o644),
        RemoteFile(LOGROTATE, (SCRIPTS / "backup-pg.logrotate").read_bytes(), 0o644),
    ]
    if key and secret:
        text = (
            "# Made by 'inv backup.install' from the vault.\n[default]\n"
            f"aws_access_key_id = {key.reveal()}\naws_secret_access_key = {secret.reveal()}\n"
        )
        found.append(RemoteFile(CREDENTIALS, text.encode(), 0o600))
    return found


def config(inventory: Inventory, *, own_credentials: bool) -> bytes:
    """The script's settings file: shell assignments, every value quoted."""
    backup, postgres = inventory.backup, inventory.postgres
    settings = {
        "PG_DB": " ".join(postgres.databases),
        "PG_USER": postgres.user,
        "DB_SERVICE_NAME": postgres.service,
        "S3_BUCKET": backup.bucket,
        "AWS_REGION": backup.region,
        "S3_ENDPOINT_URL": backup.node_endpoint_url,
        "BACKUP_DIR": backup.directory,
        "KEEP_LOCAL_DAYS": str(backup.keep_local_days),
        "COMPRESSION": backup.compression,
        "COUNT_ROWS": "yes" if backup.count_rows else "no",
        "SSE": backup.encryption,
        "SSE_KMS_KEY_ID": backup.kms_key_id,
    }
    if own_credentials:
        settings["AWS_SHARED_CREDENTIALS_FILE"] = CREDENTIALS
    lines = [f"{key}={shlex.quote(value)}\n" for key, value in settings.items()]
    head = "# Settings of backup-pg.sh, made by 'inv backup.install' from hosts.yaml.\n"
    return (head + "".join(lines)).encode()


def cron_entry(backup: Backup) -> bytes:
    """The /etc/cron.d file with the schedule of hosts.yaml."""
    template = (SCRIPTS / "backup-pg.cron").read_text()
    return template.replace("@SCHEDULE@", backup.schedule).encode()


def programs(compression: str) -> dict[str, str]:
    """Given the compression setting, return what must be there: program -> Debian package."""
    return _PACKAGES | _COMPRESSORS.get(compression.partition("-")[0], {})


def fingerprint(wanted: list[RemoteFile]) -> str:
    """One hash over all files: what a check was made with."""
    digest = hashlib.sha256()
    for file in wanted:
        digest.update(f"{file.path} {file.mode:o} {len(file.content)}\n".encode() + file.content)
    return digest.hexdigest()


def put_command(wanted: list[RemoteFile], needed: dict[str, str]) -> Command:
    """The one command that puts the files in place and tells what else is to be done.

    Prints a line per file ("changed PATH"), per missing program ("missing NAME"), "cron down"
    where cron does not run, and "checked FINGERPRINT".
    """
    write = write_command(wanted)
    names = {file.path for file in wanted}
    gone = (
        f"if [ -e {CREDENTIALS} ]; then rm -f {CREDENTIALS}; echo removed {CREDENTIALS}; fi\n"
        if CREDENTIALS not in names
        else ""
    )
    survey = (
        f"for p in {' '.join(map(shlex.quote, needed))}; do\n"
        '  command -v "$p" >/dev/null || [ -x "/usr/sbin/$p" ] || echo "missing $p"\n'
        "done\n"
        "pgrep -x 'cron|crond' >/dev/null || echo cron down\n"
        f'[ ! -r {CHECKED} ] || echo "checked $(cat {CHECKED})"\n'
    )
    return Command(write.script + gone + survey, stdin=write.stdin)


def install(fleet: Fleet, inventory: Inventory, secrets: Secrets) -> list[Outcome[Installed]]:
    """Install on every db host at once; one host's failure hides no other's outcome."""
    wanted = files(inventory, secrets)
    needed = programs(inventory.backup.compression)
    return fleet.fan_out(inventory.with_role("db"), lambda host: _install_on(host, wanted, needed))


def _install_on(host: Host, wanted: list[RemoteFile], needed: dict[str, str]) -> Installed:
    said = host.check(
        put_command(wanted, needed), "installing the backup", hint="is its disk full or read-only?"
    )
    done = Installed()
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
    if done.changes or checked != mark:
        done.checked = _check(host, mark)
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


def _check(host: Host, mark: str) -> str:
    """Run the script's own check; return what it found, or raise what keeps it from working."""
    remember = f"echo {mark} >{CHECKED}"
    result = host.run(Command(f"{SCRIPT} --check && {remember}"), timeout=INSTALL_TIMEOUT)
    if result.exit_code == 0:
        return "ready: the bucket can be written, the database answers"
    if result.exit_code == LOCKED:
        # Not remembered as checked: the next installation checks.
        return "a backup is running now, so nothing could be checked: run this again after it"
    lines = [line.partition(" run=")[2] for line in result.stderr.splitlines() if " ERROR " in line]
    reasons = [line.partition(" ")[2] for line in lines] or ["it said nothing"]
    if result.exit_code == NO_CONTAINER:
        return "the bucket can be written; the database does not run here now"
    message, _, advice = reasons[-1].partition("; next: ")
    raise SwarmkeepError(
        f"{host.name}: the backup is installed but cannot work: {message}",
        hint=advice or f"run there: {SCRIPT} --check",
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


def run(host: Host, on_line: Callable[[str], None]) -> int:
    """Run the script now and return its exit code; each line of its log goes to `on_line`.

    The script writes to its log file as under cron and we follow that file: so a lost
    connection ends our view, not the backup.
    """
    script = (
        f"[ -x {SCRIPT} ] || {{ echo 'not installed' >&2; exit 127; }}\n"
        f"touch {LOG}\n"
        f"seen=$(stat -c %s {LOG})\n"
        f"setsid {SCRIPT} >>{LOG} 2>&1 &\n"
        "pid=$!\n"
        f"tail -c +$((seen + 1)) -s 0.2 -f --pid=$pid {LOG}\n"
        "wait $pid"
    )
    result = host.run(Command(script), timeout=RUN_TIMEOUT, on_line=on_line)
    if result.exit_code == 127 and "not installed" in result.stderr:
        raise SwarmkeepError(
            f"{host.name}: {SCRIPT} is not installed", hint="install it: inv backup.install"
        )
    return result.exit_code


def logs(fleet: Fleet, inventory: Inventory, lines: int) -> list[Outcome[str]]:
    """The last lines of each db host's backup log, "" where there is none yet."""
    command = Command(f"[ ! -e {LOG} ] || tail -n {lines} {LOG}", changes=False)
    return fleet.fan_out(
        inventory.with_role("db"), lambda host: host.check(command, f"reading {LOG}").stdout
    )


def uninstall(fleet: Fleet, inventory: Inventory) -> list[Outcome[list[str]]]:
    """Remove script, settings, credentials, cron and logrotate files from every db host.

    Dumps and the log stay: they are the user's data. Returns the removed paths per host.
    """
    paths = (CRON, SCRIPT, COMMON, CONFIG, CREDENTIALS, LOGROTATE, CHECKED)
    command = Command(
        f"for f in {' '.join(paths)}; do [ ! -e $f ] || {{ rm -f $f && echo $f; }} || exit 1; done"
    )
    return fleet.fan_out(
        inventory.with_role("db"),
        lambda host: host.check(command, "removing the backup").stdout.split(),
    )
