"""The backup on its hosts: the host that has the database, a run by hand, the logs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING

from fabfile.backup import container, host_files, host_kit
from fabfile.backup.host_kit import ATTACHMENTS, Kit, kit_of
from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.fleet import Fleet, Host, Outcome, values
from fabfile.ssh.remote_command import Command, RemoteFile, succeeded, write_command

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory

from fabfile.backup.host_install import NO_CONTAINER, check_owner

DUMPED = " dumped and read back "
"""In the line of the script's log that says that the dump is finished, and will be uploaded."""
RUN_TIMEOUT = 7 * 3600.0
"""Seconds: a little more than a script allows any one of its steps."""


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


def run(host: Host, on_line: Callable[[str], None], options: str = "", stdin: bytes = b"") -> int:
    """Run the host's script now and return its exit code; each line of its log goes to `on_line`.

    `options` is "--restore" for the way back of the attachments, with "--identity" if `stdin` has
    the identity that reads them.

    The script writes to its log file as under cron and we follow that file: so a lost
    connection ends our view, not the backup.
    """
    kit = kit_of(host.entry, host.inventory)
    if container.is_used(host.inventory):
        script = container.run_script(host, kit.script, options)
    else:
        script = _followed(kit, host.inventory, options)
    result = host.run(Command(script, stdin=stdin), timeout=RUN_TIMEOUT, on_line=on_line)
    check_owner(result, kit)
    if result.exit_code == 127 and "not installed" in result.stderr:
        raise SwarmkeepError(
            f"{host.name}: {kit.script} is not installed", hint="install it: inv backup.install"
        )
    return result.exit_code


def _followed(kit: Kit, inventory: Inventory, options: str) -> str:
    return (
        f"[ -x {kit.script} ] || {{ echo 'not installed' >&2; exit 127; }}\n"
        f"{host_files.guard(kit, inventory)}"
        f"touch {kit.log}\n"
        f"seen=$(stat -c %s {kit.log})\n"
        # What runs in the background has no stdin of its own accord.
        "exec 3<&0\n"
        f"setsid {kit.command}{options and ' '}{options} <&3 >>{kit.log} 2>&1 &\n"
        "pid=$!\n"
        "exec 3<&-\n"
        f"tail -c +$((seen + 1)) -s 0.2 -f --pid=$pid {kit.log}\n"
        "wait $pid"
    )


def run_all(
    fleet: Fleet, database: Host, apps: Sequence[Host], say: Callable[[str], None]
) -> list[int]:
    """Run the script of the database's host and those of the app hosts; return their exit codes,
    without those of app hosts that have nothing to back up. Lines for people go to `say`.

    The attachments begin once the database is dumped, while it is uploaded: what the dump knows
    of is in the volume by then. Their lines come after those of the database.
    """
    dumped = Event()
    lines: SimpleQueue[str | None] = SimpleQueue()

    def follow(line: str) -> None:
        say(line)
        if DUMPED in line:
            dumped.set()

    def attachments() -> list[int]:
        dumped.wait()
        try:
            return [code for host in apps for code in _run_attachments(host, lines.put)]
        finally:
            lines.put(None)

    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(attachments)
        try:
            say(f"{database.name}: {kit_of(database.entry, database.inventory).script}")
            codes = [run(database, follow)]
            dumped.set()
            for line in iter(lines.get, None):
                say(line)
        except BaseException:
            # Ctrl-C or a lost connection: nothing begins any more, and nobody is waited for.
            apps = ()
            dumped.set()
            fleet.close()
            raise
        return codes + others.result()


def _run_attachments(host: Host, say: Callable[[str], None]) -> list[int]:
    say(f"{host.name}: {kit_of(host.entry, host.inventory).script}")
    code = run(host, say)
    if code != NO_CONTAINER:
        return [code]
    say(f"{host.name}: {ATTACHMENTS.absent}")
    return []


def logs(fleet: Fleet, inventory: Inventory, lines: int) -> list[Outcome[str]]:
    """The last lines of each host's backup log, "" where there is none yet."""

    def read(host: Host) -> str:
        kit = kit_of(host.entry, inventory)
        guard = host_files.guard(kit, inventory)
        script = f"{guard}[ ! -e {kit.log} ] || tail -n {lines} {kit.log}"
        if container.is_used(inventory):
            script = container.logs_script(host, lines)
        command = Command(script, changes=False)
        result = host.run(command)
        check_owner(result, kit)
        return succeeded(result, f"reading {kit.log}").stdout

    return fleet.fan_out(host_kit.hosts(inventory), read)


def note_images(fleet: Fleet, images: Mapping[str, str]) -> None:
    """Have the db hosts know which images the stacks run, for the manifests of their backups.

    Only where the backup is installed. A host that cannot be reached is left out: it will be
    told by the next installation or deploy.
    """
    content = "".join(f"{service} {image}\n" for service, image in sorted(images.items()))
    entries = fleet.inventory.with_role("db")
    kit = kit_of(entries[0], fleet.inventory)
    write = write_command([RemoteFile(kit.images, content.encode())])
    installed = f"[ -e {kit.config} ] || exit 0\n{host_files.guard(kit, fleet.inventory)}"

    def note(host: Host) -> None:
        if container.is_used(fleet.inventory):
            host.run(Command(container.note_images_script(host), stdin=content.encode()))
        else:
            host.run(Command(installed + write.script, stdin=write.stdin))

    fleet.fan_out(entries, note)
