"""inv upgrade-app: another version of NocoDB, and the way back with its database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import ConfigError, SwarmkeepError, UnreachableError
from fabfile.terminal.command import command, is_dry, read_inventory, read_vault, sudo_password
from fabfile.terminal.deploy_dialog import WAIT_HELP, ask, say
from fabfile.terminal.identity_dialog import IDENTITY_HELP, identity_for

if TYPE_CHECKING:
    from fabfile.backup.sets import BackupSet
    from fabfile.config.inventory import Inventory
    from fabfile.deploy.finish_script import Options
    from fabfile.deploy.stacks import Wanted
    from fabfile.ssh.fleet import Fleet
    from fabfile.vault.backup_identity import Identity

DRY = "dry run, nothing was changed"


@command(
    notifies="upgrade-app",
    name="upgrade-app",
    positional=["target"],
    help={
        "target": "the new version: a tag such as 0.301.3, or a whole image name",
        "back": "if it fails: go back without asking, to image and database as they were before",
        "key": "go back to this version with the database of a set (its time stamp), as it was "
        "before an upgrade",
        "identity": f"with --key, --back: {IDENTITY_HELP}",
        "write": "change images.nocodb in the hosts file",
        "yes": "with --key: do not ask before the database is replaced",
        "wait": WAIT_HELP,
    },
)
def upgrade_app(
    ctx: Context,
    target: str,
    hosts: str = "",
    back: bool = False,
    key: str = "",
    identity: str = "",
    write: bool = False,
    yes: bool = False,
    wait: bool = False,
) -> None:
    """Move NocoDB to another version, with the way back."""
    if key and back:
        raise ConfigError("--key and --back: use at most one of them")
    from fabfile.commands.plan import wanted_stack
    from fabfile.deploy.finish_script import Options
    from fabfile.deploy.observation import observe_any
    from fabfile.ssh.fleet import connect
    from fabfile.swarm import operator
    from fabfile.terminal.deploy_dialog import carry_out
    from fabfile.terminal.upgrade_dialog import hosts_file
    from fabfile.upgrade import app

    inventory = read_inventory(hosts)
    secrets = read_vault(inventory)
    sudo, options = sudo_password(ctx), Options(f"upgrade-app {target}", operator.find(), wait=wait)
    with connect(inventory, sudo_password=sudo, dry=is_dry(ctx), echo=print) as fleet:
        cluster = observe_any(fleet)[1]
        live = app.live_image(inventory, cluster)
        image = app.next_image(live, target)
        new = app.with_image(inventory, image)
        wanted = wanted_stack("app", new, secrets)
        if key:
            _with_set(fleet, new, image, (key, identity), options, yes=yes)
            hosts_file(inventory, {("images", "nocodb"): image}, write=write and not fleet.dry)
            return
        if image == live:
            # A client may have been lost before it has seen whether NocoDB answers.
            carry_out(fleet, wanted, options, yes=True)
            hosts_file(inventory, {("images", "nocodb"): image}, write=write and not fleet.dry)
            return
        print(f"{inventory.app.stack}: {live} to {image}", flush=True)
        passwords = [secrets.require("vault_postgres_password")]
        before = app.tables(fleet, cluster, passwords)
        if fleet.dry:
            print(DRY)
            return
        saved = _saved(fleet, inventory)
        # Before anything changes: the way back must be open.
        private = identity_for(
            inventory, saved.recipients, identity, f"set {saved.stamp}, the way back,"
        )
        try:
            with connect(new, sudo_password=sudo, echo=print) as other:
                _change_version(other, wanted, options)
        except UnreachableError:
            raise
        except SwarmkeepError as error:
            after = app.tables(fleet, observe_any(fleet)[1], passwords)
            if after == before:
                error.message += f"; {live} runs again, NocoDB's tables are as they were"
                raise
            _go_back(fleet, inventory, saved, error, private, back=back, wait=wait)
            raise
    print(f"upgraded: {inventory.app.stack} runs {image}")
    _start_first_again(new, sudo, wanted, options)
    hosts_file(inventory, {("images", "nocodb"): image}, write=write)
    print(
        "to go back to the version and the database of before: "
        f"inv upgrade-app {live} --key {saved.stamp}"
    )


def _change_version(fleet: Fleet, wanted: Wanted, options: Options) -> None:
    """Deploy the other version. Behind a proxy, too, the old one stops before it starts: the two
    must not meet on tables that the new one changes.
    """
    from fabfile.terminal.deploy_dialog import carry_out
    from fabfile.upgrade import app

    if fleet.inventory.proxy.hosts:
        wanted = app.stopping_first(wanted, fleet.inventory)
        options = replace(options, keep_release=False)
    carry_out(fleet, wanted, options, yes=True)


def _start_first_again(
    inventory: Inventory, sudo: str | None, wanted: Wanted, options: Options
) -> None:
    """Behind a proxy, have the next update start its task first again, as hosts.yaml has it. That
    restarts nothing; where it fails, the next deploy does it.
    """
    from fabfile.ssh.fleet import connect
    from fabfile.terminal.deploy_dialog import carry_out

    if not inventory.proxy.hosts:
        return
    try:
        with connect(inventory, sudo_password=sudo, echo=print) as fleet:
            carry_out(fleet, wanted, options, yes=True)
    except SwarmkeepError as error:
        say(f"warning: {error.message}; the next inv deploy-app does the rest (see inv plan)")


def _with_set(
    fleet: Fleet,
    new: Inventory,
    image: str,
    key_and_identity: tuple[str, str],
    options: Options,
    *,
    yes: bool,
) -> None:
    """Go to a version together with a set's database. Raises SwarmkeepError; then all is as it was.

    A version does not start on the tables of a later one, nor may the later one start on those of
    before, or it would change them again: so both change while NocoDB is stopped.
    """
    from fabfile.backup import host_run, selection
    from fabfile.commands.plan import wanted_stack
    from fabfile.restore.restore_script import restore_command
    from fabfile.ssh.fleet import connect
    from fabfile.terminal import deploy_dialog, restore_dialog

    name, now = new.postgres.database, datetime.now(UTC)
    key, identity = key_and_identity
    one = restore_dialog.choose(new, name, key=key, before="", now=now, identity=identity)
    private = identity_for(new, one.recipients, identity, f"set {one.stamp} of {name}")
    ask(
        f"This goes to {image} with the database of {one.timestamp:%Y-%m-%d %H:%M:%S} UTC. What "
        "was written since stays in a database that is kept. Go on?",
        yes=yes,
        refusal=f"this would replace database {name} by what it was at {one.timestamp:%H:%M:%S}",
    )
    fresh, kept = (selection.new_name(name, word, now) for word in ("restored", "replaced"))
    line = restore_command(name, ("--set", one.stamp), fresh, 0, goes_live=True)
    host = host_run.find_host(fleet, new)
    label, wait = options.command, options.wait
    done = restore_dialog.carry_out(
        fleet,
        host,
        label,
        line,
        (name, fresh, kept),
        wait=wait,
        image=image,
        identity=private,
    )
    if done is None:
        print(DRY)
        return
    with connect(new, sudo_password=fleet.sudo_password, echo=print) as other:
        deploy_dialog.carry_out(other, wanted_stack("app", new, read_vault(new)), options, yes=True)
    print(f"{new.app.stack} runs {image} with the database of {one.timestamp:%H:%M:%S} UTC")
    print(f"the database before is kept as {kept}")


def _saved(fleet: Fleet, inventory: Inventory) -> BackupSet:
    """A backup made now. Raises SwarmkeepError unless it is in the bucket, complete."""
    from fabfile.backup import host_run
    from fabfile.terminal.command import open_bucket

    start = datetime.now(UTC).replace(microsecond=0)
    name = inventory.postgres.database
    print("a backup before", flush=True)
    code = host_run.run(host_run.find_host(fleet, inventory), say)
    found = open_bucket(inventory).newest(name, datetime.now(UTC)).backups if code == 0 else ()
    newest = next(iter(found), None)
    # The node's clock may differ a little from ours.
    if newest is None or newest.flaw or (start - newest.timestamp).total_seconds() > 60:
        raise SwarmkeepError(
            f"{name}: the backup before was not made (exit code {code}); nothing was changed",
            hint="see the lines above; inv backup.verify",
        )
    return newest


def _go_back(
    fleet: Fleet,
    inventory: Inventory,
    saved: BackupSet,
    error: SwarmkeepError,
    private: Identity | None,
    *,
    back: bool,
    wait: bool,
) -> None:
    """Bring the database back as it was before; the image has been taken back already.

    Changes what `error` says to what is so then. Raises SwarmkeepError if it cannot be done.
    """
    from fabfile.backup import host_run, selection
    from fabfile.restore.restore_script import restore_command
    from fabfile.terminal.restore_dialog import carry_out

    name, now = inventory.postgres.database, datetime.now(UTC)
    way = f"inv backup.restore --key {saved.stamp} --replace"
    said = "it has changed NocoDB's tables before it failed"
    print(f"{error.message}; {said}", flush=True)
    try:
        ask(
            f"Go back to the database as it was at {saved.timestamp:%H:%M:%S} UTC? What was "
            "written since then stays in a database that is kept.",
            yes=back,
            refusal=f"{inventory.app.stack}: {said}, and the version before runs on them",
        )
    except SwarmkeepError:
        error.message += f"; {said}; the version before runs on them now"
        error.hint = f"to have the database as it was before: {way}; {error.hint}"
        raise error from None
    fresh, kept = (selection.new_name(name, word, now) for word in ("restored", "replaced"))
    line = restore_command(name, ("--set", saved.stamp), fresh, 0, goes_live=True)
    host = host_run.find_host(fleet, inventory)
    names = (name, fresh, kept)
    carry_out(fleet, host, f"upgrade-app: {way}", line, names, wait=wait, identity=private)
    error.message += f"; image and database are as they were at {saved.timestamp:%H:%M:%S} UTC"
    error.hint = f"what was written since is in the database {kept}; {error.hint}"
