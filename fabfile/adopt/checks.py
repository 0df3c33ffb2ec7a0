"""What keeps a source from being moved, and what hosts.yaml must say for it. Pure judgement."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fabfile.adopt.containers import Container
from fabfile.adopt.inspection import Found
from fabfile.base.errors import ConfigError
from fabfile.base.units import format_size
from fabfile.config.inventory import Inventory

OLDEST = 12
"""The oldest PostgreSQL that is moved."""
_VERSION = re.compile(r"\d+\.\d+(\.\d+)?")
_SYSTEM = ("postgres", "template0", "template1")

Facts = Mapping[str, Any]


def databases_of(facts: Facts) -> dict[str, int]:
    """The source's databases by name, with their bytes, without PostgreSQL's own."""
    return {one["name"]: one["bytes"] for one in facts["databases"] if one["name"] not in _SYSTEM}


def app_image(found: Found) -> str:
    """NocoDB's image as images.nocodb should name it: by its version, never `latest`."""
    image = found.app.image.partition("@")[0]
    tag = _tag(image)
    name = image.removesuffix(f":{tag}")
    return f"{name}:{tag if _VERSION.fullmatch(tag) else found.version or tag or 'latest'}"


def _tag(image: str) -> str:
    """The tag of an image without a digest; "" for none."""
    return image.rpartition("/")[2].partition(":")[2]


def wanted_values(found: Found, facts: Facts, inventory: Inventory) -> dict[tuple[str, str], str]:
    """What hosts.yaml should say for this source, by section ("" for none) and key."""
    values = {
        ("images", "nocodb"): app_image(found),
        ("", "pg_db"): found.connection.database,
        ("", "pg_user"): found.connection.user,
    }
    if inventory.postgres.major < facts["major"]:
        values["images", "postgres"] = (
            f"{inventory.postgres.image.rpartition(':')[0]}:{facts['major']}-bookworm"
        )
    # Behind a proxy it follows from app.domain.
    if found.public_url and not inventory.proxy.hosts:
        values["app", "public_url"] = found.public_url
    return values


def differences(found: Found, facts: Facts, inventory: Inventory) -> dict[tuple[str, str], str]:
    """Those of `wanted_values` that hosts.yaml does not say yet."""
    says = {
        ("images", "nocodb"): inventory.app.image,
        ("", "pg_user"): inventory.postgres.user,
        ("app", "public_url"): inventory.app.public_url,
        ("images", "postgres"): inventory.postgres.image,
    }
    wanted = wanted_values(found, facts, inventory)
    if inventory.postgres.database == found.connection.database and set(
        inventory.postgres.databases
    ) <= set(databases_of(facts)):
        # Which of the others are wanted is for a person to say.
        del wanted["", "pg_db"]
    if _tag(inventory.app.image) == _tag(wanted["images", "nocodb"]):
        # It may come from another registry.
        del wanted["images", "nocodb"]
    return {key: value for key, value in wanted.items() if says.get(key) != value}


def check_source(found: Found, facts: Facts, contents: Mapping[str, Facts]) -> None:
    """Raise ConfigError for a source that cannot be moved as it is."""
    what = found.server_name

    def refuse(problem: str, hint: str) -> None:
        raise ConfigError(f"{what}: {problem}; nothing was changed", hint=hint)

    if facts["major"] < OLDEST:
        refuse(f"PostgreSQL {facts['major']} is older than {OLDEST}", "upgrade it first")
    if not facts["superuser"]:
        refuse(
            "its POSTGRES_USER is no superuser"
            if found.database
            else f"{found.connection.user} is no superuser there",
            "let it be one (ALTER ROLE ... SUPERUSER), or load a dump by hand: docs/adopt.md",
        )
    if facts["recovery"]:
        refuse("is in recovery, perhaps a standby", "name the primary")
    if facts["tablespaces"]:
        refuse(
            f"has {facts['tablespaces']} tablespaces of its own",
            "move what is in them: ALTER TABLE ... SET TABLESPACE pg_default",
        )
    if facts["prepared"]:
        refuse(
            f"has {facts['prepared']} prepared transactions",
            "end them: SELECT * FROM pg_prepared_xacts",
        )
    if found.connection.database == "postgres":
        refuse(
            "NocoDB's tables are in the database postgres, which every server has",
            "CREATE DATABASE nocodb TEMPLATE postgres, and name that in NocoDB's settings first",
        )
    if found.connection.database not in contents:
        refuse(
            f"has no database {found.connection.database}, which NocoDB names",
            "see NocoDB's log",
        )
    for one in (found.app, *found.workers, *([found.database] if found.database else [])):
        if one.auto_remove:
            refuse(
                f"{one.what} was started with --rm: stopping it would remove it",
                "start it without --rm first",
            )
    # Swarm removes a task's container, with all that is in it and in volumes without a name.
    for one, path in _data_paths(found):
        if one.service and not _lasts(one, path):
            refuse(
                f"{one.what} has {path} in no volume with a name, and would lose it when it is "
                "stopped",
                "copy it into a volume first",
            )
    if not found.app.running:
        refuse(
            f"{found.app.what} does not run", "start it: what cannot be asked cannot be compared"
        )


def check_target(
    inventory: Inventory,
    source: Facts,
    contents: Mapping[str, Facts],
    target: Facts,
    there: Mapping[str, Facts],
    unfinished: Sequence[str],
) -> None:
    """Raise ConfigError where the new server cannot take the source's databases.

    `contents` is what the source's databases have, `there` what those of the same names have in
    the new server; those in `unfinished` are of a copy that was cut off.
    """
    service = inventory.postgres.service

    def refuse(problem: str, hint: str) -> None:
        raise ConfigError(f"{service}: {problem}; nothing was changed", hint=hint)

    if target["major"] < source["major"]:
        refuse(
            f"is PostgreSQL {target['major']}, the source {source['major']}",
            "correct images.postgres, then on an empty volume: inv deploy-db",
        )
    for name in inventory.postgres.databases:
        if name not in contents:
            refuse(f"hosts.yaml names a database {name}, which the source does not have",
                   "correct pg_db")  # fmt: skip
        if name not in unfinished and there.get(name, {}).get("relations"):
            refuse(
                f"database {name} is not empty",
                "only an empty one is filled; a deployed NocoDB has made tables already: remove "
                f"its stack, then DROP DATABASE {name} and CREATE DATABASE {name}",
            )
        lacking = sorted(set(contents[name]["extensions"]) - set(target["extensions"]))
        if lacking:
            refuse(
                f"has no extension {', '.join(lacking)}, which database {name} uses",
                "use an image that has it: images.postgres",
            )
        one = next(one for one in source["databases"] if one["name"] == name)
        for locale in {one["collate"], one["ctype"]} - {"C", "POSIX"}:
            if locale.lower().replace("-", "") not in target["locales"]:
                refuse(
                    f"has no locale {locale}, in which database {name} sorts",
                    "use an image that has it, or change the source's: docs/adopt.md",
                )


def check_space(inventory: Inventory, source: Facts, free: int) -> None:
    """Raise ConfigError unless the new server's host has room. `free` is in bytes."""
    need = needed(inventory, source)
    if free < need:
        raise ConfigError(
            f"{inventory.postgres.service}: its host has {format_size(free)} free, the copy needs "
            f"about {format_size(need)}; nothing was changed",
            hint="make room there",
        )


def check_space_for_files(host: str, size: int, free: int) -> None:
    """Raise ConfigError unless a host has room for attachments of so many bytes."""
    if free < size * 11 // 10 + 128 * 2**20:
        raise ConfigError(
            f"{host}: has {format_size(free)} free, the attachments take {format_size(size)}; "
            "nothing was changed",
            hint="make room there",
        )


def needed(inventory: Inventory, source: Facts) -> int:
    """About how many bytes the copy takes where Docker has its volumes."""
    sizes = databases_of(source)
    data = sum(sizes.get(name, 0) for name in inventory.postgres.databases)
    # What is loaded is in the WAL, too, until the next checkpoint.
    return data * 12 // 10 + min(data, 2 * 2**30) + 128 * 2**20


def _data_paths(found: Found) -> list[tuple[Container, str]]:
    paths = [(found.app, found.app.data)]
    if found.database:
        place = found.database.environment.get("PGDATA") or "/var/lib/postgresql/data"
        paths.append((found.database, place))
    return paths


def _lasts(one: Container, path: str) -> bool:
    """Whether what is at a path in a container outlives it."""
    above = [mount for mount in one.mounts if f"{path}/".startswith(f"{mount.rstrip('/')}/")]
    return bool(above) and max(above, key=len) not in one.lost
