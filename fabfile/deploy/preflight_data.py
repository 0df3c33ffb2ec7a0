"""What is checked so that a deploy never leaves data behind: an empty database in place of a full
one, NocoDB on another database, attachments in another volume. Pure judgement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fabfile.base.errors import ConfigError
from fabfile.config.inventory import Inventory
from fabfile.deploy.service_spec import specification
from fabfile.deploy.stacks import Wanted, main_service
from fabfile.swarm import data_volume
from fabfile.swarm.data_volume import DataFolder, Place
from fabfile.swarm.postgres import Names
from fabfile.swarm.state import Cluster, Service

LEAVE_DATA = "--leave-data"
_UPGRADE = "for another major version: inv upgrade-db (docs/upgrade.md)"
_NAMES = (("POSTGRES_DB", "pg_db", "database"), ("POSTGRES_USER", "pg_user", "role"))


@dataclass(frozen=True)
class Found:
    """What the data node holds: clusters in the wanted volume, and the identifier on record."""

    folders: tuple[DataFolder, ...]
    recorded: str
    names: Names | None = None
    """None if nobody had to ask."""


def main_key(inventory: Inventory, wanted: Wanted) -> str:
    """The compose name of a stack's main service; a release may have called it otherwise."""
    main = main_service(inventory, wanted.role)
    return main if main in wanted.compose["services"] else next(iter(wanted.compose["services"]))


def wanted_spec(inventory: Inventory, wanted: Wanted) -> Mapping[str, Any]:
    """The specification of a stack's main service, in the engine API's shape."""
    return specification(wanted.compose, main_key(inventory, wanted), wanted.name)[0]


def live_service(inventory: Inventory, wanted: Wanted, cluster: Cluster) -> Service | None:
    """A stack's main service as it is now."""
    return cluster.service(f"{wanted.name}_{main_key(inventory, wanted)}")


def renamed(inventory: Inventory, wanted: Wanted, cluster: Cluster) -> list[tuple[str, str, str]]:
    """Which of database and role would be called otherwise: (setting's variable, now, wanted)."""
    live = live_service(inventory, wanted, cluster)
    if live is None:
        return []
    now, then = (
        data_volume.environment(live.spec),
        data_volume.environment(wanted_spec(inventory, wanted)),
    )
    return [
        (name, now[name], then[name])
        for name, _, _ in _NAMES
        if name in now and name in then and now[name] != then[name]
    ]


def check_database(
    inventory: Inventory, wanted: Wanted, cluster: Cluster, found: Found, *, leave_data: bool
) -> str:
    """Check where the database stack's data would be; return its system identifier, "" for none.

    Raises ConfigError where data would be left behind and `leave_data` does not allow it, or
    where PostgreSQL could not read what is there.
    """
    spec = wanted_spec(inventory, wanted)
    place, major = data_volume.place_of(spec), data_volume.major_of(wanted.image)
    live = live_service(inventory, wanted, cluster)
    if not leave_data:
        _check_other_services(wanted, cluster, place)
        if live:
            _check_moved(live, wanted, place, found.folders)
            _check_names(inventory, wanted, cluster, found.names)
    there = data_volume.at(found.folders, place)
    if there and major and there.major != major:
        raise ConfigError(
            f"{wanted.name}: its data ({place}) is of PostgreSQL {there.major}; images.postgres "
            f"wants {major}, which cannot read it",
            hint=f"set images.postgres back to {there.major}; {_UPGRADE}",
        )
    if leave_data:
        return there.system_id if there else ""
    _check_contents(wanted, place, there, found)
    return there.system_id if there else found.recorded


def _check_other_services(wanted: Wanted, cluster: Cluster, place: Place) -> None:
    """Two servers must never have one data directory: a renamed service would be a second one."""
    for service in cluster.stack(wanted.name):
        if (
            service.name not in wanted.services
            and place.source
            and data_volume.place_of(service.spec).source == place.source
        ):
            raise ConfigError(
                f"{wanted.name}: its data ({place}) belongs to the service {service.name}, which "
                f"runs, and hosts.yaml calls the service {wanted.services[0]}",
                hint=f"set db_service_name back to {service.name}; to rename it: docker service rm "
                f"{service.name} on a manager (the volume stays), then deploy again",
            )


def _check_moved(
    live: Service, wanted: Wanted, place: Place, folders: Sequence[DataFolder]
) -> None:
    now = data_volume.place_of(live.spec)
    if now == place or (
        now.source == place.source and folders and not data_volume.at(folders, now)
    ):
        return
    before, after = data_volume.major_of(live.image), data_volume.major_of(wanted.image)
    if before and after and before != after:
        raise ConfigError(
            f"{live.name}: runs PostgreSQL {before} with its data in {now}; images.postgres wants "
            f"{after}, which would begin with an empty database in {place}",
            hint=f"set images.postgres back to {before}; {_UPGRADE}",
        )
    raise ConfigError(
        f"{live.name}: its data is in {now}; what hosts.yaml and compose/ say now is {place}, "
        "where it would come up empty",
        hint="set the volume and PGDATA back (inv plan shows what changes); if the data may stay "
        f"behind: inv deploy-db {LEAVE_DATA}",
    )


def _check_names(
    inventory: Inventory, wanted: Wanted, cluster: Cluster, names: Names | None
) -> None:
    keys = {name: (key, what) for name, key, what in _NAMES}
    for name, now, then in renamed(inventory, wanted, cluster):
        key, what = keys[name]
        if names is None:
            raise ConfigError(
                f"{key}: PostgreSQL does not answer, so whether it has a {what} {then!r} cannot be "
                f"seen; the one in use is {now!r}",
                hint=f"try again when it runs (inv status), or set {key} back to {now}",
            )
        if then not in (names.databases if name == "POSTGRES_DB" else names.roles):
            raise ConfigError(
                f"{key}: the running PostgreSQL has no {what} {then!r}; the one in use is {now!r}: "
                "NocoDB would start with an empty database, and backups would fail",
                hint=f"set {key} back to {now}, or make the {what} {then} first "
                "(docs/deploy.md, 'Names of the database')",
            )


def _check_contents(wanted: Wanted, place: Place, there: DataFolder | None, found: Found) -> None:
    if there is None and found.folders:
        other = found.folders[0]
        raise ConfigError(
            f"{wanted.name}: {Place(place.source, other.path)} holds a PostgreSQL {other.major} "
            f"cluster, and the deploy would begin an empty one in {place}",
            hint=f"deploy with images.postgres {other.major} and the PGDATA of before; {_UPGRADE}; "
            f"if the data may stay behind: inv deploy-db {LEAVE_DATA}",
        )
    if there is None and found.recorded:
        raise ConfigError(
            f"{wanted.name}: its data (cluster {found.recorded}) is no longer in {place}: the "
            "deploy would begin with an empty database",
            hint="bring it back from the last backup: inv recover; to begin with an empty "
            f"database: inv deploy-db {LEAVE_DATA}",
        )
    if there and found.recorded not in ("", there.system_id):
        raise ConfigError(
            f"{wanted.name}: {place} holds another PostgreSQL cluster ({there.system_id}) than the "
            f"one that was deployed there before ({found.recorded})",
            hint="has somebody exchanged the volume? If this one is right: inv deploy-db "
            f"{LEAVE_DATA}; if not, bring the data back: inv recover",
        )


def check_app(inventory: Inventory, wanted: Wanted, cluster: Cluster, *, leave_data: bool) -> None:
    """Raise ConfigError where NocoDB would get another database, or leave its attachments."""
    live = live_service(inventory, wanted, cluster)
    if live is None or leave_data:
        return
    database = cluster.service(inventory.postgres.service)
    now = data_volume.environment(database.spec) if database else {}
    then = {"POSTGRES_DB": inventory.postgres.database, "POSTGRES_USER": inventory.postgres.user}
    for name, key, what in _NAMES:
        if now.get(name, then[name]) != then[name]:
            raise ConfigError(
                f"{key}: the database runs with the {what} {now[name]!r}, hosts.yaml says "
                f"{then[name]!r}: NocoDB would start with an empty database",
                hint=f"set {key} back to {now[name]}; if the {what} is there: inv deploy-db first",
            )
    _check_volumes(inventory, wanted, live)


def check_other_app(
    inventory: Inventory,
    wanted: Wanted,
    cluster: Cluster,
    lacking: Sequence[str],
    *,
    leave_data: bool,
) -> None:
    """Raise ConfigError where an app beside NocoDB that runs already would begin with an empty
    database, or leave files behind. `lacking` is what PostgreSQL does not have of what it needs.
    """
    live = live_service(inventory, wanted, cluster)
    if live is None or leave_data:
        return
    if lost := [one for one in lacking if one.startswith("database ")]:
        raise ConfigError(
            f"{live.name}: runs, and PostgreSQL has no {lost[0]}: the deploy would begin an empty "
            "one",
            hint=f"if it was renamed: set apps.{wanted.role}.database back; if it is lost: inv "
            f"backup.restore (docs/recovery.md); to begin with an empty one: inv deploy-app "
            f"{wanted.role} {LEAVE_DATA}",
        )
    _check_volumes(inventory, wanted, live)


def _check_volumes(inventory: Inventory, wanted: Wanted, live: Service) -> None:
    name = "" if wanted.role == "app" else f"{wanted.role} "
    lost = _volumes(live.spec) - _volumes(wanted_spec(inventory, wanted))
    if lost:
        target, source = sorted(lost)[0]
        raise ConfigError(
            f"{live.name}: has its files at {target} in {source}, which would be left behind",
            hint="set the stack's and the volume's name back (inv plan shows what changes); if the "
            f"files may stay behind: inv deploy-app {name}{LEAVE_DATA}",
        )


def _volumes(spec: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Targets and sources of what a specification mounts to keep."""
    return {
        (str(mount["Target"]), str(mount.get("Source", "")))
        for mount in spec["TaskTemplate"]["ContainerSpec"].get("Mounts") or ()
        if mount.get("Type") in ("volume", "bind") and not mount.get("ReadOnly")
    }


def check_networks(
    inventory: Inventory, wanted: Wanted, cluster: Cluster, *, together: bool
) -> None:
    """Raise ConfigError where the deploy of one stack would cut NocoDB off from its database.

    `together`: both stacks are deployed in one go, which takes both over to another network.
    """
    app = cluster.service(f"{inventory.app.stack}_{main_service(inventory, 'app')}")
    database = cluster.service(inventory.postgres.service)
    if together or app is None or database is None or wanted.role not in ("db", "app"):
        return
    there = _live_networks(app if wanted.role == "db" else database, cluster)
    now = _live_networks(database if wanted.role == "db" else app, cluster)
    spec = wanted_spec(inventory, wanted)
    then = {str(entry["Target"]) for entry in spec["TaskTemplate"].get("Networks") or ()}
    if now & there and not then & there:
        raise ConfigError(
            f"{wanted.name}: NocoDB reaches its database by the network {min(now & there)}; with "
            f"{', '.join(sorted(then))} it would no longer",
            hint="take both over at once: inv deploy; or set 'network' back",
        )


def _live_networks(service: Service, cluster: Cluster) -> set[str]:
    entries = service.template.get("Networks") or ()
    return {cluster.networks.get(str(e["Target"]), str(e["Target"])) for e in entries}
