"""inv recover: from an empty db host to everything as it was in the last good backup."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import CheckFailedError, ConfigError, SwarmkeepError
from fabfile.commands.restore import BEFORE_HELP, DRY, KEY_HELP
from fabfile.terminal.app_passwords import with_app_passwords
from fabfile.terminal.command import (
    command,
    connected,
    is_dry,
    read_inventory,
    read_vault,
    show_error,
)
from fabfile.terminal.deploy_dialog import WAIT_HELP, ask, carry_out, say
from fabfile.terminal.identity_dialog import IDENTITY_HELP, identity_for
from fabfile.terminal.recover_dialog import (
    accept_cluster,
    bring_password,
    choose_sets,
    databases_now,
    deploy_proxy_and_apps,
    ends_of_wal,
    named,
    wanted_proxies,
)
from fabfile.terminal.restore_dialog import Source, bring_files, counted, source_of
from fabfile.terminal.restore_dialog import carry_out as carry_out_restore

if TYPE_CHECKING:
    from fabfile.backup.sets import BackupSet
    from fabfile.config.inventory import Inventory
    from fabfile.restore.recovery import Site
    from fabfile.restore.restore_script import Restored
    from fabfile.ssh.fleet import Fleet
    from fabfile.vault.backup_identity import Identity
    from fabfile.vault.reading import Secrets


@command(
    notifies="recover",
    help={
        "key": f"instead of the newest proven set: {KEY_HELP}",
        "before": f"instead of the newest proven set: {BEFORE_HELP}",
        "identity": IDENTITY_HELP,
        "yes": "do not ask before it begins",
        "wait": WAIT_HELP,
    },
)
def recover(
    ctx: Context,
    hosts: str | None = None,
    key: str = "",
    before: str = "",
    identity: str = "",
    yes: bool = False,
    wait: bool = False,
) -> None:
    """Bring all back from the bucket onto an empty db host."""
    from fabfile.commands.plan import wanted_stack
    from fabfile.deploy.finish_script import Options
    from fabfile.deploy.planning import make_plan
    from fabfile.deploy.preflight import Allowed
    from fabfile.restore import recovery
    from fabfile.swarm import operator
    from fabfile.vault.reading import POSTGRES_PASSWORD

    if key and before:
        raise ConfigError("--key and --before: use at most one of them")
    start = time.monotonic()
    inventory = read_inventory(hosts)
    names = [one.name for one in inventory.apps]
    secrets = with_app_passwords(inventory, read_vault(inventory), names, write=not is_dry(ctx))
    database, *apps = (wanted_stack(role, inventory, secrets) for role in ("db", "app", *names))
    proxies = wanted_proxies(inventory, secrets)
    wanted = [database, *proxies, *apps]
    sets, doubtful = choose_sets(inventory, key=key, before=before, identity=identity)
    ends = {} if key or before else ends_of_wal(inventory, sets, doubtful)
    recovery.check_versions(inventory, sets)
    private = {
        name: _identity(inventory, one, ends.get(name), identity) for name, one in sets.items()
    }
    with connected(ctx, inventory) as fleet:
        seen = recovery.look(fleet, wanted)
        site = recovery.survey(fleet, seen, [secrets.require(POSTGRES_PASSWORD)])
        # What is there has been looked at: it may be another cluster, or none.
        allowed = Allowed(
            move_data_host=site.moves, leave_data=True, database_first=True, together=True
        )
        for stack in wanted:
            make_plan(inventory, stack, seen, allowed)
        sets = _without_kept(sets, site)
        said = named(sets, ends)
        ask(f"This brings back {said}. Go on?", yes=yes, refusal=f"this would bring back {said}")
        options = Options("recover", operator.find(), wait=wait, allowed=allowed)
        carry_out(fleet, database, options, yes=True, seen=seen)
        if fleet.dry:
            print(DRY)
            return
        administrator = secrets.require(POSTGRES_PASSWORD)
        bring_password(fleet, administrator, inventory.postgres.user, administrator)
        _install(fleet, inventory, secrets)
        came = _restore(fleet, sets, ends, private, replaced=site.replaced, wait=wait)
        for one in inventory.apps:
            # A set has its role with the password of then.
            password = secrets.require(one.password_entry)
            bring_password(fleet, administrator, one.user, password)
        accept_cluster(fleet, sets, database)
        there = databases_now(fleet, administrator)
        failures = deploy_proxy_and_apps(fleet, proxies, apps, options)
        failures += _bring_the_rest(fleet, inventory, secrets, identity)
    seconds = time.monotonic() - start
    _print_result(came, there, seconds, failures, pitr=inventory.backup.pitr)


def _identity(
    inventory: Inventory, one: BackupSet, end: Source | None, flag: str
) -> Identity | None:
    """The identity that reads a database's set, which is tried after the WAL, and its WAL."""
    what = f"set {one.stamp}"
    if one.recipients or end is None:
        return identity_for(inventory, one.recipients, flag, what)
    return identity_for(inventory, end.keys, flag, "the WAL", encrypted=end.encrypted)


@dataclass(frozen=True)
class _Came:
    """What has come back of one database. `kept` names the one it took the place of, or ""."""

    source: Source
    done: Restored
    kept: str


def _without_kept(sets: dict[str, BackupSet], site: Site) -> dict[str, BackupSet]:
    """Those of the databases that are gone; what is said of the others."""
    for name, tables in site.kept.items():
        print(
            f"{name} is there, with {tables} tables, and stays as it is (to go back to a backup: "
            f"inv backup.restore --replace --database {name})",
            flush=True,
        )
    return {name: one for name, one in sets.items() if name not in site.kept}


def _install(fleet: Fleet, inventory: Inventory, secrets: Secrets) -> None:
    """Put the backup's scripts in place, by which the restore is done: on the database's host
    they must be, any other may be down.
    """
    from fabfile.backup import host_install, host_run
    from fabfile.deploy import drilled_apps

    print("backup.install", flush=True)
    if inventory.backup.mode == "container":
        from fabfile.terminal import backup_container_dialog

        # There may be no database yet to check it with.
        backup_container_dialog.install(fleet, inventory, secrets, check=False)
        return
    host = host_run.find_host(fleet, inventory)
    apps = drilled_apps.settings(inventory, secrets)
    for outcome in host_install.install(fleet, inventory, secrets, apps, check=False):
        for change in outcome.value.changes if outcome.value else ():
            say(f"{outcome.entry.name}: {change}")
        if outcome.error and outcome.entry == host.entry:
            raise outcome.error
        if outcome.error:
            say(f"warning: {outcome.error.message}")


def _bring_the_rest(
    fleet: Fleet, inventory: Inventory, secrets: Secrets, identity: str
) -> list[SwarmkeepError]:
    """Attachments, and the backup's own check, now that there is something to back up; what
    fails of it, now that the database is back.
    """
    from fabfile.backup import host_install, host_run
    from fabfile.deploy import drilled_apps

    failures = []
    try:
        if inventory.backup.files:
            bring_files(fleet, identity)
    except SwarmkeepError as error:
        failures.append(error)
    if inventory.backup.mode == "container":
        return failures
    try:
        host = host_run.find_host(fleet, inventory)
        apps = drilled_apps.settings(inventory, secrets)
        outcomes = host_install.install(fleet, inventory, secrets, apps)
        failures += [o.error for o in outcomes if o.error and o.entry == host.entry]
        for outcome in outcomes:
            if outcome.error and outcome.entry != host.entry:
                say(f"warning: {outcome.error.message}")
    except SwarmkeepError as error:
        failures.append(error)
    return failures


def _restore(
    fleet: Fleet,
    sets: dict[str, BackupSet],
    ends: dict[str, Source],
    private: dict[str, Identity | None],
    *,
    replaced: frozenset[str],
    wait: bool,
) -> dict[str, _Came]:
    """Restore every set, or to the end of the WAL where that brings more; where NocoDB runs or
    has begun anew, it takes the place of that.
    """
    from fabfile.backup import host_run, selection
    from fabfile.restore.restore_script import restore_command

    host = host_run.find_host(fleet, fleet.inventory)
    now = datetime.now(UTC)
    came = {}
    for name, one in sets.items():
        fresh = selection.new_name(name, "restored", now) if name in replaced else name
        kept = selection.new_name(name, "replaced", now) if name in replaced else ""
        print(f"restoring {name}", flush=True)
        the_set = source_of(one)

        def bring(source: Source, names: tuple[str, str, str]) -> _Came:
            line = restore_command(names[0], source.words, names[1], 0, goes_live=True)
            label = f"recover {source.words[1]}"
            done = carry_out_restore(
                fleet, host, label, line, names, wait=wait, identity=private[names[0]]
            )
            if done is None:
                raise SwarmkeepError(f"{names[0]}: nothing was restored in a dry run")
            return _Came(source, done, names[2])

        try:
            came[name] = bring(ends.get(name, the_set), (name, fresh, kept))
        except (CheckFailedError, ConfigError) as error:
            # What is in the bucket is not good, or the identity does not read it. Anything
            # else may be better when it is tried again.
            if name not in ends:
                raise
            say(f"warning: {error.message}")
            say(f"set {one.stamp} is restored instead, which ends earlier")
            came[name] = bring(the_set, (name, fresh, kept))
    return came


def _print_result(
    came: dict[str, _Came],
    there: frozenset[str],
    seconds: float,
    failures: list[SwarmkeepError],
    *,
    pitr: bool,
) -> None:
    """Say what has come back, and what is kept of what is `there`.

    Raises the last of the failures, if there are any.
    """
    from fabfile.base.units import format_duration

    for name, that in came.items():
        when = f"{that.source.when:%Y-%m-%d %H:%M:%S} UTC"
        rows = counted(that.done, compared=that.source.compared)
        upto = "as it was at" if that.source.words[0] == "--set" else "with every commit up to"
        print(f"recovered: {name}, {upto} {when}: {rows}")
        if that.kept in there:
            print(f"the database that its app made meanwhile is kept as {that.kept}")
    if not failures:
        # The newest set tells verify which cluster's WAL to look at: the new one has none yet.
        run = "backup.run " if pitr else ""
        print(
            f"recovery complete ({format_duration(seconds)}); next: inv {run}backup.verify doctor"
        )
        return
    print("the data is restored, but these steps failed:", flush=True)
    for error in failures[:-1]:
        show_error(error)
    raise failures[-1]
