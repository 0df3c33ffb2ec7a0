"""What a recovery brings back: of each database the newest proven set, or the end of the WAL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fabfile.base.errors import CheckFailedError, SwarmkeepError
from fabfile.terminal.command import open_bucket
from fabfile.terminal.deploy_dialog import carry_out, say
from fabfile.terminal.restore_dialog import Source, choose, contents, made

if TYPE_CHECKING:
    from fabfile.backup.sets import BackupSet
    from fabfile.base.secret import Secret
    from fabfile.config.inventory import Inventory
    from fabfile.deploy.finish_script import Options
    from fabfile.deploy.stacks import Wanted
    from fabfile.ssh.fleet import Fleet
    from fabfile.vault.reading import Secrets

_LOOKED_AT = 20
"""Sets of a database, the newest, among which the one to restore is looked for."""
_ONE_RUN = timedelta(hours=1)
"""By how much the databases of one run may lie apart."""


def choose_sets(
    inventory: Inventory, *, key: str, before: str, identity: str = ""
) -> tuple[dict[str, BackupSet], frozenset[str]]:
    """The set of every database that is to come back, and the databases of which newer sets were
    skipped, since something speaks against them.
    """
    from fabfile.backup import selection
    from fabfile.backup.sets import divided

    now = datetime.now(UTC)
    first, *others = inventory.postgres.databases
    sets: dict[str, BackupSet] = {}
    doubtful = set()
    if key:
        sets[first] = choose(inventory, first, key=key, before="", now=now, identity=identity)
        # The others of the same run, or of the one before.
        before = f"{sets[first].timestamp + _ONE_RUN:%Y-%m-%dT%H:%M:%SZ}"
    elif before:
        sets[first] = choose(inventory, first, key="", before=before, now=now, identity=identity)
    if before:
        for name in others:
            try:
                sets[name] = choose(
                    inventory, name, key="", before=before, now=now, identity=identity
                )
            except CheckFailedError as error:
                _go_on_without(inventory, name, error)
        return sets, frozenset()
    bucket = open_bucket(inventory, identity)
    for name in inventory.postgres.databases:
        listed = bucket.latest(name, now, _LOOKED_AT).backups
        ours, foreign = divided(bucket.with_proofs(name, listed), bucket.project_id)
        for other in foreign:
            print(f"set {other.stamp} of {name} is skipped: it is of {other.project}")
        try:
            one, passed = selection.newest_proven(
                ours, bucket.place(name), inventory.min_size_of(name)
            )
        except CheckFailedError as error:
            _go_on_without(inventory, name, error)
            continue
        for other, why in passed:
            print(f"set {other.stamp} of {name} is skipped: {why}")
            doubtful.add(name)
        said = f"{made(one.timestamp, now)}; {contents(one)}; {one.rung}"
        print(f"set {one.stamp} of {name}, made {said}", flush=True)
        sets[name] = one
    return sets, frozenset(doubtful)


def _go_on_without(inventory: Inventory, name: str, error: CheckFailedError) -> None:
    """An app beside NocoDB whose backups are not good keeps nothing else from coming back. Raises
    the error for any other database.
    """
    if not inventory.other_app(inventory.app_of(name)):
        raise error
    print(f"warning: {error.message}: {name} does not come back, and its app begins with an empty")
    print(f"database where it has none; later: inv backup.restore --database {name}")


def ends_of_wal(
    inventory: Inventory, sets: dict[str, BackupSet], doubtful: frozenset[str]
) -> dict[str, Source]:
    """The end of the WAL, for each database that it brings further than its set: of the same
    cluster, and of the major version that is deployed.
    """
    from fabfile.backup.verdict import wal_history

    ends: dict[str, Source] = {}
    if not inventory.backup.pitr:
        return ends
    for name, one in sets.items():
        history = wal_history(open_bucket(inventory), one)
        windows = history.windows() if history else []
        base = history.newest_base if history else None
        if history is None or base is None or not windows or windows[0].end <= one.timestamp:
            continue
        until = f"{windows[0].end:%Y-%m-%d %H:%M:%S} UTC"
        if name in doubtful or base.major != inventory.postgres.major:
            why = "newer sets were skipped" if name in doubtful else f"it is of {base.major}"
            print(
                f"WAL of {name} until {until} is not used: {why}; to look into it afterwards: "
                f"inv backup.restore --at '{windows[0].end:%Y-%m-%d %H:%M:%S}' --database {name}"
            )
            continue
        print(f"WAL of {name} leads on from there, until {until}", flush=True)
        words = ("--at", "end", "--cluster", history.cluster)
        keys, encrypted = history.keys_for(windows[0].end)
        ends[name] = Source(words, windows[0].end, compared=True, keys=keys, encrypted=encrypted)
    return ends


def named(sets: dict[str, BackupSet], ends: dict[str, Source]) -> str:
    """What would be brought back, for a person to judge."""
    return ", ".join(
        f"{name} with every commit up to {ends[name].when:%Y-%m-%d %H:%M:%S} UTC"
        if name in ends
        else f"{name} as it was at {one.timestamp:%Y-%m-%d %H:%M:%S} UTC ({contents(one)})"
        for name, one in sets.items()
    )


def deploy_proxy_and_apps(
    fleet: Fleet, proxies: Sequence[Wanted], apps: Sequence[Wanted], options: Options
) -> list[SwarmkeepError]:
    """Deploy the reverse proxy, where there is one, then NocoDB and the other apps, which join its
    network; what fails of it. What is wrong with the proxy, or with another app, keeps no data
    away. Raises SwarmkeepError for NocoDB where there is no proxy.
    """
    from fabfile.deploy.preflight import Allowed

    failures = []
    for proxy in proxies:
        try:
            carry_out(fleet, proxy, replace(options, allowed=Allowed()), yes=True)
        except SwarmkeepError as error:
            say(f"warning: {error.message}")
            failures.append(error)
    for app in apps:
        try:
            carry_out(fleet, app, replace(options, allowed=Allowed(leave_data=True)), yes=True)
        except SwarmkeepError as error:
            # The database is back. Without its way in the app cannot be: the rest can.
            if app.role == "app" and not fleet.inventory.proxy.hosts:
                raise
            say(f"warning: {error.message}")
            failures.append(error)
    return failures


def wanted_proxies(inventory: Inventory, secrets: Secrets) -> list[Wanted]:
    """The proxy's stack, where there is to be one and hosts.yaml, vault and template make one."""
    from fabfile.deploy import proxy_stack

    if not inventory.proxy.hosts:
        return []
    try:
        return [proxy_stack.proxy(inventory, secrets)]
    except SwarmkeepError as error:
        say(f"warning: {error.message}; the data comes first: then correct it, and inv deploy")
        return []


def bring_password(fleet: Fleet, administrator: Secret, user: str, password: Secret) -> None:
    """Have a role the vault's password. A cluster that Swarm made by itself after a rotation,
    before anybody came to recover, has the one of the service's earlier secret.
    """
    from fabfile.deploy import observation
    from fabfile.rotation import role_password

    try:
        cluster = observation.observe_any(fleet)[1]
        role = role_password.find(fleet, cluster, [administrator], user)
        if role.bring(password):
            say(f"{user}: has the vault's password again")
    except SwarmkeepError as error:
        say(f"warning: whether {user} has the vault's password: {error}")


def databases_now(fleet: Fleet, administrator: Secret) -> frozenset[str]:
    """The databases that there are; none where PostgreSQL cannot be asked."""
    from fabfile.deploy import observation
    from fabfile.swarm import postgres

    try:
        cluster = observation.observe_any(fleet)[1]
    except SwarmkeepError:
        return frozenset()
    names = postgres.names(fleet, cluster, [administrator.reveal()])
    return names.databases if names else frozenset()


def accept_cluster(fleet: Fleet, sets: dict[str, BackupSet], database: Wanted) -> None:
    """Have the bucket know that the cluster is another one on purpose: backup.verify asks."""
    from fabfile.deploy import observation
    from fabfile.swarm import operator, postgres

    bucket = open_bucket(fleet.inventory)
    try:
        cluster = observation.observe_any(fleet)[1]
        identifier = postgres.system_identifier(fleet, cluster, [database.password])
        for name, one in sets.items():
            before = one.manifest.cluster if one.manifest else ""
            if before not in ("", identifier):
                bucket.accept_cluster(name, identifier, before, operator.find().who)
    except SwarmkeepError as error:
        say(f"warning: the new cluster could not be accepted in the bucket: {error.message}")
        say("next: inv backup.accept, after the next backup")
